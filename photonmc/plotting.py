"""Pictures of results: key against the scanned axis with the repeaterless bound, the breakdown of one link, a pass over its
time, the distribution of keys over realizations.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from photonmc.contracts import quadrature
from photonmc.labels import QUANTILES, unit_of
from photonmc.timeline import BAND, timeline
from photonmc.units import binary_entropy, plob_bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from photonmc.results import Result

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colors, told apart by color-blind readers too."""
MAX_LINES = 7
NAMES = {
    "channel.length_km": "Fiber length",
    "channel.loss_db": "Channel loss",
    "channel.attenuation_db_per_km": "Attenuation",
    "run.pulses": "Pulses in the block",
    "run.block_size_z": "Sifted Z detections in the block",
    "run.duration_s": "Duration",
    "run.joined_passes": "Joined passes",
    "channel.altitude_km": "Height of the orbit",
    "channel.max_elevation_deg": "Elevation at culmination",
    "channel.min_elevation_deg": "Least elevation",
    "channel.divergence_urad": "Divergence",
    "channel.receiver_aperture_m": "Receiving telescope",
    "channel.pointing_jitter_urad": "Pointing jitter",
    "selection.threshold_transmittance": "Threshold of the transmittance, in best means",
}
DECADES = 1.5
"""How far beyond the keys a bound may lie to be drawn."""


def figure(result: Result) -> Figure:
    """Figure of a result: lines over scanned axes, keys of several realizations, a pass over its time, or the breakdown."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(7.2, 4.5), dpi=160, layout="constrained")
    if result.study.axes:
        _draw_scan(_bare(fig.add_subplot()), result)
    elif result.keys is not None and np.isfinite(result.keys.bits_of_each[0]).sum() > 1:
        _draw_histogram(fig, result)
    elif _on_a_pass(result):
        _draw_pass(fig, result)
    else:
        _draw_breakdown(_bare(fig.add_subplot()), result)
    return fig


def draw(result: Result, path: Path) -> None:
    """Write the figure of a result as PNG."""
    figure(result).savefig(path, format="png")


def _bare(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _on_a_pass(result: Result) -> bool:
    """Whether the channel is a satellite's, and was read."""
    return hasattr(result.study.link.channel, "nodes_at") and result.samplers[0] != "measured"


def _label(result: Result, path: str) -> str:
    unit = unit_of(result, path)
    return f"{NAMES.get(path, path)} [{unit}]" if unit != "1" else NAMES.get(path, path)


def _plob(result: Result, indices: np.ndarray) -> np.ndarray:
    """Repeaterless bound of the channel alone at points [bit per pulse]."""
    values = []
    with jax.enable_x64(True):
        for index in indices:
            states, weights = quadrature(result.study.at(int(index)).link)
            values.append(float((weights * plob_bound(states.transmittance)).sum()))
    return np.array(values)


def _draw_scan(axes: Axes, result: Result) -> None:
    first, *others = result.study.axes
    grid = np.arange(len(result)).reshape(len(first), -1)
    x = first.values[0]
    words = x.dtype.kind not in "iuf"
    positions = np.arange(len(x)) if words else x
    if words:
        axes.set_xticks(positions, [str(value) for value in x])
    elif x.min() > 0 and not np.allclose(np.diff(x), x[1] - x[0]) and x.max() / x.min() > 30:
        axes.set_xscale("log")
    keyed = result.keys is not None
    whole = keyed and _lengths_differ(result)  # of a pass the key matters, not that of a pulse
    values = result.scalars[("secret_key_bits" if whole else "secret_key_bits_per_pulse") if keyed else "sifted_z"]
    columns = range(grid.shape[1])
    shown = list(columns) if len(columns) <= MAX_LINES else [round(c) for c in np.linspace(0, len(columns) - 1, MAX_LINES)]
    for color, column in zip(COLORS, shown, strict=False):
        y = values[grid[:, column]]
        label = ", ".join(
            _legend(result, path, v)
            for path, v in result.study.settings(int(grid[0, column])).items()
            if path not in first.paths
        )
        alone = not others
        axes.plot(
            positions,
            np.where(y > 0, y, np.nan),
            "o-",
            color=color,
            markersize=3.5,
            label=label or ("Secret key" if alone else ""),
        )
        if keyed and alone and "secret_key_bits_standard_error" in result.scalars:
            error = result.scalars["secret_key_bits_standard_error"] / (1.0 if whole else result.scalars["pulses"])
            axes.fill_between(positions, np.clip(y - error, 0, None), y + error, color=color, alpha=0.2, linewidth=0)
    if keyed:
        positive = values[values > 0]
        bound = np.full(len(first), np.nan) if whole else _plob(result, grid[:, 0])
        reached = bound[np.isfinite(bound)].max(initial=0.0)
        if positive.size and 0.0 < reached < positive.max() * 10.0**DECADES:
            axes.plot(positions, bound, "--", color="0.45", linewidth=1.2, label="Repeaterless bound (PLOB)")
        elif positive.size and reached:
            above = f"repeaterless bound (PLOB) up to {reached:.2g} bit/pulse"
            axes.text(0.99, 0.99, above, transform=axes.transAxes, ha="right", va="top", fontsize=8, color="0.35")
            reached = 0.0
        if positive.size and max(positive.max(), reached) > 5.0 * positive.min():
            axes.set_yscale("log")
            axes.set_ylim(positive.min() / 3, min(max(positive.max(), reached), np.inf if whole else 10.0) * 3)
        dead = values <= 0
        if dead.any():
            axes.set_title(f"no key at {int(dead.sum())} of {dead.size} points", fontsize=9, color="0.35", loc="right")
    axes.set_xlabel(_label(result, first.paths[0]))
    axes.set_ylabel((f"Secret key [{'bit' if whole else 'bit/pulse'}]") if keyed else "Sifted Z detections")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def _lengths_differ(result: Result) -> bool:
    """Whether passes of a scan last differently."""
    passes = np.array([result.study.settings(index).get("run.joined_passes", 1.0) for index in range(len(result))])
    return _on_a_pass(result) and bool(np.ptp(result.scalars["pulses"] / passes) > 0.0)


