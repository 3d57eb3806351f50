"""Progress of long work on stderr, and how it is stopped: after the batch at hand, with what there is so far kept."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

FIRST_S, TERMINAL_S, LOG_S = 2.0, 0.5, 5.0
"""When the first line appears, and how often further ones do on a terminal and in a log [s]."""


class Progress:
    """Counts pulses that were sampled (or steps of a search), says how fast and how long still, and takes the wish to stop.

    Example:
        with Progress(1e12, sys.stderr).taking_interrupts() as progress:
            simulate(study, progress=progress)
    """

    def __init__(self, total: float | None = None, stream: Any = None, what: str = "pulses") -> None:
        """Start the clock.

        Args:
            total: Pulses of the whole work, None where that is not known.
            stream: Where lines go; None for no lines.
            what: Is counted.
        """
        self.total, self.done, self.stop_signal = total, 0.0, 0
        self._what = what
        self._stream = stream
        self._next = time.monotonic() + FIRST_S
        self._first: tuple[float, float] | None = None
        self._open_line = False

    @property
    def stopped(self) -> bool:
        """Whether a stop was asked for."""
        return self.stop_signal > 0

    def advance(self, pulses: float) -> bool:
        """Note that further pulses are done, none before a compilation; returns whether the work should stop here."""
        self.done += pulses
        now = time.monotonic()
        if self._first is None:
            if pulses > 0.0:  # what came before waited for a compilation, too, and tells no rate
                self._first = now, self.done
            elif self._stream is not None:
                print("photonmc: compiling", file=self._stream, flush=True)
        elif self._stream is not None and now >= self._next and not (self.total and self.done >= self.total):
            terminal = self._stream.isatty()
            self._next = now + (TERMINAL_S if terminal else LOG_S)
            self._stream.write(f"\r\x1b[K{self._line(now)}" if terminal else f"{self._line(now)}\n")
            self._stream.flush()
            self._open_line = terminal
        return self.stopped

    def close(self) -> None:
        """End the line."""
        if self._open_line:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open_line = False

    def _line(self, now: float) -> str:
        text = f"photonmc: {self.done:.3g} {self._what}"
        began, done = self._first or (now, self.done)
        rate = (self.done - done) / max(now - began, 1e-9)
        if self.total is None or self.total <= 0:
            return f"{text}, {rate:.3g} {self._what}/s"
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        share = min(1.0, self.done / self.total)
        speed = f"{rate:.3g} {self._what}/s"
        return f"{text} of {self.total:.3g} ({100 * share:.1f} %), {speed}, {_duration(left)} remaining"

    @contextlib.contextmanager
    def taking_interrupts(self) -> Iterator[Progress]:
        """Let the first Ctrl-C, SIGTERM or SIGHUP ask for a stop; the second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        names = ("SIGINT", "SIGTERM", "SIGHUP")
        before = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None)) is not None}
        before = {n: handler for n, handler in before.items() if n == signal.SIGINT or handler != signal.SIG_IGN}  # nohup

        def ask(number: int, _: Any) -> None:
            self.stop_signal = number
            for other, handler in before.items():
                signal.signal(other, signal.default_int_handler if other == signal.SIGINT else handler)
            print("\nphotonmc: stopping after this batch; Ctrl-C again stops at once", file=sys.stderr, flush=True)

        for number in before:
            signal.signal(number, ask)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.close()


def _duration(seconds: float) -> str:
    """A time as one would say it."""
    if not seconds < 1e9:
        return "a long time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
