"""Security analyses: counts to key bits. `ANALYSES` maps the word `analysis` of a TOML file to the record."""

from typing import Any

from photonmc.security.lim2014 import Lim2014
from photonmc.security.ma2005 import Ma2005
from photonmc.security.rusca2018 import Rusca2018

ANALYSES: dict[str, Any] = {
    "lim2014": Lim2014,
    "rusca2018": Rusca2018,
    "ma2005": Ma2005,
}

__all__ = ["ANALYSES", "Lim2014", "Ma2005", "Rusca2018"]
