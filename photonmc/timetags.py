"""Time tags: every registered click of a run, sorted by time, in a file that appears whole or not at all.

Clicks come gate by gate and leave by time. Where the jitter is wider than the pulse period the two orders differ: a
click waits until no later gate can come before it. So memory holds the clicks within the range of the jitter, and the
length of a run does not matter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from photonmc.clock import Clock
from photonmc.errors import ConfigError, Mistake
from photonmc.files import publish, temporary_beside, uninterrupted, unusable_file
from photonmc.parquet import COLUMNS, ParquetFile
from photonmc.ptu import PtuFile

SUFFIXES = (".parquet", ".ptu")
"""Kinds of files that time tags can be written to."""
OPTION = "--time-tags"
BATCH = 2**16
"""Clicks that are gathered before they are sorted."""


class Clicks(NamedTuple):
    """Registered clicks of whole gates, a gate's in one batch; arrays of shape (click,).

    Attributes:
        pulse: Gate, int64.
        detector: 0 or 1.
        basis: Bob's, 0 = Z.
        bit: What Bob writes down for the pulse.
        kept: Whether sifting keeps the pulse.
        alice_basis: Alice's, 0 = Z.
        alice_bit: Alice's.
        intensity: Index of Alice's, strongest first.
        jitter_ps: Jitter of the click [ps], float64.
    """

    pulse: np.ndarray
    detector: np.ndarray
    basis: np.ndarray
    bit: np.ndarray
    kept: np.ndarray
    alice_basis: np.ndarray
    alice_bit: np.ndarray
    intensity: np.ndarray
    jitter_ps: np.ndarray


def sidecar_of(path: Path) -> Path:
    """JSON beside a file of time tags."""
    return path.with_suffix(".json")


def unusable_tags(path: Path, force: bool, others: Sequence[Path] = ()) -> Iterator[Mistake]:
    """Why time tags or the JSON beside them could not be written; nothing is written to find out.

    Args:
        path: File of the time tags.
        force: Whether existing files are replaced.
        others: Further files that the same command writes.
    """
    place = f"{OPTION} {path}"
    if path.suffix not in SUFFIXES:
        yield Mistake(place, f"must end in one of {' '.join(SUFFIXES)}")
        yield from unusable_file(OPTION, path, force)
        return
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            yield Mistake(place, 'needs pyarrow: pip install "photonmc[tags]"')
    found = {mistake.message: mistake for mistake in unusable_file(OPTION, path, force)}
    yield from found.values()
    beside = sidecar_of(path)
    for mistake in unusable_file(OPTION, beside, force):
        if mistake.message not in found or os.path.lexists(path):  # what is wrong with their folder is said once
            yield mistake
    plain = [name for name in others if "\0" not in str(name)]
    if "\0" not in str(path) and os.path.realpath(beside) in map(os.path.realpath, plain):
        yield Mistake(place, f"the JSON beside it, {beside}, is another file that is asked for")


class TagFile:
    """A file of time tags and the JSON beside it. Both take their names in `close`; left without it, nothing stays.

    Example:
        with TagFile(Path("run.parquet"), Clock(1e9, -500.0, 500.0), seed=1, version="0.1.0") as tags:
            for clicks in batches:
                tags.write(clicks)
            tags.close(sent)  # after Ctrl-C as well: the file then holds what came so far
    """

    def __init__(self, path: Path, clock: Clock, seed: int, version: str, force: bool = False) -> None:
        """Open the file under a temporary name.

        Args:
            path: Where to, .parquet or .ptu.
            clock: Pulse rate and bounds of the jitter.
            seed: Of the run.
            version: Of this program.
            force: Whether existing files are replaced.

        Raises:
            ConfigError: If the file or the JSON beside it cannot be written.
        """
        if mistakes := list(unusable_tags(path, force)):
            raise ConfigError(mistakes)
        self._path, self._clock = path, clock
        self._facts = {"offset_ps": clock.offset_ps, "seed": seed, "version": version}
        notes = {name: str(value) for name, value in self._facts.items()} | {
            "pulse_rate_hz": repr(float(clock.pulse_rate_hz)),
            "resolution_ps": "1",
            "time_ps": "offset_ps + round(pulse / pulse_rate_hz * 1e12 + jitter)",
            "channels": "detector + 2 * basis; basis 0 = Z, 1 = X",
            "intensity": "index, strongest first",
        }
        self._pending: list[dict[str, np.ndarray]] = []
        self._held: dict[str, np.ndarray] = {name: np.empty(0, kind) for name, kind in COLUMNS.items()}
        self._waiting = self._next_gate = 0
        self._open = True
        with uninterrupted():
            self._temporary = temporary_beside(path)
            try:
                self._sink: ParquetFile | PtuFile
                if path.suffix == ".parquet":
                    self._sink = ParquetFile(self._temporary, notes)
                else:
                    comment = "; ".join(f"{name} = {value}" for name, value in notes.items() if name != "intensity")
                    self._sink = PtuFile(self._temporary, clock.pulse_rate_hz, version, comment)
            except BaseException:
                self._temporary.unlink(missing_ok=True)
                raise

    def write(self, clicks: Clicks, until: int | None = None) -> None:
        """Take the clicks of the next gates.

        Args:
            clicks: The clicks. They are copied.
            until: Gate below which all have now been sampled; by default the one after the last click.

        Raises:
            ConfigError: For a time that does not fit into 64 bits.
            ValueError: For a gate below an earlier `until`, or a jitter beyond its bounds: the order would break.
        """
        with uninterrupted():
            clicks = _ordered(clicks)
            pulse, jitter_ps = clicks.pulse, clicks.jitter_ps
            if pulse.size:
                first, last = int(pulse[0]), int(pulse[-1])
                if last > self._clock.last_gate:
                    raise ConfigError(self._clock.too_long(last + 1))
                if first < self._next_gate or (until is not None and last >= until):
                    raise ValueError(f"gates {first} to {last} come out of order")
                if not (jitter_ps.min() >= self._clock.low_ps and jitter_ps.max() <= self._clock.high_ps):
                    raise ValueError("jitter leaves its bounds")
            for start in range(0, pulse.size, BATCH):
                self._release_when_many()
                self._take(Clicks(*(column[start : start + BATCH] for column in clicks)))
            if pulse.size or until is not None:
                self._next_gate = max(self._next_gate, last + 1 if until is None else until)
            self._release_when_many()

    def close(self, sent: Sequence[dict[str, Any]]) -> None:
        """Complete both files and give them their names; further calls do nothing.

        Args:
            sent: Rows of what was sent: basis, intensity, sent.
        """
        if not self._open:
            return
        with uninterrupted():
            beside = sidecar_of(self._path)
            sidecar = None
            try:
                self._release(None)
                self._sink.close(self._clock.offset_ps + int(self._next_gate * self._clock.period_ps))
                sidecar = temporary_beside(beside)
                facts = {"sent": list(sent), **self._facts}
                sidecar.write_text(json.dumps(facts, allow_nan=False) + "\n", encoding="utf-8")
                publish(sidecar, beside)
                publish(self._temporary, self._path)
                self._open = False
            finally:
                if sidecar is not None:
                    sidecar.unlink(missing_ok=True)
                self.discard()

    def discard(self) -> None:
        """Remove what is not complete."""
        if self._open:
            self._open = False
            self._sink.abandon()
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> TagFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _take(self, clicks: Clicks) -> None:
        """Put the next clicks to those that wait; more of their last gate may follow."""
        columns = {"time_ps": self._clock.times(clicks.pulse, clicks.jitter_ps)}
        for name in self._sink.columns[1:]:
            columns[name] = np.array(getattr(clicks, name), dtype=COLUMNS[name])
        self._pending.append(columns)
        self._waiting += clicks.pulse.size
        self._next_gate = int(clicks.pulse[-1])

    def _release_when_many(self) -> None:
        if self._waiting >= max(BATCH, self._held["time_ps"].size):
            self._release(self._clock.earliest(self._next_gate))

    def _release(self, before_ps: int | None) -> None:
        """Hand on all clicks before a time, sorted by time, gate and detector; without one, all."""
        pieces = [self._held, *self._pending]
        rows = {name: np.concatenate([piece[name] for piece in pieces]) for name in self._sink.columns}
        self._pending, self._waiting = [], 0
        time_ps = rows["time_ps"]
        if (time_ps[1:] < time_ps[:-1]).any():
            order = np.argsort(time_ps, kind="stable")  # rows stand in order of gate and detector where times agree
            rows = {name: column[order] for name, column in rows.items()}
        size = time_ps.size if before_ps is None else int(np.searchsorted(rows["time_ps"], before_ps))
        self._held = {name: column[size:].copy() for name, column in rows.items()}
        if size:
            self._sink.write({name: column[:size] for name, column in rows.items()})


def _ordered(clicks: Clicks) -> Clicks:
    """Clicks in order of gate and detector."""
    columns = [np.asarray(column) for column in clicks]
    columns[0], columns[-1] = columns[0].astype(np.int64, copy=False), columns[-1].astype(np.float64, copy=False)
    pulse, detector = columns[:2]
    step = np.diff(pulse)
    if (step < 0).any() or ((step == 0) & (detector[1:] < detector[:-1])).any():
        order = np.lexsort((detector, pulse))
        columns = [column[order] for column in columns]
    return Clicks(*columns)
