"""Bessel functions J0 and J1 of real arguments, differentiable, to 1e-10: jax has none that hold at large arguments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

CROSSING, SERIES_TERMS, ASYMPTOTIC_TERMS = 12.0, 36, 12
"""Argument at which the power series gives way to the asymptotic one, and terms of both."""


def bessel_j(order: int, x: Any) -> Float[Array, ...]:
    """J_n(x) of order 0 or 1.

    References:
        Abramowitz, Stegun, Handbook of Mathematical Functions (1964), Eqs. 9.1.10 and 9.2.5 with 9.2.9, 9.2.10.
    """
    x = jnp.asarray(x)
    size = jnp.abs(x)
    near = jnp.minimum(size, CROSSING)
    term = jnp.ones_like(near) if order == 0 else 0.5 * near
    total = term
    for k in range(1, SERIES_TERMS):
        term = term * (-0.25 * near * near / (k * (k + order)))
        total = total + term
    far = jnp.maximum(size, CROSSING)
    even, odd, coefficient = jnp.ones_like(far), jnp.zeros_like(far), 1.0
    for k in range(1, ASYMPTOTIC_TERMS * 2):
        coefficient *= (4.0 * order**2 - (2 * k - 1) ** 2) / (8.0 * k)
        sign = (-1.0) ** (k // 2)
        if k % 2:
            odd = odd + sign * coefficient / far**k
        else:
            even = even + sign * coefficient / far**k
    angle = far - (0.5 * order + 0.25) * math.pi
    wave = jnp.sqrt(2.0 / (math.pi * far)) * (even * jnp.cos(angle) - odd * jnp.sin(angle))
    found = jnp.where(size < CROSSING, total, wave)
    return jnp.where(x < 0.0, -found, found) if order else found


def airy(x: Any) -> Float[Array, ...]:
    """2 J1(x) / x, which is 1 at 0."""
    x = jnp.abs(jnp.asarray(x))
    small = x < 1e-6
    return jnp.where(small, 1.0, 2.0 * bessel_j(1, jnp.where(small, 1.0, x)) / jnp.where(small, 1.0, x))
