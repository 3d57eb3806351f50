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

from typing import NamedTuple

import numpy as np

from photonmc.sampling.interpolation import Series
from photonmc.sampling.moments import Moments, Tables, coarsen, distinct, moments, rows_of

DEPTH, DEPTH_OF_ONE = 12, 10
"""Halvings of the range of states, over all quantities and of one, that make the first fine grid: 4096 cells at most."""
DEEPEST = 36
"""Halvings after which states are no longer told apart by the grid."""


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


def pooling_bound(bins: Moments) -> float:
    """Bound on the total-variation distance that pooling makes, by the argument at the head of this module.

    Args:
        bins: Moments of the tables over each bin; places must be complete, so that means sum to 1.

    Returns:
        The bound, at most 1; it is 0 exactly where no bin has any spread.
    """
    pulses = bins.lengths.astype(np.float64)
    theta = _chi_squares(bins) / pulses
    if theta.size and np.e * theta.max() >= 1.0:
        return 1.0
    squares = theta**2 * pulses / (2.0 * np.maximum(pulses - 1.0, 1.0)) + (np.e * theta) ** 3 / (1.0 - np.e * theta)
    log_ratio = np.log1p(squares).sum()
    return float(min(1.0, 0.5 * np.sqrt(np.expm1(log_ratio)))) if log_ratio < 2.0 else 1.0


def _chi_squares(bins: Moments) -> np.ndarray:
    """Chi-square distances from the mean, n theta, summed over the pulses of each bin, shape (bin,)."""
    return np.divide(bins.spreads, bins.means, out=np.zeros_like(bins.means), where=bins.means > 0.0).sum(axis=1)


def _loss(bins: Moments) -> tuple[float, float]:
    """What is to be made small: the bound, and where it is 1 the chi-square distance."""
    return pooling_bound(bins), float(_chi_squares(bins).sum())


def pool(tables: Tables, lengths: np.ndarray, states: np.ndarray, target: float = 1e-5) -> Pooled:
    """Pool blocks into as few bins as keep the bound on the error below a target.

    Bins are cells of a grid that is even in the square roots of the state (which makes the loss of a bin,
    (p - q)^2 / q, even too); its steps are halved, in the quantity where that helps most, until the bound is met, at
    last until each state is a bin of its own. The tables are read once, into the moments of a fine grid, from which
    everything coarser follows; once more for each finer grid where that does not do.

    Args:
        tables: Probability of each place in each block, shape (block, place), rows summing to 1; or a function that
            returns such rows for an array of states, best of all a `photonmc.sampling.interpolation.Series`, of which
            only the few terms are summed over blocks.
        lengths: Pulses of each block, shape (block,), int64.
        states: What the tables depend on, such as transmittance and background, not negative; shape (block,) or
            (block, quantity). Blocks with equal rows must have equal tables.
        target: Largest total-variation distance that is accepted; 0 merges blocks of equal state alone.

    Returns:
        The bins. Their bound is at most `target` and 0 where each holds a single state.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    states = np.asarray(np.reshape(states, (lengths.size, -1)), dtype=np.float64, order="F")  # quantity by quantity
    if not lengths.all():
        tables = tables[lengths > 0] if isinstance(tables, np.ndarray) else tables
        states, lengths = states[lengths > 0], lengths[lengths > 0]
    varying = tables.varying if isinstance(tables, Series) else np.flatnonzero((states != states[:1]).any(axis=0))
    if not isinstance(tables, Series) or target <= 0.0 or not varying.size:
        tables, lengths, states = distinct(tables, lengths, states, varying)
    if target <= 0.0 or lengths.size <= 1:
        return Pooled(rows_of(tables, states, slice(None)), lengths, 0.0)
    roots = np.sqrt(states[:, varying])
    roots -= roots.min(axis=0)
    roots /= np.maximum(roots.max(axis=0), 1e-300)
    level = np.zeros(varying.size, dtype=np.int64)  # halvings of each quantity
    depth = np.full_like(level, min(DEPTH_OF_ONE, DEPTH // level.size))  # those of the fine grid
    bound = 1.0
    while depth.sum() <= DEEPEST:
        grid = np.minimum((roots * 2.0**depth).astype(np.int64), 2**depth - 1)
        cells, groups = moments(tables, lengths, states, grid)
        options, helps = [level], True
        while options and (helps or (level < depth).all()):
            tried = [(option, coarsen(cells, groups, depth - option)) for option in options]
            level, bins = min(tried, key=lambda one: _loss(one[1]))
            before, bound = bound, pooling_bound(bins)
            if bound <= target:
                return Pooled(bins.means, bins.lengths, bound)
            helps = bound < 0.8 * before or bound == 1.0
            options = [level + step for step in np.eye(level.size, dtype=np.int64)[level < depth]]
        if bins.lengths.size > lengths.size // 2:
            break
        depth = level + np.where(level == depth, 3, 1)
    tables, lengths, states = distinct(tables, lengths, states, varying)
    return Pooled(rows_of(tables, states, slice(None)), lengths, 0.0)
