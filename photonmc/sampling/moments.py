"""Means and spreads of tables over groups of blocks, well-conditioned and in one pass over hundreds of thousands of them.

Spreads are sums of squared differences from the mean, never differences of squares; those of a union follow from those
of its parts, so that a fine grid yields all coarser ones (Chan, Golub, LeVeque, Am. Stat. 37, 242 (1983)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from photonmc.sampling.interpolation import Series

CHUNK = 2048
"""Blocks whose tables are in work at one time; they fit into a processor's cache."""
MOST_TERMS = 48
"""Terms of a series above which its tables are read instead of its terms."""
FINE = 1000
"""Cells of a grid of one quantity from which on tables are taken as cubic within a cell: off by 1e-12 of themselves."""
Tables: TypeAlias = np.ndarray | Callable[[np.ndarray], np.ndarray]
"""Tables of blocks, shape (block, place), or a function from states, shape (state, quantity), to them."""


class Moments(NamedTuple):
    """Of groups of blocks.

    Attributes:
        lengths: Pulses, shape (group,), int64.
        means: Mean probability of each place over those pulses, shape (group, place).
        spreads: Sum over those pulses of the squared difference from it, shape (group, place).
    """

    lengths: np.ndarray
    means: np.ndarray
    spreads: np.ndarray


def moments(tables: Tables, lengths: np.ndarray, states: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, Moments]:
    """Moments over the cells of a grid.

    Args:
        tables: Of the blocks.
        lengths: Pulses of each block, above 0, shape (block,), int64.
        states: Shape (block, quantity).
        grid: Cell of each block, shape (block, index).

    Returns:
        Cells, shape (group, index), and the moments of each; a cell may come in several groups.
    """
    if isinstance(tables, Series) and tables.nodes.size == 1 and grid.max() >= FINE:
        return _moments_of_one(tables, lengths, states, grid)
    if isinstance(tables, Series) and tables.coefficients.shape[0] <= MOST_TERMS:
        return _moments_by_terms(tables, lengths, states, grid)
    return _moments_by_rows(tables, lengths, states, grid)


def coarsen(cells: np.ndarray, groups: Moments, steps: np.ndarray) -> Moments:
    """Moments over the occupied cells of a grid whose steps are 2^steps times those of the given one."""
    coarse = cells >> steps
    order = np.lexsort(coarse.T[::-1])
    return _merge(groups.lengths[order], groups.means[order], groups.spreads[order], _runs(coarse[order]))


def distinct(
    tables: Tables, lengths: np.ndarray, states: np.ndarray, varying: np.ndarray
) -> tuple[Tables, np.ndarray, np.ndarray]:
    """Blocks of equal state taken together: tables, lengths and states of the distinct ones, in the order of states."""
    order = np.lexsort(states[:, varying[::-1]].T) if varying.size else np.arange(lengths.size)
    starts = _runs(states[order][:, varying]) if varying.size else np.arange(min(lengths.size, 1))
    first = order[starts]
    total = np.add.reduceat(lengths[order], starts) if starts.size else lengths
    return tables[first] if isinstance(tables, np.ndarray) else tables, total, states[first]


def rows_of(tables: Tables, states: np.ndarray, index: Any) -> np.ndarray:
    """Tables of some blocks."""
    return tables[index] if isinstance(tables, np.ndarray) else np.asarray(tables(states[index]))


def _moments_by_rows(
    tables: Tables, lengths: np.ndarray, states: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, Moments]:
    """Moments from the tables themselves, each read once, in pieces of cells."""
    order = np.lexsort(grid.T[::-1])
    pieces = []
    for start in range(0, lengths.size, CHUNK):
        chunk = order[start : start + CHUNK]
        starts = _runs(grid[chunk])
        pieces.append((grid[chunk][starts], *_merge(lengths[chunk], rows_of(tables, states, chunk), 0.0, starts)))
    cells, *groups = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return cells, Moments(*groups)


