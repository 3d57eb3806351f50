"""Tables of hundreds of thousands of states from a few dozen: Chebyshev interpolation in the state of the channel.

Probabilities of a gate are smooth in transmittance, background and misalignment (exponentials times polynomials), so
that a handful of states within their range fixes the table of every other one to rounding, at a hundredth of the cost.

Error. Tables p and p' of n independent pulses give counts within a total-variation distance of
sqrt(n sum_j (p_j - p'_j)^2 / max(p_j, p'_j)), because the squared Hellinger distance of one pulse is at most half that
sum and adds up over pulses. It is measured at a few hundred of the states, the extreme ones included, not proven in between.

References:
    Trefethen, Approximation Theory and Approximation Practice (SIAM, 2013): convergence at a geometric rate, chapter 8.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import chebder, chebvander

BATCH = 256
"""States whose tables are asked for at one time, always as many, so that a compiled function has one shape."""
CHECKS = 250
"""States, evenly along the trajectory, at which the error is measured, besides the extremes of each quantity."""
MOST_NODES = 2048
"""Nodes above which every state is evaluated on its own."""


MOST_OF_ONE = 64
"""Nodes of one quantity above which the same holds."""
ALONE = 200_000
"""Products of numbers in a matrix product that a library of linear algebra leaves to one thread."""


class Interpolated(NamedTuple):
    """Tables as a function of the state.

    Attributes:
        tables: Function from states, shape (state, quantity), to their tables, shape (state, place).
        error: Total-variation distance between counts by these tables and by the true ones; 0 where they are the same.
    """

    tables: Callable[[np.ndarray], np.ndarray]
    error: float


@dataclasses.dataclass(frozen=True)
class Series:
    """Chebyshev series in the quantities that vary, on their range; called with states it returns their tables.

    Attributes:
        varying: Those quantities.
        low: Their smallest values.
        width: Their ranges.
        nodes: Number of terms in each.
        coefficients: Shape (term, place).
    """

    varying: np.ndarray
    low: np.ndarray
    width: np.ndarray
    nodes: np.ndarray
    coefficients: np.ndarray

    def terms(self, states: np.ndarray) -> np.ndarray:
        """Values of the terms, shape (state, term); the first is 1."""
        return _basis(2.0 * (states[:, self.varying] - self.low) / self.width - 1.0, self.nodes)

    def expansion(self, values: np.ndarray, order: int) -> list[np.ndarray]:
        """Taylor coefficients of the tables at values of the one quantity that varies, each of shape (value, place).

        They are those in the quantity as a part of its range, so that none overflows where that is narrow.
        """
        at = 2.0 * (values - self.low[0]) / self.width[0] - 1.0
        coefficients, found = self.coefficients, []
        for k in range(order + 1):
            found.append(_product(chebvander(at, coefficients.shape[0] - 1), coefficients))
            coefficients = chebder(coefficients, axis=0) * (2.0 / (k + 1))
        return found

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Tables of states, shape (state, place)."""
        return np.maximum(self.terms(states) @ self.coefficients, 0.0)


def _product(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Matrix product in pieces so small that no library starts threads for them, which would cost more than the product."""
    step = max(1, ALONE // columns.size)
    return np.concatenate([rows[start : start + step] @ columns for start in range(0, max(1, rows.shape[0]), step)])


def interpolate(
    tables_of: Callable[[np.ndarray], np.ndarray], lengths: np.ndarray, states: np.ndarray, tolerance: float = 1e-7
) -> Interpolated:
    """Tables within the range of some states by interpolation between few; by evaluation where that is not accurate.

    Args:
        tables_of: Function from `BATCH` states, shape (BATCH, quantity), to their tables, shape (BATCH, place).
        lengths: Pulses of each block, shape (block,).
        states: State of each block, shape (block, quantity).
        tolerance: Total-variation distance of the counts that is accepted; 0 evaluates every state.
    """
    states = np.asarray(states, dtype=np.float64, order="F")  # quantity by quantity
    exact = Interpolated(functools.partial(_evaluate, tables_of), 0.0)
    varying = np.flatnonzero(np.ptp(states, axis=0)) if states.size else np.arange(0)
    if tolerance <= 0.0 or states.shape[0] <= MOST_NODES or not varying.size:
        return exact
    along = np.linspace(0, states.shape[0] - 1, CHECKS).astype(np.int64)
    extremes = (states[:, varying].argmin(axis=0), states[:, varying].argmax(axis=0))
    checks = states[np.concatenate([along, *extremes])]
    truth = _evaluate(tables_of, checks)
    pulses = float(np.sum(lengths, dtype=np.float64))

    def error(series: Series) -> float:
        found = series(checks)
        largest = np.maximum(found, truth)
        squares = np.divide((found - truth) ** 2, largest, out=np.zeros_like(truth), where=largest > 0.0)
        return float(np.sqrt(pulses * squares.sum(axis=1).max()))

    options = [np.full(varying.size, 3)]
    while options:
        tried = [_fit(tables_of, states, varying, nodes) for nodes in options]
        errors = [error(series) for series in tried]
        best = tried[int(np.argmin(errors))]
        if min(errors) <= tolerance:
            return Interpolated(best, min(errors))
        finer = [best.nodes + step for step in np.eye(varying.size, dtype=np.int64)]
        options = [nodes for nodes in finer if nodes.prod() <= MOST_NODES and nodes.max() <= MOST_OF_ONE]
    return exact


def _fit(
    tables_of: Callable[[np.ndarray], np.ndarray], states: np.ndarray, varying: np.ndarray, nodes: np.ndarray
) -> Series:
    """Series through the tables at the Chebyshev nodes of the range of some states."""
    low, width = states[:, varying].min(axis=0), np.ptp(states[:, varying], axis=0)
    each = [np.cos((np.arange(n) + 0.5) * np.pi / n) for n in nodes]
    points = np.stack(np.meshgrid(*each, indexing="ij"), axis=-1).reshape(-1, nodes.size)
    at = np.tile(states[0], (points.shape[0], 1))
    at[:, varying] = low + 0.5 * (points + 1.0) * width
    norms = np.meshgrid(*(np.where(np.arange(n) == 0, 1.0, 2.0) / n for n in nodes), indexing="ij")
    scale = np.prod(norms, axis=0).reshape(-1, 1)
    return Series(varying, low, width, nodes, scale * (_basis(points, nodes).T @ _evaluate(tables_of, at)))


def _basis(points: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Products of Chebyshev polynomials at points in [-1, 1], shape (point, product of nodes)."""
    product = np.ones((points.shape[0], 1))
    for quantity, count in enumerate(nodes):
        factor = chebvander(points[:, quantity], count - 1)
        product = (product[:, :, None] * factor[:, None, :]).reshape(points.shape[0], -1)
    return product


def _evaluate(tables_of: Callable[[np.ndarray], np.ndarray], states: np.ndarray) -> np.ndarray:
    """Tables of any number of states, in batches of one size; the last is filled up with its own last state."""
    batches = []
    for start in range(0, states.shape[0], BATCH):
        batch = states[start : start + BATCH]
        filled = np.concatenate([batch, np.repeat(batch[-1:], BATCH - batch.shape[0], axis=0)])
        batches.append(np.asarray(tables_of(filled))[: batch.shape[0]])
    return np.concatenate(batches) if batches else np.asarray(tables_of(np.ones((BATCH, states.shape[1]))))[:0]
