"""Channel whose loss and background were recorded, or computed by another program: a table over time."""

from __future__ import annotations

import csv
import dataclasses
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import ChannelState, record
from photonmc.errors import ConfigError, Mistake, suggestion
from photonmc.units import Range, probability_from_rate, static, transmittance_from_db

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

    from photonmc.link import Link

COLUMNS = {
    "time_s": Range(-1e15, 1e15, "s"),
    "loss_db": Range(0.0, 1000.0, "dB"),
    "background_counts_hz": Range(0.0, 1e12, "Hz"),
}
"""Columns of a record; the last one may be missing."""
SATQUMA = {"Time (s)": COLUMNS["time_s"], "Link Efficiency": Range(0.0, 1.0, open_low=True)}
"""What is read of a loss file of SatQuMA 2.0.0 (github.com/cnqo-qcomms/SatQuMA, MIT), by the names in its header."""
WRITTEN_BY_SATQUMA = {"eta_tot": "Link Efficiency"}
"""Names in files that SatQuMA writes itself, for those in the file that comes with it."""
MAX_RECORD_BYTES = 1 << 30
"""Largest record that is read [bytes]."""
MOST_MISTAKES = 20
"""Mistakes of one record that are listed."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Rows of a record as arrays of one length.

    Attributes:
        time_s: When each row begins to hold [s], rising.
        loss_db: Loss from Alice's exit to the receiver's entrance [dB].
        background_counts_hz: Background light, detected, both detectors together [Hz].
    """

    time_s: Any
    loss_db: Any
    background_counts_hz: Any

    def __eq__(self, other: object) -> bool:
        pairs = zip(jax.tree.leaves(self), jax.tree.leaves(other), strict=False)
        return isinstance(other, Samples) and all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def __hash__(self) -> int:
        return hash(np.shape(self.time_s))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def refuse(value: Any) -> Any:
            raise PydanticCustomError("extra_forbidden", "unknown key")

        return core_schema.no_info_plain_validator_function(refuse)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return {"not": {}}


@record
class Recorded:
    """Loss and background over time; a row holds until the next row's time, the last as long as the one before it.

    The first pulse leaves at the time of the first row. `background_counts_hz` is what both detectors together count;
    half of it falls on each.
    """

    file: str = static(default="")
    """CSV, relative to the config: time_s, loss_db and, where there is background, background_counts_hz; or SatQuMA's."""
    kind: Literal["recorded"] = static(default="recorded")
    samples: Samples | None = dataclasses.field(default=None, metadata={"internal": True})

    fluctuates: ClassVar[bool] = False

    def _starts(self, pulse_rate_hz: Any) -> Any:
        """Index of the first pulse of each row, and of the first one after the last row."""
        assert self.samples is not None
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in (self.samples.time_s, pulse_rate_hz))
        xp: Any = jnp if traced else np  # float64 whatever jax's mode, where it can be
        time = self.samples.time_s
        times = xp.append(time, 2.0 * time[-1] - time[-2]) - time[0]
        gates = times * pulse_rate_hz
        # the first pulse at or after it; times are decimal numbers, which do not fall on gates exactly
        rounded = 1e-15 * xp.maximum(gates, xp.abs(time[0]) * pulse_rate_hz)
        return xp.ceil(gates - xp.maximum(1e-6, rounded))

    def pulses(self, pulse_rate_hz: Any) -> Any:
        """Pulses that fall into the record."""
        return self._starts(pulse_rate_hz)[-1]

    def block_lengths(self, link: Link, pulses: int) -> np.ndarray:
        """Pulses of each row, up to those of the run."""
        return np.diff(np.minimum(self._starts(link.source.pulse_rate_hz), pulses).astype(np.int64))

    def _states(self, gate_s: Any) -> ChannelState:
        assert self.samples is not None
        background = probability_from_rate(0.5 * jnp.asarray(self.samples.background_counts_hz), gate_s * 1e9)
        transmittance = transmittance_from_db(self.samples.loss_db)
        return ChannelState(transmittance, background, jnp.zeros_like(transmittance))

    def nodes(self, link: Link, pulses: Any = None) -> tuple[ChannelState, Float[Array, " node"]]:
        """A node a row, weighted by the pulses that it holds for; rows that are not kept have none."""
        lengths, states = self._lengths(link, pulses), self._states(link.gate_s())
        kept = states.transmittance >= link.least_transmittance(pulses)
        return states, jnp.where(kept, lengths, 0.0) / lengths.sum()

    def _lengths(self, link: Link, pulses: Any) -> Any:
        starts = self._starts(link.source.pulse_rate_hz)
        return jnp.diff(starts if pulses is None else jnp.minimum(starts, pulses))

    def best_transmittance(self, link: Link, pulses: Any = None) -> Any:
        """Transmittance of the best row of a run."""
        used = self._lengths(link, pulses) > 0.0
        return jnp.max(jnp.where(used, self._states(link.gate_s()).transmittance, 0.0))

    def draw(self, key: Key[Array, ""], link: Link, lengths: np.ndarray) -> ChannelState:
        """The rows in their order; the key is not used because they are known."""
        return jax.tree.map(lambda leaf: leaf[: len(lengths)], self._states(link.gate_s()))

    def loaded(self, folder: Path) -> Recorded:
        """With the rows of its file, which is relative to a folder.

        Raises:
            ConfigError: With all mistakes of the file at once.
        """
        return dataclasses.replace(self, samples=read_samples(folder / self.file, self.file))


