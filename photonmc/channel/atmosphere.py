"""Extinction of the clear atmosphere on a slant path, by airmass."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

TABLE_ELEVATION_DEG = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 45.0, 50.0, 60.0, 70.0, 80.0, 90.0)
"""Elevations of the table [deg]."""
TABLE = {
    785.0: (0.2538, 0.4826, 0.6082, 0.6842, 0.7344, 0.7696, 0.8149, 0.8300, 0.8418, 0.8585, 0.8687, 0.8743, 0.8760),
    810.0: (0.1882, 0.3907, 0.5133, 0.5922, 0.6466, 0.6860, 0.7386, 0.7567, 0.7710, 0.7916, 0.8043, 0.8114, 0.8136),
    850.0: (0.3105, 0.5390, 0.6568, 0.7261, 0.7711, 0.8024, 0.8422, 0.8554, 0.8656, 0.8801, 0.8889, 0.8937, 0.8952),
    1550.0: (0.6621, 0.8022, 0.8599, 0.8910, 0.9102, 0.9233, 0.9395, 0.9447, 0.9488, 0.9545, 0.9579, 0.9598, 0.9604),
}
"""Transmittance from sea level to 500 km by wavelength [nm]: MODTRAN, 5 nm bins, as distributed with SatQuMA 2.0.0 (MIT)."""
TABLE_WITHIN_NM = 5.0
"""Largest distance of a wavelength from one of the table [nm]."""
LEAST_TABLE_DEG = TABLE_ELEVATION_DEG[0]
"""Least elevation of the table [deg]."""


def airmass(elevation: Any) -> Any:
    """Relative optical airmass at an apparent elevation [rad]: Kasten, Young, Appl. Opt. 28, 4735 (1989), Eq. (3)."""
    degrees = jnp.asarray(elevation) * (180.0 / math.pi)
    return 1.0 / (jnp.sin(elevation) + 0.50572 * (degrees + 6.07995) ** -1.6364)


def tabulated_wavelength(wavelength_nm: float) -> float | None:
    """Wavelength of the table nearest to one [nm], None where all are too far."""
    nearest = min(TABLE, key=lambda known: abs(known - wavelength_nm))
    return nearest if abs(nearest - wavelength_nm) <= TABLE_WITHIN_NM else None


def tabulated_transmittance(elevation: Any, wavelength_nm: Any) -> Any:
    """Transmittance by the table: ln T linear in airmass between its elevations, at its nearest wavelength."""
    known = np.array(sorted(TABLE))
    logs = jnp.asarray(np.log([TABLE[wavelength] for wavelength in known]))
    row = logs[jnp.abs(known - wavelength_nm).argmin()]
    air = airmass(np.radians(TABLE_ELEVATION_DEG))
    return jnp.exp(jnp.interp(airmass(elevation), air[::-1], row[::-1]))
