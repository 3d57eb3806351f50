"""Channel whose loss and background were recorded, or computed by another program: a table over time."""

from __future__ import annotations

import csv
import dataclasses
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
    """CSV, relative to the config, with the columns time_s, loss_db and, where there is background, background_counts_hz."""
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
        """A node a row, weighted by the pulses that it holds for."""
        starts = self._starts(link.source.pulse_rate_hz)
        lengths = jnp.diff(starts if pulses is None else jnp.minimum(starts, pulses))
        return self._states(link.gate_s()), lengths / lengths.sum()

    def draw(self, key: Key[Array, ""], link: Link, lengths: np.ndarray) -> ChannelState:
        """The rows in their order; the key is not used because they are known."""
        return jax.tree.map(lambda leaf: leaf[: len(lengths)], self._states(link.gate_s()))

    def loaded(self, folder: Path) -> Recorded:
        """With the rows of its file, which is relative to a folder.

        Raises:
            ConfigError: With all mistakes of the file at once.
        """
        return dataclasses.replace(self, samples=read_samples(folder / self.file, self.file))


def read_samples(path: Path, name: str) -> Samples:
    """Rows of a CSV with the columns time_s, loss_db and optionally background_counts_hz.

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
            header = [cell.strip() for cell in file.readline().strip().split(",")]
            if found := list(_header_mistakes(place, header)):
                raise ConfigError(found)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of no rows: that is said in our words
                    table = np.loadtxt(file, delimiter=",", comments=None, ndmin=2)
            except ValueError:
                table = np.empty((0, 0))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or ("it is no UTF-8 text" if isinstance(error, UnicodeError) else error)
        raise ConfigError([Mistake(place, f"cannot be read: {reason}")]) from None
    columns = {column: table[:, i] for i, column in enumerate(header)} if table.shape[1] == len(header) else {}
    if not columns or not _usable(columns):
        raise ConfigError(_row_mistakes(place, path, header))
    zeros = np.zeros(len(table))
    return Samples(columns["time_s"], columns["loss_db"], columns.get("background_counts_hz", zeros))


def _usable(columns: dict[str, np.ndarray]) -> bool:
    inside = all(COLUMNS[name].low <= v.min() and v.max() <= COLUMNS[name].high for name, v in columns.items() if v.size)
    time = columns["time_s"]
    return inside and time.size > 1 and not np.isnan(np.sum(list(columns.values()))) and bool((np.diff(time) > 0).all())


def _header_mistakes(place: str, header: list[str]) -> list[Mistake]:
    found = [Mistake(place, f"unknown column {c[:40]!r}{suggestion(c, COLUMNS)}") for c in header if c not in COLUMNS]
    found += [Mistake(place, f"column `{c}` stands more than once") for c in COLUMNS if header.count(c) > 1]
    missing = [c for c in ("time_s", "loss_db") if c not in header]
    return found + [
        Mistake(place, f"column `{c}` is required, but the header is {','.join(header)[:80]!r}") for c in missing
    ]


def _row_mistakes(place: str, path: Path, header: list[str]) -> list[Mistake]:
    """Why a record cannot be used, line by line."""
    found: list[Mistake] = []
    last, rows = -math.inf, 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, cells in enumerate(csv.reader(file), start=1):
            if line == 1 or not any(cell.strip() for cell in cells):
                continue
            rows += 1
            here = f"{place} line {line}"
            if len(cells) != len(header):
                found.append(Mistake(here, f"must have {len(header)} cells, but has {len(cells)}"))
            for name, cell in zip(header, cells, strict=False):
                try:
                    value = float(cell)
                except ValueError:
                    found.append(Mistake(here, f"{name} must be a number, but is {cell.strip()[:40]!r}"))
                    continue
                if not COLUMNS[name].contains(value):
                    found.append(Mistake(here, f"{name} must be in {COLUMNS[name]}, but is {value:g}"))
                elif name == "time_s":
                    if not value > last:
                        found.append(Mistake(here, f"time_s must rise, but {value:.12g} follows {last:.12g}"))
                    last = value
            if len(found) > MOST_MISTAKES:
                return [*found[:MOST_MISTAKES], Mistake(place, "and more")]
    if rows < 2:
        found.append(Mistake(place, f"must have two rows at least, but has {rows}"))
    return found or [Mistake(place, "is no CSV of numbers")]
