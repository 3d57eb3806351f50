"""Exact counts over blocks of different probabilities, one block after another."""

from __future__ import annotations

import numpy as np

from photonmc.random import binomial

WIDTH = 1 << 17
"""Draws times blocks that are drawn together."""
CHUNK = 2048
"""Blocks whose tables are in work at one time; they fit into a processor's cache."""


def draw_blocks(rng: np.random.Generator, tables: np.ndarray, lengths: np.ndarray, draws: int) -> np.ndarray:
    """Sum over blocks of exact multinomial counts, one block after another by conditional binomials.

    All blocks take the places in one order, rarest on average first. A conditional probability is formed from the part
    and the sum of what comes later, never by subtraction, and the smaller of the two is what is drawn: each place keeps
    its relative precision in each block, whatever the order.

    Args:
        rng: Host generator.
        tables: Probability of each place in each block, shape (block, place); need only be proportional to it.
        lengths: Pulses of each block, shape (block,), int64.
        draws: Independent draws.

    Returns:
        Counts, shape (draws, place), int64.
    """
    counts = np.zeros((draws, tables.shape[1]), dtype=np.int64)
    order = np.argsort(lengths @ tables, kind="stable")
    step = max(1, min(CHUNK, WIDTH // max(draws, 1)))
    for start in range(0, lengths.size, step):
        parts = np.ascontiguousarray(tables[start : start + step, order].T)
        rest = np.cumsum(parts[:0:-1], axis=0)[::-1]  # of the places that come later
        part = parts[:-1]
        smaller, larger = np.minimum(part, rest), np.maximum(part, rest)
        shares = np.divide(smaller, larger + smaller, out=np.zeros_like(part), where=larger > 0.0)
        left = np.tile(np.asarray(lengths[start : start + step], dtype=np.int64), (draws, 1))
        for position in np.flatnonzero(part.any(axis=1)):
            drawn = binomial(rng, left, shares[position])
            others = part[position] > rest[position]  # it is the rest that was drawn
            if others.any():
                drawn = np.where(others, left - drawn, drawn)
            counts[:, order[position]] += drawn.sum(axis=1)
            left -= drawn
        counts[:, order[-1]] += left.sum(axis=1)
    return counts
