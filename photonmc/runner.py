"""Entry points: a study in, a result out. They check, enter the x64 scope, and call cached compiled kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from photonmc.contracts import NO_CLICK, Counts, Truth, counts_from_tally, truth_from_tally
from photonmc.errors import ConfigError, Mistake
from photonmc.labels import QUANTILES
from photonmc.random import fold_name, host_generator, point_key
from photonmc.results import Keys, Result
from photonmc.sampling.counts import draw_tally, sample_counts
from photonmc.sampling.expected import expected, tally_probabilities
from photonmc.sampling.pulses import sample_pulses
from photonmc.sampling.run import MAX_PULSES
from photonmc.security.keyrate import Key, key_of_counts
from photonmc.status import BIT, NO_KEY
from photonmc.study import Study, checked, is_concrete, kernel_study, require_x64_for_tracers

BATCH = 1 << 15
"""Points times realizations whose keys are computed at once."""
REDRAWS = 200
"""Multinomial redraws behind the standard error of one realization."""


class Part(NamedTuple):
    """Results of some points of a study, one array entry a point; fields as in `Result`."""

    points: np.ndarray
    samplers: np.ndarray
    intensities: np.ndarray
    pulse_rate_hz: np.ndarray
    counts: Counts
    truth: Truth | None
    keys: Keys | None
    realizations: np.ndarray
    tuned: dict[str, np.ndarray]


@jax.jit
def _expected_kernel(study: Study) -> Counts:
    return expected(study.link, study.protocol, study.run)


@jax.jit
def _expected_batch(study: Study) -> Counts:
    return jax.vmap(lambda one: expected(one.link, one.protocol, one.run))(study)


@jax.jit
def _table_batch(keys: Any, study: Study) -> Any:
    def table(key: Any, one: Study) -> Any:
        states = one.link.draw(fold_name(key, "channel"), 1)
        return jax.vmap(lambda state: tally_probabilities(one.link, one.protocol, state))(states)

    return jax.vmap(table)(keys, study)


@jax.jit
def _key_kernel(counts: Counts, study: Study) -> Key:
    return key_of_counts(counts, study.link, study.protocol, study.security)


@jax.jit
def _key_batch(counts: Counts, study: Study) -> Key:
    """Keys of points (first axis) and their realizations (second axis)."""

    def realizations(many: Counts, one: Study) -> Key:
        return jax.vmap(lambda counted: key_of_counts(counted, one.link, one.protocol, one.security))(many)

    return jax.vmap(realizations)(counts, study)


def expected_counts(study: Study) -> Counts:
    """Expected counts of a study of one point: real numbers, shape (basis, intensity), bases in the order Z, X.

    Pure and differentiable under `with jax.enable_x64(True):`; given arrays or numbers it returns NumPy arrays.

    Raises:
        ConfigError: If values lie outside of their range.
        PrecisionError: Given tracers while x64 is off.
    """
    study = kernel_study(checked(_single(study)))
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


def simulate(study: Study, sampler: str | None = None, seed: int | None = None) -> Result:
    """Sample a study at each of its points and analyze the counts.

    Args:
        study: What to simulate; scanned axes become axes of the result.
        sampler: "auto", "expected", "counts" or "pulses" instead of the study's own.
        seed: Instead of the study's own.

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
    parts = []
    with jax.enable_x64(True):
        for points, batch in study.batches(max(1, BATCH // max(study.values_of("run.realizations")))):
            parts.append(_simulate_batch(points, batch))
    return assembled(study, parts)


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
        keys = _keys(batched, batch, np.full((1, 1), np.nan))
    summed = jax.tree.map(lambda array: array[:, 0], batched)
    return assembled(study, [_part(np.array([0]), batch, "measured", summed, None, keys, 1)])


def _single(study: Study) -> Study:
    if study.axes:
        raise ConfigError([Mistake(axis.name, "is scanned; take one point, study.at(index)") for axis in study.axes])
    return study


def chosen_sampler(study: Study) -> str:
    """Sampler behind "auto": the cheapest that is exact for the model."""
    if study.run.sampler != "auto":
        return study.run.sampler
    return "counts" if study.link.receiver.count_model == "exact" else "expected"


def _simulate_batch(points: np.ndarray, batch: Study) -> Part:
    """Counts and keys of stacked points that differ in numbers only."""
    sampler = chosen_sampler(batch)
    if sampler == "expected":
        return expected_part(points, batch)
    kernel = kernel_study(batch)
    point_keys = jax.vmap(lambda point: point_key(batch.run.seed, point))(points)
    tables = np.asarray(_table_batch(point_keys, kernel))[:, 0]
    stops = _stops(kernel)
    _refuse_endless(points, tables, stops)
    realizations = batch.run.realizations
    gathered, truths, errors = [], [], np.full((len(points), realizations), np.nan)
    for index, (key, table, stop) in enumerate(zip(point_keys, tables, stops, strict=True)):
        if sampler == "counts":
            chunks: Iterator[Any] = sample_counts(key, table, realizations, *stop)
        else:
            one = jax.tree.map(lambda leaf, index=index: leaf[index], kernel)
            chunks = sample_pulses(key, one.link, one.protocol, realizations, *stop, batch.run.generator)
        drawn, truth = [], None
        for sent, tally, *_ in chunks:
            drawn.append(counts_from_tally(sent, tally))
            summed = truth_from_tally(tally.sum(axis=0))
            truth = summed if truth is None else Truth(*(a + b for a, b in zip(truth, summed, strict=True)))
        gathered.append(jax.tree.map(lambda *arrays: np.concatenate(arrays), *drawn))
        truths.append(truth)
        if realizations == 1 and batch.security is not None:
            errors[index, 0] = _standard_error(key, drawn[0], kernel, index, stop)
    counts = jax.tree.map(lambda *arrays: np.stack(arrays), *gathered)
    keys = None if batch.security is None else _keys(counts, batch, errors)
    truth = Truth(*(np.stack(arrays) for arrays in zip(*truths, strict=True)))
    summed = jax.tree.map(lambda array: array.sum(axis=1), counts)
    return _part(points, batch, sampler, summed, truth, keys, realizations)


def expected_part(points: np.ndarray, batch: Study, tuned: dict[str, np.ndarray] | None = None) -> Part:
    """Expectation, and its keys, of stacked points, at the settings found for them where those were tuned."""
    batch = batch.replace(tuned or {})
    counts = jax.tree.map(lambda array: np.asarray(array)[:, None], _expected_batch(kernel_study(batch)))
    keys = None if batch.security is None else _keys(counts, batch, np.full(counts.pulses.shape, np.nan))
    part = _part(points, batch, "expected", jax.tree.map(lambda array: array[:, 0], counts), None, keys, 1)
    return part._replace(tuned=tuned or {})


def _part(
    points: np.ndarray,
    batch: Study,
    sampler: str,
    counts: Counts,
    truth: Truth | None,
    keys: Keys | None,
    realizations: int,
) -> Part:
    source = batch.link.source
    intensities, rate = np.stack(source.intensities, axis=-1), np.asarray(source.pulse_rate_hz)
    return Part(
        points,
        np.full(len(points), sampler),
        intensities,
        rate,
        counts,
        truth,
        keys,
        np.full(len(points), realizations),
        {},
    )


def _stops(batch: Study) -> list[tuple[int | None, int | None]]:
    """Whole pulses, or whole Z detections, at which the block of each point stops."""
    run = batch.run
    if run.block_size_z is not None:
        return [(None, max(1, round(size))) for size in np.asarray(run.block_size_z).tolist()]
    pulses = np.asarray(run.fixed_pulses(batch.link.source.pulse_rate_hz))
    return [(max(1, round(number)), None) for number in pulses.tolist()]


def _refuse_endless(points: np.ndarray, tables: np.ndarray, stops: list[tuple[int | None, int | None]]) -> None:
    found = []
    for point, table, (_, block) in zip(points, tables, stops, strict=True):
        if block is None:
            continue
        gain = table[0, ..., NO_CLICK + 1 :].sum()
        mean = block / gain if gain > 0 else np.inf
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


def _standard_error(key: Any, counts: Counts, kernel: Study, index: int, stop: tuple[int | None, int | None]) -> float:
    """Standard deviation of the key length over multinomial redraws of the counts of one realization."""
    rng = host_generator(fold_name(key, "standard_error"))
    silent, right = counts.sent - counts.detections, counts.detections - counts.errors
    table = np.stack([silent, right, counts.errors], axis=-1)[0, :, :, None] / counts.pulses[0]
    sent, tally = draw_tally(rng, table, REDRAWS, *stop)
    redrawn = jax.tree.map(lambda array: array[None].astype(np.float64), counts_from_tally(sent, tally))
    one = jax.tree.map(lambda leaf: leaf[index : index + 1], kernel)
    return float(np.std(np.asarray(_key_batch(redrawn, one).secret_key_bits), ddof=1))


def _keys(counts: Counts, batch: Study, standard_error: np.ndarray) -> Keys:
    """Keys of points and realizations, summed up over the realizations."""
    real = jax.tree.map(lambda array: array.astype(np.float64), counts)
    key = jax.device_get(_key_batch(real, kernel_study(batch)))
    bits, status = key.secret_key_bits, key.status
    reasons = np.stack([(status & BIT[word] > 0).sum(axis=1) for word in NO_KEY], axis=1)
    commonest = np.where(reasons.any(axis=1), np.array([BIT[word] for word in NO_KEY])[reasons.argmax(axis=1)], 0)
    sifted = real.detections[:, :, 0].sum(axis=-1)
    with np.errstate(invalid="ignore"):
        per_pulse = np.where(np.isfinite(real.pulses), bits / real.pulses, 0.0)

    def quantiles(values: np.ndarray) -> np.ndarray:
        return np.quantile(values, QUANTILES, axis=1).T

    return Keys(
        bits=bits.mean(axis=1),
        bits_per_pulse=per_pulse.mean(axis=1),
        standard_error=standard_error[:, 0],
        fluctuation_free=key.secret_key_bits_fluctuation_free.mean(axis=1),
        yin_safe=key.secret_key_bits_yin_safe.mean(axis=1),
        terms={name: values.mean(axis=1) for name, values in key.terms.items()},
        status=np.bitwise_or.reduce(status, axis=1),
        commonest=commonest,
        bits_quantiles=quantiles(bits),
        sifted_z_quantiles=quantiles(sifted),
        probability_no_key=(bits <= 0).mean(axis=1),
    )


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
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays)[order], *parts)
    return Result(
        study=study,
        samplers=joined.samplers,
        intensities=joined.intensities,
        pulse_rate_hz=joined.pulse_rate_hz,
        counts=joined.counts,
        truth=joined.truth,
        realizations=joined.realizations,
        keys=joined.keys,
        tuned=joined.tuned,
    )


def _repeater(times: int) -> Any:
    return lambda array: np.repeat(array, times, axis=0)
