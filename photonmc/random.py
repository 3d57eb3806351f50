"""Named random streams and exact draws.

Every stream is a function of seed, point, chunk and its own name alone, so that results do not depend on how the work
is cut or where it runs. The draws avoid the stock generators where those are not exact: `jax.random.bernoulli` lives
on a 2^-23 grid in float32 (15 times too many events at 1e-8), and binomials of NumPy and jax fail a chi-square test
at 1e15 trials, which is why every binomial is drawn in pieces of at most 1e13 trials.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Key, UInt

MAX_TRIALS = 10**13
"""Largest number of trials of one binomial draw [count]."""


def fold_name(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """Key of the stream of that name below a key, by a hash that never changes."""
    return jax.random.fold_in(key, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))


def point_key(seed: int, point: int) -> Key[Array, ""]:
    """Key of one point of a scan; call it with x64 on, which keeps all 64 bits of the seed."""
    return jax.random.fold_in(jax.random.key(seed), point)


def host_generator(key: Key[Array, ""]) -> np.random.Generator:
    """NumPy generator (Philox, counter based) of one stream."""
    high, low = (int(word) for word in np.asarray(jax.random.key_data(key)).ravel())
    return np.random.Generator(np.random.Philox(key=(high << 32) | low))


def uniform_integers(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt[Array, ...]:
    """Uniform integers below 2^63, to be compared with thresholds p 2^63; needs x64."""
    return jax.random.bits(key, shape, jnp.uint64) >> jnp.uint64(1)


def thresholds(probability: jax.typing.ArrayLike) -> UInt[Array, ...]:
    """Integers p 2^63, exact to 2^-63 (1e-7 relative at p = 1e-12)."""
    return (jnp.asarray(probability, jnp.float64) * 2.0**63).astype(jnp.uint64)


def happens(key: Key[Array, ""], probability: jax.typing.ArrayLike, shape: tuple[int, ...]) -> Bool[Array, ...]:
    """Independent events of a probability, by comparing integers; needs x64."""
    return uniform_integers(key, shape) < thresholds(probability)


def binomial(rng: np.random.Generator, trials: np.ndarray, probability: float | np.ndarray) -> np.ndarray:
    """Exact binomial draws for up to 2^63 - 1 trials each, int64, in pieces of at most 1e13 trials.

    Args:
        rng: Host generator.
        trials: Numbers of trials [count], int64.
        probability: Success probability, one for all or one each (last axes of `trials`), at most 1/2 where it must be exact
            relative to its own size.
    """
    trials = np.asarray(trials, dtype=np.int64)
    if trials.max(initial=0) <= MAX_TRIALS:
        return rng.binomial(trials, probability)
    whole, rest = np.divmod(trials, MAX_TRIALS)
    total = np.asarray(rng.binomial(rest, probability))
    chances = np.broadcast_to(probability, trials.shape)
    for index in np.ndindex(trials.shape):
        if whole[index]:
            total[index] += rng.binomial(MAX_TRIALS, chances[index], size=whole[index]).sum()
    return total


def multinomial(rng: np.random.Generator, trials: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Exact multinomial draws by conditional binomials, rarest category first.

    The order keeps every conditional probability at most 1/2 (but for the last, which takes what is left), and the
    remainders are summed from the small end, so that a category of probability 1e-12 keeps its relative precision
    beside one of probability 1.

    Args:
        rng: Host generator.
        trials: Numbers of trials [count], shape (draw,).
        probabilities: Of the categories; need only be proportional to them.

    Returns:
        Counts, shape (draw, category), int64; every row sums to its number of trials.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    trials = np.array(trials, dtype=np.int64)
    order = np.argsort(probabilities, kind="stable")
    counts = np.zeros((trials.size, probabilities.size), dtype=np.int64)
    # what is left is the sum of all larger categories and the category itself: no subtraction from 1
    remaining = np.cumsum(probabilities[order][::-1])[::-1]
    for position, category in enumerate(order[:-1]):
        if probabilities[category] > 0.0:
            counts[:, category] = binomial(rng, trials, min(1.0, probabilities[category] / remaining[position]))
            trials = trials - counts[:, category]
    counts[:, order[-1]] = trials
    return counts


def trials_until(rng: np.random.Generator, successes: int, probability: float, draws: int) -> np.ndarray:
    """Exact number of Bernoulli trials up to and including the n-th success (negative binomial plus n), int64.

    Peels off blocks of trials that are too short to hold all missing successes (they hold them with probability below
    1e-300, 40 standard deviations) and counts the successes in each by an exact binomial; the last few thousand
    successes are geometric gaps. Cost is logarithmic in n, so that n = 1e13 takes about as long as n = 1e5.

    Args:
        rng: Host generator.
        successes: Number n of successes to wait for [count].
        probability: Success probability, above 0.
        draws: Number of independent draws.
    """
    missing = np.full(draws, successes, dtype=np.int64)
    trials = np.zeros(draws, dtype=np.int64)
    while np.any(long := missing >= 6000):
        left = missing[long].astype(np.float64)
        block = np.floor((left - 40.0 * np.sqrt(left) - 800.0) / probability).astype(np.int64)
        # with p > 1/2 count the failures instead, which are the rarer ones
        hits = binomial(rng, block, probability) if probability <= 0.5 else block - binomial(rng, block, 1.0 - probability)
        missing[long] -= hits
        trials[long] += block
    for index in range(draws):
        trials[index] += rng.geometric(probability, size=missing[index]).sum()
    return trials