def _moments_by_terms(
    series: Series, lengths: np.ndarray, states: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, Moments]:
    """Moments from mean and covariance of the terms of a series, of which there are few: p = sum_t c_t term_t."""
    first, cell = _number(np.ravel_multi_index(tuple(grid.T), tuple(grid.max(axis=0) + 1)))
    weights, size = lengths.astype(np.float64), first.size
    pulses = np.bincount(cell, weights)
    values = np.ascontiguousarray(series.terms(states).T)
    centres = np.ones((values.shape[0], size))
    for term in range(1, values.shape[0]):  # term 0 is 1
        start = values[term, first]
        values[term] -= start[cell]
        shift = np.bincount(cell, weights * values[term]) / pulses
        values[term] -= shift[cell]
        centres[term] = start + shift
    covariances: list[np.ndarray] = [np.zeros(size)]
    factors: list[np.ndarray] = [np.zeros(series.coefficients.shape[1])]
    for one in range(1, values.shape[0]):
        weighted = weights * values[one]
        for other in range(1, one + 1):
            covariances.append(np.bincount(cell, weights=weighted * values[other]))
            factors.append((1.0 if one == other else 2.0) * series.coefficients[one] * series.coefficients[other])
    spreads = np.maximum(np.stack(covariances, axis=1) @ np.stack(factors), 0.0)
    total = np.zeros(size, dtype=np.int64)
    np.add.at(total, cell, lengths)
    means = np.maximum(centres.T @ series.coefficients, 0.0)
    return grid[first], Moments(total, means, spreads)


def _moments_of_one(series: Series, lengths: np.ndarray, states: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, Moments]:
    """Moments where one quantity varies, from its own moments in each cell, as parts x of its range, which are small.

    With p = sum_k a_k x^k around the mean of the cell, the mean is a_0 + a_2 <x^2> + a_3 <x^3>, and the spread
    a_1^2 <x^2> + 2 a_1 a_2 <x^3> + (a_2^2 + 2 a_1 a_3) <x^4> - a_2^2 <x^2>^2. Moments around that mean come from those
    around one of the cell's own values, which is as near: no digits are lost, and a cell of one value has none but zeros.
    """
    quantity, code, names = states[:, series.varying[0]], np.ascontiguousarray(grid[:, 0]), None
    if code.max() >= code.size:
        names, code = np.unique(code, return_inverse=True)
    some = np.full(int(code.max()) + 1, np.nan)
    some[code] = quantity
    cells = np.flatnonzero(~np.isnan(some))
    x = some[code]
    np.subtract(quantity, x, out=x)
    x /= series.width[0]
    weighted = lengths.astype(np.float64)
    pulses = np.bincount(code, weighted)[cells]
    around = []
    for _ in range(4):
        weighted *= x
        around.append(np.bincount(code, weighted)[cells] / pulses)
    shift, second, third, fourth = around
    fourth += shift * (shift * (6.0 * second - 3.0 * shift**2) - 4.0 * third)
    third += shift * (2.0 * shift**2 - 3.0 * second)
    second -= shift**2
    a = series.expansion(some[cells] + shift * series.width[0], 3)
    second, third, fourth = (np.maximum(second, 0.0)[:, None], third[:, None], fourth[:, None])
    means = np.maximum(a[0] + a[2] * second + a[3] * third, 0.0)
    spreads = a[1] ** 2 * second + 2.0 * a[1] * a[2] * third + (a[2] ** 2 + 2.0 * a[1] * a[3]) * fourth
    spreads -= (a[2] * second) ** 2
    total = np.zeros(some.size, dtype=np.int64)
    np.add.at(total, code, lengths)
    return (cells if names is None else names[cells])[:, None], Moments(
        total[cells], means, np.maximum(spreads, 0.0) * pulses[:, None]
    )


def _merge(lengths: np.ndarray, means: np.ndarray, spreads: np.ndarray | float, starts: np.ndarray) -> Moments:
    """Moments of runs of neighbours, by differences from the first of each run and then from its mean."""
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
    return Moments(total, first + shift, np.add.reduceat(difference, starts, axis=0))


def _runs(labels: np.ndarray) -> np.ndarray:
    """First index of each run of equal labels, shape (run,); labels of shape (n,) or (n, column)."""
    labels = labels.reshape(labels.shape[0], -1)
    changes = np.ones(labels.shape[0], dtype=bool)
    changes[1:] = (labels[1:] != labels[:-1]).any(axis=1)
    return np.flatnonzero(changes)


def _number(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Occupied cells numbered by rising code: some block in each, and the number of each block's cell."""
    most = int(codes.max()) + 1
    if most > codes.size:
        _, first, cell = np.unique(codes, return_index=True, return_inverse=True)
        return first, cell
    some = np.full(most, -1)
    some[codes] = np.arange(codes.size)
    occupied = some >= 0
    return some[occupied], (np.cumsum(occupied) - 1)[codes]
