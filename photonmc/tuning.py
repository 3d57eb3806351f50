"""Entry point of the optimizer: the marked settings of a study tuned at each of its points."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from photonmc.errors import ConfigError, Mistake
from photonmc.optimizer import best_settings, effort_for
from photonmc.progress import Progress
from photonmc.results import Result
from photonmc.runner import assembled, expected_part
from photonmc.study import Free, Study, checked, kernel_study


def optimize_refusals(study: Study) -> Iterator[Mistake]:
    """Why a valid study cannot be optimized."""
    if not study.free:
        yield Mistake("", "mark at least one setting to optimize, such as { optimize = [0.1, 1.0] }")
    if study.security is None:
        yield Mistake("security", "is required: the key is what is optimized")
    for sampler in study.values_of("run.sampler"):
        if sampler not in ("auto", "expected"):
            yield Mistake("run.sampler", f'must be "auto" or "expected" to optimize, but is "{sampler}"')


def total_steps(study: Study) -> float:
    """Steps of the search at all points of a study."""
    return float(study.points * effort_for(study).steps)


def optimize(
    study: Study,
    free: Mapping[str, tuple[float, float] | tuple[float, float, float]] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Tune settings for the most expected secret key per pulse, at each point of a scan.

    Args:
        study: What to tune; the settings that its TOML marks with `optimize`, unless `free` names others.
        free: Settings to tune by path: (low, high) or (low, high, start).
        progress: Is told of steps that are done, and may ask for a stop: the best settings so far come back, as `partial`.

    Returns:
        The expectation at the settings found (`tuned`), with the key recomputed by the plain analysis. It is never below
        that of the starts; a point without key has length 0 and the reason.

    Raises:
        ConfigError: If nothing is marked, or there is no security analysis, or values lie outside of their range.
    """
    if free is not None:
        study = study.replace(
            {path: (bounds[2] if len(bounds) > 2 else sum(bounds[:2]) / 2) for path, bounds in free.items()}
        )
        study = dataclasses.replace(study, free=tuple(Free(path, *map(float, bounds)) for path, bounds in free.items()))
    if found := list(optimize_refusals(study)):
        raise ConfigError(found)
    study = checked(study.replace({"run.sampler": "expected"}))
    parts = []
    effort, progress = effort_for(study), progress or Progress()
    size = min(study.points, effort.points)
    with jax.enable_x64(True):
        for points, batch in study.batches(size):
            # the last batch is filled up, so that one compilation serves all of them
            missing = size - len(points)
            padded = jax.tree.map(
                lambda leaf, n=missing: np.concatenate([leaf, np.repeat(leaf[-1:], n, axis=0)]), kernel_study(batch)
            )
            found_values = best_settings(padded, study.free, study.security.analysis, effort, progress.advance)
            tuned = {mark.path: v[: len(points)] for mark, v in zip(study.free, found_values, strict=True)}
            parts.append(expected_part(points, batch, tuned, progress.stopped))
    return assembled(study, parts)
