"""Random numbers that belong to places, such as gates: a function of key and place, in whatever order they are asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.words import philox4x32

if TYPE_CHECKING:
    from jaxtyping import Array, Float, UInt32

ROUNDS = 7
"""Rounds; 7 are the fewest that pass BigCrush, 10 the authors' standard variant."""


def words_at(place: Any, stream: Any, key: UInt32[Array, " 2"]) -> tuple[Any, Any, Any, Any]:
    """Four words that belong to a place (an integer below 2^63) and a stream (a small integer) under a key."""
    place = place.astype(jnp.uint64)
    low, high = place.astype(jnp.uint32), (place >> np.uint64(32)).astype(jnp.uint32)
    stream = jnp.asarray(stream, jnp.uint32)
    return philox4x32((low, high, stream, jnp.zeros_like(stream)), (key[0], key[1]), ROUNDS)


def joined(high: Any, low: Any) -> Any:
    """A word of 64 bits from two of 32."""
    return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)


def exponential(word: Any) -> Float[Array, ...]:
    """Exponential number of mean 1 from the top 52 bits of a word of 64: -ln(1 - k 2^-52)."""
    return minus_log(2.0 - _bits_as_float((word >> np.uint64(12)) | np.uint64(_ONE)))


def minus_log(x: Any) -> Float[Array, ...]:
    """-ln x of normal numbers in (0, 1], relative error 4e-16.

    The logarithm is written out, because the library's is not vectorized beside integer arithmetic and is slower: with
    x = 2^e m, m in [sqrt(1/2), sqrt(2)), it is e ln 2 + 2 artanh((m - 1) / (m + 1)).
    """
    shifted = jax.lax.bitcast_convert_type(x, jnp.uint64) + np.uint64(_ONE - _ROOT_HALF)
    exponent = _bits_as_float((shifted >> np.uint64(52)) | np.uint64(_TWO_52)) - (2.0**52 + 1023.0)
    mantissa = _bits_as_float((shifted & np.uint64((1 << 52) - 1)) + np.uint64(_ROOT_HALF))
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = jnp.full_like(s, 1.0 / 21.0)
    for odd in range(19, 1, -2):
        series = series * (s * s) + 1.0 / odd
    return jnp.abs(exponent * math.log(2.0) + 2.0 * (s + s * (s * s) * series))


_ONE, _ROOT_HALF, _TWO_52 = 0x3FF0000000000000, 0x3FE6A09E667F3BCD, 0x4330000000000000
"""Bits of the floats 1, sqrt(1/2) and 2^52."""


def _bits_as_float(bits: Any) -> Any:
    return jax.lax.bitcast_convert_type(bits, jnp.float64)
