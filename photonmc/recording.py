"""One drawn pass as a record, which `kind = "recorded"` runs again to the same law."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from photonmc.errors import ConfigError, Mistake
from photonmc.files import save_columns
from photonmc.random import point_key
from photonmc.sampling.trajectory import realization_key, trajectory
from photonmc.study import Study, checked

OPTION = "--record"
MAX_LOSS_DB = 1000.0
"""Loss of a block that lets nothing through [dB], the largest that a record may hold."""


def record_refusals(study: Study) -> Iterator[Mistake]:
    """Why a valid study has no pass to record."""
    if not study.link.channel.fluctuates:
        message = f'must be "downlink" or "uplink" for {OPTION}, but is "{study.link.channel.kind}"'
        yield Mistake("channel.kind", message)
    for axis in study.axes:
        yield Mistake(axis.name, "is scanned, but a record belongs to one point")
    if max(study.values_of("run.realizations")) > 1:
        yield Mistake("run.realizations", f"must be 1 for {OPTION}")
    if max(study.values_of("run.joined_passes")) > 1:
        yield Mistake("run.joined_passes", f"must be 1 for {OPTION}")
    turned = getattr(study.link.channel, "polarization_rotation_deg", 0.0)
    if turned != 0.0:
        message = f"must be 0 for {OPTION}, which has no column for it, but is {turned:g}"
        yield Mistake("channel.polarization_rotation_deg", message)


def recorded_pass(study: Study) -> dict[str, np.ndarray]:
    """The pass that a run of a study of one point draws in its first realization.

    Returns:
        `time_s`, from 0 at the first pulse, when each block begins; `loss_db` from Alice's exit to the receiver's entrance;
        `background_counts_hz`, what both detectors together count. The last row of a record holds for as long as the one
        before it, so that a last block of another length comes as two rows.

    Raises:
        ConfigError: If the study has no pass to record.
    """
    study = checked(study)
    if refused := list(record_refusals(study)):
        raise ConfigError(refused)
    link = study.link
    with jax.enable_x64(True):
        pulses = max(1, round(float(study.run.fixed_pulses(link))))
        lengths, states = trajectory(realization_key(point_key(study.run.seed, 0), link, 0), link, pulses)
        counts = -2.0 * np.log1p(-states.noise_click_probability) / float(link.gate_s())
    first = np.cumsum(lengths) - lengths.astype(np.float64)
    with np.errstate(divide="ignore"):
        loss = np.minimum(-10.0 * np.log10(states.transmittance), MAX_LOSS_DB)
    if len(lengths) == 1 or lengths[-1] != lengths[-2]:
        first = np.append(first, first[-1] + 0.5 * lengths[-1])
        loss, counts = np.append(loss, loss[-1]), np.append(counts, counts[-1])
    return {"time_s": first / float(link.source.pulse_rate_hz), "loss_db": loss, "background_counts_hz": counts}


def save_record(study: Study, path: Path) -> None:
    """Write the pass of a study as a CSV, which appears whole or not at all."""
    save_columns(recorded_pass(study), path, "%.17g,%.12g,%.12g")
