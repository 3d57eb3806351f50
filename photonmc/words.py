"""Random words by number: what the pulses sampler compares its probabilities with.

A generator is a function of a stream, a pulse and the number of a group of words, and keeps no state. Any word can
therefore be drawn where it is compared, never stored, and drawn a second time where a pulse is followed once more. The
stream is that of a realization; words of a pulse depend on it, on the chunk of the pulse and on its position alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import record

if TYPE_CHECKING:
    from jaxtyping import Array, Key, UInt

GENERATORS = ("philox4x32", "threefry")
"""Names of the generators, the usual one first."""
ROUNDS = 10
"""Rounds of Philox; 7 pass all published batteries, 10 are the authors' choice with a margin of safety."""
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


class FourWords(NamedTuple):
    """One group of words of every pulse, uint32 each."""

    first: Any
    second: Any
    third: Any
    fourth: Any


class Words(Protocol):
    """Random words of one chunk of pulses."""

    def __call__(self, group: Any, position: UInt[Array, " pulse"]) -> FourWords:
        """Words of a group (a number below 2^32) of the pulses at these positions of the chunk."""
        ...


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any], rounds: int = ROUNDS) -> FourWords:
    """Philox4x32, a bijection of four counter words under a key of two words.

    Each round multiplies two of the words to 64 bits, whose halves change places and are mixed with the others. Words
    travel in 64-bit lanes whose upper halves hold leftovers, because that is how vector units multiply; needs x64.

    References:
        Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", Proc. SC11, 16 (2011).
    """
    a, b, c, d = (jnp.asarray(word).astype(jnp.uint64) for word in counter)
    key_0, key_1 = (jnp.asarray(word, jnp.uint32) for word in key)
    for _ in range(rounds):
        product_a = np.uint64(MULTIPLIERS[0]) * a.astype(jnp.uint32).astype(jnp.uint64)
        product_c = np.uint64(MULTIPLIERS[1]) * c.astype(jnp.uint32).astype(jnp.uint64)
        a, b = (product_c >> np.uint64(32)) ^ b ^ key_0.astype(jnp.uint64), product_c
        c, d = (product_a >> np.uint64(32)) ^ d ^ key_1.astype(jnp.uint64), product_a
        key_0, key_1 = key_0 + np.uint32(WEYL[0]), key_1 + np.uint32(WEYL[1])
    return FourWords(*(word.astype(jnp.uint32) for word in (a, b, c, d)))


@record
class PhiloxWords:
    """Words of Philox4x32-10; the counter is (position, group, index of the chunk), the key that of the realization."""

    key: Any
    """Two words."""
    chunk: Any
    """Index of the chunk in the realization, two words, the lower one first."""

    def __call__(self, group: Any, position: UInt[Array, " pulse"]) -> FourWords:
        """Words of a group of the pulses at these positions."""
        return philox4x32((position, group, self.chunk[0], self.chunk[1]), (self.key[0], self.key[1]))


@record
class ThreefryWords:
    """Words of the stock generator of jax, a key for each pulse and group: slow, and a check of the other."""

    key: Any
    """Key of the chunk."""

    def __call__(self, group: Any, position: UInt[Array, " pulse"]) -> FourWords:
        """Words of a group of the pulses at these positions."""
        group_key = jax.random.fold_in(self.key, group)
        words = jax.vmap(lambda pulse: jax.random.bits(jax.random.fold_in(group_key, pulse), (4,), jnp.uint32))(position)
        return FourWords(*(words[:, word] for word in range(4)))


def words_of_chunk(generator: str, stream: Key[Array, ""], chunk: int) -> Any:
    """Words of one chunk of the realization that a stream belongs to."""
    halves = np.array([chunk & 0xFFFFFFFF, chunk >> 32], dtype=np.uint32)
    if generator == "philox4x32":
        return PhiloxWords(np.asarray(jax.random.key_data(stream)).ravel()[-2:], halves)
    for half in halves:
        stream = jax.random.fold_in(stream, half)
    return ThreefryWords(stream)
