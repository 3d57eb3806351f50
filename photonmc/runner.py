"""Entry points: a study in, a result out. They check, enter the x64 scope, and call cached compiled kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import Counts, Drawn, Truth, counts_from_tally, truth_from_tally
from photonmc.errors import ConfigError, Mistake
from photonmc.keys import key_and_error, keys_of
from photonmc.progress import Progress
from photonmc.random import point_key
from photonmc.results import Keys, Result
from photonmc.sampling.clicks import sample_clicks
from photonmc.sampling.codes import HIDDEN, Record
from photonmc.sampling.counts import sample_counts
from photonmc.sampling.expected import detector_clicks, expected, per_pulse
from photonmc.sampling.pulses import sample_pulses
from photonmc.sampling.run import MAX_PULSES
from photonmc.security.keyrate import Key, key_of_counts
from photonmc.status import BIT
from photonmc.study import Study, checked, is_concrete, kernel_study, require_x64_for_tracers

BATCH = 1 << 15
"""Points times realizations whose keys are computed at once."""
MOST_SUMMED = 10_000
"""Points of a scan whose pulses are summed up beforehand."""


class Part(NamedTuple):
    """Results of some points of a study, one array entry a point; fields as in `Result`."""

    points: np.ndarray
    samplers: np.ndarray
    intensities: np.ndarray
    pulse_rate_hz: np.ndarray
    counts: Counts
    truth: Truth | None
    detector_clicks: np.ndarray
    pooling_error_bound: np.ndarray
    stopped: np.ndarray
    cautions: np.ndarray
    keys: Keys | None
    realizations: np.ndarray
    tuned: dict[str, np.ndarray]


@jax.jit
def _expected_kernel(study: Study) -> Counts:
    return expected(study.link, study.protocol, study.run)


@jax.jit
def _expected_batch(study: Study) -> tuple[Counts, Any]:
    """Expected counts of points, and mean registered clicks of each detector; NaN where a paper's model does not tell."""

    def of(one: Study) -> tuple[Counts, Any]:
        counts = expected(one.link, one.protocol, one.run)
        if one.link.receiver.count_model != "exact":
            return counts, jnp.full(2, jnp.nan)
        total = jnp.where(jnp.isfinite(counts.pulses), counts.pulses, 0.0)
        return counts, total * detector_clicks(one.link, one.protocol, one.run.length_of_channel(one.link))

    return jax.vmap(of)(study)


@jax.jit
def _gain_batch(study: Study) -> Any:
    """Probability of a sifted Z detection in a pulse, memory left aside."""
    return jax.vmap(lambda one: per_pulse(one.link, one.protocol).detections[0].sum())(study)


@jax.jit
def _broken_batch(study: Study) -> dict[str, Any]:
    """Broken assumptions of points."""
    return jax.vmap(Study.broken_assumptions)(study)


@jax.jit
def _key_kernel(counts: Counts, study: Study) -> Key:
    return key_of_counts(counts, study.link, study.protocol, study.security)


def expected_counts(study: Study) -> Counts:
    """Expected counts of a study of one point: real numbers, shape (basis, intensity), bases in the order Z, X.

    Pure and differentiable under `with jax.enable_x64(True):`; given arrays or numbers it returns NumPy arrays.

    Raises:
        ConfigError: If values lie outside of their range, or the receiver has a memory, under which no expectation is known.
        PrecisionError: Given tracers while x64 is off.
    """
    study = kernel_study(checked(_single(study).replace({"run.sampler": "expected"})))
    with jax.enable_x64(True):
        counts = _expected_kernel(study)
    return jax.device_get(counts) if is_concrete(counts) else counts


