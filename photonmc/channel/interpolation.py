"""Cubic interpolation on uniform grids: Lagrange's polynomial through the four nearest values, differentiable."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


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


def bicubic(row: Any, column: Any, values: Any) -> Any:
    """The same on a grid of two dimensions."""
    first, weights = _neighbors(row, values.shape[0])
    left, across = _neighbors(column, values.shape[1])
    return sum(
        weight * other * values[first + shift, left + aside]
        for shift, weight in enumerate(weights)
        for aside, other in enumerate(across)
    )
