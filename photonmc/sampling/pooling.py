"""Counts over a channel that changes from block to block: pool blocks of nearly equal state, within a bound on the error.

Given the trajectory, pulses are independent and pulse i ends in place j with probability p_ij. Pooling replaces p_ij by
its mean q_j over the n pulses of a bin, so that one multinomial draw serves the whole bin. Expectations stay exact; the
law of the counts changes, and by no more than follows.

Bound. Let C be the counts over places of one bin, Q their multinomial law after pooling, and
theta = (1/n) sum_i sum_j (p_ij - q_j)^2 / q_j, the chi-square distance of a pulse from the mean one. With
u_i(j) = p_ij / q_j - 1 the likelihood ratio of all n places is the product of 1 + u_i(place of pulse i). Its mean given
the counts is a sum over m of U-statistics f_m, orthogonal in L2(Q), with |f_m|^2 = |E_m|^2 / binomial(n, m), where E_m is
the m-th elementary symmetric function of u_1 ... u_n in the symmetric tensors. E_1 = sum u_i = 0 because q is the mean.
E_2 = -sum (u_i x u_i) / 2, hence |E_2| <= n theta / 2. For larger m, m! |E_m|^2 is the mean over a complex Gaussian
vector h of |e_m(<u_i, h>)|^2; since |1 + w|^2 <= exp(2 Re w + |w|^2) and sum <u_i, h> = 0, Cauchy's estimate gives
|e_m|^2 <= (e S / m)^m with S = sum |<u_i, h>|^2, and the mean of S^m is at most m! (n theta)^m. So |f_m|^2 <= (e theta)^m,

    chi-square(C, Q) <= x = theta^2 n / (2 (n - 1)) + (e theta)^3 / (1 - e theta)        for e theta < 1,

jointly for all places. Bins are independent, so that 1 + chi-square multiplies over them, and by Cauchy and Schwarz

    total variation <= sqrt(prod_bins (1 + x) - 1) / 2,         near 0.35 theta for a single bin.

It holds for the counts of all bins side by side, hence for any sum or other function of them, the key length included.

References:
    Roos, Theory Probab. Appl. 45, 258 (2001): the same expansion and order for the binomial; 46, 103 (2002): multinomial.
    Ehm, Stat. Probab. Lett. 11, 7 (1991): a binomial is that near to a sum of unequal Bernoulli variables, and no nearer
    than theta / 124 where its variance is above 1, so that the order in theta cannot be improved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from photonmc.random import binomial

CHUNK = 2048
"""Blocks whose tables are in work at one time; they fit into a processor's cache."""
DEPTH = 12
"""Halvings of the range of states, over all quantities, that make the first fine grid: 4096 cells at most."""
DEEPEST = 36
"""Halvings after which states are no longer told apart by the grid."""
WIDTH = 1 << 17
"""Draws times blocks that are drawn together."""


class Pooled(NamedTuple):
    """Bins of blocks.

    Attributes:
        tables: Probability of each place in each bin, shape (bin, place).
        lengths: Pulses of each bin, shape (bin,), int64.
        bound: Bound on the total-variation distance between the counts drawn from the bins and from the blocks.
    """

    tables: np.ndarray
    lengths: np.ndarray
    bound: float


def draw_blocks(rng: np.random.Generator, tables: np.ndarray, lengths: np.ndarray, draws: int) -> np.ndarray:
    """Sum over blocks of exact multinomial counts, one block after another by conditional binomials.

    All blocks take the places in one order, rarest on average first. A conditional probability is formed from the part
    and the sum of what comes later, never by subtraction, and the smaller of the two is what is drawn: each place keeps
    its relative precision in each block, whatever the order.

    Args:
        rng: Host generator.
        tables: Probability of each place in each block, shape (block, place); rows sum to 1.
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


def pooling_bound(lengths: np.ndarray, means: np.ndarray, spreads: np.ndarray) -> float:
    """Bound on the total-variation distance that pooling makes, by the argument at the head of this module.

    Args:
        lengths: Pulses n of each bin, shape (bin,).
        means: Mean probabilities q over the pulses of each bin, shape (bin, place); rows sum to 1.
        spreads: Sums over those pulses of (p - q)^2, shape (bin, place).

    Returns:
        The bound, at most 1; it is 0 exactly where no bin has any spread.
    """
    pulses = np.asarray(lengths, dtype=np.float64)
    theta = _chi_squares(means, spreads) / pulses
    if theta.size and np.e * theta.max() >= 1.0:
        return 1.0
    squares = theta**2 * pulses / (2.0 * np.maximum(pulses - 1.0, 1.0)) + (np.e * theta) ** 3 / (1.0 - np.e * theta)
    log_ratio = np.log1p(squares).sum()
    return float(min(1.0, 0.5 * np.sqrt(np.expm1(log_ratio)))) if log_ratio < 2.0 else 1.0


def _chi_squares(means: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """Chi-square distances from the mean, summed over the pulses of each bin, shape (bin,)."""
    return np.divide(spreads, means, out=np.zeros_like(means), where=means > 0.0).sum(axis=1)


def _merge(
    lengths: np.ndarray, means: np.ndarray, spreads: np.ndarray | float, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, means and spreads of runs of neighbours; by differences from the first of each run, then from the mean."""
    total = np.add.reduceat(lengths, starts)
    weights = lengths.astype(np.float64)[:, None]
    run = np.repeat(np.arange(starts.size), np.diff(np.append(starts, lengths.size)))
    first = means[starts]
    difference = means - first[run]
    shift = np.add.reduceat(difference * weights, starts, axis=0) / total[:, None]
    difference -= shift[run]
    difference *= difference
    difference *= weights
    difference += spreads
    return total, first + shift, np.add.reduceat(difference, starts, axis=0)


