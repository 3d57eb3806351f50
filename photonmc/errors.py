"""Exceptions that photonmc raises: one tree, so that one `except PhotonmcError` catches all of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class PhotonmcError(Exception):
    """Root of all exceptions raised by photonmc."""


class PrecisionError(PhotonmcError):
    """Float64 arithmetic was needed while the caller's x64 mode was off."""


class Mistake(NamedTuple):
    """One mistake in an input: where it stands, and the rule that it breaks together with the value."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(PhotonmcError, ValueError):
    """The input is not usable. Carries every mistake that was found, not only the first.

    Attributes:
        mistakes: All `Mistake`s, without repetition, in the order in which they were found.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes: list[Mistake] = list(dict.fromkeys(mistakes))
        super().__init__("\n".join(map(str, self.mistakes)))


def suggestion(word: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)', or nothing where no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""