def key_length(counts: Counts, study: Study) -> Key:
    """Key length of counts, with every intermediate term and the status.

    Args:
        counts: Sifted counts, arrays of shape (basis, intensity), bases in the order Z, X.
        study: Intensities, their probabilities, basis probabilities and the security analysis are read.

    Raises:
        ConfigError: If the study has no security analysis, or counts do not fit.
        PrecisionError: Given tracers while x64 is off.
    """
    require_x64_for_tracers(counts)
    study = checked(_single(study))
    wanted = (2, len(study.link.source.intensities))
    found = [
        Mistake(name, f"must have shape {wanted}, but has {np.shape(getattr(counts, name))}")
        for name in ("sent", "detections", "errors")
        if np.shape(getattr(counts, name)) != wanted
    ]
    if study.security is None:
        found.append(Mistake("security", "is required for a key"))
    if found:
        raise ConfigError(found)
    with jax.enable_x64(True):
        counts = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if is_concrete(leaf) else leaf, counts)
        key = _key_kernel(counts, kernel_study(study))
    return jax.device_get(key) if is_concrete(key) else key


def simulate(
    study: Study,
    sampler: str | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    listener: Callable[[Record], None] | None = None,
) -> Result:
    """Sample a study at each of its points and analyze the counts.

    Args:
        study: What to simulate; scanned axes become axes of the result.
        sampler: "auto", "expected", "counts", "clicks" or "pulses" instead of the study's own.
        seed: Instead of the study's own.
        progress: Is told of pulses that are done, and may ask for a stop: what was sampled so far comes back, as `partial`.
        listener: Is given registered clicks, batch after batch; for a study of one point and realization.

    Raises:
        ConfigError: With all mistakes at once, a sampler that cannot represent the model among them.
    """
    changes: dict[str, Any] = {}
    if sampler is not None:
        changes["run.sampler"] = sampler
    if seed is not None:
        changes["run.seed"] = seed
    study = checked(study.replace(changes))
    if refused := list(run_refusals(study)):
        raise ConfigError(refused)
    rows = max(np.size(leaf) for leaf in [1.0, *jax.tree.leaves(study.link.channel)])
    parts = []
    with jax.enable_x64(True):
        for points, batch in study.batches(max(1, BATCH // max(*study.values_of("run.realizations"), rows))):
            parts.append(_simulate_batch(points, batch, progress or Progress(), listener))
    return assembled(study, parts)


def total_pulses(study: Study) -> float | None:
    """Pulses of all points and realizations together, None where that is not known beforehand."""
    if study.run.block_size_z is not None or study.points > MOST_SUMMED:
        return None
    points = (study.at(index) for index in range(study.points))
    return sum(float(p.run.fixed_pulses(p.link)) * p.run.joined_passes * p.run.realizations for p in points)


def expected_pulses(study: Study) -> float:
    """Mean number of pulses of a block of a study of one point, at most 1e15, which no sampler passes."""
    if study.run.block_size_z is None:
        return float(study.run.fixed_pulses(study.link))
    with jax.enable_x64(True):
        _, batch = next(study.batches(1))
        gain = float(_gain_batch(kernel_study(batch))[0])
    return float(min(study.run.block_size_z / gain, MAX_PULSES)) if gain > 0 else MAX_PULSES


def run_refusals(study: Study) -> Iterator[Mistake]:
    """Why a valid study cannot be run."""
    for mark in study.free:
        yield Mistake(mark.path, "is marked for `optimize`; a run needs a value")


def key_refusals(study: Study) -> Iterator[Mistake]:
    """Why measured counts cannot be analyzed with a valid study."""
    for axis in study.axes:
        yield Mistake(axis.name, "is scanned, but measured counts belong to one point")
    for mark in study.free:
        yield Mistake(mark.path, "is marked for `optimize`; measured counts need a value")
    if study.security is None:
        yield Mistake("security", "is required: it says how counts become a key")


def analyze(counts: Counts, study: Study) -> Result:
    """Result of counts that were measured, for a study of one point with a security analysis."""
    if refused := list(key_refusals(study)):
        raise ConfigError(refused)
    study = checked(study)
    batched = jax.tree.map(lambda leaf: np.asarray(leaf)[None, None], counts)
    with jax.enable_x64(True):
        _, batch = next(study.batches(1))
        keys = keys_of(batched, batch, np.full(1, np.nan))
    summed = jax.tree.map(lambda array: array[:, 0], batched)
    return assembled(study, [_part(np.array([0]), batch, np.array(["measured"]), summed, keys=keys)])


def _single(study: Study) -> Study:
    if study.axes:
        raise ConfigError([Mistake(axis.name, "is scanned; take one point, study.at(index)") for axis in study.axes])
    return study


def chosen_sampler(study: Study) -> str:
    """Sampler behind "auto" for one point: the cheapest that is exact for the model."""
    if study.run.sampler != "auto":
        return study.run.sampler
    link = study.link
    if link.receiver.count_model != "exact":
        return "expected"
    memory, receiver = link.receiver.memory(float(link.source.pulse_rate_hz)), link.receiver
    jitter = receiver.detection_window_ps is None and (
        np.any(receiver.timing_jitter_ps) or np.any(receiver.timing_jitter_tail_ps)
    )
    constant = study.run.block_size_z is not None or not np.isfinite(link.channel.pulses(float(link.source.pulse_rate_hz)))
    return "counts" if not jitter and (memory.none or (memory.renews and constant)) else "clicks"


def _simulate_batch(points: np.ndarray, batch: Study, progress: Progress, listener: Callable[[Record], None] | None) -> Part:
    """Counts and keys of stacked points that differ in numbers only."""
    if batch.run.sampler == "expected" or (batch.run.sampler == "auto" and batch.link.receiver.count_model != "exact"):
        return expected_part(points, batch)
    kernel = kernel_study(batch)
    stops = _stops(kernel)
    _refuse_endless(points, kernel, stops)
    point_keys = jax.vmap(lambda point: point_key(batch.run.seed, point))(points)
    realizations = batch.run.realizations
    as_asked = dataclasses.replace(kernel.run, sampler=batch.run.sampler, generator=batch.run.generator)
    gathered, samplers, single, errors = [], [], [], np.full(len(points), np.nan)
    for index, (key, stop) in enumerate(zip(point_keys, stops, strict=True)):
        one = _point(dataclasses.replace(kernel, run=as_asked), index)
        samplers.append(chosen_sampler(one))
        passes = int(one.run.joined_passes)
        drawn = _joined(_drawn(samplers[-1], key, one, realizations * passes, stop, progress, listener), passes)
        gathered.append(drawn)
        if realizations == 1 and batch.security is not None:
            found, errors[index] = key_and_error(key, drawn, kernel, index, stop)
            single.append(found)
    counts = jax.tree.map(lambda *arrays: np.stack(arrays), *(counts_from_tally(d.pulses, d.tally) for d in gathered))
    stopped = np.array([drawn.stopped for drawn in gathered])
    key_of_each = jax.tree.map(lambda *arrays: np.concatenate(arrays), *single) if single else None
    keys = None if batch.security is None else keys_of(counts, batch, errors, key_of_each)
    return _part(
        points,
        batch,
        np.array(samplers),
        jax.tree.map(lambda array: array.sum(axis=1), counts),
        truth=truth_from_tally(np.stack([drawn.tally.sum(axis=0) for drawn in gathered])),
        detector_clicks=np.stack([drawn.detector_clicks.sum(axis=0) for drawn in gathered]),
        pooling_error_bound=np.array([drawn.pooling_error_bound for drawn in gathered]),
        stopped=stopped,
        keys=keys,
        realizations=np.maximum((counts.pulses > 0).sum(axis=1), 1),  # a stop leaves some out
    )


def _point(kernel: Study, index: int) -> Study:
    """One of stacked points, its numbers plain floats."""
    return jax.tree.map(lambda leaf: float(leaf[index]) if np.ndim(leaf) == 1 else np.asarray(leaf[index]), kernel)


def _drawn(
    sampler: str,
    key: Any,
    one: Study,
    realizations: int,
    stop: tuple[int | None, int | None],
    progress: Progress,
    listener: Callable[[Record], None] | None,
) -> Drawn:
    """All realizations of one point; those that a stop left out are empty."""
    common = key, one.link, one.protocol, realizations, *stop
    if sampler == "counts":
        blocks = sample_counts(*common, one.run.pooling_error, progress.advance)
    elif sampler == "clicks":
        blocks = sample_clicks(*common, listener, progress.advance)
    else:
        blocks = sample_pulses(*common, one.run.generator, listener, progress.advance)
    chunks = [] if progress.stopped else list(blocks)
    stopped = progress.stopped and (not chunks or chunks[-1].stopped or sum(len(c.pulses) for c in chunks) < realizations)
    shape = (2, len(one.link.source.intensities), HIDDEN, 3)
    missing = realizations - sum(len(chunk.pulses) for chunk in chunks)
    if missing:
        zeros = Drawn(np.zeros(missing, np.int64), np.zeros((missing, *shape), np.int64), np.zeros((missing, 2), np.int64))
        chunks.append(zeros)
    pulses, tally, clicks, bounds, _ = zip(*chunks, strict=True)
    return Drawn(np.concatenate(pulses), np.concatenate(tally), np.concatenate(clicks), max(bounds), stopped)


def _joined(drawn: Drawn, passes: int) -> Drawn:
    """Blocks of several passes each, those that a stop cut short included; their bounds add up."""
    if passes == 1:
        return drawn

    def sums(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, passes, *array.shape[1:]).sum(axis=1)

    bound = min(1.0, passes * drawn.pooling_error_bound)
    return Drawn(sums(drawn.pulses), sums(drawn.tally), sums(drawn.detector_clicks), bound, drawn.stopped)


def expected_part(
    points: np.ndarray, batch: Study, tuned: dict[str, np.ndarray] | None = None, stopped: bool = False
) -> Part:
    """Expectation, and its keys, of stacked points, at the settings found for them where those were tuned.

    Args:
        points: Their numbers.
        batch: The points.
        tuned: Settings by path.
        stopped: Whether the search for them was stopped before its end.
    """
    batch = batch.replace(tuned or {})
    kernel = kernel_study(batch)
    mean, clicks = jax.tree.map(np.asarray, _expected_batch(kernel))
    counts = jax.tree.map(lambda array: array[:, None], mean)
    stops = np.full(len(points), stopped)
    keys = None if batch.security is None else keys_of(counts, batch, np.full(len(points), np.nan))
    samplers = np.full(len(points), "expected")
    part = _part(points, batch, samplers, mean, detector_clicks=clicks, stopped=stops, keys=keys)
    return part._replace(tuned=tuned or {})


def _part(
    points: np.ndarray,
    batch: Study,
    samplers: np.ndarray,
    counts: Counts,
    *,
    truth: Truth | None = None,
    detector_clicks: np.ndarray | None = None,
    pooling_error_bound: np.ndarray | None = None,
    stopped: np.ndarray | None = None,
    keys: Keys | None = None,
    realizations: np.ndarray | int = 1,
) -> Part:
    source = batch.link.source
    nothing = np.zeros(len(points))
    return Part(
        points=points,
        samplers=samplers,
        intensities=np.stack(source.intensities, axis=-1),
        pulse_rate_hz=np.asarray(source.pulse_rate_hz),
        counts=counts,
        truth=truth,
        detector_clicks=np.full((len(points), 2), np.nan) if detector_clicks is None else detector_clicks,
        pooling_error_bound=nothing if pooling_error_bound is None else pooling_error_bound,
        stopped=nothing > 0 if stopped is None else stopped,
        cautions=_cautions(batch, len(points)),
        keys=keys,
        realizations=np.broadcast_to(realizations, len(points)),
        tuned={},
    )


def _stops(batch: Study) -> list[tuple[int | None, int | None]]:
    """Whole pulses, or whole Z detections, at which the block of each point stops."""
    run, rates = batch.run, np.asarray(batch.link.source.pulse_rate_hz)
    if run.block_size_z is not None:
        return [(None, max(1, round(size))) for size in np.asarray(run.block_size_z).tolist()]
    points = (_point(batch, index) for index in range(len(rates)))
    return [(max(1, round(float(one.run.fixed_pulses(one.link)))), None) for one in points]


def _refuse_endless(points: np.ndarray, kernel: Study, stops: list[tuple[int | None, int | None]]) -> None:
    if kernel.run.block_size_z is None:
        return
    found = []
    for point, gain, (_, block) in zip(points, np.asarray(_gain_batch(kernel)).tolist(), stops, strict=True):
        assert block is not None
        mean = block / gain + _blind_pulses(kernel, block) if gain > 0 else np.inf
        if mean > MAX_PULSES:
            needs = f"needs {mean:.3g} pulses on average" if gain > 0 else "waits for Z detections that cannot come"
            where = f" at point {point}" if len(points) > 1 else ""
            found.append(
                Mistake(
                    "run.block_size_z",
                    f"may need {MAX_PULSES:g} pulses at most where it is sampled, but {block}{where} {needs}",
                )
            )
    if found:
        raise ConfigError(found)


def _blind_pulses(kernel: Study, block: int) -> float:
    """Pulses that detectors spend blind, at least, until so many detections are there."""
    shortest = 1e-9 * np.min(kernel.link.receiver.dead_time_ns) * np.min(kernel.link.source.pulse_rate_hz)
    at_once = 1 if kernel.link.receiver.dead_time_policy == "blank_all" else 2  # detectors that may click in turn
    return float(shortest) * max(0, block // at_once - 1)


def _cautions(batch: Study, points: int) -> np.ndarray:
    """Status bits of models and proofs whose assumptions a link breaks."""
    mask = np.zeros(points, np.int64)
    for applies in _broken_batch(kernel_study(batch)).values():
        mask |= np.where(applies, BIT["outside_validity"], 0)
    return mask


def assembled(study: Study, parts: list[Part]) -> Result:
    """Result of all points from its parts, back in row-major order."""
    order = np.argsort(np.concatenate([part.points for part in parts]), kind="stable")
    drawn = next((part.truth for part in parts if part.truth is not None), None)
    if drawn is not None:  # points in expectation beside sampled ones have no truth to show
        blank = jax.tree.map(lambda array: array[:1] * 0, drawn)
        parts = [
            part if part.truth is not None else part._replace(truth=jax.tree.map(_repeater(len(part.points)), blank))
            for part in parts
        ]
    if study.security is not None:  # points may have different numbers of realizations
        most = max(part.keys.bits_of_each.shape[1] for part in parts if part.keys is not None)
        parts = [part._replace(keys=_widened(part.keys, most)) for part in parts if part.keys is not None]
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays)[order], *parts)
    return Result(
        study=study,
        samplers=joined.samplers,
        intensities=joined.intensities,
        pulse_rate_hz=joined.pulse_rate_hz,
        counts=joined.counts,
        truth=joined.truth,
        detector_clicks=joined.detector_clicks,
        pooling_error_bound=joined.pooling_error_bound,
        stopped=joined.stopped,
        cautions=joined.cautions,
        realizations=joined.realizations,
        keys=joined.keys,
        tuned=joined.tuned,
    )


def _widened(keys: Keys, realizations: int) -> Keys:
    """With places for so many realizations, those that there are none of NaN."""
    missing = realizations - keys.bits_of_each.shape[1]
    return keys._replace(bits_of_each=np.pad(keys.bits_of_each, ((0, 0), (0, missing)), constant_values=np.nan))


def _repeater(times: int) -> Any:
    return lambda array: np.repeat(array, times, axis=0)
