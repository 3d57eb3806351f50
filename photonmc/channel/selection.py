"""Section [selection]: blocks of the channel whose transmittance is too low are left out; quadrature over those that stay.

Nodes that are fixed in advance do not feel a threshold: counts would be a staircase in it, of slope 0. Here they are placed
on the law above the threshold (theory 0.2), so that they move with it: panels of time and of pointing offsets are split
where the transmittance crosses it, and the scintillation is integrated from there on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, polygamma
from numpy.polynomial.legendre import leggauss, legvander

from photonmc.channel import fading
from photonmc.channel.diffraction import gauss
from photonmc.channel.interpolation import condensed, cubic
from photonmc.contracts import record
from photonmc.units import Range

if TYPE_CHECKING:
    from jaxtyping import Array, Float

TIMES = 24
"""Gauss nodes over half a pass between which what changes slowly is a polynomial."""
PLACES = 129
"""Places of half a pass at which that polynomial is written down."""
OFFSETS = 129
"""Pointing offsets between which the crossing of the threshold is found by interpolation."""
PANEL_NODES = 14
"""Nodes of each stretch of time, and of pointing offsets."""
EDGE = 4.5
"""Standard deviations around a threshold between which a law rises or falls; beyond lie 3e-6 of it."""
CONDENSED = 12
"""Nodes for all transmittances at one time: probabilities of clicks are as good as polynomials in the transmittance."""


@record
class Selection:
    """Which blocks are kept, by a transmittance that a beacon or a probe tells, never the key's own counts."""

    threshold_transmittance: Annotated[float, Range(0.0, 1.0, open_high=True)] = 0.0
    """Blocks below this transmittance are left out; relative to the best mean transmittance of the pass."""


class Light(NamedTuple):
    """Law of the logarithm of the scintillation.

    Attributes:
        mean: Of the logarithm.
        deviation: Standard deviation.
        reach: How many of them quadrature goes down and up.
        nodes: Of the quadrature.
        density: Of the logarithm.
    """

    mean: Any
    deviation: Any
    reach: tuple[float, float]
    nodes: int
    density: Callable[[Any], Any]

    def above(self, log_least: Any) -> tuple[Any, Any]:
        """Nodes above a logarithm, and their weights, which sum to the probability to be there; on a new last axis."""
        low, high = (self.mean + shift * self.deviation for shift in (-self.reach[0], self.reach[1]))
        logs, weights = gauss(jnp.clip(log_least, low, high), high, self.nodes)
        return jnp.exp(logs), weights * self.density(logs)


def _none(slow: Any) -> Light:
    nothing = jnp.zeros(())
    return Light(nothing, nothing, (0.0, 0.0), 1, jnp.ones_like)


def _lognormal(slow: Any) -> Light:
    variance = jnp.log1p(slow.index)
    s = jnp.sqrt(jnp.maximum(variance, 1e-12))

    def density(logs: Any) -> Any:
        return jnp.exp(-0.5 * ((logs + 0.5 * variance) / s) ** 2) / (s * math.sqrt(2.0 * math.pi))

    return Light(-0.5 * variance, s, (6.5, 6.5), 20, density)


def _gamma_gamma(slow: Any) -> Light:
    a, b = fading.gamma_shapes(slow.rytov)
    mean = digamma(a) - jnp.log(a) + digamma(b) - jnp.log(b)
    variance = polygamma(1, a) + polygamma(1, b)
    return Light(mean, jnp.sqrt(variance), (9.0, 6.0), 40, lambda logs: fading.gamma_gamma_density(logs, (a, b)))


LIGHTS: dict[str, Callable[[Any], Light]] = {
    "none": _none,
    "lognormal": _lognormal,
    "gamma_gamma": _gamma_gamma,
    "lognegative_weibull": _none,
}
"""Law of the scintillation by the channel's word, from what changes slowly."""


def _from_nodes() -> np.ndarray:
    """Matrix from values at the Gauss nodes of [0, 1] to those at even places of the polynomial through them."""
    x, weights = leggauss(TIMES)
    degrees = np.arange(TIMES) + 0.5
    return (legvander(np.linspace(-1.0, 1.0, PLACES), TIMES - 1) * degrees) @ (legvander(x, TIMES - 1).T * weights)


class Course(NamedTuple):
    """What a threshold needs to know of half a pass, at even places from culmination to its end.

    Attributes:
        mean: Mean transmittance.
        some: Logarithm of the transmittance that hardly a block exceeds.
        near: Logarithm of what the least pointing errors are sure to reach.
        all: Logarithm of what nearly all blocks reach.
        index: Scintillation index.
    """

    mean: Any
    some: Any
    near: Any
    all: Any
    index: Any

    def best(self) -> Any:
        """Largest mean transmittance of the pass."""
        return jnp.max(self.mean)


