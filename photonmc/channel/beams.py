"""Laws of the fading that a wandering, deformed Gaussian beam makes at a telescope: log-negative Weibull, elliptic beam.

Both take what moves the beam's center as part of their own, so that no other factor of pointing or scintillation stands
beside them. Lengths in meters; `w` is a 1/e^2 intensity radius, apertures are diameters. All functions are differentiable.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, i0e, i1e

from photonmc.channel.diffraction import emitted_share, gaussian_share
from photonmc.channel.fading import ornstein_uhlenbeck

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

BEAM_LAWS = ("lognegative_weibull", "elliptic_beam")
"""Laws of this file, as `channel.fading` names them."""
CHORDS = 16
"""Chords into which a disc is cut: 5e-15 of the share of a spot of its radius, 1e-10 of half of it, 1e-2 of a fifth."""
ANGLES, SIZES, SHAPES = 6, 5, 8
"""Nodes of an elliptic beam: of its orientation within a right angle, of its size, and of its shape."""
FINE = 16
"""Nodes of size and of shape for its mean, which is computed once for all offsets."""
NEWTON_STEPS = 4
"""Steps to the mean of Theta."""
SERIES_TERMS = 26
"""Terms of the power series in (2 a / w)^2 up to 1."""


# Log-negative Weibull


def weibull(w: Any, aperture: Any) -> tuple[Any, Any]:
    """Scale R and exponent lambda of the share T0 exp(-(r/R)^lambda) of a Gaussian spot whose center is off by r.

    It has the exact value and slope where the center stands on the edge of the aperture; where the aperture is small,
    it becomes the Gaussian itself: lambda = 2, R = w / sqrt(2).

    Args:
        w: Of the spot.
        aperture: Of the receiver, without obscuration.

    References:
        Vasylyev, Semenov, Vogel, Phys. Rev. Lett. 108, 220501 (2012); for the intensity as in Vasylyev, Vogel,
        Moll, Phys. Rev. A 99, 053830 (2019), Eqs. (62), (63) (theory (36)).
    """
    y = (aperture / w) ** 2
    near = jnp.maximum(y, 1.0)
    small = jnp.minimum(y, 1.0)
    # with b_k = (-1)^k C(2k, k) / (2^k k!), exp(-y) I0(y) = sum of b_k y^k; both differences begin with a power of y
    k = np.arange(1, SERIES_TERMS)
    factorial = np.array([(-1.0) ** n / math.factorial(n) / 2.0**n for n in k])
    bessel = factorial * [math.comb(2 * n, n) for n in k]
    powers = small[..., None] ** (k - 1)
    edge = jnp.where(y < 1.0, -(powers * bessel).sum(axis=-1), (1.0 - i0e(near)) / near)  # (1 - exp(-y) I0(y)) / y
    more = jnp.where(
        y < 1.0, (powers * (bessel - 2.0 * factorial)).sum(axis=-1), (1.0 - 2.0 * jnp.exp(-0.5 * near) + i0e(near)) / near
    )
    log = jnp.log1p(more / edge)  # ln 2 T0 / (1 - exp(-y) I0(y))
    exponent = 2.0 * i1e(y) / edge / log
    return 0.5 * aperture * log ** (-1.0 / exponent), exponent


def weibull_factor(w: Any, offset: Any, aperture: Any) -> Any:
    """Share of a Gaussian spot off the aperture's center, relative to a perfectly pointed one; see `weibull`.

    An obscuration changes the share of the perfectly pointed spot, but is left out of this factor.
    """
    scale, exponent = weibull(jnp.asarray(w), aperture)
    return jnp.exp(-jnp.exp(exponent * jnp.log(jnp.maximum(offset / scale, 1e-30))))


# Elliptic beam


def ellipse_share(x: Any, y: Any, w_x: Any, w_y: Any, aperture: Any, obscuration: Any) -> Float[Array, ...]:
    """Share of an elliptic Gaussian spot that falls on an annulus; all but the annulus broadcast.

    The integral along each chord is a difference of error functions, the one over the chords a Gauss-Chebyshev sum. It
    stands for the approximation that Vasylyev, Semenov, Vogel (2016) print, which forgets how the ellipse is turned where
    the aperture is small.

    Args:
        x: Center of the spot on the axis of w_x.
        y: Center of the spot on the axis of w_y.
        w_x: 1/e^2 radius of the spot.
        w_y: The other one.
        aperture: Diameter of the receiver.
        obscuration: Diameter of what is obscured.
    """
    x, y, w_x, w_y = jnp.broadcast_arrays(*map(jnp.asarray, (x, y, w_x, w_y)))

    angle = math.pi * np.arange(1, CHORDS + 1) / (CHORDS + 1)
    place, half = np.cos(angle), np.sin(angle)  # of each chord, and half its length, in radii of the disc

    def disc(diameter: Any) -> Any:
        radius = 0.5 * jnp.asarray(diameter)
        along = (erf(math.sqrt(2.0) * (radius * half + side * y[..., None]) / w_y[..., None]) for side in (1.0, -1.0))
        across = jnp.exp(-2.0 * ((radius * place - x[..., None]) / w_x[..., None]) ** 2)
        return radius * (half * across * sum(along)).sum(axis=-1) * math.sqrt(0.5 * math.pi) / (CHORDS + 1) / w_x

    hole = jax.lax.cond(jnp.asarray(obscuration) > 0.0, disc, lambda _: jnp.zeros_like(w_x), jnp.asarray(obscuration))
    return jnp.maximum(disc(aperture) - hole, 0.0)


class Ellipses(NamedTuple):
    """Law of an elliptic beam at one moment.

    Its squared radii are w^2 exp(Theta_i), where Theta_1 and Theta_2 are Gaussian, alike and correlated; `size` and `shape`
    are the standard deviations of (Theta_1 + Theta_2) / 2 and (Theta_1 - Theta_2) / 2, which are independent.

    Attributes:
        w: 1/e^2 radius of the circular spot of the same mean.
        mean: Mean of Theta.
        size: See above.
        shape: See above.
        scale: Collected share per that of an ellipse.
    """

    w: Any
    mean: Any
    size: Any
    shape: Any
    scale: Any

    def radii(self, size: Any, shape: Any) -> tuple[Any, Any]:
        """1/e^2 radii, from two Gaussian numbers of variance 1."""
        middle, apart = self.mean + self.size * size, self.shape * shape
        return self.w * jnp.exp(0.5 * (middle + apart)), self.w * jnp.exp(0.5 * (middle - apart))

    def share(self, x: Any, y: Any, size: Any, shape: Any, aperture: Any, obscuration: Any) -> Any:
        """Collected share of a spot whose center lies at x, y in the axes of the ellipse."""
        return self.scale * ellipse_share(x, y, *self.radii(size, shape), aperture, obscuration)

    def nodes(self, offset: Any, aperture: Any, obscuration: Any) -> tuple[Any, Any]:
        """Collected shares, shape (offset, node), and the weights of the nodes of orientation, size and shape."""
        angle, size, shape, weights = _ellipse_nodes(ANGLES, SIZES, SHAPES)
        x, y = offset[:, None] * np.cos(angle), offset[:, None] * np.sin(angle)
        return self.share(x, y, size, shape, aperture, obscuration), jnp.asarray(weights)

    def draw(self, key: Key[Array, ""], decay: Any, x: Any, y: Any, aperture: Any, obscuration: Any) -> Any:
        """Collected shares, block after block, of a spot whose center moves as x, y.

        Size and shape are correlated by `decay` from block to block. So is the orientation, the direction of a pair of
        Gaussian processes, which makes it uniform and independent of all else.
        """
        size, shape, cosine, sine = ornstein_uhlenbeck(key, decay, 4)
        length = jnp.hypot(cosine, sine)
        along, across = (x * cosine + y * sine) / length, (y * cosine - x * sine) / length
        return self.share(along, across, size, shape, aperture, obscuration)


def _ellipse_nodes(angles: int, sizes: int, shapes: int) -> tuple[np.ndarray, ...]:
    """Orientation, size, shape and weight of each node; the opposite shape is an ellipse turned by 90 degrees."""
    size, size_weights = np.polynomial.hermite_e.hermegauss(sizes)
    shape, shape_weights = (part[shapes // 2 :] for part in np.polynomial.hermite_e.hermegauss(shapes))
    angle = 0.5 * math.pi * (np.arange(angles) + 0.5) / angles
    grids = np.meshgrid(angle, size, shape, indexing="ij")
    weights = np.broadcast_to(size_weights[:, None] * shape_weights, grids[0].shape)
    return *(grid.ravel() for grid in grids), weights.ravel() / weights.sum()


def ellipses(w: Any, index: Any, jitter: Any, boresight: Any, aperture: Any, obscuration: Any) -> Ellipses:
    """Elliptic beam whose moments are those of the path.

    Variance and covariance of Theta_1 and Theta_2 have the ratio of weak turbulence, 1.2 : -0.8, and are scaled so that the
    intensity on the axis, which goes as exp(-(Theta_1 + Theta_2) / 2), has the scintillation index behind the aperture:
    (variance + covariance) / 2 = ln(1 + index). The paper's own widths are those of a horizontal path, and its mean
    transmittance is biased (Klen, Semenov, Phys. Rev. A 108, 033718 (2023)). The mean of Theta, therefore, is the one with
    which a beam that jitters around the telescope's center has the mean transmittance of the circular spot that does so.
    What a boresight error costs on average is that of the circular spot as well, by a factor: no mean of Theta need do it.

    Args:
        w: 1/e^2 radius of the circular spot.
        index: Scintillation index behind the aperture.
        jitter: Standard deviation of the beam's center, each axis.
        boresight: Mean offset of it.
        aperture: Diameter of the receiver.
        obscuration: Diameter of what is obscured.

    References:
        Vasylyev, Semenov, Vogel, Phys. Rev. Lett. 117, 090501 (2016) (theory 4).
    """
    variance = jnp.log1p(index)
    law = Ellipses(jnp.asarray(w), 0.5 * variance, jnp.sqrt(variance), jnp.sqrt(5.0 * variance), 1.0)
    blurred = jnp.hypot(law.w, 2.0 * jitter)
    fixed = law, emitted_share(blurred, aperture, obscuration), jitter, aperture, obscuration

    def improved(mean: Any, fixed: Any) -> Any:
        law, target, *others = fixed

        def excess(mean: Any) -> Any:
            return jnp.log(_blurred_share(1, law._replace(mean=mean), 0.0, *others) / target)

        value, slope = jax.jvp(excess, (mean,), (jnp.ones_like(mean),))
        slope = jnp.minimum(jax.lax.stop_gradient(slope), -0.1)  # -1 where the telescope is small and nothing jitters
        return mean - jnp.clip(value / slope, -1.0, 1.0)

    found = jax.lax.stop_gradient(fixed)
    mean = jax.lax.fori_loop(0, NEWTON_STEPS, lambda _, mean: improved(mean, found), found[0].mean)
    law = law._replace(mean=improved(jax.lax.stop_gradient(mean), fixed))  # one step more, which carries the slopes
    wanted = gaussian_share(blurred, boresight, aperture, obscuration)
    return law._replace(scale=wanted / _blurred_share(ANGLES, law, boresight, jitter, aperture, obscuration))


def _blurred_share(angles: int, law: Ellipses, offset: Any, jitter: Any, aperture: Any, obscuration: Any) -> Any:
    """Mean share of ellipses that jitter around an offset: jitter makes the spot of each wider."""
    angle, size, shape, weights = _ellipse_nodes(angles, FINE, FINE)
    w_x, w_y = (jnp.hypot(radius, 2.0 * jitter) for radius in law.radii(size, shape))
    shares = ellipse_share(offset * np.cos(angle), offset * np.sin(angle), w_x, w_y, aperture, obscuration)
    return (shares * weights).sum()