class Layout(NamedTuple):
    """Where a file has its columns.

    Attributes:
        columns: Allowed range of each that is read, by its name; time is the first of SatQuMA's.
        place: Place of each in a line.
        cells: Cells of a line; SatQuMA's may have more.
        ours: Whether it is our own layout, in which times rise from line to line; SatQuMA's come in any order.
    """

    columns: dict[str, Range]
    place: dict[str, int]
    cells: int
    ours: bool


def read_samples(path: Path, name: str) -> Samples:
    """Rows of a CSV with the columns time_s, loss_db and optionally background_counts_hz, or of a loss file of SatQuMA.

    SatQuMA's files are known by their header; their efficiencies become losses, and their rows are sorted by time.

    Raises:
        ConfigError: With all mistakes of the file at once, those of single rows with their line.
    """
    place = f"channel.file {name}"
    if not name:
        raise ConfigError([Mistake("channel.file", "is required")])
    try:
        if not path.is_file():
            raise OSError(0, "there is no such file" if not path.exists() else "it is no regular file")
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise OSError(0, f"it has more than {MAX_RECORD_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline().strip().lstrip("#").strip()
            if not first and not any(line.strip() for line in file):
                raise ConfigError([Mistake(place, "is empty")])
            layout = _layout(place, [cell.strip() for cell in next(csv.reader([first]), [""])])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of no rows: that is said in our words
                    read = None if layout.ours else [layout.place[column] for column in layout.columns]
                    table = np.loadtxt(file, delimiter=",", quotechar='"', comments=None, ndmin=2, usecols=read)
            except ValueError:
                table = np.empty((0, 0))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or ("it is no UTF-8 text" if isinstance(error, UnicodeError) else error)
        raise ConfigError([Mistake(place, f"cannot be read: {reason}")]) from None
    rows = dict(zip(layout.columns, table.T, strict=True)) if table.shape[1] == len(layout.columns) else {}
    if not rows or not _usable(rows, layout):
        raise ConfigError(_row_mistakes(place, path, layout))
    zeros = np.zeros(len(table))
    if layout.ours:
        return Samples(rows["time_s"], rows["loss_db"], rows.get("background_counts_hz", zeros))
    order = np.argsort(rows["Time (s)"])
    return Samples(rows["Time (s)"][order], -10.0 * np.log10(rows["Link Efficiency"][order]) + 0.0, zeros)


def _layout(place: str, header: list[str]) -> Layout:
    """Layout of a file by its header, which is SatQuMA's where it has a name of theirs and none of ours."""
    known = {name.lower(): name for name in SATQUMA} | WRITTEN_BY_SATQUMA
    theirs = [known.get(cell.lower(), "") for cell in header]
    ours = not any(theirs) or not COLUMNS.keys().isdisjoint(header)
    if found := _header_mistakes(place, header) if ours else _satquma_mistakes(place, header, theirs):
        raise ConfigError(found)
    if ours:
        columns = {column: COLUMNS[column] for column in header}
        return Layout(columns, {column: index for index, column in enumerate(header)}, len(header), True)
    at = {column: theirs.index(column) for column in SATQUMA}
    return Layout(SATQUMA, at, max(at.values()) + 1, False)


def _usable(rows: dict[str, np.ndarray], layout: Layout) -> bool:
    ranges = ((layout.columns[column], values) for column, values in rows.items() if values.size)
    inside = all(allowed.contains(values.min()) and allowed.contains(values.max()) for allowed, values in ranges)
    time = rows["time_s"] if layout.ours else np.sort(rows["Time (s)"])
    return inside and time.size > 1 and not np.isnan(np.sum(list(rows.values()))) and bool((np.diff(time) > 0).all())


def _header_mistakes(place: str, header: list[str]) -> list[Mistake]:
    found = [Mistake(place, f'unknown column "{c[:40]}"{suggestion(c, COLUMNS)}') for c in header if c not in COLUMNS]
    found += [Mistake(place, f"column `{c}` stands more than once") for c in COLUMNS if header.count(c) > 1]
    missing = [c for c in ("time_s", "loss_db") if c not in header]
    return found + [_missing(place, f"column `{c}` is required", header) for c in missing]


def _satquma_mistakes(place: str, header: list[str], theirs: list[str]) -> list[Mistake]:
    found = []
    for column in SATQUMA:
        names = " or ".join(f"`{name}`" for name in (column, *(w for w, c in WRITTEN_BY_SATQUMA.items() if c == column)))
        if column not in theirs:
            found.append(_missing(place, f"column {names} of SatQuMA is required", header))
        elif theirs.count(column) > 1:
            found.append(
                Mistake(place, f"column {names} of SatQuMA must stand once, but stands {theirs.count(column)} times")
            )
    return found


def _missing(place: str, required: str, header: list[str]) -> Mistake:
    return Mistake(place, f'{required}, but the header is "{",".join(header)[:80]}"')


def _row_mistakes(place: str, path: Path, layout: Layout) -> list[Mistake]:
    """Why a record cannot be used, line by line."""
    found: list[Mistake] = []
    last, rows, seen = -math.inf, 0, set[float]()
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, cells in enumerate(csv.reader(file), start=1):
            if line == 1 or not any(cell.strip() for cell in cells):
                continue
            rows += 1
            here = f"{place} line {line}"
            if len(cells) < layout.cells or (layout.ours and len(cells) > layout.cells):
                least = "" if layout.ours else " at least"
                found.append(Mistake(here, f"must have {layout.cells} cells{least}, but has {len(cells)}"))
            for name, cell in ((name, cells[at]) for name, at in layout.place.items() if at < len(cells)):
                try:
                    value = float(cell)
                except ValueError:
                    found.append(Mistake(here, f'{name} must be a number, but is "{cell.strip()[:40]}"'))
                    continue
                if not layout.columns[name].contains(value):
                    found.append(Mistake(here, f"{name} must be in {layout.columns[name]}, but is {value:g}"))
                elif name == "time_s":
                    if not value > last:
                        found.append(Mistake(here, f"time_s must rise, but {value:.12g} follows {last:.12g}"))
                    last = value
                elif name == "Time (s)":
                    if value in seen:
                        found.append(Mistake(here, f"{name} must differ from line to line, but {value:.12g} comes again"))
                    seen.add(value)
            if len(found) > MOST_MISTAKES:
                return [*found[:MOST_MISTAKES], Mistake(place, "and more")]
    if rows < 2:
        found.append(Mistake(place, f"must have two rows at least, but has {rows}"))
    return found or [Mistake(place, "is no CSV of numbers")]
