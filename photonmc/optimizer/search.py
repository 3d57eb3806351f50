"""Search for the settings with the most key per pulse: quasi-random starts, Adam on the best, bounds tried at the end.

Every point takes the same number of steps, whether it has a key or not, and all points go through one compiled program.
Where each step integrates a whole pass anew, which takes a hundred times as long, fewer of them are made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from photonmc.contracts import unwatched
from photonmc.optimizer.coordinates import EDGE, INNER, Coordinates
from photonmc.sampling.expected import expected
from photonmc.study import Study, value_at
from photonmc.study_axes import Free

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Effort(NamedTuple):
    """How much is tried.

    Attributes:
        candidates: Quasi-random settings that are scored before the gradient search.
        lanes: Starts of the gradient search, and settings that are scored at once.
        steps: Steps of Adam from every start.
        points: Points of a scan that are tuned together.
    """

    candidates: int
    lanes: int
    steps: int
    points: int


CHEAP = Effort(candidates=384, lanes=8, steps=500, points=256)
COSTLY = Effort(candidates=128, lanes=4, steps=240, points=1)
"""Effort where every step integrates the fading of a pass anew."""
OUTSIDE = ("source.intensities", "source.intensity_probabilities", "protocol.")
"""Settings that do not change what light a channel lets through."""
FORWARD = 2
"""Coordinates up to which slopes go forward: a pass compiles in half the time, and runs in a third; from four on not."""
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


_Marks = ("free", "analysis")


def _coordinates(study: Study, free: tuple[Free, ...], analysis: str) -> Coordinates:
    return Coordinates(free, analysis, len(study.link.source.intensities))


@functools.partial(jax.jit, static_argnames=_Marks)
def _starts(study: Study, free: tuple[Free, ...], analysis: str) -> Any:
    return jax.vmap(_coordinates(study, free, analysis).start)(study)


@functools.partial(jax.jit, static_argnames=_Marks)
def _scores(u: Any, study: Study, free: tuple[Free, ...], analysis: str) -> tuple[Any, Any]:
    """Scores of coordinates and their slopes, axes (point, lane): the one program that is costly to compile."""
    objective = functools.partial(_objective, _coordinates(study, free, analysis))

    def forward(at: Any, one: Study) -> tuple[Any, Any]:
        along = jax.vmap(lambda way: jax.jvp(lambda moved: objective(moved, one), (at,), (way,)), out_axes=(None, 0))
        return along(jnp.eye(at.size))

    score = forward if 0 < u.shape[-1] <= FORWARD else jax.value_and_grad(objective)
    return jax.vmap(jax.vmap(score, (0, None)))(u, study)


@functools.partial(jax.jit, static_argnames=_Marks)
def _feasible(u: Any, study: Study, free: tuple[Free, ...], analysis: str) -> Any:
    """Whether coordinates keep strict orders, as those on a bound may not; axes (point, trial)."""
    coordinates = _coordinates(study, free, analysis)
    return jax.vmap(jax.vmap(lambda at, one: coordinates.feasible(coordinates.values(at, one)), (0, None)))(u, study)


@functools.partial(jax.jit, static_argnames="steps")
def _begun(u: Any, steps: int) -> Any:
    return _adam(steps).init(u)


@functools.partial(jax.jit, static_argnames="steps")
def _stepped(u: Any, slope: Any, state: Any, steps: int) -> tuple[Any, Any]:
    """Coordinates one step later; Adam treats each by itself, so that all points and lanes share its state."""
    updates, state = _adam(steps).update(-jnp.where(jnp.isfinite(slope), slope, 0.0), state)
    return jnp.clip(optax.apply_updates(u, updates), -INNER, INNER), state


def _adam(steps: int) -> Any:
    return optax.adam(optax.cosine_decay_schedule(FIRST_STEP, steps, alpha=1e-5), b1=0.9, b2=0.99)


@functools.partial(jax.jit, static_argnames=_Marks)
def _placed(u: Any, study: Study, free: tuple[Free, ...], analysis: str) -> list[Any]:
    def values(at: Any, one: Study) -> list[Any]:
        placed = _coordinates(study, free, analysis).values(at, one)
        return [value_at(placed, mark.path) for mark in free]

    return jax.vmap(values)(u, study)


def effort_for(study: Study) -> Effort:
    """How much is tried for the free settings of a study."""
    within = any(not mark.path.startswith(OUTSIDE) for mark in study.free)
    return COSTLY if within and study.link.channel.fluctuates else CHEAP


def best_settings(
    study: Study, free: tuple[Free, ...], analysis: str, effort: Effort, watch: Callable[[float], bool] = unwatched
) -> list[np.ndarray]:
    """Best values of the free settings, in their order, each of shape (point,), for stacked points; call with x64 on.

    Args:
        study: Stacked points.
        free: Settings to tune.
        analysis: Word of the security analysis.
        effort: How much is tried.
        watch: Is told of steps that were made, and says whether to stop, with the best so far.
    """
    start = np.asarray(_starts(study, free, analysis))
    points, size = start.shape
    study = jax.device_put(study)

    def scores(trials: np.ndarray) -> np.ndarray:
        """Scores of any number of trials, in pieces of one shape, so that there is one compilation."""
        padding = -trials.shape[1] % effort.lanes
        full = np.concatenate([trials, np.repeat(trials[:, :1], padding, axis=1)], axis=1)
        pieces = [full[:, first : first + effort.lanes] for first in range(0, full.shape[1], effort.lanes)]
        found = np.concatenate([np.asarray(_scores(piece, study, free, analysis)[0]) for piece in pieces], axis=1)
        allowed = np.asarray(_feasible(trials, study, free, analysis))
        return np.where(allowed, found[:, : trials.shape[1]], -np.inf)

    def placed(u: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(values) for values in _placed(u, study, free, analysis)]

    if watch(0.0):
        return placed(start)
    fractions = np.broadcast_to(_halton(effort.candidates, size), (points, effort.candidates, size))
    candidates = np.log(fractions) - np.log1p(-fractions)
    # the marked start always takes part, beside the most promising candidates
    order = np.argsort(-scores(candidates), axis=1, kind="stable")[:, : effort.lanes - 1, None]
    u = np.concatenate([start[:, None], np.take_along_axis(candidates, order, axis=1)], axis=1)
    state, found, best_of = _begun(u, effort.steps), u, np.full(u.shape[:2], -np.inf)
    for _ in range(effort.steps):
        score, slope = map(np.asarray, _scores(u, study, free, analysis))
        better = score > best_of
        found, best_of = np.where(better[..., None], u, found), np.where(better, score, best_of)
        stepped, state = _stepped(u, slope, state, effort.steps)
        u = np.asarray(stepped)
        if stopped := watch(float(points)):
            break
    rows = np.arange(points)
    top = best_of.argmax(axis=1)
    best_u, best = found[rows, top], best_of[rows, top]
    # settings go onto their bounds as long as that does not lose key
    on_bound = np.concatenate([np.eye(size, dtype=bool)] * 2)
    edge = np.repeat([EDGE, -EDGE], size)[:, None]
    for _ in range(0 if stopped else size):
        moved = np.where(on_bound, edge, best_u[:, None])
        score = scores(moved)
        top = score.argmax(axis=1)
        better = score[rows, top] > best
        best_u, best = np.where(better[:, None], moved[rows, top], best_u), np.where(better, score[rows, top], best)
        if not better.any():
            break
    return placed(best_u)
