"""Marks of a study: values that are scanned, and settings that are optimized."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a scan; several paths move along it together where they share a `zip` name.

    Attributes:
        name: The zip name, or the path of the only field.
        paths: Dotted paths of the scanned fields.
        values: One array of values per path, of numbers or words, all of one length.
    """

    name: str
    paths: tuple[str, ...]
    values: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.values[0])

    def at(self, index: int) -> dict[str, Any]:
        """Values by path at one place of the axis, as Python numbers and words."""
        return {path: values[index].item() for path, values in zip(self.paths, self.values, strict=True)}

    def _key(self) -> tuple[Any, ...]:
        return self.name, self.paths, tuple((values.dtype.str, values.tobytes()) for values in self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Axis) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.name, self.paths, len(self)))


@dataclasses.dataclass(frozen=True)
class Free:
    """One optimized setting: its path, its bounds, and where the search starts (None: the middle of the bounds)."""

    path: str
    low: float
    high: float
    start: float | None = None

    def first(self) -> float:
        """Where the search starts."""
        return 0.5 * (self.low + self.high) if self.start is None else self.start
