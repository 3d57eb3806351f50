"""Interpolation, differentiable: on uniform grids, and few nodes of a quadrature in place of many."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial.chebyshev import chebvander


def _neighbors(place: Any, count: int) -> tuple[Any, tuple[Any, Any, Any, Any]]:
    """First of the four nearest grid points of each place, and the weights of all four."""
    left = jnp.clip(jnp.floor(place).astype(jnp.int32), 1, count - 3)
    t = place - left
    weights = (
        -t * (t - 1.0) * (t - 2.0) / 6.0,
        (t + 1.0) * (t - 1.0) * (t - 2.0) / 2.0,
        -(t + 1.0) * t * (t - 2.0) / 2.0,
        (t + 1.0) * t * (t - 1.0) / 6.0,
    )
    return left - 1, weights


def cubic(place: Any, values: Any) -> Any:
    """Values between those of a grid of at least four points; places are counted in grid points from 0."""
    first, weights = _neighbors(place, values.shape[0])
    return sum(weight * values[first + shift] for shift, weight in enumerate(weights))


def linear_by_cubic(row: Any, column: Any, values: Any) -> Any:
    """Values of a table, linear between its rows and cubic along them."""
    above = jnp.clip(row.astype(jnp.int32), 0, values.shape[0] - 2)
    left, weights = _neighbors(column, values.shape[1])
    share, flat, place = row - above, values.ravel(), above * values.shape[1] + left
    upper, lower = (sum(w * flat[place + (shift + k)] for k, w in enumerate(weights)) for shift in (0, values.shape[1]))
    return upper + share * (lower - upper)


def condensed(values: Any, weights: Any, count: int) -> tuple[Any, Any]:
    """Few nodes for many: sums over them are the same for polynomials of a degree below their number.

    They are the Chebyshev points of the range of the values; an entire function of them is as good as a polynomial
    (Trefethen, Approximation Theory and Approximation Practice (SIAM, 2013), theorem 8.2). Weights may come out negative.
    """
    low, high = values.min(), values.max()
    width = jnp.maximum(high - low, 1e-30)
    x = jnp.clip(2.0 * (values - low) / width - 1.0, -1.0, 1.0)

    def moment(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Any]:
        this, following = carry
        return (following, 2.0 * x * following - this), (weights * this).sum()

    _, moments = jax.lax.scan(moment, (jnp.ones_like(x), x), None, length=count)  # of Chebyshev polynomials
    nodes = np.cos((np.arange(count) + 0.5) * np.pi / count)
    fit = chebvander(nodes, count - 1) * np.where(np.arange(count) == 0, 1.0, 2.0) / count
    return low + 0.5 * (nodes + 1.0) * width, fit @ moments
