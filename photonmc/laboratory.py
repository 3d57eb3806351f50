"""Counts measured in a laboratory, as a CSV: one row a basis and intensity."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import jax
import numpy as np

from photonmc.config import read_text
from photonmc.contracts import Counts
from photonmc.errors import ConfigError, Mistake, suggestion
from photonmc.fields import shown
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
        ConfigError: With all mistakes of the file at once, each with its line. With `run.block_size_z`, the size itself is
            not compared: the block is as large as the file says.
    """
    study = checked(study)
    name = str(path)
    found: list[Mistake] = []
    text = read_text(Path(path), "the counts file")
    try:
        numbered = enumerate(csv.reader(text.split("\n")), start=1)
        rows = [(line, [cell.strip() for cell in cells]) for line, cells in numbered if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise ConfigError([Mistake(name, f"the counts file is no CSV: {error}")]) from None
    header = rows[0][1] if rows else []
    for column in COLUMNS:
        if header.count(column) > 1:
            found.append(Mistake(name, f"column `{column}` stands more than once"))
        elif column not in header and (column != "sent" or study.run.block_size_z is not None):
            why = " with run.block_size_z" if column == "sent" else ""
            said = ",".join(header)
            found.append(Mistake(name, f"column `{column}` is required{why}, but the header is {shown(said)}"))
    found += (Mistake(name, f"unknown column {shown(c[:40])}{suggestion(c, COLUMNS)}") for c in header if c not in COLUMNS)
    if found:
        raise ConfigError(found)
    has_sent = "sent" in header
    intensities = [float(value) for value in study.link.source.intensities]
    table = np.zeros((3, len(BASES), len(intensities)), dtype=np.int64)
    seen: set[tuple[int, int]] = set()
    for line, cells in rows[1:]:
        if len(cells) == len(header):
            _read_row(f"{name}:{line}", dict(zip(header, cells, strict=True)), intensities, table, seen, found)
        else:
            found.append(Mistake(f"{name}:{line}", f"must have {len(header)} cells as the header has, but has {len(cells)}"))
    for basis, index in np.ndindex(table.shape[1:]):
        if (basis, index) not in seen:
            found.append(Mistake(name, f"there is no row for basis {BASES[basis]} and intensity {intensities[index]:g}"))
    if found:
        raise ConfigError(found)
    sent, detections, errors = table
    with jax.enable_x64(True):
        match = np.asarray(study.protocol.matching_probabilities())
    pulses = sent.sum() / match.sum()
    if study.run.block_size_z is None:
        pulses = float(study.run.joined_passes * study.run.fixed_pulses(study.link))
    mean = pulses * match[:, None] * np.asarray(study.link.source.intensity_probabilities)
    if has_sent and sent.sum() > pulses * (1 + 1e-9):
        found.append(Mistake(name, f"column `sent` sums to {sent.sum()}, but there are only {pulses:.15g} pulses"))
    for basis, index in np.argwhere(detections > mean + 7.0 * np.sqrt(mean) + 30.0) if not has_sent else ():
        found.append(
            Mistake(
                name,
                f"basis {BASES[basis]} and intensity {intensities[index]:g} have {detections[basis, index]} detections, "
                f"but only about {mean[basis, index]:.4g} of the pulses are sent there",
            )
        )
    if found:
        raise ConfigError(found)
    return Counts(pulses, sent if has_sent else mean, detections, errors)


def _read_row(
    place: str,
    row: dict[str, str],
    intensities: list[float],
    table: np.ndarray,
    seen: set[tuple[int, int]],
    found: list[Mistake],
) -> None:
    """Enter one row into the table, or report all that is wrong with it."""
    before = len(found)
    if row["basis"] not in BASES:
        found.append(Mistake(place, f"basis must be Z or X, but is {shown(row['basis'][:40])}"))
    index = _nearest(row["intensity"], intensities)
    if index is None:
        known = ", ".join(f"{value:g}" for value in intensities)
        found.append(Mistake(place, f"intensity must be one of {known}, but is {shown(row['intensity'][:40])}"))
    numbers = {}
    for column in ("sent", "detections", "errors"):
        if column in row:
            text = row[column]
            if not (text.isascii() and text.isdigit() and len(text) <= 30 and int(text) <= MAX_COUNT):
                found.append(
                    Mistake(place, f"{column} must be a whole number in [0, {MAX_COUNT:.0e}], but is {shown(text[:40])}")
                )
            else:
                numbers[column] = int(text)
    for small, large in (("errors", "detections"), ("detections", "sent")):
        if small in numbers and large in numbers and numbers[small] > numbers[large]:
            found.append(Mistake(place, f"{small} must not exceed {large}, but {numbers[small]} > {numbers[large]}"))
    if row["basis"] not in BASES or index is None:
        return
    cell = BASES.index(row["basis"]), index
    if cell in seen:
        found.append(Mistake(place, f"basis {row['basis']} and intensity {row['intensity']} stand in a row above already"))
    seen.add(cell)
    if len(found) == before:
        table[:, *cell] = numbers.get("sent", 0), numbers["detections"], numbers["errors"]


def _nearest(text: str, intensities: list[float]) -> int | None:
    """Index of the intensity that a cell names, to 1e-9 relative."""
    try:
        value = float(text)
    except ValueError:
        return None
    return next((i for i, known in enumerate(intensities) if math.isclose(value, known, rel_tol=1e-9)), None)
