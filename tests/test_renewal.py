"""Counts under dead time against their exact law, a simulation gate by gate, and moments; false-alarm rate 1e-6 each."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Z_LIMIT, assert_counts_agree
from scipy import stats
from test_random import assert_distributed, generator

from photonmc.sampling.renewal import draw_dead_time, draw_dead_time_until, draw_gates


class CountLaw:
    """P[at least n clicks in G gates] = P[Binomial(G - (n - 1) d, p) >= n], theory (28)."""

    def __init__(self, probability, dead, gates):
        most = -(-gates // (dead + 1))
        n = np.arange(most + 2)
        tries = gates - (n - 1.0) * dead
        self.at_least = np.where(
            n == 0, 1.0, np.where(tries >= n, stats.binom.sf(n - 1, np.maximum(tries, 1), probability), 0)
        )

    def cdf(self, n):
        return 1.0 - self.at_least[np.minimum(np.asarray(n, dtype=int) + 1, self.at_least.size - 1)]

    def ppf(self, level):
        return np.searchsorted(1.0 - self.at_least[1:], level)

    def mean(self):
        return self.at_least[1:].sum()

    def var(self):
        n = np.arange(1, self.at_least.size)
        return ((2 * n - 1) * self.at_least[1:]).sum() - self.mean() ** 2


def test_count_law_of_reference():
    """Reference case det-count-law-gated: p = 0.03, d = 7, 3000 gates."""
    law = CountLaw(0.03, 7, 3000)
    np.testing.assert_allclose(law.at_least[[1, 40, 74, 90]], [1.0, 0.9999999241, 0.5474953137, 0.01685298098], rtol=1e-8)


@pytest.mark.parametrize(
    ("probability", "dead", "gates", "draws"),
    [
        (0.03, 7, 3000, 100_000),  # followed click by click
        (0.03, 7, 100_000, 100_000),  # peeled, then followed
        (0.9, 1, 100_000, 20_000),  # silent gates are the rare ones
        (0.5, 3, 20_001, 20_000),
        (1e-4, 50, 10_000_000, 20_000),
        (2e-6, 1000, 3_000_000, 100_000),  # six clicks on average, peeled
        (0.02, 40, 45, 100_000),  # the dead time outlasts the run
        (0.3, 100, 50, 100_000),
        (0.2, 0, 10_000, 100_000),  # no dead time: binomial
        (0.4, 3, 1, 100_000),
    ],
)
def test_count_law(probability, dead, gates, draws):
    """Chi-square of the number of clicks; 20000 draws find a shift by 5 % of the deviation."""
    kinds = draw_gates(generator(dead + gates), probability, dead, gates, draws)
    assert (kinds.clicks + kinds.silent + kinds.blind == gates).all()
    assert all((kind >= 0).all() for kind in kinds)
    assert (kinds.blind <= dead * kinds.clicks).all() and (kinds.blind >= dead * (kinds.clicks - 1)).all()
    law = CountLaw(probability, dead, gates)
    assert_distributed(kinds.clicks, law)
    assert abs(kinds.clicks.mean() - law.mean()) < Z_LIMIT * np.sqrt(law.var() / draws)


def gate_by_gate(rng, probability, dead, gates, runs):
    """Kinds of gates by following every gate of every run."""
    clicks, blind = np.zeros(runs, dtype=int), np.zeros(runs, dtype=int)
    waits = np.zeros(runs, dtype=int)
    for _ in range(gates):
        live = waits == 0
        hit = live & (rng.random(runs) < probability)
        clicks += hit
        blind += ~live
        waits = np.where(hit, dead, np.maximum(waits - 1, 0))
    return clicks, gates - clicks - blind, blind


@pytest.mark.parametrize(("probability", "dead", "gates"), [(0.05, 6, 200), (0.7, 2, 50), (0.3, 20, 30)])
def test_kinds_of_gates_against_every_gate(probability, dead, gates):
    """Joint law of all three kinds, 40000 runs of each: two-sample chi-square, finds 10 % in a cell of 3000."""
    runs = 40_000
    kinds = draw_gates(generator(1), probability, dead, gates, runs)
    brute = gate_by_gate(generator(2), probability, dead, gates, runs)
    samples = [np.asarray(sample[0]) * 1000 + np.asarray(sample[2]) for sample in (kinds, brute)]
    values, index = np.unique(np.concatenate(samples), return_inverse=True)
    table = np.stack([np.bincount(part, minlength=values.size) for part in np.split(index, 2)])
    common = table.sum(axis=0) >= 40
    table = np.column_stack([table[:, common], table[:, ~common].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    assert stats.chi2_contingency(table).pvalue > 1e-6


@pytest.mark.parametrize(("probability", "dead"), [(0.03, 7), (1e-3, 10_000), (0.8, 3), (1e-9, 100), (1e-12, 10**6)])
def test_moments_at_1e15_gates(probability, dead):
    """Mean and variance (26) at 1e15 gates, 3000 draws: 0.09 deviations in the mean, 13 % in the variance."""
    gates, draws = 10**15, 3000
    kinds = draw_gates(generator(5), probability, dead, gates, draws)
    assert (kinds.clicks + kinds.silent + kinds.blind == gates).all()
    slowing = 1 + probability * dead
    mean = gates * probability / slowing
    variance = mean * (1 - probability) / slowing**2
    start = probability * dead * (dead + 1) / 2 / slowing**2  # a live start is ahead of equilibrium by less than one click
    assert abs(kinds.clicks.mean() - mean - start) < Z_LIMIT * np.sqrt(variance / draws) + 1
    assert abs(kinds.clicks.var() / variance - 1) < Z_LIMIT * np.sqrt(2 / draws)
    if (probability, dead) == (0.03, 7):  # reference case det-gated-0.03
        np.testing.assert_allclose(mean / gates, 0.02479338843, rtol=1e-9)
        np.testing.assert_allclose(variance / mean, 0.6625230517, rtol=1e-9)


def test_variance_of_a_window_at_low_click_probability():
    """Theory (29) with x = p d: rT / (1 + x)^3 and a term that does not grow; 20000 draws find 4.9 %."""
    probability, dead, gates = 1e-4, 20_000, 50_000_000
    clicks = draw_gates(generator(6), probability, dead, gates, 20_000).clicks
    x = probability * dead
    variance = probability * gates / (1 + x) ** 3 + x**2 * (6 + 4 * x + x**2) / (6 * (1 + x) ** 4)
    assert abs(clicks.var() / variance - 1) < Z_LIMIT * np.sqrt(2 / 20_000) + 2e-3


@pytest.mark.parametrize(
    ("probability", "dead", "gates", "clicks", "blind"),
    [
        (0.0, 5, 10**15, 0, 0),
        (1.0, 5, 13, 3, 10),
        (1.0, 5, 12, 2, 10),
        (1.0, 0, 10**15, 10**15, 0),
        (1.0, 3, 4 * 10**14, 10**14, 3 * 10**14),
        (1.0, 10**18, 10**15, 1, 10**15 - 1),
        (1.0, 10**18, 1, 1, 0),
        (0.5, 0, 0, 0, 0),
    ],
)
def test_extremes(probability, dead, gates, clicks, blind):
    kinds = draw_gates(generator(0), probability, dead, gates, 4)
    assert kinds.clicks.tolist() == [clicks] * 4 and kinds.blind.tolist() == [blind] * 4
    assert kinds.silent.tolist() == [gates - clicks - blind] * 4


LIVE = np.array([0.02, 0.03, 0.01, 0.54, 0.40])
BLIND = np.array([0.0, 0.0, 0.0, 0.58, 0.42])
CLICKING = np.array([True, True, True, False, False])
STOPPING = np.array([True, False, False, False, False])


def test_places_of_fixed_runs():
    """Mean of each place from the law of the clicks; 1e4 runs of 1e5 gates find 1e-3 of a place of 2 %."""
    dead, gates, draws = 9, 100_000, 10_000
    counts = draw_dead_time(generator(7), LIVE, BLIND, CLICKING, dead, gates, draws)
    assert (counts.sum(axis=1) == gates).all() and counts.shape == (draws, 5)
    p = LIVE[CLICKING].sum()
    clicks = CountLaw(p, dead, gates)
    share = LIVE[:3] / p
    variance = clicks.mean() * share * (1 - share) + clicks.var() * share**2
    assert_counts_agree(counts[:, :3].sum(axis=0), draws * clicks.mean() * share, draws * variance)
    assert_distributed(counts[:, :3].sum(axis=1), clicks)
    # silent gates: live ones and blind ones have places of their own; the last dead time is cut by less than d
    blind = dead * clicks.mean()
    silent = gates - clicks.mean() - blind
    first = silent * LIVE[3] / LIVE[3:].sum() + blind * BLIND[3]
    deviation = np.sqrt(gates * 0.25) / np.sqrt(draws)
    assert abs(counts[:, 3].mean() - first) < Z_LIMIT * deviation + dead


def test_places_of_silent_detectors():
    silent = np.where(CLICKING, 0.0, LIVE)
    counts = draw_dead_time(generator(8), silent, BLIND, CLICKING, 5, 1000, 10)
    assert (counts[:, :3] == 0).all() and (counts.sum(axis=1) == 1000).all()


def test_runs_that_wait_for_events():
    """Clicks at the n-th event are negative binomial, live gates too; blind ones follow; 4000 runs, n = 500."""
    dead, n, draws = 12, 500, 4000
    counts = draw_dead_time_until(generator(9), LIVE, BLIND, CLICKING, STOPPING, dead, n, draws)
    assert (counts[:, 0] == n).all()
    p, click = LIVE[0], LIVE[CLICKING].sum()
    clicks = counts[:, :3].sum(axis=1)
    assert_distributed(clicks - n, stats.nbinom(n, p / click), bins=30)
    live = counts.sum(axis=1) - dead * (clicks - 1)
    assert_distributed(live - n, stats.nbinom(n, p), bins=30)
    mean_blind = dead * (n * click / p - 1)
    mean = (n / p) * LIVE + mean_blind * BLIND
    spread = np.array([1.0, *(n * LIVE[1:3] / p * (1 + LIVE[1:3] / p)), *((1 + mean[3:] ** 2 / n) * 2 + mean[3:])])
    assert_counts_agree(counts[:, 1:].sum(axis=0), draws * mean[1:], draws * spread[1:])


def test_runs_that_wait_against_every_gate():
    """Total length at the n-th event, 3000 runs gate by gate: two-sample Kolmogorov-Smirnov, finds a shift of 0.1 deviations."""
    dead, n, runs = 4, 3, 3000
    counts = draw_dead_time_until(generator(10), LIVE, BLIND, CLICKING, STOPPING, dead, n, runs)
    rng, lengths = generator(11), np.zeros(runs, dtype=int)
    for run in range(runs):
        events = waits = 0
        while events < n:
            lengths[run] += 1
            if waits:
                waits -= 1
                continue
            u = rng.random()
            waits = dead if u < 0.06 else 0
            events += u < 0.02
    assert stats.ks_2samp(counts.sum(axis=1), lengths).pvalue > 1e-6


def test_one_event_leaves_no_dead_time():
    counts = draw_dead_time_until(
        generator(12), np.array([0.5, 0.5]), np.array([0.0, 1.0]), *[np.array([True, False])] * 2, 9, 1, 1000
    )
    assert (counts[:, 0] == 1).all() and abs(counts[:, 1].mean() - 1) < Z_LIMIT * np.sqrt(2 / 1000)
