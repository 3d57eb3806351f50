"""Pictures of results: key against the scanned axis with the repeaterless bound, or the breakdown of one link."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from photonmc.contracts import quadrature
from photonmc.labels import unit_of
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
}


def figure(result: Result) -> Figure:
    """Figure of a result: lines over one or two scanned axes, else the breakdown of a single link."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(7.2, 4.5), dpi=160, layout="constrained")
    axes = fig.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    if result.study.axes:
        _draw_scan(axes, result)
    else:
        _draw_breakdown(axes, result)
    return fig


def draw(result: Result, path: Path) -> None:
    """Write the figure of a result as PNG."""
    figure(result).savefig(path, format="png")


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
    values = result.scalars["secret_key_bits_per_pulse" if keyed else "sifted_z"]
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
            error = result.scalars["secret_key_bits_standard_error"] / result.scalars["pulses"]
            axes.fill_between(positions, np.clip(y - error, 0, None), y + error, color=color, alpha=0.2, linewidth=0)
    if keyed:
        bound = _plob(result, grid[:, 0])
        axes.plot(positions, bound, "--", color="0.45", linewidth=1.2, label="Repeaterless bound (PLOB)")
        positive = values[values > 0]
        if positive.size:
            axes.set_yscale("log")
            top = bound[np.isfinite(bound)].max(initial=positive.max())
            axes.set_ylim(positive.min() / 3, min(top, 10.0) * 3)
        dead = values <= 0
        if dead.any():
            axes.set_title(f"no key at {int(dead.sum())} of {dead.size} points", fontsize=9, color="0.35", loc="right")
    axes.set_xlabel(_label(result, first.paths[0]))
    axes.set_ylabel("Secret key [bit/pulse]" if keyed else "Sifted Z detections")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


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
