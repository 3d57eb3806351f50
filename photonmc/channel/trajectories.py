"""Trajectories of a pass: pointing and scintillation block by block, drawn from tables that all passes share."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.channel import beams, fading
from photonmc.channel.interpolation import cubic, linear_by_cubic

GRID = 129
"""Times of half a pass at which what changes slowly is computed; blocks lie between them."""
ROWS = 8
"""Rows of a table from each of these times to the next."""
OFFSETS = 257
"""Pointing offsets at which the collected share is computed."""
NORMAL_REACH = 8.5
"""Standard deviations to which the laws of fading are tabulated; beyond lie 2e-17 of all blocks."""
LONGEST_BLOCK_S = 0.1
"""Longest block [s], however slowly the fading changes."""


@jax.jit
def elevations_to(channel: Any, last_s: Any) -> Any:
    """Elevations from culmination to a time after it [rad]."""
    return channel.orbit().elevation(last_s * jnp.linspace(0.0, 1.0, GRID))


@jax.jit
def shortest_time_s(channel: Any, elevations: Any, wavelength: Any) -> Any:
    """Shorter of the correlation times at elevations, for which a block may hold [s]."""
    coherence = jax.vmap(lambda at: channel.coherence_s(channel.path(at, wavelength), at, wavelength))(elevations)
    longest: Any = LONGEST_BLOCK_S
    if channel.pointing_correlation_time_ms is not None:
        longest = jnp.minimum(longest, 1e-3 * channel.pointing_correlation_time_ms)
    return jnp.minimum(jnp.min(coherence), longest)


class Factors(NamedTuple):
    """Transmittance of each block up to the receiver: perfectly pointed and still, times pointing, times scintillation."""

    still: Any
    pointing: Any
    scintillation: Any


class Plan(NamedTuple):
    """What all passes over the same blocks have in common; blocks in lanes, see `fading.by_lane`.

    Attributes:
        still: Transmittance up to the receiver, perfectly pointed and still.
        row: Where each block lies between the rows of the tables.
        jitter: Standard deviation of the beam's center, each axis, in columns of that table.
        boresight: Its constant offset, in columns.
        factor: Collected share by elevation and offset, relative to the perfectly pointed beam.
        follows: Correlation of the pointing of each block with that of the one before it.
        decay: That of the scintillation.
        spread: Standard deviation of the logarithm of a log-normal scintillation, or None.
        quantiles: Logarithms of both factors of a gamma-gamma scintillation, by elevation and Gaussian number; or empty.
        ellipses: What an elliptic beam needs, or None.
    """

    still: Any
    row: Any
    jitter: Any
    boresight: Any
    factor: Any
    follows: Any
    decay: Any
    spread: Any
    quantiles: tuple[Any, ...]
    ellipses: Elliptic | None


class Elliptic(NamedTuple):
    """Elliptic beam in each block, in lanes.

    Attributes:
        law: Of its ellipses.
        share: Collected share of the perfectly pointed beam.
        column_m: Pointing offset of one column [m].
        annulus: Diameters of the receiver and of what is obscured [m].
    """

    law: beams.Ellipses
    share: Any
    column_m: Any
    annulus: tuple[Any, Any]


@jax.jit
def planned(channel: Any, wavelength: Any, elevations: Any, place: Any, steps: Any) -> Plan:
    """Plan of passes.

    Args:
        channel: Whose laws are drawn from.
        wavelength: Of the light [m].
        elevations: Grid on which what changes slowly is computed, four at least [rad].
        place: Where each block lies between them, in grid points.
        steps: Duration of each block [s].
    """
    normals = NORMAL_REACH * jnp.linspace(-1.0, 1.0, OFFSETS)

    def at(elevation: Any) -> tuple[Any, ...]:
        slow = channel.slow(elevation, wavelength)
        offsets = slow.reach() * jnp.linspace(0.0, 1.0, OFFSETS)
        still = channel.still_share(elevation, slow.distance, wavelength)
        factor = channel.shares(elevation, slow.distance, offsets, wavelength) / still
        law: Any = ()
        if channel.fading == "gamma_gamma":
            law = tuple(fading.log_gamma_quantile(normals, shape) for shape in fading.gamma_shapes(slow.rytov))
        elif channel.fading == "elliptic_beam":
            law = channel.ellipses(elevation, slow, wavelength)
        return slow, still, factor, law

    slow, still, factor, law = jax.lax.map(at, elevations)
    row = fading.by_lane(place)
    coherence = cubic(row, slow.coherence_s)
    pointing_s = coherence if channel.pointing_correlation_time_ms is None else 1e-3 * channel.pointing_correlation_time_ms
    apart = fading.by_lane(jnp.concatenate([steps[:1], 0.5 * (steps[1:] + steps[:-1])]))
    column = (OFFSETS - 1) / slow.reach()
    spread = cubic(row, jnp.sqrt(jnp.log1p(slow.index))).astype(jnp.float32) if channel.fading == "lognormal" else None
    ellipses = None
    if channel.fading == "elliptic_beam":
        law, share, width = jax.tree.map(lambda values: cubic(row, values), (law, still, 1.0 / column))
        ellipses = Elliptic(law, share, width, channel.annulus())
    return Plan(
        still=cubic(row, slow.steady * still),
        row=(ROWS * row).astype(jnp.float32),
        jitter=cubic(row, slow.jitter * column).astype(jnp.float32),
        boresight=cubic(row, slow.boresight * column).astype(jnp.float32),
        factor=_finer(factor),
        follows=jnp.exp(-apart / pointing_s),
        decay=jnp.exp(-apart / coherence),
        spread=spread,
        quantiles=tuple(map(_finer, law)) if channel.fading == "gamma_gamma" else (),
        ellipses=ellipses,
    )


def _finer(table: Any) -> Any:
    """A table with `ROWS` rows for each of its own, between which it may be taken as linear."""
    rows = jnp.linspace(0.0, table.shape[0] - 1.0, ROWS * (table.shape[0] - 1) + 1)
    return jax.vmap(lambda row: cubic(row, table))(rows).astype(jnp.float32)


def transmittances(key: Any, plan: Plan, blocks: int) -> np.ndarray:
    """Transmittance of the blocks of one pass up to the receiver, float64."""
    return np.asarray(_product(plan, *_drawn(key, plan), blocks))


def _drawn(key: Any, plan: Plan) -> tuple[Any, Any]:
    """Fading of one pass in lanes, in steps whose results are stored: one compiled whole works them out repeatedly."""
    key_first, key_ellipses = jax.random.split(key)
    lights = 2 if plan.quantiles else int(plan.spread is not None)
    noise = _gaussian(key_first, plan.row.shape, 2 + lights)
    centers = _correlated(noise[:2], plan.follows)
    if plan.ellipses is not None:
        return _elliptic(key_ellipses, plan, centers), None
    pointing = _between(plan.row, _offset(plan, centers), plan.factor)
    scintillation: Any = _correlated(noise[2:], plan.decay) if lights else None
    if plan.quantiles:
        columns = _columns(scintillation)
        scintillation = [_between(plan.row, column, table) for column, table in zip(columns, plan.quantiles, strict=True)]
    return pointing, scintillation


_gaussian = jax.jit(fading.gaussian, static_argnums=(1, 2))
_correlated = jax.jit(lambda noise, decay: fading.correlated(jnp.stack(noise, axis=1), decay))
_between = jax.jit(linear_by_cubic)


@jax.jit
def _offset(plan: Plan, centers: Any) -> Any:
    offset = jnp.hypot(plan.boresight + plan.jitter * centers[0], plan.jitter * centers[1])
    return jnp.minimum(offset, OFFSETS - 1.0)


@jax.jit
def _elliptic(key: Any, plan: Plan, centers: Any) -> Any:
    assert plan.ellipses is not None
    law, share, column, annulus = plan.ellipses
    x, y = column * (plan.boresight + plan.jitter * centers[0]), column * plan.jitter * centers[1]
    return law.draw(key, plan.decay, x, y, *annulus) / share


@jax.jit
def _columns(normals: Any) -> Any:
    return jnp.clip(0.5 + normals / (2.0 * NORMAL_REACH), 0.0, 1.0) * (OFFSETS - 1)


def _factors(plan: Plan, pointing: Any, scintillation: Any) -> Factors:
    """Factors in lanes, from what the tables give."""
    if plan.ellipses is None:
        pointing = jnp.clip(pointing, 0.0, plan.factor.max())  # cubics overshoot at the edge of a disc
    light = jnp.ones_like(pointing)
    if plan.quantiles:
        light = jnp.exp(sum(scintillation))
    elif plan.spread is not None:
        light = jnp.exp(plan.spread * scintillation[0] - 0.5 * plan.spread**2)
    return Factors(plan.still, pointing, light)


@functools.partial(jax.jit, static_argnums=3)
def _each(plan: Plan, pointing: Any, scintillation: Any, blocks: int) -> Factors:
    factors = _factors(plan, pointing, scintillation)
    return jax.tree.map(lambda leaf: fading.in_order(leaf, blocks).astype(jnp.float64), factors)


@functools.partial(jax.jit, static_argnums=3)
def _product(plan: Plan, pointing: Any, scintillation: Any, blocks: int) -> Any:
    still, pointing, light = _factors(plan, pointing, scintillation)
    return fading.in_order(jnp.clip(still * pointing * light, 0.0, 1.0), blocks)


def drawn_factors(key: Any, channel: Any, wavelength: Any, elevations: Any, place: Any, steps: Any) -> Factors:
    """Fading of one pass; arguments as of `planned`."""
    plan = planned(channel, wavelength, elevations, place, steps)
    return _each(plan, *_drawn(key, plan), len(place))


def plan_of(channel: Any, link: Any, lengths: np.ndarray) -> Plan:
    """Plan of a channel, kept for the next pass of the same."""
    leaves, structure = jax.tree.flatten(channel)
    numbers = tuple(float(leaf) for leaf in leaves)
    rate, wavelength = float(link.source.pulse_rate_hz), 1e-9 * float(link.source.wavelength_nm)
    return _plan(structure, numbers, wavelength, rate, lengths.tobytes())


@functools.lru_cache(maxsize=1)
def _plan(structure: Any, numbers: tuple[float, ...], wavelength: float, rate: float, lengths_of: bytes) -> Plan:
    channel, lengths = jax.tree.unflatten(structure, numbers), np.frombuffer(lengths_of, np.int64)
    ends = np.cumsum(lengths)
    times = np.abs(ends - 0.5 * lengths - 0.5 * ends[-1]) / rate  # from culmination, on which a run is centered
    last = max(float(times.max()), 1e-9)
    return planned(channel, wavelength, elevations_to(channel, last), times / last * (GRID - 1), lengths / rate)
