"""A satellite's pass from beginning to end in expectation: elevation, range, loss, rates, and the key accumulated so far."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import ChannelState, Counts, record
from photonmc.random import fold_name, point_key
from photonmc.sampling.expected import detector_clicks, per_pulse
from photonmc.security.keyrate import key_of_counts
from photonmc.study import Study, kernel_study

HALF = 65
"""Times from culmination to the end."""
BAND = (0.05, 0.95)
"""Quantiles of the fading."""
BLOCKS = 1 << 16
"""Blocks of the pass that is drawn for them."""
AROUND = 0.1
"""Part of half a pass, to either side of a time, whose blocks say how the light fades there."""


class Timeline(NamedTuple):
    """Columns over the time of a pass, shape (time,).

    Attributes:
        time_s: From culmination [s].
        elevation_deg: Elevation of the satellite [deg].
        range_km: Its distance [km].
        loss_db: Loss of the mean transmittance of all blocks, from Alice's exit to a click [dB].
        loss_band_db: Loss at the quantiles `BAND` of the transmittance, shape (time, quantile) [dB].
        least_db: Loss up to which the selection keeps a block [dB]; None without one.
        clicks_hz: Registered clicks of both detectors in blocks that are kept, as all that follows; NaN for a paper's count
            model, which does not tell [Hz].
        sifted_z_hz: Sifted Z detections [Hz].
        qber_z: QBER in Z.
        sifted_z: Sifted Z detections so far; of all joined passes.
        secret_key_bits: Key of a block whose passes end at this time, None without an analysis [bit].
    """

    time_s: np.ndarray
    elevation_deg: np.ndarray
    range_km: np.ndarray
    loss_db: np.ndarray
    loss_band_db: np.ndarray
    least_db: float | None
    clicks_hz: np.ndarray
    sifted_z_hz: np.ndarray
    qber_z: np.ndarray
    sifted_z: np.ndarray
    secret_key_bits: np.ndarray | None


@record
class _Moment:
    """The channel of a pass at one time: its fading alone."""

    channel: Any
    time_s: Any

    def nodes(self, link: Any, pulses: Any = None) -> tuple[ChannelState, Any]:
        return self.channel.kept_at(dataclasses.replace(link, channel=self.channel), self.time_s, pulses)


def _band(study: Study, later: np.ndarray, through: np.ndarray) -> np.ndarray:
    """Quantiles of the transmittance at times from culmination, from one drawn pass: of blocks around each time, relative to
    the mean of theirs.
    """
    pulses = float(study.run.fixed_pulses(study.link))
    lengths = np.diff(np.linspace(0.0, pulses, BLOCKS + 1).astype(np.int64))
    key = fold_name(point_key(study.run.seed, 0), "timeline")
    state = jax.device_get(study.link.draw(key, lengths))
    time = np.abs(np.linspace(-later[-1], later[-1], BLOCKS))
    relative = state.transmittance / np.interp(time, later, through)
    order = np.argsort(time)
    time, relative = time[order], relative[order]
    ends = np.searchsorted(time, later[:, None] + AROUND * later[-1] * np.array([-1.0, 1.0]))
    return through[:, None] * np.stack([np.quantile(relative[low:high], BAND) for low, high in ends])


@jax.jit
def _moments(study: Study, times: Any) -> tuple[Any, ...]:
    """Orbit, mean transmittance of all blocks, clicks and counts per pulse of those kept, at times from culmination."""
    channel, receiver = study.link.channel, study.link.receiver

    def at(time: Any) -> tuple[Any, ...]:
        link = dataclasses.replace(study.link, channel=_Moment(channel, time))
        states, weights = channel.nodes_at(study.link, time)
        pulses = study.run.fixed_pulses(study.link)
        clicks: Any = jnp.nan
        if receiver.count_model == "exact":
            clicks = detector_clicks(link, study.protocol, pulses).sum()
        elevation = channel.orbit().elevation(time)
        seen = jnp.degrees(elevation), 1e-3 * channel.orbit().range_m(elevation)
        mean = (states.transmittance * weights).sum() / weights.sum()
        return *seen, mean, clicks, per_pulse(link, study.protocol, pulses)

    return jax.lax.map(at, times)


@jax.jit
def _keys(counts: Counts, study: Study) -> Any:
    def key(one: Counts) -> Any:
        return key_of_counts(one, study.link, study.protocol, study.security).secret_key_bits

    return jax.vmap(key)(counts)


def timeline(study: Study) -> Timeline:
    """Expectation of a pass over its time, for a study of one point whose channel is a `Downlink` or an `Uplink`."""
    kernel = kernel_study(study)
    with jax.enable_x64(True):
        rate = float(study.link.source.pulse_rate_hz)
        half = 0.5 * float(study.run.fixed_pulses(study.link)) / rate
        later = np.linspace(0.0, half, HALF)
        elevation, distance, through, clicks, mean = jax.device_get(_moments(kernel, later))
        columns = elevation, distance, through, _band(study, later, through), clicks, mean
        # the first half of a pass is the mirror image of the second
        mirrored = jax.tree.map(lambda leaf: np.concatenate([leaf[:0:-1], leaf]), columns)
        elevation, distance, through, band, clicks, mean = mirrored
        time = np.concatenate([-later[:0:-1], later])

        def so_far(per_pulse: np.ndarray) -> np.ndarray:
            pieces = 0.5 * (per_pulse[1:] + per_pulse[:-1]) * (later[1] * rate * float(study.run.joined_passes))
            return np.concatenate([0.0 * per_pulse[:1], np.cumsum(pieces, axis=0)])

        counts = jax.tree.map(so_far, mean)
        receiver = study.link.receiver
        least = float(study.link.least_transmittance(2.0 * half * rate)) if study.link.selection is not None else None
        received = float(receiver.optics_transmittance * receiver.efficiencies().mean())
        bits = None if study.security is None else np.asarray(_keys(counts, kernel))
    detections, errors = mean.detections[:, 0].sum(axis=-1), mean.errors[:, 0].sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a loss without end, a QBER of nothing
        return Timeline(
            time_s=time,
            elevation_deg=elevation,
            range_km=distance,
            loss_db=-10.0 * np.log10(received * through),
            loss_band_db=-10.0 * np.log10(received * band),
            least_db=None if least is None else float(-10.0 * np.log10(received * least)),
            clicks_hz=rate * clicks,
            sifted_z_hz=rate * detections,
            qber_z=errors / detections,
            sifted_z=counts.detections[:, 0].sum(axis=-1),
            secret_key_bits=bits,
        )
