"""What comes back: counts, key and status of every point, as a readable table, JSON, xarray, netCDF or CSV."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from photonmc.contracts import Counts, Truth
from photonmc.errors import ConfigError, Mistake
from photonmc.files import publish, temporary_beside, unusable_file
from photonmc.labels import QUANTILES, dataset, provenance, table
from photonmc.protocol.bb84 import BASES
from photonmc.status import BIT, NO_KEY, outside_of_validity, words
from photonmc.study import Study

if TYPE_CHECKING:
    import xarray

SUFFIXES = (".json", ".csv", ".nc", ".png")
"""Kinds of files that a result can be saved to."""
SAMPLER_REASONS = {
    "expected": "closed-form expectation, nothing was drawn",
    "counts": "exact draws over the outcome table at a cost that does not depend on the pulses, the cheapest exact sampler "
    "where pulses are independent or each click starts the receiver anew",
    "clicks": "jumps from click to click, exact for detectors with memory, at a cost that follows the clicks",
    "pulses": "every pulse was followed, mechanism by mechanism, as asked for",
    "measured": "the counts were given",
}


class Keys(NamedTuple):
    """Keys of all points; arrays of shape (point,), means where there are several realizations."""

    bits: np.ndarray
    bits_per_pulse: np.ndarray
    standard_error: np.ndarray
    fluctuation_free: np.ndarray
    yin_safe: np.ndarray
    terms: dict[str, np.ndarray]
    status: np.ndarray
    commonest: np.ndarray
    """Mask of the commonest reason why there is no key, 0 where each realization has one."""
    bits_quantiles: np.ndarray
    sifted_z_quantiles: np.ndarray
    probability_no_key: np.ndarray
    bits_of_each: np.ndarray
    """Key of each realization, shape (point, realization); NaN for those that a stop left out [bit]."""


@dataclasses.dataclass(frozen=True)
class Result:
    """Counts and keys of a study at each of its points, in row-major order of the axes.

    Attributes:
        study: What was simulated.
        samplers: Sampler of each point, shape (point,).
        intensities: Intensities of each point [photons/pulse], shape (point, intensity).
        pulse_rate_hz: Pulse rate of each point [Hz], shape (point,).
        counts: Sums over the realizations, shape (point, basis, intensity); whole numbers where they were drawn.
        truth: Photon numbers behind the sifted events, or None where nothing was drawn.
        detector_clicks: Registered clicks of each detector, sifted or not, summed over the realizations, shape (point, 2);
            NaN where that is not known.
        pooling_error_bound: Bound on the total-variation error of pooled blocks, shape (point,); 0 where none were pooled.
        stopped: Whether a point was stopped before its end, shape (point,).
        cautions: Status bits of models and proofs whose assumptions the link breaks, shape (point,).
        realizations: Independent blocks at each point, shape (point,).
        keys: Keys, or None for a study without a security analysis.
        tuned: Values found by `optimize`, by path, shape (point,).
    """

    study: Study
    samplers: np.ndarray
    intensities: np.ndarray
    pulse_rate_hz: np.ndarray
    counts: Counts
    truth: Truth | None
    detector_clicks: np.ndarray
    pooling_error_bound: np.ndarray
    stopped: np.ndarray
    cautions: np.ndarray
    realizations: np.ndarray
    keys: Keys | None
    tuned: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samplers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points along each axis of the scan."""
        return self.study.shape

    def study_at(self, index: int) -> Study:
        """Study of one point, at the settings found by `optimize` where those were tuned."""
        return self.study.replace({path: float(values[index]) for path, values in self.tuned.items()}).at(index)

    # Numbers of all points ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def scalars(self) -> dict[str, np.ndarray]:
        """Every number that a point has one of, by its name in the JSON, shape (point,); NaN where not defined."""
        detections, errors = self.counts.detections.sum(axis=-1), self.counts.errors.sum(axis=-1)
        pulses = np.asarray(self.counts.pulses, dtype=np.float64) / self.realizations
        values: dict[str, np.ndarray] = {}
        if (keys := self.keys) is not None:
            values["secret_key_bits"] = keys.bits
            values["secret_key_bits_per_pulse"] = keys.bits_per_pulse
            values["secret_key_rate_bps"] = keys.bits_per_pulse * self.pulse_rate_hz
            if not np.isnan(keys.standard_error).all():
                values["secret_key_bits_standard_error"] = keys.standard_error
            if self.realizations.max() > 1:
                values["probability_no_key"] = keys.probability_no_key
            unsafe = keys.status & BIT["sampling_bound_unsafe"] > 0
            if unsafe.any():
                values["secret_key_bits_yin_safe"] = np.where(unsafe, keys.yin_safe, np.nan)
        for basis, name in enumerate("zx"):
            values[f"qber_{name}"] = _quotient(errors[:, basis], detections[:, basis])
        values["pulses"] = np.where(np.isfinite(pulses), pulses, np.nan)
        for basis, name in enumerate("zx"):
            values[f"sifted_{name}"] = detections[:, basis] / self.realizations
        return values

    # JSON --------------------------------------------------------------------------------------------------------------

    def point(self, index: int = 0) -> dict[str, Any]:
        """One point as plain Python data, as in the JSON."""
        whole = self.samplers[index] != "expected"
        several = self.realizations[index] > 1
        scalars: dict[str, Any] = {name: _json_number(array[index]) for name, array in self.scalars.items()}
        if whole and not several:
            for name in ("secret_key_bits", "secret_key_bits_yin_safe", "pulses", "sifted_z", "sifted_x"):
                if scalars.get(name) is not None:
                    scalars[name] = _whole(scalars[name])
        elif not several and "secret_key_bits" in scalars:
            scalars["secret_key_bits"] = int(scalars["secret_key_bits"])
        if not several:
            scalars.pop("probability_no_key", None)
        out: dict[str, Any] = {}
        if self.study.axes or self.tuned:
            tuned = {path: float(values[index]) for path, values in self.tuned.items()}
            out["settings"] = {**self.study.settings(index), **tuned}
        out.update(scalars)
        for name in ("secret_key_bits_standard_error", "secret_key_bits_yin_safe"):
            if out.get(name, 0) is None:  # other points have one
                del out[name]
        if (keys := self.keys) is not None and several:
            for name, quantiles in (
                ("secret_key_bits_quantiles", keys.bits_quantiles),
                ("sifted_z_quantiles", keys.sifted_z_quantiles),
            ):
                out[name] = {f"{q:g}": _json_number(v) for q, v in zip(QUANTILES, quantiles[index], strict=True)}
        if not np.isnan(clicks := self.detector_clicks[index]).any():
            out["detector_clicks"] = [_whole(value) if whole else float(value) for value in clicks]
        if (summary := self.pass_of(index)) is not None:
            out["pass"] = {name: _json_number(value) for name, value in summary.items()}
        if self.pooling_error_bound[index] > 0:
            out["pooling_error_bound"] = float(self.pooling_error_bound[index])
        out["counts"] = list(self.rows(index))
        if self.truth is not None and self.samplers[index] != "expected":
            out["truth"] = list(self._truth_rows(index))
        if keys is not None:
            out["terms"] = {name: _json_number(v[index]) for name, v in keys.terms.items() if not np.isnan(v[index])}
            out["acceptance"] = "observed"
            out["analysis"] = str(self.study.at(index).security.analysis)
        out["status"] = self.status(index)
        out["reason"] = self.reason(index)
        out["sampler"] = str(self.samplers[index])
        return out | provenance(self.study.at(index))

    def pass_of(self, index: int = 0) -> dict[str, float] | None:
        """Length, culmination, loss and kept share of a satellite's pass; None for other channels and measured counts."""
        if not hasattr(self.study.link.channel, "summary") or self.samplers[index] == "measured":
            return None
        one = self.study_at(index)
        summary: dict[str, float] = one.link.channel.summary(one.link, one.run.fixed_pulses(one.link))
        return summary

    def status(self, index: int = 0) -> list[str]:
        """Words of the status of a point."""
        return words(int(self.status_masks[index]))

    @property
    def status_masks(self) -> np.ndarray:
        """Status of each point as a mask of `photonmc.status.BIT`, shape (point,)."""
        partial = np.where(self.stopped, BIT["partial"], 0)
        own = np.where(self.stopped, 0, BIT["ok"]) if self.keys is None else self.keys.status
        return own | partial | self.cautions

    def rows(self, index: int) -> Iterator[dict[str, Any]]:
        """Rows of the counts table of a point: basis, intensity, sent, detections, errors."""
        convert = float if self.samplers[index] == "expected" else _whole
        for basis, intensity in np.ndindex(self.counts.detections.shape[1:]):
            place = (index, basis, intensity)
            yield {
                "basis": BASES[basis],
                "intensity": float(self.intensities[index, intensity]),
                "sent": convert(self.counts.sent[place]),
                "detections": convert(self.counts.detections[place]),
                "errors": convert(self.counts.errors[place]),
            }

    def _truth_rows(self, index: int) -> Iterator[dict[str, Any]]:
        assert self.truth is not None
        for basis, intensity, photons in np.ndindex(self.truth.detections.shape[1:]):
            yield {
                "basis": BASES[basis],
                "intensity": float(self.intensities[index, intensity]),
                "photons": photons,
                "detections": int(self.truth.detections[index, basis, intensity, photons]),
                "errors": int(self.truth.errors[index, basis, intensity, photons]),
            }

    def reason(self, index: int = 0) -> str:
        """Sentence that says why there is no key, or where there is one, why this sampler was taken."""
        sampler = f"{self.samplers[index]}: {SAMPLER_REASONS[str(self.samplers[index])]}."
        if self.stopped[index]:
            sampler += f" {self._stop()}"
        if self.keys is None:
            return f"{sampler}{self._invalid(index)}"
        mask = int(self.status_masks[index])
        free = float(self.keys.fluctuation_free[index])
        detections = self.counts.detections[index].sum(axis=-1) / self.realizations[index]
        errors = self.counts.errors[index].sum(axis=-1) / self.realizations[index]
        qber_z, qber_x = (_percent(e, d) for e, d in zip(errors, detections, strict=True))
        bright = self.study_at(index).link.background_outshines_dark_counts()
        noise = (
            "Clicks of background light (fewer with a narrower filter, field of view or gate)" if bright else "Dark counts"
        )
        sentences = {
            "no_key_block_size": f"The block is too small: {detections[0]:.4g} sifted Z and {detections[1]:.4g} sifted X "
            f"detections give no key, but would give {free:.4g} bit if counts did not fluctuate. Sample longer, or balance "
            "bases and intensities.",
            "no_key_multiphoton": "No single-photon detections can be guaranteed: "
            + (
                "multi-photon pulses and noise can explain all of them."
                if detections.all()
                else "nothing was detected in a basis."
            ),
            "no_key_dark_counts": f"{noise} make most errors (QBER {qber_z} in Z): the signal is too weak against them.",
            "no_key_errors": f"Too many errors (QBER {qber_z} in Z, {qber_x} in X).",
        }
        keys_without = float(self.keys.probability_no_key[index])
        commonest = [word for word in NO_KEY if int(self.keys.commonest[index]) & BIT[word]]
        said = [sentences[word] for word in commonest] or [sampler]
        if commonest and keys_without < 1.0:
            said = [
                f"{100 * keys_without:.3g} % of the realizations have no key; with the mean counts, the commonest reason is:"
            ]
            said += [sentences[word] for word in commonest]
        if commonest and self.stopped[index]:
            said.append(self._stop())
        if self.tuned and commonest:
            said.append("No settings within the bounds were found that give a key.")
        if bounds := self._on_bounds(index):
            said.append(f"On a bound of the search: {', '.join(bounds)}.")
        if mask & BIT["sampling_bound_unsafe"]:
            said.append(
                f"Not certified: with fewer than 1000 X errors the Fung sampling bound can be too low; "
                f'"yin_safe" gives {float(self.keys.yin_safe[index]):.0f} bit.'
            )
        return f"{' '.join(said)}{self._invalid(index)}"

    def _invalid(self, index: int) -> str:
        if not self.status_masks[index] & BIT["outside_validity"]:
            return ""
        broken = self.study_at(index).broken_assumptions()
        why = [sentence for sentence, applies in broken.items() if applies]
        why = why or ["counts exceed what was sent, or a term of the proof is no finite number"]
        return f" {outside_of_validity(why)}"

    def _on_bounds(self, index: int) -> list[str]:
        """Settings that the search left on one of their bounds."""
        found = []
        for mark in self.study.free:
            value = self.tuned[mark.path][index] if mark.path in self.tuned else np.nan
            if min(abs(value - mark.low), abs(value - mark.high)) <= 1e-9 * (mark.high - mark.low):
                found.append(f"{mark.path} = {value:.6g}")
        return found

    def _stop(self) -> str:
        what, kept = ("search", "the best settings") if self.tuned else ("run", "what was sampled")
        return f"The {what} was stopped before its end; {kept} so far {'are' if self.tuned else 'is'} kept."

    def to_dict(self) -> dict[str, Any]:
        """All points as plain Python data: one object, or `{"points": [...]}` with scan axes."""
        return {"points": [self.point(i) for i in range(len(self))]} if self.study.axes else self.point()

    def to_json(self) -> str:
        """JSON text of `to_dict`."""
        return json.dumps(self.to_dict(), allow_nan=False)

    # Tables and files --------------------------------------------------------------------------------------------------

    def to_csv(self) -> str:
        """Counts table as CSV; with a scan, a column an axis first. `photonmc key` reads that of one sampled point."""
        paths = [path for axis in self.study.axes for path in axis.paths]
        columns = ["basis", "intensity", "sent", "detections", "errors"]
        sent = self.counts.sent
        if "measured" in self.samplers and np.any(sent != np.floor(sent)):
            columns.remove("sent")  # it was not measured: a mean stands in its place, and would on reading the file again
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*paths, *columns])
        for index in range(len(self)):
            settings = self.study.settings(index)
            for row in self.rows(index):
                writer.writerow([*(settings[path] for path in paths), *(row[column] for column in columns)])
        return text.getvalue()

    def to_xarray(self) -> xarray.Dataset:
        """Labelled data: axes of the scan, basis, intensity, photons; units and long names; provenance as attributes."""
        return dataset(self)

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write a file of the kind that its suffix names: .json, .csv, .nc (netCDF), .png.

        The file appears whole or not at all.

        Args:
            path: Where to.
            force: Whether an existing file is replaced.

        Raises:
            ConfigError: For a suffix that is not known, a file that exists, a folder that does not.
        """
        path = Path(path)
        if mistakes := list(unusable_output(path, force, int(self.realizations.max()))):
            raise ConfigError(mistakes)
        temporary = temporary_beside(path)
        try:
            if path.suffix == ".json":
                temporary.write_text(self.to_json() + "\n", encoding="utf-8")
            elif path.suffix == ".csv":
                temporary.write_text(self.to_csv(), encoding="utf-8")
            elif path.suffix == ".nc":
                self.to_xarray().to_netcdf(temporary, engine="h5netcdf")
            else:
                from photonmc.plotting import draw

                draw(self, temporary)
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def __str__(self) -> str:
        return table(self)


def unusable_output(path: Path, force: bool, realizations: int) -> Iterator[Mistake]:
    """Why a result could not be written to a file; nothing is written to find out."""
    if path.suffix not in SUFFIXES:
        yield Mistake(f"--out {path}", f"must end in one of {' '.join(SUFFIXES)}")
    if path.suffix == ".csv" and realizations > 1:
        yield Mistake(f"--out {path}", "a CSV holds the counts of one realization, but there are several")
    yield from unusable_file("--out", path, force)


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    usable = denominator > 0
    return np.where(usable, numerator / np.where(usable, denominator, 1), np.nan)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2g} %" if whole > 0 else "undefined"


def _whole(value: float) -> int | float:
    """Integer where a number is one; a mean number of pulses sent, beside measured counts, need not be."""
    return int(value) if value == int(value) else float(value)


def _json_number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
