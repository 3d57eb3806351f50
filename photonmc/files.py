"""Files that appear whole or not at all: why one could not be written, and its way from a temporary name to its own."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from photonmc.errors import Mistake


def unusable_file(option: str, path: Path, force: bool) -> Iterator[Mistake]:
    """Why a file could not be written; nothing is written to find out.

    Args:
        option: Option that asks for the file, as it stands on the command line.
        path: The file.
        force: Whether an existing file is replaced.
    """
    place = f"{option} {path}"
    try:
        target = path.resolve()
        if not target.parent.is_dir():
            yield Mistake(place, f"its folder {path.parent} does not exist")
        elif target.is_dir():
            yield Mistake(place, "is a folder")
        elif (path.exists() or path.is_symlink()) and not force:
            yield Mistake(place, "exists; --force replaces it")
        elif target.exists() and not target.is_file():
            yield Mistake(place, "is no regular file")
        elif target.exists() and not os.access(target, os.W_OK):
            yield Mistake(place, "cannot be written")
        else:
            with tempfile.TemporaryFile(dir=target.parent):
                pass  # the folder takes files
    except (OSError, ValueError, RuntimeError) as error:  # the last for links in a circle
        yield Mistake(place, f"cannot be written: {getattr(error, 'strerror', None) or error}")


def temporary_beside(path: Path) -> Path:
    """A new empty file under a hidden name in the same folder; a link is followed."""
    descriptor, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=".", suffix=path.suffix)
    os.close(descriptor)
    return Path(name)


def save_columns(columns: dict[str, np.ndarray], path: Path, formats: str) -> None:
    """Write columns under their names as a CSV, which appears whole or not at all."""
    temporary = temporary_beside(path)
    try:
        table = np.column_stack(list(columns.values()))
        np.savetxt(temporary, table, fmt=formats, delimiter=",", header=",".join(columns), comments="")
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a file that is complete its own name, with the permissions of any new file."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(path.resolve())


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until a step is whole, so that what is half written can always be completed."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield  # Ctrl-C never arrives here, or is not ours to put off
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