def course(channel: Any, wavelength: Any, half_s: Any) -> Course:
    """Course of a pass over half of its run.

    Args:
        channel: Whose `slow` and `shares` are read.
        wavelength: Of the light [m].
        half_s: From culmination to the end of the run [s].
    """
    times, _ = gauss(0.0, half_s, TIMES)

    def at(time: Any) -> tuple[Any, ...]:
        elevation = channel.orbit().elevation(time)
        slow = channel.slow(elevation, wavelength)
        offset, weights = slow.offsets()
        around = EDGE * slow.jitter
        ends = jnp.stack([jnp.maximum(slow.boresight - around, 0.0), slow.boresight + around])
        share = slow.steady * channel.shares(elevation, slow.distance, jnp.append(ends, offset), wavelength)
        law = LIGHTS[channel.fading](slow)
        near, far = jnp.log(jnp.maximum(share[:2], 1e-9 * share[0] + 1e-300))
        sure = law.mean - EDGE * law.deviation
        return (share[2:] * weights).sum(), near + law.mean + EDGE * law.deviation, near + sure, far + sure, slow.index

    return Course(*(jnp.asarray(_from_nodes()) @ values for values in jax.vmap(at)(times)))


def nodes_above(
    channel: Any, wavelength: Any, half_s: Any, least: Any, along: Course
) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Transmittances above a least one, and their weights, which sum to the share of pulses that is kept.

    Args:
        channel: Whose `slow` and `shares` are read.
        wavelength: Of the light [m].
        half_s: From culmination to the end of the run [s].
        least: Transmittance below which blocks are left out.
        along: Course of the pass.
    """
    log_least = jnp.log(jnp.maximum(least, 1e-300))
    values = jnp.stack([along.some, along.near, along.all])
    end, *turns = jax.vmap(_crossing, (0, None, 0))(values, log_least, np.array([True, False, False]))
    end = jnp.where(along.some[-1] >= log_least, PLACES - 1.0, jnp.where(along.some.max() >= log_least, end, 0.0))
    turns = [jnp.where(first >= log_least, turn, 0.0) for first, turn in zip(values[1:, 0], turns, strict=True)]
    edges = jnp.sort(jnp.minimum(jnp.stack([jnp.zeros(()), *turns, end]), end)) / (PLACES - 1)
    shares, weights = (part.ravel() for part in gauss(edges[:-1], edges[1:], PANEL_NODES))

    def at(share: Any) -> tuple[Any, Any]:
        return nodes_above_at(channel, wavelength, half_s, least, along, share)

    transmittance, kept = jax.vmap(at)(shares)
    return transmittance.ravel(), (kept * weights[:, None]).ravel()


def nodes_above_at(
    channel: Any, wavelength: Any, half_s: Any, least: Any, along: Course, share: Any
) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """The same at one time, given as its share of half the run; the arguments are those of `nodes_above`."""
    log_least = jnp.log(jnp.maximum(least, 1e-300))
    elevation = channel.orbit().elevation(share * half_s)
    index = jnp.maximum(cubic(share * (PLACES - 1), along.index), 0.0)
    slow = channel.slow(elevation, wavelength)._replace(index=index)
    law = LIGHTS[channel.fading](slow)

    def still(offset: Any) -> Any:
        return slow.steady * channel.shares(elevation, slow.distance, offset, wavelength)

    levels = least * jnp.exp(-law.mean - law.deviation * np.array([-EDGE, EDGE]))
    if LIGHTS[channel.fading] is _none:
        levels = levels[:1]
    table = still(slow.reach() * jnp.linspace(0.0, 1.0, OFFSETS))
    turns = jax.vmap(_crossing, (None, 0, 0))(table, jnp.tile(levels, 2), np.repeat([False, True], levels.size))
    bends = jnp.sort(jnp.stack([*slow.bends, *(slow.reach() / (OFFSETS - 1) * turns)]))
    offset, pointing = fading.offset_nodes(slow.jitter, slow.boresight, tuple(bends), PANEL_NODES)
    mean = still(offset)
    if LIGHTS[channel.fading] is _none:
        return condensed(jnp.minimum(mean, 1.0), pointing * (mean >= least), CONDENSED)
    scintillation, above = law.above(log_least - jnp.log(jnp.maximum(mean, 1e-290)))  # at threshold 0 nothing is dropped
    every = jnp.minimum(mean[:, None] * scintillation, 1.0).ravel()
    return condensed(every, (pointing[:, None] * above).ravel(), CONDENSED)


def _crossing(values: Any, level: Any, last: Any) -> Any:
    """First or last place at which values on a uniform grid cross a level; the end where they do not."""
    above = jax.lax.stop_gradient(values >= level)
    change = above[1:] != above[:-1]
    count = values.shape[0]
    left = jnp.where(last, count - 2 - jnp.argmax(change[::-1]), jnp.argmax(change))
    before, after = jax.lax.stop_gradient((values[left] - level, values[left + 1] - level))
    place = left + jnp.where(before == after, 0.0, before / jnp.where(before == after, 1.0, before - after))
    for _ in range(2):  # Newton's method; the last step also makes the place follow values and level
        place = jax.lax.stop_gradient(jnp.clip(place, left, left + 1))
        miss, slope = jax.jvp(lambda at: cubic(at, values) - level, (place,), (jnp.ones_like(place),))
        place = place - miss / jnp.where(slope == 0.0, 1.0, jax.lax.stop_gradient(slope))
    return jnp.where(change.any(), jnp.clip(place, left, left + 1), count - 1.0)
