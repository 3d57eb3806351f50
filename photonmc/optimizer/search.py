"""Search for the settings with the most key per pulse: quasi-random starts, Adam on the best, bounds tried at the end.

Every point takes the same number of steps, whether it has a key or not, and all points go through one compiled program.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from photonmc.optimizer.coordinates import EDGE, INNER, Coordinates
from photonmc.sampling.expected import expected
from photonmc.study import Study, value_at
from photonmc.study_axes import Free

if TYPE_CHECKING:
    from jaxtyping import Array, Float

CANDIDATES = 384
"""Quasi-random settings that are tried before the gradient search."""
TRIALS = 64
"""Settings that are scored at once."""
LANES = 8
"""Starts of the gradient search."""
STEPS = 500
"""Steps of Adam from every start."""
FIRST_STEP = 0.3
"""Size of the first step, in coordinates."""


def _halton(count: int, size: int) -> np.ndarray:
    """First points of the Halton sequence, which fill the unit cube evenly, shape (count, size)."""
    primes = [p for p in range(2, 200) if all(p % q for q in range(2, p))][:size]
    points = np.zeros((count, size))
    for column, base in enumerate(primes):
        index, scale = np.arange(1, count + 1), 1.0
        while index.any():
            scale /= base
            points[:, column] += scale * (index % base)
            index //= base
    return points


def _per_pulse(study: Study) -> tuple[Any, Any]:
    """Key per pulse, before floor and maximum, and per sifted Z detection; the latter has slopes where there is no key."""
    counts = expected(study.link, study.protocol, study.run)
    real = study.security.evaluate(counts, study.link, study.protocol)["secret_key_bits_real"]
    detections = counts.detections[0].sum()
    usable = jnp.isfinite(counts.pulses) & (detections > 0)
    pulses = jnp.where(usable, counts.pulses, 1.0)
    return jnp.where(usable, real / pulses, -1.0), jnp.where(usable, real / jnp.where(usable, detections, 1.0), -1.0)


def _objective(coordinates: Coordinates, u: Float[Array, " coordinate"], study: Study) -> Any:
    """Logarithm of the key per pulse where there is one; far below it, but sloped, where there is none."""
    per_pulse, per_detection = _per_pulse(coordinates.values(u, study))
    positive = per_pulse > 0
    score = jnp.where(positive, jnp.log(jnp.where(positive, per_pulse, 1.0)), -1e4 + jnp.clip(per_detection, -1e3, 0.0))
    return jnp.where(jnp.isfinite(score), score, -jnp.inf)


def _adam(coordinates: Coordinates, u: Any, study: Study) -> tuple[Any, Any]:
    """Best coordinates and score along one path of Adam with a falling step size."""
    optimizer = optax.adam(optax.cosine_decay_schedule(FIRST_STEP, STEPS, alpha=1e-5), b1=0.9, b2=0.99)
    value_and_slope = jax.value_and_grad(lambda at: _objective(coordinates, at, study))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        u, state, best_u, best = carry
        score, slope = value_and_slope(u)
        better = score > best
        best_u, best = jnp.where(better, u, best_u), jnp.where(better, score, best)
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        updates, state = optimizer.update(-slope, state)
        return (jnp.clip(optax.apply_updates(u, updates), -INNER, INNER), state, best_u, best), None

    start = (u, optimizer.init(u), u, jnp.asarray(-jnp.inf, u.dtype))
    (_, _, best_u, best), _ = jax.lax.scan(step, start, None, length=STEPS)
    return best_u, best


_Marks = ("free", "analysis")


def _coordinates(study: Study, free: tuple[Free, ...], analysis: str) -> Coordinates:
    return Coordinates(free, analysis, len(study.link.source.intensities))


@functools.partial(jax.jit, static_argnames=_Marks)
def _starts(study: Study, free: tuple[Free, ...], analysis: str) -> Any:
    return jax.vmap(_coordinates(study, free, analysis).start)(study)


@functools.partial(jax.jit, static_argnames=_Marks)
def _scores(u: Any, study: Study, free: tuple[Free, ...], analysis: str) -> Any:
    """Scores of trial coordinates, shape (point, trial); what breaks a strict order scores nothing."""
    coordinates = _coordinates(study, free, analysis)

    def score(at: Any, one: Study) -> Any:
        allowed = coordinates.feasible(coordinates.values(at, one))
        return jnp.where(allowed, _objective(coordinates, at, one), -jnp.inf)

    return jax.vmap(lambda trials, one: jax.vmap(lambda at: score(at, one))(trials))(u, study)


@functools.partial(jax.jit, static_argnames=_Marks)
def _climb(u: Any, study: Study, free: tuple[Free, ...], analysis: str) -> tuple[Any, Any]:
    """Best coordinates and scores from each start, shape (point, lane, coordinate)."""
    coordinates = _coordinates(study, free, analysis)
    return jax.vmap(lambda lanes, one: jax.vmap(lambda at: _adam(coordinates, at, one))(lanes))(u, study)


@functools.partial(jax.jit, static_argnames=_Marks)
def _placed(u: Any, study: Study, free: tuple[Free, ...], analysis: str) -> list[Any]:
    def values(at: Any, one: Study) -> list[Any]:
        placed = _coordinates(study, free, analysis).values(at, one)
        return [value_at(placed, mark.path) for mark in free]

    return jax.vmap(values)(u, study)


def best_settings(study: Study, free: tuple[Free, ...], analysis: str) -> list[np.ndarray]:
    """Best values of the free settings, in their order, each of shape (point,), for stacked points; call with x64 on."""
    start = np.asarray(_starts(study, free, analysis))
    points, size = start.shape
    slots = max(TRIALS, 2 * size)

    def scores(trials: np.ndarray) -> np.ndarray:
        """Scores of any number of trials, in pieces of one shape, so that there is one compilation."""
        padding = -trials.shape[1] % slots
        full = np.concatenate([trials, np.repeat(trials[:, :1], padding, axis=1)], axis=1)
        pieces = [full[:, first : first + slots] for first in range(0, full.shape[1], slots)]
        found = np.concatenate([np.asarray(_scores(piece, study, free, analysis)) for piece in pieces], axis=1)
        return found[:, : trials.shape[1]]

    fractions = np.broadcast_to(_halton(CANDIDATES, size), (points, CANDIDATES, size))
    candidates = np.log(fractions) - np.log1p(-fractions)
    # the marked start always takes part, beside the most promising candidates
    order = np.argsort(-scores(candidates), axis=1, kind="stable")[:, : LANES - 1, None]
    lanes = np.concatenate([start[:, None], np.take_along_axis(candidates, order, axis=1)], axis=1)
    found, score = (np.asarray(array) for array in _climb(lanes, study, free, analysis))
    rows = np.arange(points)
    top = score.argmax(axis=1)
    u, best = found[rows, top], score[rows, top]
    # settings go onto their bounds as long as that does not lose key
    on_bound = np.concatenate([np.eye(size, dtype=bool)] * 2)
    edge = np.repeat([EDGE, -EDGE], size)[:, None]
    for _ in range(size):
        moved = np.where(on_bound, edge, u[:, None])
        score = scores(moved)
        top = score.argmax(axis=1)
        better = score[rows, top] > best
        u, best = np.where(better[:, None], moved[rows, top], u), np.where(better, score[rows, top], best)
        if not better.any():
            break
    return [np.asarray(values) for values in _placed(u, study, free, analysis)]
