"""What of a beam a telescope collects: Gaussian beams, uniform discs, and obscured, truncated Gaussians in the far field.

Lengths in meters, angles in radians; `w` is a 1/e^2 intensity radius, apertures are diameters. All functions are
differentiable, and broadcast over their arguments. None takes the receiver for small.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e

from photonmc.channel.bessel import bessel_j
from photonmc.channel.interpolation import cubic

if TYPE_CHECKING:
    from jaxtyping import Array, Float

NODES = 48
"""Gauss-Legendre nodes across an aperture; 64 x 64 agree to 1e-12 where the spot is not smaller than the receiver."""
RINGS = 769
"""Angles at which the far field is computed."""
HALF_ANGLE = {"half_1e2": 1.0, "full_1e2": 0.5, "fwhm": 0.5 / math.sqrt(0.5 * math.log(2.0))}
"""1/e^2 half-angle of a Gaussian beam per given divergence (theory 2.1)."""


def gauss(low: Any, high: Any, nodes: int = NODES) -> tuple[Any, Any]:
    """Nodes and weights of Gauss-Legendre quadrature between two bounds, along a new last axis."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * (jnp.asarray(high) - low)[..., None]
    return jnp.asarray(low)[..., None] + half * (x + 1.0), half * weights


def gaussian_radius(waist: Any, wavelength: Any, distance: Any) -> Any:
    """Radius of a Gaussian beam at a distance from its waist (theory (12))."""
    return waist * jnp.sqrt(1.0 + (wavelength * distance / (math.pi * waist**2)) ** 2)


def gaussian_share(w: Any, offset: Any, aperture: Any, obscuration: Any) -> Float[Array, ...]:
    """Share of a Gaussian spot that falls on an annulus whose center lies off the spot's (theory (14)).

    The integral of the intensity over directions is a Bessel function, the one over the radius is done by quadrature, in
    four pieces.
    """
    w, offset = jnp.asarray(w), jnp.asarray(offset)
    # quadrature follows the spot: outside of 7 radii around the offset there is nothing
    low = jnp.clip(offset - 3.5 * w, 0.5 * obscuration, 0.5 * aperture)[..., None]
    high = jnp.clip(offset + 3.5 * w, 0.5 * obscuration, 0.5 * aperture)[..., None]
    left = 0.25 * np.arange(4)
    r, weights = gauss(low + left * (high - low), low + (left + 0.25) * (high - low), 24)
    wide, off = w[..., None, None], offset[..., None, None]
    density = 4.0 * r / wide**2 * jnp.exp(-2.0 * ((r - off) / wide) ** 2) * i0e(4.0 * r * off / wide**2)
    return (density * weights).sum(axis=(-1, -2))


def disc_overlap(one: Any, other: Any, distance: Any) -> Float[Array, ...]:
    """Area common to two circles of given radii whose centers lie a distance apart; 0 for a circle of radius 0."""
    one, other, distance = jnp.broadcast_arrays(*map(jnp.asarray, (one, other, distance)))
    apart = distance >= (one + other) * (1.0 - 1e-14)  # where circles just touch, slopes of angles are infinite
    inside = distance <= jnp.abs(one - other) * (1.0 + 1e-14)
    lens = ~(apart | inside)
    d, a, b = (jnp.where(lens, value, safe) for value, safe in ((distance, 1.0), (one, 1.0), (other, 1.0)))
    first = jnp.clip((d**2 + a**2 - b**2) / (2.0 * d * a), -1.0, 1.0)
    second = jnp.clip((d**2 + b**2 - a**2) / (2.0 * d * b), -1.0, 1.0)
    kite = jnp.maximum((-d + a + b) * (d + a - b) * (d - a + b) * (d + a + b), 1e-300)
    common = a**2 * jnp.arccos(first) + b**2 * jnp.arccos(second) - 0.5 * jnp.sqrt(kite)
    smaller = math.pi * jnp.minimum(one, other) ** 2
    return jnp.where(apart, 0.0, jnp.where(inside, smaller, common))


def disc_share(spot: Any, offset: Any, aperture: Any, obscuration: Any) -> Float[Array, ...]:
    """Share of a uniform disc of a given diameter that falls on an annulus off its center (theory (13) where inside)."""
    area = disc_overlap(0.5 * spot, 0.5 * aperture, offset) - disc_overlap(0.5 * spot, 0.5 * obscuration, offset)
    return area / (math.pi * (0.5 * spot) ** 2)


def emitted_share(waist: Any, aperture: Any, obscuration: Any) -> Any:
    """Share of a Gaussian beam that passes an obscured aperture at its center (theory (11), (12))."""
    return jnp.expm1(-0.5 * (obscuration / waist) ** 2) - jnp.expm1(-0.5 * (aperture / waist) ** 2)


def far_field(sine: Any, wavelength: Any, waist: Any, aperture: Any, obscuration: Any) -> Float[Array, ...]:
    """Power per solid angle of an obscured, truncated Gaussian beam, per emitted power [1/sr].

    Fraunhofer diffraction (theory (9); Klein, Degnan, Appl. Opt. 13, 2134 (1974)), in units of what leaves the aperture:
    sources are attenuated to a mean photon number at the exit, so that truncation costs nothing.

    Args:
        sine: Sine of the angle from the axis.
        wavelength: Of the light.
        waist: 1/e^2 radius of the beam at the aperture.
        aperture: Diameter of the transmitter.
        obscuration: Diameter of what is obscured.
    """
    k = 2.0 * math.pi / wavelength
    edge = jnp.minimum(0.5 * jnp.asarray(aperture), 6.0 * jnp.asarray(waist))  # beyond lies 1e-16 of the field
    r, weights = gauss(0.5 * jnp.asarray(obscuration), edge)
    field = (jnp.exp(-((r / waist) ** 2)) * bessel_j(0, k * r * jnp.asarray(sine)[..., None]) * r * weights).sum(axis=-1)
    power = 0.5 * math.pi * waist**2 * emitted_share(waist, aperture, obscuration)
    return (k * field) ** 2 / power


def far_field_share(
    distance: Any, offset: Any, receiver: Any, receiver_obscuration: Any, wavelength: Any, waist: Any, aperture: Any,
    obscuration: Any,
) -> Float[Array, ...]:  # fmt: skip
    """Share of what leaves a transmitter that falls on an annulus off the axis; `far_field` over its area."""
    distance, offset = jnp.broadcast_arrays(jnp.asarray(distance), jnp.asarray(offset))
    # the pattern on a grid of angles, fine enough for its rings, from which the annulus is read
    largest = ((offset + 0.5 * receiver) / distance).max() * (1.0 + 1e-9)
    pattern = far_field(largest * jnp.linspace(0.0, 1.0, RINGS), wavelength, waist, aperture, obscuration)
    angle = math.pi * (np.arange(24) + 0.5) / 24  # periodic: the midpoint rule converges as Gauss's
    r, weights = gauss(0.5 * jnp.asarray(receiver_obscuration), 0.5 * jnp.asarray(receiver), 24)
    off, ring = offset[..., None, None], r[:, None]
    sine = jnp.sqrt(ring**2 + off**2 + 2.0 * ring * off * np.cos(angle) + 1e-30) / distance[..., None, None]
    density = cubic(sine / largest * (RINGS - 1), pattern).mean(axis=-1)
    return (2.0 * math.pi * r * weights * density).sum(axis=-1) / distance**2
