"""photonmc predicts the secret key of a quantum-key-distribution link before anyone builds it.

The names below are the whole public face. They are imported when first used, so that `import photonmc` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from photonmc.budget import link_budget as link_budget
    from photonmc.channel import Background as Background
    from photonmc.channel import Downlink as Downlink
    from photonmc.channel import Fiber as Fiber
    from photonmc.channel import FixedLoss as FixedLoss
    from photonmc.channel import Recorded as Recorded
    from photonmc.channel import Selection as Selection
    from photonmc.channel import Uplink as Uplink
    from photonmc.config import load_config as load_config
    from photonmc.config import preset as preset
    from photonmc.contracts import Counts as Counts
    from photonmc.detector import ActiveBasis as ActiveBasis
    from photonmc.errors import ConfigError as ConfigError
    from photonmc.errors import PhotonmcError as PhotonmcError
    from photonmc.errors import PrecisionError as PrecisionError
    from photonmc.laboratory import read_counts as read_counts
    from photonmc.link import Link as Link
    from photonmc.progress import Progress as Progress
    from photonmc.protocol import BB84 as BB84
    from photonmc.results import Result as Result
    from photonmc.runner import analyze as analyze
    from photonmc.runner import expected_counts as expected_counts
    from photonmc.runner import key_length as key_length
    from photonmc.runner import simulate as simulate
    from photonmc.sampling import Run as Run
    from photonmc.security import Lim2014 as Lim2014
    from photonmc.security import Ma2005 as Ma2005
    from photonmc.security import Rusca2018 as Rusca2018
    from photonmc.source import WeakCoherent as WeakCoherent
    from photonmc.study import Study as Study
    from photonmc.tagging import simulate_tagged as simulate_tagged
    from photonmc.tuning import optimize as optimize

_PLACES = {
    "budget": ("link_budget",),
    "channel": ("Background", "Downlink", "Fiber", "FixedLoss", "Recorded", "Selection", "Uplink"),
    "config": ("load_config", "preset"),
    "contracts": ("Counts",),
    "detector": ("ActiveBasis",),
    "errors": ("ConfigError", "PhotonmcError", "PrecisionError"),
    "laboratory": ("read_counts",),
    "link": ("Link",),
    "progress": ("Progress",),
    "protocol": ("BB84",),
    "results": ("Result",),
    "runner": ("analyze", "expected_counts", "key_length", "simulate"),
    "sampling": ("Run",),
    "security": ("Lim2014", "Ma2005", "Rusca2018"),
    "source": ("WeakCoherent",),
    "study": ("Study",),
    "tagging": ("simulate_tagged",),
    "tuning": ("optimize",),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}
__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'photonmc' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"photonmc.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
