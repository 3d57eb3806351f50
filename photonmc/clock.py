"""Times of gates in whole picoseconds, exact for any pulse rate and for runs of many days."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from photonmc.errors import Mistake

LATEST_PS = 2**63 - 1
"""Latest time that a signed integer of 64 bits holds [ps], 106.75 days."""
SPLIT = 32
"""A gate is cut at this bit, so that the fractional picoseconds of both parts are exact to 2^-20 ps in float64."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """Turns gates and jitter into times: offset + round(gate / pulse rate + jitter), ties to even.

    The period 1 / pulse rate is seldom a whole number of picoseconds, and its multiples leave the 53 bits of float64
    after two and a half hours. So it is kept as a fraction: whole picoseconds are multiplied as integers, and only what
    is left, below 2^33 ps, as float64.

    Attributes:
        pulse_rate_hz: Pulse rate [Hz].
        low_ps: Lower bound of the jitter [ps].
        high_ps: Upper bound of the jitter [ps].
    """

    pulse_rate_hz: float
    low_ps: float = 0.0
    high_ps: float = 0.0

    @functools.cached_property
    def period_ps(self) -> Fraction:
        """Pulse period [ps], exact."""
        return 10**12 / Fraction(self.pulse_rate_hz)

    @functools.cached_property
    def offset_ps(self) -> int:
        """Time of gate 0 without jitter [ps]: the smallest with which no time is negative."""
        return max(0, math.ceil(-self.low_ps))

    @functools.cached_property
    def last_gate(self) -> int:
        """Latest gate whose time fits into 64 bits, whatever its jitter; -1 if there is none."""
        room = LATEST_PS - self.offset_ps - max(0, math.ceil(self.high_ps))
        return max(-1, min(math.floor(room / self.period_ps), LATEST_PS))

    def too_long(self, pulses: float) -> Iterator[Mistake]:
        """Why the times of so many pulses cannot be told, if so."""
        if pulses - 1 > self.last_gate:
            seconds = math.floor((self.last_gate + 1) * self.period_ps) / 1e12
            yield Mistake(
                "--time-tags",
                f"{pulses:.6g} pulses at {self.pulse_rate_hz:g} Hz are too many: picoseconds in 64 bits reach "
                f"{seconds:.6g} s ({seconds / 86400:.4g} days)",
            )

    def times(self, pulse: np.ndarray, jitter_ps: np.ndarray) -> np.ndarray:
        """Times of clicks.

        Args:
            pulse: Gates, int64, from 0 to `last_gate`.
            jitter_ps: Their jitter [ps], float64, within the bounds.

        Returns:
            Times [ps], int64; before they are rounded their error is below 1e-5 ps.
        """
        low = pulse & (2**SPLIT - 1)
        whole_period, part = divmod(self.period_ps, 1)
        whole = low * whole_period
        rest = low * float(part) + jitter_ps
        if self.last_gate >> SPLIT:
            high = pulse >> SPLIT
            whole_block, part = divmod(self.period_ps * 2**SPLIT, 1)
            whole += high * whole_block
            rest += high * float(part)
        odd = whole & 1  # rounding the rest alone to even is right after an even number
        whole -= odd
        rest += odd
        return whole + np.rint(rest).astype(np.int64) + self.offset_ps

    def earliest(self, gate: int) -> int:
        """Time before which no click of this gate or a later one can come [ps]."""
        return min(self.offset_ps + math.floor(gate * self.period_ps + Fraction(self.low_ps)), LATEST_PS)
