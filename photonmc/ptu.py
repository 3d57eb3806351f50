"""Time tags as a time tagger sees them: PicoQuant's unified file, T2 mode, records of the kind HydraHarp2T2 at 1 ps.

A record of 32 bits holds 25 bits of time and 6 bits of channel; a special record says how often the time wrapped
around since the record before. Its count may have 25 bits, but `ptufile` multiplies it by 2^25 in 32 bits and loses
128 wraps (4.3 ms) and more (seen in 2026.2.6). So no record here counts more than 127, a longer silence takes several
(939 bytes a second), and `ptufile`, `tttrlib`, `phconvert` and `trattoria` read the same times, in 64 bits. A program
that turns them into float64 loses single picoseconds after 2.5 hours (2^53 ps).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

TIME_BITS = 25
MOST_WRAPS = 127
"""Largest number of wraps that one record counts here."""
PIECE = 2**20
"""Records that count wraps which are made at once."""
WRAPS = np.uint32(0xFE000000)
"""Special bit and channel 63: the record counts wraps of the time."""
CREATED = 25569.0
"""Date in the header [days since 1899-12-30]: 1970-01-01, so that equal runs give equal files."""
HYDRAHARP2_T2 = 0x01010204
"""Kind of records; of those with 25 bits of time the one that every reader knows."""


def records(time_ps: np.ndarray, channel: np.ndarray, wraps: int = 0) -> np.ndarray:
    """T2 records of clicks.

    Args:
        time_ps: Times [ps], int64, sorted.
        channel: Channels, 0 to 62.
        wraps: Wraps of the time before the first click that records already written have counted.

    Returns:
        Records, uint32; after them, `time_ps[-1] >> 25` wraps have been counted.
    """
    wrapped = time_ps >> TIME_BITS
    words = (time_ps & (2**TIME_BITS - 1)).astype(np.uint32) | (channel.astype(np.uint32) << np.uint32(TIME_BITS))
    ahead = np.diff(wrapped, prepend=np.int64(wraps))
    late = np.flatnonzero(ahead)
    if not late.size:
        return words
    missing = ahead[late]
    needed = -(-missing // MOST_WRAPS)
    place = np.zeros(words.size, dtype=np.int64)
    place[late] = needed
    place = np.cumsum(place) + np.arange(words.size)
    out = np.full(place[-1] + 1, WRAPS | np.uint32(MOST_WRAPS))
    out[place] = words
    out[place[late] - 1] = WRAPS | (missing - (needed - 1) * MOST_WRAPS).astype(np.uint32)
    return out


def tag(name: str, value: bool | int | float | str | None) -> bytes:
    """One entry of the header."""
    start = struct.pack("<32si", name.encode("ascii"), -1)
    if value is None:
        return start + struct.pack("<Iq", 0xFFFF0008, 0)
    if isinstance(value, str):
        text = value.encode("ascii", "replace") + b"\0"
        text += bytes(-len(text) % 8)
        return start + struct.pack("<Iq", 0x4001FFFF, len(text)) + text
    if isinstance(value, float):
        return start + struct.pack("<Id", 0x21000008 if name == "File_CreatingTime" else 0x20000008, value)
    return start + struct.pack("<Iq", 0x00000008 if isinstance(value, bool) else 0x10000008, value)


class PtuFile:
    """A PTU file that is written piece by piece; numbers known at the end are put into the header then."""

    columns = ("time_ps", "detector", "basis")
    """What it takes of a click; the channel is detector + 2 basis."""

    def __init__(self, path: Path, pulse_rate_hz: float, version: str, comment: str) -> None:
        """Open the file.

        Args:
            path: Where to.
            pulse_rate_hz: Pulse rate [Hz].
            version: Version of this program.
            comment: What a reader should know.
        """
        self._tags: dict[str, int | float | str | None] = {
            "File_GUID": "{00000000-0000-0000-0000-000000000000}",
            "File_Comment": comment,
            "File_CreatingTime": CREATED,
            "CreatorSW_Name": "photonmc",
            "CreatorSW_Version": version,
            "Measurement_Mode": 2,
            "Measurement_SubMode": 0,
            "HW_Type": "photonmc",
            "HW_InpChannels": 4,
            "TTResultFormat_TTTRRecType": HYDRAHARP2_T2,
            "TTResultFormat_BitsPerRecord": 32,
            "MeasDesc_BinningFactor": 1,
            "MeasDesc_Offset": 0,
            "MeasDesc_AcquisitionTime": 0,
            "MeasDesc_Resolution": 1e-12,
            "MeasDesc_GlobalResolution": 1e-12,
            "TTResult_SyncRate": round(pulse_rate_hz),
            "TTResult_NumberOfRecords": 0,
        }
        self._records = self._wraps = 0
        self._file = path.open("wb")
        self._write_header()

    def write(self, rows: dict[str, np.ndarray]) -> None:
        """Write further clicks, sorted by time."""
        time_ps, channel = rows["time_ps"], rows["detector"] + 2 * rows["basis"]
        start = 0
        while start < time_ps.size:  # memory stays bounded however long the silence between clicks
            reach = self._wraps + PIECE * MOST_WRAPS
            stop = start + int(np.searchsorted(time_ps[start:] >> TIME_BITS, reach, side="right"))
            if stop > start:
                words = records(time_ps[start:stop], channel[start:stop], self._wraps)
                self._wraps = int(time_ps[stop - 1]) >> TIME_BITS
            else:
                words = np.full(PIECE, WRAPS | np.uint32(MOST_WRAPS))
                self._wraps = reach
            self._file.write(words.astype("<u4", copy=False).data)
            self._records += words.size
            start = stop

    def close(self, duration_ps: int) -> None:
        """Put number of records and duration [ms, rounded up] into the header."""
        self._tags["MeasDesc_AcquisitionTime"] = math.ceil(duration_ps / 10**9)
        self._tags["TTResult_NumberOfRecords"] = self._records
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def abandon(self) -> None:
        """Let go of a file that is not wanted any more."""
        try:
            self._file.close()
        except OSError:  # what is buffered finds no room
            self._file.raw.close()

    def _write_header(self) -> None:
        entries = [tag(name, value) for name, value in self._tags.items()]
        self._file.write(b"".join([b"PQTTTR\0\0", b"1.0.00\0\0", *entries, tag("Header_End", None)]))
