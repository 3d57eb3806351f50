"""Fading: laws of the scintillation and of the pointing error, as quadrature nodes and as correlated trajectories."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, i0e

from photonmc.channel.diffraction import gauss
from photonmc.channel.turbulence import strong_index
from photonmc.words import philox4x32

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

POINTING_NODES, FAR_POINTING = 24, 7.5
"""Nodes of each stretch of pointing offsets, and how many standard deviations they reach."""
SCINTILLATION_NODES = 16
"""Nodes of a log-normal scintillation."""
GAMMA_NODES = 64
"""Nodes of each of the two factors of a gamma-gamma scintillation, and of their product."""

MOST_LANES = 2000
"""Lanes of a process; no power of two, whose rows would fall into the same lines of a cache."""


def offset_nodes(
    jitter: Any, boresight: Any, bends: tuple[Any, ...] = (math.inf,), nodes: int = POINTING_NODES
) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Radial pointing offsets and their weights: Rice's law, Rayleigh's without boresight error.

    Args:
        jitter: Standard deviation of each axis, in any unit of length or angle; may be 0.
        boresight: Mean offset, in that unit.
        bends: Rising offsets between which what is integrated is smooth; beyond the last it is what it is there.
        nodes: Between two of them.
    """
    sigma = jnp.maximum(jnp.asarray(jitter), 1e-6 * boresight + 1e-15)  # a jitter of 0 leaves the boresight error
    low, high = jnp.maximum(boresight - FAR_POINTING * sigma, 0.0), boresight + FAR_POINTING * sigma
    edges = jnp.stack([low, *(jnp.clip(bend, low, high) for bend in bends)])
    r, weights = (part.ravel() for part in gauss(edges[:-1], edges[1:], nodes))
    density = r / sigma**2 * jnp.exp(-0.5 * ((r - boresight) / sigma) ** 2) * i0e(r * boresight / sigma**2)
    weights = weights * density
    rest = jnp.maximum(1.0 - weights.sum(), 0.0)
    return jnp.append(r, edges[-1]), jnp.append(weights, rest) / (weights.sum() + rest)


def lognormal_nodes(index: Any) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Log-normal scintillation of mean 1 and a scintillation index (theory 3.3), by Gauss-Hermite quadrature."""
    x, weights = np.polynomial.hermite_e.hermegauss(SCINTILLATION_NODES)
    variance = jnp.log1p(index)
    return jnp.exp(_root(variance) * x - 0.5 * variance), jnp.asarray(weights / weights.sum())


def gamma_shapes(rytov: Any) -> tuple[Any, Any]:
    """Shapes of the two gamma laws of a point receiver: Al-Habash, Andrews, Phillips, Opt. Eng. 40, 1554 (2001)."""
    large, small = strong_index(rytov)
    return 1.0 / jnp.expm1(large), 1.0 / jnp.expm1(small)


def _gamma_logs(shapes: tuple[Any, Any]) -> Float[Array, " node"]:
    """Logarithms over which a gamma-gamma number, and its first factor, spread."""
    spread = jnp.sqrt(1.0 / shapes[0] + 1.0 / shapes[1] + 1.0 / (shapes[0] * shapes[1]))
    reach = 9.0 * jnp.minimum(spread, 1.5) + 2.0 * spread
    return reach * (jnp.linspace(-1.0, 1.0, GAMMA_NODES) - 0.25)


def gamma_gamma_density(logs: Any, shapes: tuple[Any, Any]) -> Any:
    """Density of the logarithm of a gamma-gamma number: that of a sum of two logarithms, by the trapezoidal rule."""
    first = _gamma_logs(shapes)

    def log_density(shape: Any, log_of: Any) -> Any:
        return shape * jnp.log(shape) - gammaln(shape) + shape * log_of - shape * jnp.exp(log_of)

    joint = log_density(shapes[0], first) + log_density(shapes[1], logs[..., None] - first)
    return jnp.exp(joint).sum(axis=-1) * (first[1] - first[0])


def gamma_gamma_nodes(rytov: Any) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Gamma-gamma scintillation of mean 1: the product of two gamma numbers, by the trapezoidal rule in the logarithm."""
    shapes = gamma_shapes(rytov)
    logs = _gamma_logs(shapes)
    weights = gamma_gamma_density(logs, shapes)
    intensity = jnp.exp(logs)
    weights = weights / weights.sum()
    return intensity / (intensity * weights).sum(), weights


