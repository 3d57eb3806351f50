"""Bessel functions J0 and J1 of real arguments, differentiable, to 1e-10: jax has none that hold at large arguments."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

CROSSING, SERIES_TERMS, ASYMPTOTIC_TERMS = 12.0, 36, 12
"""Argument at which the power series gives way to the asymptotic one, and terms of both."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def bessel_j(order: int, x: Any) -> Float[Array, ...]:
    """J_n(x) of order 0 or 1.

    References:
        Abramowitz, Stegun, Handbook of Mathematical Functions (1964), Eqs. 9.1.10 and 9.2.5 with 9.2.9, 9.2.10; slopes:
        Eqs. 9.1.27, 9.1.28.
    """
    x = jnp.asarray(x)
    size = jnp.abs(x)
    near = jnp.minimum(size, CROSSING)
    total = (0.5 * near) ** order * _polynomial(_series(order), near * near)
    far = jnp.maximum(size, CROSSING)
    even, odd = _asymptotic(order)
    angle = far - (0.5 * order + 0.25) * math.pi
    inverse = 1.0 / (far * far)
    wave = _polynomial(even, inverse) * jnp.cos(angle) - _polynomial(odd, inverse) / far * jnp.sin(angle)
    found = jnp.where(size < CROSSING, total, jnp.sqrt(2.0 / (math.pi * far)) * wave)
    return jnp.where(x < 0.0, -found, found) if order else found


@bessel_j.defjvp
def _slope(order: int, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    (x,), (direction,) = primals, tangents
    found, other = bessel_j(order, x), bessel_j(1 - order, x)
    if order == 0:
        return found, -other * direction
    return found, (other - jnp.where(x == 0.0, 0.5, found / jnp.where(x == 0.0, 1.0, x))) * direction


def _series(order: int) -> list[float]:
    """Coefficients of the powers of x^2 in J_n(x) / (x / 2)^n."""
    return [(-0.25) ** k / (math.factorial(k) * math.factorial(k + order)) for k in range(SERIES_TERMS)]


def _asymptotic(order: int) -> tuple[list[float], list[float]]:
    """Coefficients of the powers of 1 / x^2 in P, and in Q x."""
    products, coefficient = [1.0], 1.0
    for k in range(1, 2 * ASYMPTOTIC_TERMS):
        coefficient *= (4.0 * order**2 - (2 * k - 1) ** 2) / (8.0 * k)
        products.append(coefficient)
    signs = [(-1.0) ** (k // 2) for k in range(len(products))]
    signed = [sign * value for sign, value in zip(signs, products, strict=True)]
    return signed[0::2], signed[1::2]


def _polynomial(coefficients: list[float], x: Any) -> Any:
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def airy(x: Any) -> Float[Array, ...]:
    """2 J1(x) / x, which is 1 at 0."""
    x = jnp.abs(jnp.asarray(x))
    small = x < 1e-6
    return jnp.where(small, 1.0, 2.0 * bessel_j(1, jnp.where(small, 1.0, x)) / jnp.where(small, 1.0, x))
