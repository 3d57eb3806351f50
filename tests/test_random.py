"""Exactness of the draws that everything rests on; chi-square tests with a false-alarm rate of 1e-6 each."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from photonmc.random import (
    MAX_TRIALS,
    binomial,
    fold_name,
    happens,
    host_generator,
    multinomial,
    point_key,
    trials_until,
)

ALARM = 1e-6


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def assert_distributed(draws: np.ndarray, distribution, bins: int = 60) -> None:
    """Chi-square over bins of about equal probability; 1e6 draws find a relative shift of the deviation of 1 %."""
    edges = np.unique(distribution.ppf(np.arange(1, bins) / bins))
    cumulative = np.concatenate([[0.0], distribution.cdf(edges), [1.0]])
    expected = np.diff(cumulative) * draws.size
    observed = np.bincount(np.searchsorted(edges, draws, side="left"), minlength=expected.size)
    usable = expected >= 10
    if not usable.all():  # join rare bins to one
        observed = np.append(observed[usable], observed[~usable].sum())
        expected = np.append(expected[usable], expected[~usable].sum())
    if expected[-1] < 10:
        observed, expected = (
            np.append(observed[:-2], observed[-2:].sum()),
            np.append(expected[:-2], expected[-2:].sum()),
        )
    if expected.size > 1:
        chi = ((observed - expected) ** 2 / expected).sum()
        assert stats.chi2.sf(chi, expected.size - 1) > ALARM, f"chi-square {chi:.1f} on {expected.size - 1}"


@pytest.mark.parametrize("trials", [10**6, 10**9, 10**12, 10**13, 10**15])
@pytest.mark.parametrize("mean", [1e-3, 0.5, 30.0, 1e3, 1e6, 1e10, 5e14])
def test_binomial(trials, mean):
    if mean > trials / 2:
        pytest.skip("more successes than half of the trials are drawn as failures")
    count = 10**6 if trials <= MAX_TRIALS else 10**5
    draws = binomial(generator(trials % 97), np.full(count, trials), mean / trials)
    assert_distributed(draws, stats.binom(trials, mean / trials))


def test_multinomial_keeps_rare_categories_exact():
    """Category of probability 1e-12 beside one of about 1: at 1e15 trials its mean of 1000 is met to 0.1 %."""
    p = np.array([0.7, 1e-12, 0.2, 0.0, 0.1 - 1e-12])
    counts = multinomial(generator(3), np.full(20000, 10**15), p)
    assert (counts.sum(axis=1) == 10**15).all()
    assert (counts[:, 3] == 0).all()
    for category in (0, 1, 2, 4):
        assert_distributed(counts[:, category], stats.binom(10**15, p[category]))
    correlation = np.corrcoef(counts[:, 0], counts[:, 2])[0, 1]
    assert abs(correlation + np.sqrt(0.7 * 0.2 / (0.3 * 0.8))) < 4.9 * 2 / np.sqrt(20000)


@pytest.mark.parametrize(
    ("successes", "p", "draws"),
    [
        (1, 0.3, 10**5),
        (40, 1e-3, 10**5),
        (5999, 1e-9, 3000),
        (6000, 0.02, 3000),
        (10**6, 0.9, 3000),
        (10**6, 1.0, 10),
        (10**12, 2e-3, 2000),
    ],
)
def test_trials_until(successes, p, draws):
    trials = trials_until(generator(5), successes, p, draws)
    assert (trials >= successes).all()
    if p < 1:
        failures = trials - successes
        assert_distributed(
            failures,
            stats.nbinom(successes, p)
            if successes < 10**7
            else stats.norm(successes * (1 - p) / p, np.sqrt(successes * (1 - p)) / p),
            bins=30,
        )


def test_rare_events_are_exact():
    """P = 1e-6 over 1e8 lanes: 100 events, where a float32 grid would give 20 % more; ends of the range."""
    with jax.enable_x64(True):
        hits = sum(int(happens(jax.random.fold_in(jax.random.key(2), i), 3e-6, (10**7,)).sum()) for i in range(10))
        assert abs(hits - 300) < 4.9 * np.sqrt(300)
        assert happens(jax.random.key(0), 1.0, (1000,)).all()
        assert not happens(jax.random.key(0), 0.0, (1000,)).any()


def test_streams_have_names():
    with jax.enable_x64(True):
        key = point_key(2**40 + 1, 3)
        data = {tuple(jax.random.key_data(fold_name(key, name)).tolist()) for name in ("a", "b", "detector.0.noise")}
        data |= {tuple(jax.random.key_data(fold_name(point_key(1, 3), "a")).tolist())}  # all 64 bits of the seed count
        assert len(data) == 4
        first, again = (host_generator(fold_name(key, "a")).integers(0, 2**60, 5).tolist() for _ in range(2))
        assert first == again