def _legend(result: Result, path: str, value: Any) -> str:
    unit = unit_of(result, path)
    unit = "" if unit in ("1", "pulses", "detections") else f" {unit}"
    number = f"{value:g}" if isinstance(value, (int, float)) else str(value)
    return f"{NAMES.get(path, path)}: {number}{unit}"


def _draw_breakdown(axes: Axes, result: Result) -> None:
    """Where the sifted Z bits go: not from single photons, phase errors, error correction, epsilons; what is left is key."""
    from matplotlib.ticker import EngFormatter

    sifted = float(result.scalars["sifted_z"][0])
    terms = {name: float(v[0]) for name, v in result.keys.terms.items()} if result.keys is not None else {}
    if terms:
        # a finite key comes from all intensities and credits vacuum; the asymptotic one from the strongest alone
        finite = "epsilon_cost_bits" in terms
        start = sifted if finite else float(result.counts.detections[0, 0, 0])
        single, vacuum = terms["single_photon_detections_z"], terms.get("vacuum_detections_z", 0.0)
        with jax.enable_x64(True):
            entropy = float(binary_entropy(terms["phase_error_z"]))
        steps = [
            ("Sifted Z detections" if finite else "Sifted Z detections\nof the signal", start),
            ("not guaranteed to be\nsingle photons" + " or vacuum" * finite, -(start - single - vacuum)),
            ("phase errors", -single * entropy),
            ("error correction", -terms["leak_bits"]),
        ]
        if finite:
            steps.append(("secrecy and\ncorrectness", -terms["epsilon_cost_bits"]))
    else:
        rows = list(result.rows(0))
        axes.barh(
            [f"{row['basis']}, {row['intensity']:g}" for row in rows],
            [row["detections"] for row in rows],
            color=COLORS[0],
        )
        axes.invert_yaxis()
        axes.set_xlabel("Sifted detections")
        axes.set_ylabel("Basis, intensity")
        return
    level = 0.0
    for place, (_, change) in enumerate(steps):
        axes.barh(place, change, left=level, color=COLORS[0] if place == 0 else "0.75", height=0.62)
        level += change
        axes.text(max(level, level - change), place, f" {change:,.4g}", va="center", fontsize=9)
    bits = float(result.scalars["secret_key_bits"][0])
    axes.barh(len(steps), bits, color=COLORS[2], height=0.62)
    axes.text(max(bits, 0), len(steps), f" {bits:,.4g} bit" if bits else " no key", va="center", fontsize=9, weight="bold")
    axes.set_yticks(range(len(steps) + 1), [name for name, _ in steps] + ["Secret key"])
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, level * 1.15), steps[0][1] * 1.15 or 1.0)
    axes.xaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}"))
    axes.set_xlabel("bit")
    axes.set_title(f"From sifted detections to key, {result.study.security.analysis}", fontsize=11)


