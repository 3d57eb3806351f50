"""Detector memory: what a click does to later gates, in units of gates."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from photonmc.detector.active_basis import ActiveBasis

BAND_NODES_PER_DECADE = 4
"""Exponentials that stand for one decade of a band of lifetimes, beside 8 for its ends: 4e-7 at 3.5 decades."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of a receiver of two detectors, times in gates (pulse periods).

    An avalanche blinds its detector until `dead_time` later, so for `dead_gates` whole gates; from then on its efficiency
    recovers as 1 - exp(-u / recovery), and trap i releases a Poisson number of carriers, mean `releases[d, i]` in all after
    the dead time (so that the mean at the avalanche, P_i, would be exp(dead time / lifetime) times that), at the rate
    exp(-u / lifetime). Theory: Mueller, Nucl. Instrum. Methods 112, 47 (1973) for dead times; Cova, Lacaita, Ripamonti,
    IEEE Electron Device Lett. 12, 685 (1991) for traps.

    Attributes:
        dead_time: Dead time [gates], shape (2,).
        dead_gates: Gates skipped, the largest whole number of gates within the dead time, int64, shape (2,).
        recovery: Recovery time [gates], 0 where the efficiency is back at once, shape (2,).
        releases: Mean number of releases after the dead time, shape (2, trap).
        lifetimes: Lifetimes of the traps [gates], shape (trap,).
        paralyzable: Whether a hit on a blind detector restarts its dead time.
        policy: "all_live", "blank_all" or "individual".
        keeps_all: Whether traps that earlier avalanches filled go on releasing.
    """

    dead_time: np.ndarray
    dead_gates: np.ndarray
    recovery: np.ndarray
    releases: np.ndarray
    lifetimes: np.ndarray
    paralyzable: bool = dataclasses.field(metadata={"static": True})
    policy: str = dataclasses.field(metadata={"static": True})
    keeps_all: bool = dataclasses.field(metadata={"static": True})

    @property
    def none(self) -> bool:
        """Whether gates are independent of each other."""
        return not (self.dead_gates.any() or self.recovery.any() or self.releases.any())

    @property
    def recovers(self) -> bool:
        """Whether efficiency comes back gradually."""
        return bool(self.recovery.any())

    @property
    def renews(self) -> bool:
        """Whether every click starts the receiver anew, blind for a fixed number of gates and then as at the start."""
        return (
            self.policy == "blank_all"
            and not self.paralyzable
            and self.dead_gates[0] == self.dead_gates[1]
            and not self.recovery.any()
            and not self.releases.any()
        )


def memory_of(receiver: ActiveBasis, pulse_rate_hz: float) -> Memory:
    """Memory of a receiver at a pulse rate [Hz]; concrete values only."""

    def pair(value: float | tuple[float, ...], unit: float) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, dtype=np.float64) * pulse_rate_hz / unit, (2,)).copy()

    dead_time = pair(receiver.dead_time_ns, 1e9)
    lifetimes, releases = _traps(receiver, dead_time, pulse_rate_hz)
    return Memory(
        dead_time=dead_time,
        # a gate at (g' - g) / rate <= dead time is blind; decimal numbers are not exact in binary
        dead_gates=np.floor(np.minimum(dead_time * (1.0 + 1e-12), 2.0**61)).astype(np.int64),
        recovery=pair(receiver.recovery_time_ns, 1e9),
        releases=releases,
        lifetimes=lifetimes,
        paralyzable=receiver.dead_time_kind == "paralyzable",
        policy=receiver.dead_time_policy,
        keeps_all=receiver.afterpulse_memory == "all",
    )


def _traps(receiver: ActiveBasis, dead_time: np.ndarray, pulse_rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Lifetimes [gates] and mean releases after the dead time of each detector: -ln(1 - p) in all (theory (31))."""
    p = np.atleast_1d(np.asarray(receiver.afterpulse_probability, dtype=np.float64))
    if receiver.afterpulse_time_ns is None or not p.any():
        return np.zeros(0), np.zeros((2, 0))
    lifetimes = np.atleast_1d(np.asarray(receiver.afterpulse_time_ns, dtype=np.float64)) * pulse_rate_hz * 1e-9
    mean = -np.log1p(-p)
    if receiver.afterpulse_kind == "exponential":
        return lifetimes, np.broadcast_to(mean, (2, lifetimes.size)).copy()
    # (exp(-u/T2) - exp(-u/T1)) / u = integral of exp(-u/T) / T over d ln T between T1 and T2: a mixture of exponentials,
    # each with the same share of releases a unit of ln T; by Gauss-Legendre quadrature (theory (35))
    low, high = np.log(lifetimes)
    x, weights = np.polynomial.legendre.leggauss(math.ceil(8 + BAND_NODES_PER_DECADE * (high - low) / math.log(10.0)))
    nodes = np.exp(0.5 * (low + high) + 0.5 * (high - low) * x)
    left = -dead_time[:, None] / nodes  # of the releases of each node, exp(left) come after the dead time
    shares = weights * np.exp(left - left.max(axis=1, keepdims=True))
    return nodes, mean * shares / shares.sum(axis=1, keepdims=True)
