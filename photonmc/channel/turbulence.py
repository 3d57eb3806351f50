"""Turbulence of the atmosphere along a slant path: profile of its strength and of the wind, and what follows from both.

Heights in meters above the sea unless said otherwise, angles in radians; layers are flat (doubtful below 10 degrees). The
integrals over height are Gauss-Legendre sums on fixed panels, differentiable in every number. Formulas after Andrews,
Phillips, Laser Beam Propagation through Random Media (2005), chapter 12, as theory 3.1 and 3.2 give them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.channel.bessel import airy
from photonmc.channel.interpolation import cubic

if TYPE_CHECKING:
    from jaxtyping import Array, Float

PANELS_M = (0, 1, 30, 100, 300, 1e3, 2e3, 4e3, 6e3, 8e3, 1e4, 1.2e4, 1.5e4, 2e4, 2.5e4, 3e4, 4e4)
"""Edges of the panels, in heights above the station; there is no turbulence above."""
NODES = 16
"""Nodes of each panel."""


class Layers(NamedTuple):
    """Nodes of the integrals over height.

    Attributes:
        above_m: Height above the station.
        cn2: Strength of turbulence times the weight of the node, [m^(-2/3)] dh.
        wind_m_s: Wind across the line of sight, slew included.
    """

    above_m: Float[Array, " layer"]
    cn2: Float[Array, " layer"]
    wind_m_s: Float[Array, " layer"]


def hufnagel_valley(height_m: Any, station_m: Any, ground: Any, wind_rms: Any) -> Any:
    """Refractive-index structure constant [m^(-2/3)] (theory (21)); the layer near the ground begins at the station."""
    return (
        0.00594 * (wind_rms / 27.0) ** 2 * (1e-5 * height_m) ** 10 * jnp.exp(-height_m / 1000.0)
        + 2.7e-16 * jnp.exp(-height_m / 1500.0)
        + ground * jnp.exp(-(height_m - station_m) / 100.0)
    )


def tabulated(heights_m: Any, cn2: Any, station_m: Any) -> tuple[Any, Any, Any]:
    """Nodes above the station and their weights [m], and the structure constant there [m^(-2/3)], of a profile in rows.

    Between two rows ln(Cn2) is linear in the height, Cn2 itself where one of the two is 0; outside of all rows Cn2 is 0.
    Nodes lie between the rows, so that they miss no bend.

    Args:
        heights_m: Heights of the rows, rising.
        cn2: Structure constant at each.
        station_m: Height of the station, below which rows do not count.
    """
    heights, cn2 = jnp.asarray(heights_m), jnp.asarray(cn2)
    x, node_weights = np.polynomial.legendre.leggauss(NODES)
    edges = jnp.maximum(heights - station_m, 0.0)
    half = 0.5 * jnp.diff(edges)[:, None]
    above = jnp.maximum(edges[:-1, None] + half * (x + 1.0), 1e-3)  # powers of 0 have no slope
    share = jnp.clip((above + station_m - heights[:-1, None]) / jnp.diff(heights)[:, None], 0.0, 1.0)
    low, high = cn2[:-1, None], cn2[1:, None]
    falls = (low > 0.0) & (high > 0.0)
    logs = jnp.log(jnp.where(falls, low, 1.0)), jnp.log(jnp.where(falls, high, 1.0))
    between = jnp.where(falls, jnp.exp((1.0 - share) * logs[0] + share * logs[1]), (1.0 - share) * low + share * high)
    return above.ravel(), (half * node_weights).ravel(), between.ravel()


def bufton(height_m: Any, ground: Any) -> Any:
    """Wind speed [m/s]: Bufton, Appl. Opt. 12, 1785 (1973), as ITU-R P.1621 prints it."""
    return ground + 30.0 * jnp.exp(-(((height_m - 9400.0) / 4800.0) ** 2))


def heights_above() -> tuple[np.ndarray, np.ndarray]:
    """Nodes above the station and their weights [m]."""
    x, weights = np.polynomial.legendre.leggauss(NODES)
    edges = np.array(PANELS_M)
    half = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + half * (x + 1.0)).ravel(), (half * weights).ravel()


def wavenumber(wavelength: Any) -> Any:
    """2 pi / wavelength [rad/m]."""
    return 2.0 * math.pi / wavelength


class Path(NamedTuple):
    """A slant path through layers.

    Attributes:
        layers: What the path goes through.
        secant: Length of the path per height, 1 / sin(elevation).
        wavelength: Of the light [m].
        top_m: Height of the satellite above the station.
    """

    layers: Layers
    secant: Any
    wavelength: Any
    top_m: Any

    def _integral(self, weight: Any) -> Any:
        return (self.layers.cn2 * weight).sum()

    def _shares(self) -> Any:
        """Share of the way from the station to the satellite at each layer."""
        return jnp.clip(self.layers.above_m / self.top_m, 0.0, 1.0)

    def fried_parameter(self, spherical: bool = False) -> Any:
        """Fried parameter of a plane wave from above, or of a spherical wave from the ground [m] (theory (22), (23))."""
        weight = (1.0 - self._shares()) ** (5.0 / 3.0) if spherical else 1.0
        return (0.423 * wavenumber(self.wavelength) ** 2 * self.secant * self._integral(weight)) ** -0.6

    def isoplanatic_angle(self) -> Any:
        """Isoplanatic angle [rad] (theory (24))."""
        moment = self._integral(self.layers.above_m ** (5.0 / 3.0))
        return (2.914 * wavenumber(self.wavelength) ** 2 * self.secant ** (8.0 / 3.0) * moment) ** -0.6

    def greenwood_frequency(self) -> Any:
        """Greenwood frequency [Hz] (theory (27)), with sec(zenith) and the slew of the line of sight in the wind."""
        moment = self._integral(jnp.abs(self.layers.wind_m_s) ** (5.0 / 3.0))
        return (0.102 * wavenumber(self.wavelength) ** 2 * self.secant * moment) ** 0.6

    def rytov_variance(self, spherical: bool = False) -> Any:
        """Rytov variance of a plane wave from above (theory (25)), or of a spherical wave from the ground (theory (26))."""
        if spherical:
            share = self._shares()
            weight = self.top_m ** (5.0 / 6.0) * (share * (1.0 - share)) ** (5.0 / 6.0)
        else:
            weight = self.layers.above_m ** (5.0 / 6.0)
        return 2.25 * wavenumber(self.wavelength) ** (7.0 / 6.0) * self.secant ** (11.0 / 6.0) * self._integral(weight)

    def scintillation_index(self, aperture: Any, obscuration: Any = 0.0, spherical: bool = False) -> Any:
        """Weak-turbulence scintillation index averaged over an annular aperture, by the exact integral (theory (29)).

        The integral over spatial frequencies scales: it depends on the distance z of a layer through (z / k)^(5/6) and the
        aperture in units of the Fresnel length sqrt(z / k) alone (`aperture_filter`). For a spherical wave from the ground,
        z is x (1 - x) of the path and the aperture is seen from the ground, x times its size.
        """
        k = wavenumber(self.wavelength)
        if spherical:
            share = jnp.maximum(self._shares(), 1e-12)
            distance, size = share * (1.0 - share) * self.top_m * self.secant, share * aperture
        else:
            distance, size = self.layers.above_m * self.secant, aperture
        distance = jnp.maximum(distance, 1e-3)
        ratio = jnp.where(jnp.asarray(aperture) > 0.0, obscuration / jnp.maximum(aperture, 1e-12), 0.0)
        kernel = (distance / k) ** (5.0 / 6.0) * filtered(size * jnp.sqrt(k / distance), aperture_filter(ratio))
        return 16.0 * math.pi**2 * 0.033 * k**2 * self.secant * self._integral(kernel)


def strong_index(rytov: Any) -> tuple[Any, Any]:
    """Exponents of large and of small scales of a plane wave at a point, whose sum is ln(1 + index) (theory (30))."""
    power = rytov**1.2
    return 0.49 * rytov / (1.0 + 1.11 * power) ** (7.0 / 6.0), 0.51 * rytov / (1.0 + 0.69 * power) ** (5.0 / 6.0)


STEPS_PER_E = 200
"""Nodes of the frequency integral for each factor e."""
SMALLEST, WAVES, LARGEST = 1e-6, 60.0, 1e4
"""Range of the frequency in inverse Fresnel lengths: where it begins, where sin^2 is averaged over, where it ends."""
STRIDE = 12
"""Nodes of that integral from one aperture of the grid to the next."""
APERTURES = 1e-3 * np.exp(np.arange(308) * STRIDE / STEPS_PER_E)
"""Grid of apertures in Fresnel lengths on which the integral is tabulated, up to 1e5."""


def aperture_filter(ratio: Any) -> Float[Array, " aperture"]:
    """Logarithm, for each of `APERTURES`, of the integral over x of x^(-8/3) sin^2(x^2 / 2) |A(x)|^2.

    A is the filter of an annulus of that size in Fresnel lengths, whose obscuration has a ratio of its diameter. It is a
    function of size times x, so that on grids even in the logarithm one row of it serves all sizes.
    """
    x = np.exp(np.arange(math.log(SMALLEST), math.log(LARGEST), 1.0 / STEPS_PER_E))
    phase = 0.5 * x**2
    # far out, where sin^2 swings faster than the nodes, its mean stands for it, behind a smooth taper
    taper = 0.5 * (1.0 - np.tanh((np.log(phase) - math.log(WAVES)) * 8.0))
    swing = np.where(phase < 1e-4, phase**2, 0.5 * (1.0 - np.cos(2.0 * phase) * taper))
    weight = jnp.asarray(x ** (-5.0 / 3.0) * swing / STEPS_PER_E)

    y = 0.5 * APERTURES[0] * x[0] * np.exp(np.arange(x.size + STRIDE * (APERTURES.size - 1)) / STEPS_PER_E)
    outer, inner = airy(jnp.stack([y, ratio * y]))
    squared = ((outer - ratio**2 * inner) / (1.0 - ratio**2)) ** 2

    def one(first: Any) -> Any:
        return jnp.log(jnp.dot(jax.lax.dynamic_slice(squared, (first,), (x.size,)), weight))

    return jax.lax.map(one, STRIDE * jnp.arange(APERTURES.size))


def filtered(aperture: Any, table: Any) -> Any:
    """That integral at any aperture in Fresnel lengths, by cubic interpolation, to 5e-5."""
    step = math.log(APERTURES[-1] / APERTURES[0]) / (len(APERTURES) - 1)
    place = jnp.log(jnp.maximum(aperture, APERTURES[0]) / APERTURES[0]) / step
    return jnp.exp(cubic(jnp.clip(place, 0.0, len(APERTURES) - 1.0), table))
