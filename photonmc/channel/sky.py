"""Background light: radiance of the sky, and what a receiver counts of it."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

PLANCK, LIGHT_SPEED = 6.62607015e-34, 299792458.0
"""Planck's constant [J s] and the speed of light [m/s]."""
NIGHTS = {"night_itu": 1.5e-6, "night_link_papers": 1.5e-5, "half_moon": 1.5e-4, "full_moon": 1.5e-3}
"""Radiance of night skies at any wavelength [W m^-2 sr^-1 um^-1]: ITU-R P.1621-2; Er-long et al., NJP 7, 215 (2005)."""
DAY_WAVELENGTHS_NM = (530.0, 850.0, 965.0, 1060.0, 1500.0)
"""Wavelengths of the day skies [nm]."""
DAYS = {
    "bright_day": (303.4, 122.3, 64.62, 54.45, 13.01),
    "clear_day": (101.6, 42.58, 25.12, 25.32, 6.00),
    "overcast_day": (71.75, 30.3, 18.63, 17.99, 4.44),
}
"""Radiance of day skies by wavelength [W m^-2 sr^-1 um^-1]: ITU-R P.1621-2, Table 1 (bright sun, normal sun, overcast)."""


def radiance_of(sky: str, wavelength_nm: Any) -> Any:
    """Radiance of a named sky [W m^-2 sr^-1 um^-1], linear between the wavelengths of the table by day."""
    if sky in NIGHTS:
        return jnp.asarray(NIGHTS[sky])
    return jnp.interp(jnp.asarray(wavelength_nm), np.array(DAY_WAVELENGTHS_NM), np.array(DAYS[sky]))


def solid_angle(full_angle: Any) -> Any:
    """Solid angle of a cone of a full angle [rad] (theory (38))."""
    return 4.0 * math.pi * jnp.sin(0.25 * jnp.asarray(full_angle)) ** 2


def counts_hz(radiance: Any, full_angle: Any, area_m2: Any, bandwidth_um: Any, wavelength_m: Any) -> Any:
    """Photons of the sky that enter a telescope within its field of view and filter [1/s] (theory (39), at efficiency 1)."""
    power = radiance * solid_angle(full_angle) * area_m2 * bandwidth_um
    return power * wavelength_m / (PLANCK * LIGHT_SPEED)
