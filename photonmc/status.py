"""Words that say what a result is worth: one bit each inside kernels, a list of words outside of them."""

from __future__ import annotations

WORDS = (
    "ok",
    "no_key_errors",
    "no_key_dark_counts",
    "no_key_block_size",
    "no_key_multiphoton",
    "outside_validity",
    "sampling_bound_unsafe",
    "partial",
)
"""The whole vocabulary. `ok` stands alone or beside a caution; exactly one of the `no_key_*` says why there is no key."""

BIT = {word: 1 << index for index, word in enumerate(WORDS)}
"""Bit of each word in a status mask."""

NO_KEY = tuple(word for word in WORDS if word.startswith("no_key_"))
"""Reasons why a key is of length 0."""


def words(mask: int) -> list[str]:
    """Words of a status mask, in the order of the vocabulary."""
    return [word for word in WORDS if int(mask) & BIT[word]]


def outside_of_validity(why: list[str]) -> str:
    """Sentence beside the word `outside_validity`."""
    return f"Outside of validity: {'; '.join(why)}."
