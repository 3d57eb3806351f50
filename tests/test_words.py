"""Random words: published vectors, and a battery of statistical tests that is shown to catch bad generators.

False-alarm rate 1e-6 for each test. On 2^22 words a test finds, among others: a byte, or pair of bytes of neighbouring
words, that is 1 % (20 %) too frequent; a bit that is 0.24 % off 1/2 or that repeats that often in the next word or lane;
lattices (birthday spacings, collisions), linear dependence over GF(2) (ranks of matrices), and dependence of the number
of ones in neighbouring words. The streams are cut in all directions in which the sampler uses them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from photonmc.random import point_key
from photonmc.words import GENERATORS, philox4x32, words_of_chunk

ALARM = 1e-6
WORDS = 1 << 22

VECTORS = """
7 00000000 00000000 00000000 00000000 00000000 00000000 5f6fb709 0d893f64 4f121f81 4f730a48
7 ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 5207ddc2 45165e59 4d8ee751 8c52f662
7 243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 4dfccaba 190a87f0 c47362ba b6b5242a
10 00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
10 ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
10 243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
"""
"""Rounds, counter, key, result: file tests/kat_vectors of Random123 (Salmon et al., D. E. Shaw Research)."""


@pytest.mark.parametrize("line", VECTORS.strip().splitlines())
def test_published_vectors(line):
    rounds, *numbers = line.split()
    counter, key, result = np.split(np.array([int(number, 16) for number in numbers], np.uint32), [4, 6])
    with jax.enable_x64(True):
        one = philox4x32(tuple(counter), tuple(key), int(rounds))
        many = jax.jit(lambda c: philox4x32(tuple(c), tuple(key), int(rounds)))(np.repeat(counter[:, None], 37, axis=1))
    assert [int(word) for word in one] == result.tolist()
    np.testing.assert_array_equal(np.stack(many), np.repeat(result[:, None], 37, axis=1))


@pytest.mark.parametrize("generator", GENERATORS)
def test_words_depend_on_their_names_alone(generator):
    """Any pulse, in any order and company, has the same words; another group, chunk, realization or seed has others."""
    with jax.enable_x64(True):
        key = point_key(5, 0)
        words = words_of_chunk(generator, key, 3)
        places = np.array([77, 0, 2**20 - 1, 5], np.uint32)
        drawn = np.stack(words(9, places))
        for index, place in enumerate(places):
            np.testing.assert_array_equal(np.stack(words(9, place[None]))[:, 0], drawn[:, index])
        others = [
            words_of_chunk(generator, key, 3)(10, places),
            words_of_chunk(generator, key, 4)(9, places),
            words_of_chunk(generator, key, 3 + (1 << 32))(9, places),
            words_of_chunk(generator, jax.random.fold_in(key, 1), 3)(9, places),
            words_of_chunk(generator, point_key(6, 0), 3)(9, places),
            words_of_chunk(generator, point_key(5 + 2**32, 0), 3)(9, places),
        ]
        flat = np.concatenate([drawn.ravel(), *(np.stack(other).ravel() for other in others)])
        assert np.unique(flat).size == flat.size


def two_sided(z: np.ndarray) -> float:
    """Smallest p-value of independent normal numbers, times their number."""
    z = np.abs(np.ravel(z))
    return float(min(1.0, 2.0 * stats.norm.sf(z.max()) * z.size))


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(2 * min(stats.chi2.sf(statistic, observed.size - 1), stats.chi2.cdf(statistic, observed.size - 1)))


def rank_counts(matrices: np.ndarray) -> np.ndarray:
    """Numbers of 32 x 32 matrices over GF(2) of rank 32, 31, and less; rows are words."""
    rows = matrices.copy()
    index, rank = np.arange(len(rows)), np.zeros(len(rows), int)
    for bit in range(32):
        has = (rows >> np.uint32(bit)) & np.uint32(1) == 1
        has &= np.arange(32) >= rank[:, None]
        pivot = np.where(has.any(axis=1), has.argmax(axis=1), -1)
        ok = pivot >= 0
        i, r, p = index[ok], rank[ok], pivot[ok]
        rows[i, r], rows[i, p] = rows[i, p], rows[i, r].copy()
        clear = has[ok]
        clear[np.arange(len(i)), p] = False
        moved = (rows[i] >> np.uint32(bit)) & np.uint32(1) == 1
        moved &= np.arange(32) > r[:, None]
        rows[i] ^= np.where(moved, rows[i, r][:, None], np.uint32(0))
        rank[ok] += 1
    return np.array([(rank == 32).sum(), (rank == 31).sum(), (rank < 31).sum()])


def battery(words: np.ndarray) -> dict[str, float]:
    """P-values of all tests on a stream of words, in the order in which they are drawn."""
    n = words.size
    p: dict[str, float] = {}
    for byte in range(4):
        p[f"byte {byte}"] = chi_square(np.bincount((words >> np.uint32(8 * byte)) & 255, minlength=256), n / 256)
    bits = np.unpackbits(words.view(np.uint8)).reshape(n, 32)
    p["ones"] = two_sided((bits.sum(axis=0, dtype=np.int64) - n / 2) / np.sqrt(n / 4))
    weight = bits.sum(axis=1)
    weight_class = np.digitize(weight, (14, 16, 17, 19))
    shares = np.diff([0.0, *stats.binom.cdf((13, 15, 16, 18), 32, 0.5), 1.0])
    for lag in (1, 2, 4, 64):
        changed = (bits[lag:] ^ bits[:-lag]).sum(axis=0, dtype=np.int64)
        p[f"repeated bits, lag {lag}"] = two_sided((changed - (n - lag) / 2) / np.sqrt((n - lag) / 4))
        for place in (0, 24):
            byte = (words >> np.uint32(place)) & np.uint32(255)
            pairs = np.bincount(byte[lag:] * 256 + byte[:-lag], minlength=1 << 16)
            p[f"pairs of bits {place} ..., lag {lag}"] = chi_square(pairs, (n - lag) / 65536)
        joint = np.bincount(weight_class[lag:] * 5 + weight_class[:-lag], minlength=25)
        p[f"weights, lag {lag}"] = chi_square(joint, ((n - lag) * np.outer(shares, shares)).ravel())
    gaps = np.diff(np.flatnonzero(words < 1 << 28))
    law = stats.geom(1 / 16)
    observed = np.bincount(np.minimum(gaps, 120), minlength=121)[1:]
    p["gaps"] = chi_square(observed, gaps.size * np.append(law.pmf(np.arange(1, 120)), law.sf(119)))
    descents = np.count_nonzero(words[1:] < words[:-1])  # each ends a run up
    p["runs"] = two_sided((descents - (n - 1) / 2) / np.sqrt((n + 1) / 12))
    spacings = np.sort(np.diff(np.sort(words.reshape(-1, 4096), axis=1), axis=1), axis=1)
    equal = int((np.diff(spacings, axis=1) == 0).sum())
    mean = 4096**3 / 2**34 * (n // 4096)
    p["birthday spacings"] = two_sided((equal - mean) / np.sqrt(mean))
    for place in (0, 8):
        balls = ((words >> np.uint32(place)) & np.uint32(0xFFFFFF)).reshape(-1, 1 << 18)
        collisions = sum((1 << 18) - np.unique(urn).size for urn in balls)
        k, m = 2.0**24, 2.0**18
        mean = m - k * -np.expm1(m * np.log1p(-1 / k))
        p[f"collisions of bits {place} ..."] = two_sided((collisions - mean * len(balls)) / np.sqrt(mean * len(balls)))
    full = np.prod(1 - 0.5 ** np.arange(1.0, 33))
    ranks = np.array([full, 2 * full, 1 - 3 * full])  # 32, 31 and less
    p["ranks"] = chi_square(rank_counts(words.reshape(-1, 32)), n / 32 * ranks)
    return p


def drawn(order: str, rounds: int = 10) -> np.ndarray:
    """Words cut as the sampler uses them: pulse after pulse, group after group, chunk after chunk; or key after key."""
    count = np.arange(WORDS // 4, dtype=np.uint32)
    seven = np.uint32(7)
    names = {
        "positions": ((count, 0, seven, 0), (1, 2)),
        "groups": ((seven, count, 3, 0), (1, 2)),
        "chunks": ((seven, 0, count, 0), (1, 2)),
        "keys": ((seven, 0, 3, 0), (count, 2)),
        "positions of few groups": ((count >> 3, count & 7, 3, 0), (1, 2)),
    }
    with jax.enable_x64(True):
        words = jax.jit(lambda: philox4x32(*names[order], rounds))()
    words = np.stack([np.broadcast_to(word, count.shape) for word in words], axis=1)
    return np.ascontiguousarray(words).ravel()


ORDERS = ("positions", "groups", "chunks", "keys", "positions of few groups")


@pytest.mark.nightly
@pytest.mark.parametrize("order", ORDERS)
def test_battery(order):
    bad = {name: p for name, p in battery(drawn(order)).items() if p < ALARM}
    assert not bad, bad


@pytest.mark.slow
def test_battery_of_the_realized_streams():
    """Same place in neighbouring realizations of neighbouring points, keys as the sampler derives them."""
    with jax.enable_x64(True):

        def words(number):
            key = jax.random.fold_in(point_key(3, number >> 10), number & 1023)
            return jnp.stack(philox4x32((0, 0, 0, 0), tuple(jax.random.key_data(key))))

        stream = jax.jit(jax.vmap(words))(np.arange(WORDS // 4))
    bad = {name: p for name, p in battery(np.asarray(stream).ravel()).items() if p < ALARM}
    assert not bad, bad


def lcg(multiplier: int, increment: int, bits: int) -> np.ndarray:
    """Words of a linear congruential generator modulo 2^bits, upper bits first."""
    modulus, state, jump = 1 << bits, np.zeros(1, dtype=np.uint64) + np.uint64(1), (multiplier, increment)
    while state.size < WORDS:  # doubles the sequence: x -> a x + c, taken size times at once
        state = np.concatenate([state, (state * np.uint64(jump[0]) + np.uint64(jump[1])) % np.uint64(modulus)])
        jump = (jump[0] ** 2 % modulus, (jump[0] + 1) * jump[1] % modulus)
    return (state << np.uint64(32 - bits)).astype(np.uint32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RANDU", lambda: lcg(65539, 0, 31)),
        pytest.param("Numerical Recipes", lambda: lcg(1664525, 1013904223, 32), marks=pytest.mark.nightly),
        ("3 rounds over positions", lambda: drawn("positions", 3)),
        pytest.param("3 rounds over keys", lambda: drawn("keys", 3), marks=pytest.mark.nightly),
        pytest.param("3 rounds over chunks", lambda: drawn("chunks", 3), marks=pytest.mark.nightly),
    ],
)
def test_battery_catches(name, words):
    caught = [test for test, p in battery(words()).items() if p < ALARM]
    assert len(caught) >= 1, name


def avalanche(rounds: int) -> float:
    """Every input bit flips every output bit in half of 2^14 cases; finds a share that is 1.5 % of 1/2 off."""
    rng = np.random.Generator(np.random.Philox(key=8))
    inputs = rng.integers(0, 2**32, (6, 1 << 14), dtype=np.uint32)

    def flipped_bits(which):
        mask = jnp.where(jnp.arange(6) == which // 32, jnp.uint32(1) << (which % 32).astype(jnp.uint32), jnp.uint32(0))
        plain, other = (philox4x32(tuple(x[:4]), tuple(x[4:]), rounds) for x in (inputs, inputs ^ mask[:, None]))
        changed = jnp.stack(plain) ^ jnp.stack(other)
        return ((changed[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1).sum(axis=1)

    with jax.enable_x64(True):
        flips = np.asarray(jax.jit(lambda: jax.lax.map(flipped_bits, jnp.arange(192)))())
    return two_sided((flips.astype(np.int64) - (1 << 13)) / np.sqrt(1 << 12))


@pytest.mark.slow
def test_avalanche():
    assert avalanche(10) > ALARM
    assert avalanche(7) > ALARM
    assert avalanche(4) < ALARM
