"""Names, units and meanings of the numbers of a result: its xarray dataset and its printed table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from photonmc.fields import fields_of, split_path
from photonmc.protocol.bb84 import BASES
from photonmc.status import WORDS
from photonmc.study import Study, as_sections, marked_sections

if TYPE_CHECKING:
    import xarray

    from photonmc.results import Result

QUANTILES = (0.05, 0.5, 0.95)
"""Quantiles reported of several realizations."""

LABELS = {
    "secret_key_bits": ("Secret key", "bit"),
    "secret_key_bits_per_pulse": ("Secret key per pulse", "bit/pulse"),
    "secret_key_rate_bps": ("Secret key rate", "bit/s"),
    "secret_key_bits_standard_error": ("Standard error of the secret key", "bit"),
    "secret_key_bits_yin_safe": ("Secret key with the safe sampling bound", "bit"),
    "probability_no_key": ("Probability of no key", "1"),
    "qber_z": ("QBER in Z", "1"),
    "qber_x": ("QBER in X", "1"),
    "pulses": ("Pulses", "count"),
    "sifted_z": ("Sifted Z detections", "count"),
    "sifted_x": ("Sifted X detections", "count"),
    "vacuum_detections_z": ("Vacuum detections in Z, lower bound", "count"),
    "vacuum_detections_z_upper": ("Vacuum detections in Z, upper bound", "count"),
    "vacuum_detections_x": ("Vacuum detections in X, lower bound", "count"),
    "vacuum_detections_x_upper": ("Vacuum detections in X, upper bound", "count"),
    "single_photon_detections_z": ("Single-photon detections in Z, lower bound", "count"),
    "single_photon_detections_x": ("Single-photon detections in X, lower bound", "count"),
    "single_photon_errors_x": ("Single-photon errors in X, upper bound", "count"),
    "phase_error_z": ("Phase error rate of Z, upper bound", "1"),
    "phase_error_deviation": ("Deviation added to the phase error rate", "1"),
    "leak_bits": ("Leaked by error correction", "bit"),
    "epsilon_cost_bits": ("Cost of secrecy and correctness", "bit"),
    "epsilon_secrecy": ("Secrecy parameter", "1"),
    "secret_key_bits_real": ("Length before the floor", "bit"),
    "tau_0": ("Probability of a vacuum pulse", "1"),
    "tau_1": ("Probability of a single-photon pulse", "1"),
    "asymptotic_rate_signal": ("Asymptotic rate at q = 1/2", "bit/pulse"),
    "single_photon_yield_z": ("Single-photon yield in Z, lower bound", "1"),
    "single_photon_yield_x": ("Single-photon yield in X, lower bound", "1"),
    "vacuum_yield_z": ("Vacuum yield in Z", "1"),
    "vacuum_yield_x": ("Vacuum yield in X", "1"),
}
"""Long name and unit of every number of a point, by its name in the JSON."""


def provenance(study: Study) -> dict[str, Any]:
    """Seed, versions and device kind behind a result."""
    from photonmc import __version__

    return {
        "seed": study.run.seed,
        "version": __version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def epsilon_split(study: Study) -> dict[str, Any]:
    """Secrecy and correctness parameters, and into how many equal parts the proof splits the former."""
    names = ("epsilon_secrecy", "epsilon_secrecy_per_bit", "epsilon_correctness")
    values = as_sections(study).get("security", {})
    split = {name: values[name] for name in names if name in values}
    return split | {"epsilon_secrecy_parts": study.security.parts} if split else {}


def unit_of(result: Result, path: str) -> str:
    """Unit of a config field, "1" where it has none."""
    section, name, *_ = split_path(path)
    limits = fields_of(result.study.section(str(section)).__class__)[str(name)].range
    return (limits.unit if limits else "") or "1"


def _config(result: Result) -> dict[str, Any]:
    """Sections of the study as in TOML, marks included; long axes are named instead, their values are coordinates."""
    sections = marked_sections(result.study)
    if result.samplers[0] == "measured":
        sections = {name: values for name, values in sections.items() if name not in ("channel", "receiver")}

    def shortened(value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [shortened(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, dict) and len(value.get("values", ())) > 200:
            return {**value, "values": f"coordinate {path}"}
        return value

    return {s: {name: shortened(v, f"{s}.{name}") for name, v in values.items()} for s, values in sections.items()}


def dataset(result: Result) -> xarray.Dataset:
    """The result as a labelled dataset."""
    import xarray

    study = result.study
    axes = tuple(axis.name for axis in study.axes)

    def variable(dims: tuple[str, ...], values: np.ndarray, label: str, unit: str) -> tuple[Any, ...]:
        return (
            (*axes, *dims),
            np.reshape(values, (*study.shape, *values.shape[1:])),
            {"long_name": label, "units": unit},
        )

    data: dict[str, Any] = {n: variable((), v, *LABELS[n]) for n, v in result.scalars.items()}
    table = ("basis", "intensity")
    for name, label in (
        ("sent", "Pulses sent in equal bases"),
        ("detections", "Sifted detections"),
        ("errors", "Sifted errors"),
    ):
        data[name] = variable(table, getattr(result.counts, name), label, "count")
    if not np.isnan(result.detector_clicks).all():
        data["detector_clicks"] = variable(("detector",), result.detector_clicks, "Registered clicks", "count")
    if result.pooling_error_bound.any():
        label = "Bound on the total-variation error of pooled blocks"
        data["pooling_error_bound"] = variable((), result.pooling_error_bound, label, "1")
    data["intensity_value"] = variable(("intensity",), result.intensities, "Mean photon number", "photons/pulse")
    data["sampler"] = variable((), result.samplers.astype(str), "Sampler", "1")
    if result.truth is not None:
        for name, values in result.truth._asdict().items():
            data[f"truth_{name}"] = variable(
                (*table, "photons"), values, f"True photon numbers behind sifted {name}", "count"
            )
    if (keys := result.keys) is not None:
        data |= {n: variable((), v, *LABELS[n]) for n, v in keys.terms.items()}
        data["status"] = variable((), result.status_masks.astype(np.uint16), "Status", "1")
        data["status"][2].update(
            flag_masks=np.array([1 << i for i in range(len(WORDS))], np.uint16), flag_meanings=" ".join(WORDS)
        )
        if result.realizations.max() > 1:
            for name, values, unit in (
                ("secret_key_bits_quantiles", keys.bits_quantiles, "bit"),
                ("sifted_z_quantiles", keys.sifted_z_quantiles, "count"),
            ):
                data[name] = variable(("quantile",), values, f"Quantiles over realizations: {name}", unit)
            label = "Secret key of each realization"
            data["secret_key_bits_of_each"] = variable(("realization",), keys.bits_of_each, label, "bit")
    for path, values in result.tuned.items():
        data[path] = variable((), values, f"Optimized {path}", unit_of(result, path))
    coordinates: dict[str, Any] = {"basis": list(BASES)}
    if result.truth is not None:
        coordinates["photons"] = (
            "photons",
            [0, 1, 2, 3],
            {"long_name": "Photons at Alice's exit, 3 = 3 and more", "units": "1"},
        )
    if keys is not None and result.realizations.max() > 1:
        coordinates["quantile"] = list(QUANTILES)
    for axis in study.axes:
        for path, values in zip(axis.paths, axis.values, strict=True):
            label = path if path != axis.name or len(axis.paths) == 1 else f"{path} "
            plain = values.astype(object) if values.dtype.kind == "U" else values
            coordinates[label] = (axis.name, plain, {"long_name": path, "units": unit_of(result, path)})
    attributes = provenance(study) | {"realizations": int(result.realizations.max()), "acceptance": "observed"}
    if study.security is not None:
        attributes |= {"analysis": study.security.analysis, **epsilon_split(study)}
    else:
        del attributes["acceptance"]
    if len(set(result.samplers.tolist())) == 1:
        attributes["sampler"] = str(result.samplers[0])
    if not study.axes:
        attributes["reason"] = result.reason()
    attributes["config"] = json.dumps(_config(result))
    return xarray.Dataset(data, coordinates, attributes)


# Printed table ----------------------------------------------------------------------------------------------------------

_PRINTED = (
    "secret_key_bits",
    "secret_key_bits_per_pulse",
    "secret_key_rate_bps",
    "secret_key_bits_yin_safe",
    "probability_no_key",
    "qber_z",
    "qber_x",
    "pulses",
    "sifted_z",
    "sifted_x",
)
_MANY_POINTS = 200


def table(result: Result) -> str:
    """Readable table: value, unit and uncertainty of one point, or a row a point of a scan."""
    return _scan_table(result) if result.study.axes else _point_table(result)


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "-"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:.5g}"


def _point_table(result: Result) -> str:
    scalars = result.scalars
    lines = []
    errors = {}
    if "secret_key_bits_standard_error" in scalars:
        relative = scalars["secret_key_bits_standard_error"][0] / max(scalars["secret_key_bits"][0], 1.0)
        errors = {name: scalars[name][0] * relative for name in _PRINTED[:3]}
        errors["secret_key_bits"] = scalars["secret_key_bits_standard_error"][0]
    for name in (name for name in _PRINTED if name in scalars):
        label, unit = LABELS[name]
        unit = "" if unit in ("1", "count") else unit
        error = f" ± {errors[name]:.2g}" if name in errors else ""
        lines.append(f"  {label:<38} {_number(scalars[name][0]) + error:>24} {unit}".rstrip())
    if result.keys is not None and result.realizations[0] > 1:
        for (low, middle, high), label in (
            (result.keys.bits_quantiles[0], "Secret key, 5 / 50 / 95 %"),
            (result.keys.sifted_z_quantiles[0], "Sifted Z detections, 5 / 50 / 95 %"),
        ):
            lines.append(f"  {label:<38} {_number(low)} / {_number(middle)} / {_number(high)}")
    for path, values in result.tuned.items():
        lines.append(f"  {path:<38} {values[0]:>24.6g}")
    if result.keys is not None:
        lines.append("Terms of the proof")
        for name, (label, unit) in LABELS.items():
            if name not in result.keys.terms:
                continue
            term = result.keys.terms[name]
            lines.append(f"  {label:<44} {term[0]:>18.6g} {'' if unit in ('1', 'count') else unit}".rstrip())
    lines += ["Counts", "  basis  intensity              sent        detections            errors"]
    for row in result.rows(0):
        cells = " ".join(
            f"{row[name]:>17,.0f}" if result.samplers[0] != "expected" else f"{row[name]:>17.6g}"
            for name in ("sent", "detections", "errors")
        )
        lines.append(f"  {row['basis']:<5} {row['intensity']:>10g} {cells}")
    if not np.isnan(clicks := result.detector_clicks[0]).any():
        lines.append(f"Registered clicks of detectors 0 and 1: {_number(clicks[0])} and {_number(clicks[1])}")
    if (bound := result.pooling_error_bound[0]) > 0:
        lines.append(f"Blocks of the channel were pooled, at a total-variation error of at most {bound:.2g}")
    if (course := result.pass_of()) is not None:
        line = f"Pass of {course['duration_s']:.5g} s, culmination at {course['max_elevation_deg']:.4g} deg, "
        line += f"{course['min_range_km']:.5g} km at least, mean loss {course['mean_loss_db']:.2f} dB to a click"
        selection = result.study.link.selection
        kept = "" if selection is None else f"; {100 * course['kept_share']:.3g} % of the pulses are kept in expectation"
        lines.append(line + kept)
    security = result.study.security
    if security is not None:
        said = ", ".join(result.status())
        lines.append(f"Analysis {security.analysis}; fixed-length proof evaluated on observed counts; status {said}")
    lines.append(result.reason())
    return "\n".join(lines)


def _scan_table(result: Result) -> str:
    scalars = result.scalars
    paths = [path for axis in result.study.axes for path in axis.paths]
    names = [
        n
        for n in ("secret_key_bits", "secret_key_bits_per_pulse", "secret_key_rate_bps", "probability_no_key", "qber_z")
        if n in scalars
    ]
    head = [*paths, *result.tuned, *(f"{n} [{LABELS[n][1]}]".replace(" [1]", "") for n in names), "status"]
    rows = [head]
    for index in range(min(len(result), _MANY_POINTS)):
        settings = result.study.settings(index)
        status = ", ".join(result.status(index))
        shown = [f"{v:g}" if isinstance(v, float) else str(v) for v in (settings[path] for path in paths)]
        tuned = [f"{values[index]:.5g}" for values in result.tuned.values()]
        rows.append([*shown, *tuned, *(_number(scalars[n][index]) for n in names), status])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(result) > _MANY_POINTS:
        lines.append(f"... and {len(result) - _MANY_POINTS} more points; --out FILE.nc keeps all of them")
    return "\n".join(lines)
