"""Link budget of a satellite link at one elevation, and samples of its fading there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.channel.atmosphere import LEAST_TABLE_DEG, airmass
from photonmc.channel.downlink import MOST_BLOCKS
from photonmc.channel.trajectories import drawn_factors, shortest_time_s
from photonmc.channel.validity import doubts
from photonmc.errors import ConfigError, Mistake
from photonmc.files import save_columns, unusable_file
from photonmc.link import Link
from photonmc.random import fold_name, point_key
from photonmc.status import outside_of_validity
from photonmc.study import Study

TERMS = ("diffraction", "pointing", "atmosphere", "excess", "receiver_optics", "detector")
"""Terms of a budget; their sum is the total."""


def as_json(budget: dict[str, Any]) -> str:
    """A budget as JSON, null where a loss is infinite."""
    return json.dumps(json.loads(json.dumps(budget), parse_constant=lambda word: None), allow_nan=False)


def _decibels(share: Any) -> float:
    return -10.0 * math.log10(share) + 0.0 if share > 0.0 else math.inf  # 0 instead of -0


@jax.jit
def _optics(channel: Any, elevation: Any, wavelength: Any) -> dict[str, Any]:
    slow = channel.slow(elevation, wavelength)
    path = channel.path(elevation, wavelength)
    offset, weights = slow.offsets()
    mean = (channel.shares(elevation, slow.distance, offset, wavelength) * weights).sum()
    full = channel.still_share(elevation, slow.distance, wavelength)
    return {
        "diffraction": full,
        "pointing": mean / full,
        "atmosphere": channel.transmittance(elevation, wavelength),
        "range_km": 1e-3 * slow.distance,
        "airmass": airmass(elevation),
        "fried_parameter_m": path.fried_parameter(channel.spherical),
        "isoplanatic_angle_urad": 1e6 * path.isoplanatic_angle(),
        "greenwood_frequency_hz": path.greenwood_frequency(),
        "rytov_variance": slow.rytov,
        "scintillation_index": slow.index,
        "excess_db": channel.excess_db(elevation),
    }


_doubts = jax.jit(doubts)


def link_budget(link: Link, elevation_deg: float) -> dict[str, Any]:
    """Losses and turbulence of a satellite link at an elevation.

    Args:
        link: Its channel is a `Downlink` or an `Uplink`.
        elevation_deg: Elevation of the satellite [deg], in [0, 90].

    Returns:
        `elevation_deg`, `range_km`, `airmass`; `terms`, a list of `{name, db}` (losses positive) whose sum is `total_db`;
        `fried_parameter_m`, `isoplanatic_angle_urad`, `greenwood_frequency_hz`, `rytov_variance` (for an uplink those of a
        spherical wave from the ground), `scintillation_index` (averaged over the aperture); `background_counts_hz`, what
        both detectors count together; `status` and `reason`, which say where a model is doubtful. `diffraction` of an
        uplink is the long-term spot, without pointing jitter.

    Raises:
        ConfigError: For another channel, or an elevation out of range.
    """
    if found := [*elevation_refusals(elevation_deg), *budget_refusals(link, elevation_deg)]:
        raise ConfigError(found)
    with jax.enable_x64(True):
        elevation = jnp.radians(elevation_deg)
        wavelength = 1e-9 * link.source.wavelength_nm
        values = {k: float(v) for k, v in _optics(link.channel, elevation, wavelength).items()}
        counts = 0.0
        if link.background is not None:
            counts = float(link.background.counts_hz(link, link.channel.area_m2()))
        broken = [why for why, applies in _doubts(link.channel, jnp.stack([elevation]), wavelength).items() if applies]
        efficiency = float(link.receiver.efficiencies().mean())
    losses = {name: _decibels(values.pop(name)) for name in ("diffraction", "pointing", "atmosphere")}
    losses |= {
        "excess": values.pop("excess_db"),
        "receiver_optics": _decibels(link.receiver.optics_transmittance),
        "detector": _decibels(efficiency),
    }
    return {
        "elevation_deg": float(elevation_deg),
        "range_km": values.pop("range_km"),
        "airmass": values.pop("airmass"),
        "terms": [{"name": name, "db": losses[name]} for name in TERMS],
        "total_db": math.fsum(losses.values()),
        **values,
        "background_counts_hz": counts,
        "status": ["outside_validity"] if broken else ["ok"],
        "reason": outside_of_validity(broken) if broken else "Within the validity of all models.",
    }


def budget_refusals(link: Link, elevation_deg: float) -> Iterator[Mistake]:
    """Why a link has no budget at an elevation."""
    if not hasattr(link.channel, "still_share"):
        yield Mistake("channel.kind", f'must be "downlink" or "uplink" for a budget, but is "{link.channel.kind}"')
    elif link.channel.atmosphere == "table" and 0.0 <= elevation_deg < LEAST_TABLE_DEG:
        least = f'must be {LEAST_TABLE_DEG:g} at least for atmosphere = "table"'
        yield Mistake("--elevation", f"{least}, but is {elevation_deg:g}")


def mark_refusals(study: Study) -> Iterator[Mistake]:
    """Why a study has no budget: what is scanned or optimized has no value of its own."""
    for axis in study.axes:
        yield Mistake(axis.name, "is scanned, but a budget belongs to one point")
    for mark in study.free:
        yield Mistake(mark.path, "is marked for `optimize`, but a budget belongs to one point")


def elevation_refusals(elevation_deg: float) -> Iterator[Mistake]:
    """Why there is no such elevation."""
    if not 0.0 <= elevation_deg <= 90.0:
        yield Mistake("--elevation", f"must be in [0, 90] deg, but is {elevation_deg:g}")


def sample_refusals(path: Path | None, blocks: int | None, seed: int | None, force: bool) -> Iterator[Mistake]:
    """Why samples of the fading cannot be drawn or written; None stands for what is not given."""
    if path is None:
        given = {"--blocks": blocks, "--seed": seed, "--force": force or None}
        alone = "must be left out without --samples"
        yield from (Mistake(option, f"{alone}, but is given") for option, value in given.items() if value is not None)
        return
    yield from unusable_file("--samples", path, force)
    if blocks is not None and not 1 <= blocks <= MOST_BLOCKS:
        yield Mistake("--blocks", f"must be in [1, {MOST_BLOCKS}], but is {blocks}")
    if seed is not None and not 0 <= seed < 2**63:
        yield Mistake("--seed", f"must be in [0, 2^63), but is {seed}")


def fading_samples(link: Link, elevation_deg: float, blocks: int, seed: int) -> dict[str, np.ndarray]:
    """Fading at a fixed elevation, block after block: `time_s`, `pointing`, `scintillation`, `transmittance`.

    Args:
        link: Its channel is a `Downlink` or an `Uplink`.
        elevation_deg: Elevation of the satellite [deg].
        blocks: Number of blocks, of the shorter correlation time each.
        seed: Of the random numbers.

    Returns:
        `pointing` is relative to a perfectly pointed beam, `scintillation` has mean 1, `transmittance` is that of the whole
        link, receiver and detectors included.
    """
    with jax.enable_x64(True):
        elevation = jnp.radians(elevation_deg)
        receiver = float(link.receiver.optics_transmittance * link.receiver.efficiencies().mean())
        key = fold_name(point_key(seed, 0), "budget")
        wavelength = 1e-9 * link.source.wavelength_nm
        step = float(shortest_time_s(link.channel, np.array([elevation]), wavelength))
        same = np.full(4, elevation)
        still, pointing, light = drawn_factors(key, link.channel, wavelength, same, np.ones(blocks), np.full(blocks, step))
        transmittance = np.minimum(np.asarray(still * pointing * light), 1.0) * receiver
    time = np.arange(blocks) * step
    columns = {"time_s": time, "pointing": np.asarray(pointing), "scintillation": np.asarray(light)}
    return {**columns, "transmittance": transmittance}


def save_samples(columns: dict[str, np.ndarray], path: Path) -> None:
    """Write columns as a CSV, which appears whole or not at all."""
    save_columns(columns, path, "%.12g")


def as_table(budget: dict[str, Any]) -> str:
    """A budget as text."""
    lines = [
        f"Elevation {budget['elevation_deg']:g} deg, range {budget['range_km']:.6g} km, airmass {budget['airmass']:.4g}"
    ]
    lines += [f"  {term['name'].replace('_', ' '):<18} {round(term['db'], 3) + 0.0:8.3f} dB" for term in budget["terms"]]
    lines += [f"  {'total':<18} {budget['total_db']:8.3f} dB"]
    names = {
        "fried_parameter_m": ("Fried parameter", 1e2, "cm"),
        "isoplanatic_angle_urad": ("Isoplanatic angle", 1.0, "urad"),
        "greenwood_frequency_hz": ("Greenwood frequency", 1.0, "Hz"),
        "rytov_variance": ("Rytov variance", 1.0, ""),
        "scintillation_index": ("Scintillation index", 1.0, ""),
        "background_counts_hz": ("Background", 1.0, "counts/s"),
    }
    lines += [f"{label:<20} {scale * budget[name]:.4g} {unit}".rstrip() for name, (label, scale, unit) in names.items()]
    lines += [budget["reason"]] if budget["status"] != ["ok"] else []
    return "\n".join(lines)