def _draw_histogram(fig: Figure, result: Result) -> None:
    """Keys of several realizations; those without one stand apart, at 0."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    assert result.keys is not None
    axes = _bare(fig.add_subplot())
    bits = result.keys.bits_of_each[0]
    bits = bits[np.isfinite(bits)]
    with_key = bits[bits > 0]
    width = 1.0
    if with_key.size:
        edges = np.histogram_bin_edges(with_key, min(50, max(8, round(2.0 * with_key.size ** (1 / 3)))))  # Rice's rule
        width = edges[1] - edges[0]
        axes.hist(with_key, edges.tolist(), color=COLORS[0], alpha=0.75)
        for quantile, bit, style in zip(QUANTILES, result.keys.bits_quantiles[0], (":", "-", "--"), strict=True):
            label = f"{100 * quantile:g} % quantile: {bit:,.0f} bit"
            axes.axvline(bit, color=COLORS[1], linestyle=style, linewidth=1.4, label=label)
        fig.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    else:
        axes.set_xlim(-5.0, 5.0)
        axes.set_xticks([0.0])
    if none := bits.size - with_key.size:
        axes.bar(0.0, none, width, color="0.6")
    what = "passes" if _on_a_pass(result) else "realizations"
    said = f"no key in {none:,} of them ({100 * none / bits.size:.3g} %)" if none else "each with a key"
    axes.set_title(f"{bits.size:,} {what}, {said}", fontsize=11)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}"))
    axes.set_xlabel("Secret key [bit]")
    axes.set_ylabel(what.capitalize())


def _draw_pass(fig: Figure, result: Result) -> None:
    """What happens from the beginning of a pass to its end, in expectation; the key of the result itself as a point."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    study = result.study_at(0)
    line = timeline(study)
    fig.set_size_inches(7.2, 8.8)
    panels = [_bare(axes) for axes in fig.subplots(5, 1, sharex=True)]
    sky, loss, rates, errors, key = panels
    blue, red, green = COLORS[:3]
    sky.plot(line.time_s, line.elevation_deg, color=blue)
    sky.set_ylabel("Elevation [deg]", color=blue)
    distance = sky.twinx()
    distance.spines["top"].set_visible(False)
    distance.plot(line.time_s, line.range_km, "--", color=red)
    distance.set_ylabel("Range [km]", color=red)
    most = line.loss_db.max() + 15.0
    band = np.minimum(line.loss_band_db, most)  # a beam with an edge may miss the telescope
    if np.ptp(band, axis=1).max() > 1e-3:
        low, high = (f"{100 * quantile:g}" for quantile in BAND)
        beyond = ", and beyond" if line.loss_band_db.max() > most else ""
        label = f"{low} to {high} % of the fading{beyond}"
        loss.fill_between(line.time_s, *band.T, color=blue, alpha=0.25, linewidth=0, label=label)
    loss.plot(line.time_s, line.loss_db, color=blue, label="of the mean transmittance")
    if line.least_db is not None and np.isfinite(line.least_db):
        loss.axhline(line.least_db, color=red, linestyle="--", linewidth=1.2, label="up to which blocks are kept")
    loss.set_ylabel("Loss to a click [dB]")
    if np.isfinite(line.clicks_hz).all():
        rates.plot(line.time_s, line.clicks_hz, color=blue, label="clicks")
    rates.plot(line.time_s, line.sifted_z_hz, "--", color=red, label="sifted Z detections")
    rates.set_yscale("log")
    least, most = rates.get_ylim()
    least = max(least, 1e-5 * most)  # where a selection keeps next to nothing
    rates.set_ylim(least, most)
    rates.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if most < 50.0 * least else (1.0,)))
    rates.yaxis.set_minor_formatter(NullFormatter())
    rates.yaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}"))
    rates.set_ylabel("Rate [1/s]" if line.least_db is None else "Rate, kept [1/s]")
    errors.plot(line.time_s, 100.0 * line.qber_z, color=blue)
    errors.set_ylabel("QBER in Z [%]")
    errors.set_ylim(0.0, 1.15 * errors.get_ylim()[1])
    if line.secret_key_bits is None:
        key.plot(line.time_s, line.sifted_z, color=green)
        key.set_ylabel("Sifted Z so far")
    else:
        ended = "the block" if (joined := study.run.joined_passes) == 1 else f"each of {joined:g} joined passes"
        key.plot(line.time_s, line.secret_key_bits, color=green, label=f"in expectation, had {ended} ended here")
        bits, error = result.scalars["secret_key_bits"][0], result.scalars.get("secret_key_bits_standard_error")
        label = f"{'expected' if result.samplers[0] == 'expected' else 'sampled'}: {bits:,.0f} bit"
        key.errorbar(line.time_s[-1], bits, error, fmt="o", color=COLORS[6], markersize=4, capsize=3, label=label)
        key.set_ylabel("Key so far [bit]")
    key.yaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}"))
    key.set_ylim(bottom=0.0)
    key.set_xlabel("Time from culmination [s]")
    for axes in (loss, rates, key):
        axes.legend(frameon=False, fontsize=9)
    for axes in panels:
        axes.grid(alpha=0.25)
    fig.align_ylabels(panels)
    channel = study.link.channel
    sky.set_title(
        f"{channel.kind.capitalize()}, {channel.altitude_km:g} km, culmination at {channel.max_elevation_deg:g} deg",
        fontsize=11,
    )
