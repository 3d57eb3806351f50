"""From a simulation to its time tags: every registered click with its jitter, as the run goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from photonmc import __version__
from photonmc.clock import Clock
from photonmc.detector.jitter import FWHM_PER_SIGMA
from photonmc.errors import ConfigError, Mistake
from photonmc.progress import Progress
from photonmc.random import fold_name, host_generator, point_key
from photonmc.results import Result
from photonmc.runner import expected_pulses, simulate
from photonmc.sampling.codes import CLICK_0, CLICK_1, KEPT, Record
from photonmc.study import Study, checked
from photonmc.timetags import Clicks, TagFile

SIGMAS, MEANS = 9.0, 45.0
"""Where the Gaussian part of the jitter [standard deviations] and its exponential tail [means] are cut off; beyond them lie
1e-19 and 3e-20 of all clicks."""
LEAST_SHARE = 0.01
"""Clicks are drawn until they lie in the detection window; smaller shares would take too long."""
SAMPLERS = ("auto", "clicks", "pulses")
"""Samplers that know when each click came."""


class Jitter:
    """Delay of each detector's clicks: a Gaussian part, given by its full width at half maximum, and an exponential tail."""

    def __init__(self, receiver: Any, key: Any) -> None:
        self._sigma = _pair(receiver.timing_jitter_ps) / FWHM_PER_SIGMA
        self._tail = _pair(receiver.timing_jitter_tail_ps)
        window = receiver.detection_window_ps
        self._half = math.inf if window is None else 0.5 * window
        self._gaussian, self._exponential = (host_generator(fold_name(key, f"jitter.{part}")) for part in ("sigma", "tail"))

    def bounds_ps(self) -> tuple[float, float]:
        """Least and largest delay [ps]."""
        sigma = SIGMAS * float(self._sigma.max())
        return max(-sigma, -self._half), min(sigma + MEANS * float(self._tail.max()), self._half)

    def draw_ps(self, detector: np.ndarray) -> np.ndarray:
        """Delay of the next clicks, in their order [ps]; those that leave the detection window are drawn anew."""
        delay = self._draw_ps(detector)
        while (out := np.flatnonzero(np.abs(delay) > self._half)).size:
            delay[out] = self._draw_ps(detector[out])
        return delay

    def _draw_ps(self, detector: np.ndarray) -> np.ndarray:
        delay = np.zeros(detector.size)
        if self._sigma.any():
            delay += np.clip(self._gaussian.standard_normal(detector.size), -SIGMAS, SIGMAS) * self._sigma[detector]
        if self._tail.any():
            delay += np.minimum(self._exponential.standard_exponential(detector.size), MEANS) * self._tail[detector]
        return delay


def _pair(value: float | tuple[float, float]) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (2,))


def tag_refusals(study: Study) -> Iterator[Mistake]:
    """Why a valid study cannot be written as time tags."""
    for sampler in dict.fromkeys(study.values_of("run.sampler")):
        if sampler not in SAMPLERS:
            yield Mistake(
                "run.sampler", f'must be "clicks" or "pulses" for time tags, but is "{sampler}", which knows no times'
            )
    share = float(np.min(study.link.receiver.window_shares())) if not study.axes and not study.free else 1.0
    if share < LEAST_SHARE:
        yield Mistake("receiver.detection_window_ps", f"holds {share:.3g} of the clicks; time tags need {LEAST_SHARE:g}")
    for axis in study.axes:
        yield Mistake(axis.name, "is scanned, but time tags belong to one point")
    if max(study.values_of("run.realizations")) > 1:
        yield Mistake("run.realizations", "must be 1 for time tags")
    if max(study.values_of("run.joined_passes")) > 1:
        yield Mistake("run.joined_passes", "must be 1 for time tags")
    if study.link.receiver.count_model != "exact":
        yield Mistake("receiver.count_model", 'must be "exact" for time tags')
    if not study.axes and not study.free:
        yield from _clock(study).too_long(round(expected_pulses(study)))


def _clock(study: Study) -> Clock:
    jitter = Jitter(study.link.receiver, point_key(0, 0))
    return Clock(float(study.link.source.pulse_rate_hz), *jitter.bounds_ps())


def simulate_tagged(study: Study, path: Path, force: bool = False, progress: Progress | None = None) -> Result:
    """Simulate a study of one point, and write every registered click to a file of time tags.

    Args:
        study: What to simulate.
        path: Where to, .parquet or .ptu; what no click shows stands beside it in a JSON.
        force: Whether existing files are replaced.
        progress: See `photonmc.runner.simulate`. A run that it stops leaves a file that ends there.

    Raises:
        ConfigError: If the study or the file cannot be used.
    """
    study = checked(study)
    if refused := list(tag_refusals(study)):
        raise ConfigError(refused)
    if study.run.sampler == "auto":
        study = study.replace({"run.sampler": "clicks"})
    jitter = Jitter(study.link.receiver, point_key(study.run.seed, 0))
    intensity, alice_basis, alice_bit, bob_basis = study.protocol.settings(study.link)
    with TagFile(path, _clock(study), study.run.seed, __version__, force) as tags:

        def listener(record: Record) -> None:
            both = (record.bits & (CLICK_0 | CLICK_1)) == CLICK_0 | CLICK_1
            gate = np.repeat(np.arange(record.pulse.size), 1 + both)
            second = np.append(False, gate[1:] == gate[:-1])
            detector = np.where(both[gate], second, (record.bits[gate] & CLICK_1) > 0).astype(np.int64)
            cell = record.cell[gate]
            tags.write(
                Clicks(
                    pulse=record.pulse[gate],
                    detector=detector,
                    basis=bob_basis[cell],
                    bit=np.where(both[gate], record.coin[gate], detector),
                    kept=(record.bits[gate] & KEPT) > 0,
                    alice_basis=alice_basis[cell],
                    alice_bit=alice_bit[cell],
                    intensity=intensity[cell],
                    jitter_ps=jitter.draw_ps(detector),
                )
            )

        result = simulate(study, progress=progress, listener=listener)
        nothing = [np.zeros(0, np.int64)] * len(Clicks._fields)
        tags.write(Clicks(*nothing), until=int(result.counts.pulses[0]))
        tags.close([{name: row[name] for name in ("basis", "intensity", "sent")} for row in result.rows(0)])
    return result