def log_gamma_quantile(normal: Any, shape: Any) -> Any:
    """Logarithm of the number of a gamma law of mean 1 whose distribution function is that of a Gaussian number.

    By Newton's method in the logarithm; 8 steps give 1e-12.
    """
    upper = normal > 0.0
    target = jax.scipy.special.ndtr(-jnp.abs(normal))  # the smaller tail, so that neither loses digits
    cube = 1.0 - 1.0 / (9.0 * shape) + normal / (3.0 * jnp.sqrt(shape))  # Wilson, Hilferty, PNAS 17, 684 (1931)
    start = jnp.where(cube > 0.2, 3.0 * jnp.log(jnp.maximum(cube, 0.2)), (jnp.log(target) + gammaln(shape + 1.0)) / shape)
    start = jnp.where(cube > 0.2, start, start - jnp.log(shape))

    def improve(log_x: Any, _: None) -> tuple[Any, None]:
        x = shape * jnp.exp(log_x)
        tail = jnp.where(upper, jax.scipy.special.gammaincc(shape, x), jax.scipy.special.gammainc(shape, x))
        slope = jnp.exp(shape * jnp.log(x) - x - gammaln(shape))  # of the distribution function by ln x
        step = tail * jnp.log(jnp.maximum(tail, 1e-300) / target) / jnp.maximum(slope, 1e-300)
        return log_x + jnp.clip(jnp.where(upper, step, -step), -1.0, 1.0), None

    return jax.lax.scan(improve, start, None, length=8)[0]


def ornstein_uhlenbeck(key: Key[Array, ""], decay: Any, count: int) -> Float[Array, "process ..."]:
    """Independent Gaussian processes of variance 1 whose neighboring blocks are correlated by `decay` (theory 3.4).

    Args:
        key: Of the random numbers.
        decay: Correlation of each block with the one before it, shape (block,), or (step, lane) as from `by_lane`; that of
            the first is not read.
        count: Number of processes, 4 at most.

    Returns:
        Blocks in the layout of `decay`, float32.
    """
    if decay.ndim == 1:
        return in_order(ornstein_uhlenbeck(key, by_lane(decay), count), decay.size)
    return correlated(jnp.stack(gaussian(key, decay.shape, count), axis=1), decay)


def gaussian(key: Key[Array, ""], shape: tuple[int, int], count: int) -> list[Float[Array, "step lane"]]:
    """Independent Gaussian numbers of blocks in lanes, of 4 processes at most, float32."""
    steps, lanes = shape
    place = jnp.arange(lanes, dtype=jnp.uint32) * np.uint32(steps) + jnp.arange(steps, dtype=jnp.uint32)[:, None]
    words = philox4x32((place, jnp.uint32(0), jnp.uint32(0), jnp.uint32(0)), tuple(jax.random.bits(key, (2,), jnp.uint32)))
    return [_normal(word) for word in words[:count]]


def correlated(noise: Float[Array, "step process lane"], decay: Float[Array, "step lane"]) -> Float[Array, "process ..."]:
    """Processes whose neighboring blocks are correlated, from numbers that are not.

    Each lane begins at 0, and how much of its beginning is left at each step is kept beside; then the lanes are joined one
    after another.
    """
    steps, lanes = decay.shape
    first = (jnp.arange(steps)[:, None] == 0) & (jnp.arange(lanes) == 0)
    kept = jnp.where(first, 0.0, decay)
    fresh = jnp.sqrt(1.0 - kept**2).astype(jnp.float32)[:, None]
    kept = kept.astype(jnp.float32)

    def within(carry: Any, step: Any) -> tuple[Any, Any]:
        left, x = carry[0] * step[0], carry[1] * step[0] + step[1]
        return (left, x), (left, x)

    processes = noise.shape[1]
    begin = jnp.ones(lanes, jnp.float32), jnp.zeros((processes, lanes), jnp.float32)
    _, (left, x) = jax.lax.scan(within, begin, (kept, noise * fresh))

    def between(end: Any, lane: Any) -> tuple[Any, Any]:
        return lane[0] * end + lane[1], end

    _, before = jax.lax.scan(between, jnp.zeros(processes, jnp.float32), (left[-1], x[-1].T))
    return jnp.moveaxis(x + left[:, None, :] * before.T, 1, 0)


def by_lane(blocks: Any) -> Any:
    """Blocks (last axis) in lanes that are worked on side by side: shape (..., step, lane), filled up with the last one."""
    count = blocks.shape[-1]
    steps = -(-count // min(count, MOST_LANES))
    lanes = -(-count // steps)
    padded = jnp.pad(blocks, [(0, 0)] * (blocks.ndim - 1) + [(0, lanes * steps - count)], mode="edge")
    return jnp.swapaxes(padded.reshape(*blocks.shape[:-1], lanes, steps), -1, -2)


def in_order(lanes: Any, count: int) -> Any:
    """So many blocks one after another, from lanes."""
    return jnp.swapaxes(lanes, -1, -2).reshape(*lanes.shape[:-2], -1)[..., :count]


def _normal(word: Any) -> Any:
    """Gaussian number of float32 from a word: the middle of one of 2^24 equal parts of the law, within 5.4 deviations."""
    uniform = (word >> np.uint32(8)).astype(jnp.float32) * np.float32(2**-23) + np.float32(2**-24 - 1.0)
    return jax.lax.erf_inv(uniform) * np.float32(math.sqrt(2.0))


def _root(x: Any) -> Any:
    """Square root with a finite slope at 0."""
    return jnp.sqrt(jnp.maximum(x, 0.0) + 1e-300)
