"""Counts measured in a laboratory, as a CSV: one row a basis and intensity."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from photonmc.config import read_text
from photonmc.contracts import Counts
from photonmc.errors import ConfigError, Mistake
from photonmc.fields import suggestion
from photonmc.protocol.bb84 import BASES
from photonmc.study import Study, checked

COLUMNS = ("basis", "intensity", "sent", "detections", "errors")
MAX_COUNT = 10**15
"""Largest count that is read."""


def read_counts(path: str | Path, study: Study) -> Counts:
    """Counts of a CSV with the header `basis,intensity,detections,errors` and, if known, `sent`.

    Without `sent` it is the mean number: pulses x probability of the intensity x probability of both choosing that basis.
    With `run.block_size_z`, `sent` is required, and the pulses are its sum over the probability of equal bases.

    Args:
        path: The file, whole numbers, one row for each basis and intensity of the study in any order.
        study: Its intensities, probabilities and length of the run are read.

    Returns:
        Counts of shape (basis, intensity), int64 but for a mean `sent`.

    Raises:
        ConfigError: With all mistakes of the file at once, each with its line.
    """
    study = checked(study)
    name = str(path)
    found: list[Mistake] = []
    rows = list(csv.reader(read_text(Path(path), "the counts file").splitlines()))
    header = [cell.strip() for cell in rows[0]]
    for column in COLUMNS:
        if header.count(column) > 1:
            found.append(Mistake(name, f"column `{column}` stands more than once"))
        elif column not in header and (column != "sent" or study.run.block_size_z is not None):
            why = " with run.block_size_z" if column == "sent" else ""
            found.append(
                Mistake(name, f"column `{column}` is required{why}, but the header is {','.join(header)[:80]}")
            )
    found += (Mistake(name, f"unknown column `{c[:40]}`{suggestion(c, COLUMNS)}") for c in header if c not in COLUMNS)
    if found:
        raise ConfigError(found)
    has_sent = "sent" in header
    intensities = [float(value) for value in study.link.source.intensities]
    table = np.full((3, len(BASES), len(intensities)), -1, dtype=np.int64)
    for line, cells in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in cells):
            _read_row(
                f"{name}:{line}",
                dict(zip(header, (c.strip() for c in cells), strict=False)),
                len(cells) == len(header),
                intensities,
                table,
                found,
            )
    for basis, index in np.argwhere(table[1] < 0) if not found else ():
        found.append(Mistake(name, f"there is no row for basis {BASES[basis]} and intensity {intensities[index]:g}"))
    sent, detections, errors = table
    with jax.enable_x64(True):
        match = np.asarray(study.protocol.matching_probabilities())
    pulses: Any
    if study.run.block_size_z is None:
        pulses = float(study.run.fixed_pulses(study.link.source.pulse_rate_hz))
    else:
        pulses = float(sent.sum() / match.sum())
    if not found and detections.sum() > pulses * (1 + 1e-9):
        found.append(Mistake(name, f"there are {detections.sum()} detections, but only {pulses:.15g} pulses"))
    if not found and has_sent and sent.sum() > pulses * (1 + 1e-9):
        found.append(Mistake(name, f"column `sent` sums to {sent.sum()}, but there are only {pulses:.15g} pulses"))
    if found:
        raise ConfigError(found)
    mean = pulses * match[:, None] * np.asarray(study.link.source.intensity_probabilities)
    return Counts(pulses, sent if has_sent else mean, detections, errors)


def _read_row(
    place: str, row: dict[str, str], complete: bool, intensities: list[float], table: np.ndarray, found: list[Mistake]
) -> None:
    """Enter one row into the table, or report all that is wrong with it."""
    before = len(found)
    if not complete:
        found.append(Mistake(place, "must have as many cells as the header"))
        return
    if row["basis"] not in BASES:
        found.append(Mistake(place, f"basis must be Z or X, but is {row['basis'][:40]!r}"))
    index = _nearest(row["intensity"], intensities)
    if index is None:
        known = ", ".join(f"{value:g}" for value in intensities)
        found.append(Mistake(place, f"intensity must be one of {known}, but is {row['intensity'][:40]!r}"))
    numbers = {}
    for column in ("sent", "detections", "errors"):
        if column in row:
            text = row[column]
            if not (text.isascii() and text.isdigit() and len(text) <= 30 and int(text) <= MAX_COUNT):
                found.append(
                    Mistake(place, f"{column} must be a whole number in [0, {MAX_COUNT:.0e}], but is {text[:40]!r}")
                )
            else:
                numbers[column] = int(text)
    for small, large in (("errors", "detections"), ("detections", "sent")):
        if small in numbers and large in numbers and numbers[small] > numbers[large]:
            found.append(Mistake(place, f"{small} must not exceed {large}, but {numbers[small]} > {numbers[large]}"))
    if len(found) > before:
        return
    cell = (slice(None), BASES.index(row["basis"]), index)
    if table[cell][1] >= 0:
        found.append(
            Mistake(place, f"basis {row['basis']} and intensity {row['intensity']} stand in a row above already")
        )
    table[cell] = numbers.get("sent", 0), numbers["detections"], numbers["errors"]


def _nearest(text: str, intensities: list[float]) -> int | None:
    """Index of the intensity that a cell names, to 1e-9 relative."""
    try:
        value = float(text)
    except ValueError:
        return None
    return next((i for i, known in enumerate(intensities) if math.isclose(value, known, rel_tol=1e-9)), None)
