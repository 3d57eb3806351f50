"""Time tags as Parquet: a row a click, with the truth of its pulse."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

COLUMNS: dict[str, type] = {
    "time_ps": np.int64,
    "detector": np.uint8,
    "basis": np.uint8,
    "bit": np.uint8,
    "kept": np.bool_,
    "pulse": np.int64,
    "alice_basis": np.uint8,
    "alice_bit": np.uint8,
    "intensity": np.uint8,
}
"""Columns of the table by name, in order."""
SORTED = ("time_ps", "pulse")
"""Columns whose values hardly come again but grow in small steps; the others hold a few bits a click."""
ROW_GROUP = 2**20
"""Rows of a row group, which are held in memory until they are written."""


class ParquetFile:
    """A Parquet file that is written piece by piece."""

    columns = tuple(COLUMNS)
    """What it takes of a click."""

    def __init__(self, path: Path, notes: Mapping[str, str]) -> None:
        """Open the file.

        Args:
            path: Where to.
            notes: Metadata of the file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = [pa.field(name, pa.from_numpy_dtype(kind), nullable=False) for name, kind in COLUMNS.items()]
        self._schema = pa.schema(fields, metadata=dict(notes))
        codec = "zstd" if pa.Codec.is_available("zstd") else "snappy"
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression={name: codec if name in SORTED else "none" for name in COLUMNS},
            use_dictionary=[name for name, kind in COLUMNS.items() if kind is np.uint8],
            column_encoding=dict.fromkeys(SORTED, "DELTA_BINARY_PACKED"),
            write_statistics=list(SORTED),
        )
        self._pieces: list[dict[str, np.ndarray]] = []
        self._rows = 0

    def write(self, rows: dict[str, np.ndarray]) -> None:
        """Take further rows; row groups go to the file when they are full."""
        self._pieces.append(rows)
        self._rows += rows["time_ps"].size
        if self._rows >= ROW_GROUP:
            self._flush(self._rows - self._rows % ROW_GROUP)

    def close(self, duration_ps: int) -> None:
        """Write the last rows and the footer."""
        if self._rows:
            self._flush(self._rows)
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that is not wanted any more."""
        with contextlib.suppress(OSError):
            self._writer.close()

    def _flush(self, rows: int) -> None:
        import pyarrow as pa

        columns = {name: np.concatenate([piece[name] for piece in self._pieces]) for name in COLUMNS}
        self._pieces = [{name: column[rows:].copy() for name, column in columns.items()}]
        self._rows -= rows
        table = pa.table([column[:rows] for column in columns.values()], schema=self._schema)
        self._writer.write_table(table, row_group_size=ROW_GROUP)
