"""Registered clicks of a run, and the number that says of a gate what the tally has to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from photonmc.contracts import NO_CLICK

if TYPE_CHECKING:
    from photonmc.link import Link

HIDDEN = 4
"""Hidden classes: 0, 1, 2, 3 and more photons."""
CLICK_0, CLICK_1, KEPT, LIGHT = 1, 2, 4, 8
"""Bits of a gate: registered click of detector 0, of 1; the round counts; light or noise would fire live detectors."""
DOUBLE = CLICK_0 | CLICK_1
CODES = 2 * LIGHT
"""Codes of one cell and hidden class: bits but for LIGHT, and the coin of a double click as the lowest one."""


class Record(NamedTuple):
    """Gates of a run in their order; arrays of one entry a gate.

    Attributes:
        pulse: Index of the gate.
        bits: CLICK_0, CLICK_1, KEPT.
        code: (cell x hidden classes + hidden class) x CODES + 2 bits + coin.
    """

    pulse: np.ndarray
    bits: np.ndarray
    code: np.ndarray

    @property
    def cell(self) -> np.ndarray:
        """Settings of the pulse."""
        return self.code // (CODES * HIDDEN)

    @property
    def coin(self) -> np.ndarray:
        """Random bit of a double click."""
        return self.code % 2

    def first(self, count: int) -> Record:
        """Its first gates."""
        return Record(*(array[:count] for array in self))

    def with_more(self, pulse: np.ndarray, bits: np.ndarray, code: np.ndarray) -> Record:
        """The same with further gates, in the order of gates."""
        joint = tuple(map(np.concatenate, zip(self, (pulse, bits, code), strict=True)))
        order = np.argsort(joint[0], kind="stable")
        return Record(*(array[order] for array in joint))

    def registered(self) -> Record:
        """Gates with a registered click."""
        clicked = self.bits & DOUBLE > 0
        return Record(*(array[clicked] for array in self))


class Sifting:
    """From codes to the tally (basis, intensity, hidden, result) and the registered clicks.

    Attributes:
        detected_z: Whether each code is a sifted detection in basis Z, shape (code,).
    """

    def __init__(self, link: Link, protocol: Any) -> None:
        labels = protocol.tally_labels(link)
        self._rows = 3 * len(link.source.intensities)  # places of basis Z, before those of X
        code = np.arange(len(labels) * HIDDEN * CODES)
        settings, bits, coin = code // CODES, code // 2 % LIGHT, code % 2
        clicked = np.where(bits & KEPT, bits & DOUBLE, 0)
        outcome = np.where(clicked == DOUBLE, DOUBLE + coin, clicked)
        label = labels[settings // HIDDEN, outcome]
        self._place = np.where(label >= 0, label * HIDDEN + np.where(outcome > 0, settings % HIDDEN, 0), -1)
        self._clicks = np.stack([bits & CLICK_0 > 0, bits & CLICK_1 > 0])
        self._silent = labels[:, 0]
        self.detected_z = (label >= 0) & (label < self._rows) & (label % 3 != NO_CLICK)

    @property
    def size(self) -> int:
        """Number of codes."""
        return len(self._place)

    def sums(self, histogram: np.ndarray, silent: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tally, shape (1, basis, intensity, hidden, result), and clicks of each detector, shape (1, 2).

        Args:
            histogram: Number of gates of each code.
            silent: Number of further gates without click in each cell.
        """
        tally = np.zeros(2 * self._rows * HIDDEN, np.int64)
        np.add.at(tally, self._place[self._place >= 0], histogram[self._place >= 0])
        if silent is not None:
            np.add.at(tally, self._silent[self._silent >= 0] * HIDDEN, silent[self._silent >= 0])
        shaped = tally.reshape(2, self._rows // 3, 3, HIDDEN)
        return np.swapaxes(shaped, -1, -2)[None], (self._clicks @ histogram)[None]