def _runs(labels: np.ndarray) -> np.ndarray:
    """First index of each run of equal labels, shape (run,); labels of shape (n,) or (n, column)."""
    labels = labels.reshape(labels.shape[0], -1)
    changes = np.ones(labels.shape[0], dtype=bool)
    changes[1:] = (labels[1:] != labels[:-1]).any(axis=1)
    return np.flatnonzero(changes)


def pool(
    tables: np.ndarray | Callable[[np.ndarray], np.ndarray], lengths: np.ndarray, states: np.ndarray, target: float = 1e-5
) -> Pooled:
    """Pool blocks into as few bins as keep the bound on the error below a target.

    Bins are cells of a grid that is even in the square roots of the state (which makes the loss of a bin,
    (p - q)^2 / q, even too); its steps are halved, in the quantity where that helps most, until the bound is met, at
    last until each state is a bin of its own.
    The tables are read once, into the moments of a fine grid, from which everything coarser follows; once more for each
    finer grid where that does not do.

    Args:
        tables: Probability of each place in each block, shape (block, place), rows summing to 1; or a function that
            returns these rows for an array of block indices, which spares the memory.
        lengths: Pulses of each block, shape (block,), int64.
        states: What the tables depend on, such as transmittance and background, not negative; shape (block,) or
            (block, quantity). Blocks with equal rows must have equal tables.
        target: Largest total-variation distance that is accepted; 0 merges blocks of equal state alone.

    Returns:
        The bins. Their bound is at most `target` and 0 where each holds a single state.
    """
    rows = tables.__getitem__ if isinstance(tables, np.ndarray) else tables
    lengths = np.asarray(lengths, dtype=np.int64)
    blocks = np.flatnonzero(lengths > 0)
    states = np.asarray(states, dtype=np.float64).reshape(lengths.size, -1)[blocks]
    states = states[:, (states != states[:1]).any(axis=0)]
    order = np.lexsort(states.T[::-1]) if states.size else np.arange(blocks.size)
    starts = _runs(states[order]) if states.size else np.arange(min(blocks.size, 1))
    blocks, states = blocks[order][starts], states[order][starts]
    lengths = np.add.reduceat(lengths[lengths > 0][order], starts) if starts.size else lengths[:0]
    if target <= 0.0 or blocks.size <= 1:
        return Pooled(np.asarray(rows(blocks)), lengths, 0.0)
    roots = np.sqrt(states)
    roots = (roots - roots.min(axis=0)) / np.ptp(roots, axis=0)
    quantities = states.shape[1]
    for depth in range(DEPTH // quantities, DEEPEST // quantities + 1, 2 if quantities == 1 else 1):
        grid = np.minimum((roots * 2.0**depth).astype(np.int64), 2**depth - 1)
        if depth > DEPTH // quantities and np.unique(grid, axis=0).shape[0] > blocks.size // 2:
            break
        pieces = _moments(rows, blocks, lengths, grid)
        options = [np.full(quantities, depth)]  # halvings of each quantity that are still to come
        while options:
            tried = [(steps, _coarsen(*pieces, steps)) for steps in options]
            steps, bins = min(tried, key=lambda option: _loss(*option[1]))
            bound = pooling_bound(*bins)
            if bound <= target:
                return Pooled(bins[1], bins[0], bound)
            options = [steps - unit for unit in np.eye(quantities, dtype=np.int64)[steps > 0]]
    return Pooled(np.asarray(rows(blocks)), lengths, 0.0)


def _moments(
    rows: Callable[[np.ndarray], np.ndarray], blocks: np.ndarray, lengths: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cells of a grid in pieces: cell, pulses, mean table, spread about it; each state's table is read once."""
    order = np.lexsort(grid.T[::-1])
    pieces = []
    for start in range(0, blocks.size, CHUNK):
        chunk = order[start : start + CHUNK]
        starts = _runs(grid[chunk])
        pieces.append((grid[chunk][starts], *_merge(lengths[chunk], np.asarray(rows(blocks[chunk])), 0.0, starts)))
    cells, total, means, spreads = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return cells, total, means, spreads


def _coarsen(
    cells: np.ndarray, lengths: np.ndarray, means: np.ndarray, spreads: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, means and spreads of the bins of a grid whose steps are 2^steps times those of the fine one."""
    coarse = cells >> steps
    order = np.lexsort(coarse.T[::-1])
    return _merge(lengths[order], means[order], spreads[order], _runs(coarse[order]))


def _loss(lengths: np.ndarray, means: np.ndarray, spreads: np.ndarray) -> tuple[float, float]:
    """What is to be made small: the bound, and where it is 1 the chi-square distance."""
    return pooling_bound(lengths, means, spreads), float(_chi_squares(means, spreads).sum())
