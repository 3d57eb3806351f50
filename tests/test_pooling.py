"""Places, draws over blocks, and the bound on what pooling changes; false-alarm rate 1e-6 for each statistical test."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from cases import CHANNELS, PROTOCOLS, RECEIVERS, SOURCES
from conftest import assert_counts_agree
from scipy import stats
from test_random import assert_distributed, generator

import photonmc as pm
from photonmc.channel.recorded import Samples
from photonmc.contracts import ChannelState, counts_from_tally
from photonmc.sampling.blocks import draw_blocks
from photonmc.sampling.expected import tally_probabilities
from photonmc.sampling.interpolation import Series, interpolate
from photonmc.sampling.moments import Moments, moments
from photonmc.sampling.places import blind_probabilities, place_probabilities, places_of
from photonmc.sampling.pooling import pool, pooling_bound

LINK = pm.Link(SOURCES["weak_coherent"], CHANNELS["fiber"], RECEIVERS["active_basis"])


@pytest.fixture(scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def state(transmittance, noise=0.0):
    return ChannelState(transmittance, noise, 0.0)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_places_keep_tally_and_clicks(protocol, x64):
    """The collapsed table sums to the tally and to the click probabilities of the full one, to rounding."""
    places = places_of(LINK, protocol)
    assert places.tally.size == 4 + 2 * 3 * (1 + 4 * 6)
    table = np.asarray(place_probabilities(LINK, protocol, state(0.3, 1e-3), places.index, places.tally.size))
    tally, clicks = places.sums(table)
    np.testing.assert_allclose(table.sum(), 1.0, rtol=1e-14)
    expected = tally_probabilities(LINK, protocol, state(0.3, 1e-3))
    np.testing.assert_allclose(tally[..., 1:], expected[..., 1:], rtol=1e-13)
    np.testing.assert_allclose(tally[..., 0].sum(axis=-1), expected[..., 0].sum(axis=-1), rtol=1e-13)
    detections = counts_from_tally(1.0, tally).detections
    np.testing.assert_allclose(table[places.detections_z].sum(), detections[0].sum(), rtol=1e-14)
    outcomes = np.asarray(protocol.cells(LINK))[:, None, None] * np.asarray(protocol.outcomes(LINK, state(0.3, 1e-3)))
    none, only_0, only_1, *both = outcomes.sum(axis=(0, 1))
    np.testing.assert_allclose(clicks, [only_0 + sum(both), only_1 + sum(both)], rtol=1e-13)
    np.testing.assert_allclose(table[places.clicking].sum(), 1.0 - none, rtol=1e-13)
    # counts are summed as whole numbers
    counts, registered = places.sums(np.full((5, table.size), 10**13 + 1))
    assert counts.shape == (5, 2, 3, 4, 3) and counts.dtype == np.int64 and registered[0, 0] == 2 * (10**13 + 1) * 49


def test_blind_places_are_silent(x64):
    """A blind gate keeps its settings and has no click."""
    protocol = PROTOCOLS["bb84, Bob differs"]
    places = places_of(LINK, protocol)
    blind = np.asarray(blind_probabilities(LINK, protocol, state(0.3), places))
    live = np.asarray(place_probabilities(LINK, protocol, state(0.3), places.index, places.tally.size))
    assert blind[places.clicking].sum() == 0.0
    np.testing.assert_allclose(blind.sum(), 1.0, rtol=1e-14)
    ours, theirs = (places.sums(table)[0].sum(axis=(-2, -1)) for table in (blind, live))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_blocks_against_one_multinomial():
    """A single block is a multinomial; 20000 draws find a shift of a count by 3 % of its deviation."""
    table = np.array([[1e-12, 0.7, 0.0, 0.2, 0.1 - 1e-12]])
    counts = draw_blocks(generator(3), table, np.array([10**15]), 20000)
    assert (counts.sum(axis=1) == 10**15).all() and (counts[:, 2] == 0).all()
    for place in (0, 1, 3, 4):
        assert_distributed(counts[:, place], stats.binom(10**15, table[0, place]))


def test_two_blocks_against_their_convolution():
    """Exact law of a sum of two unequal blocks; a binomial with the mean probability would have 1.6 times the variance."""
    tables, lengths = np.array([[0.05, 0.9, 0.05], [0.85, 0.1, 0.05]]), np.array([40, 60])
    counts = draw_blocks(generator(4), tables, lengths, 200_000)
    for place in range(3):
        laws = (stats.binom(n, p).pmf(np.arange(n + 1)) for n, p in zip(lengths, tables[:, place], strict=True))
        expected = 200_000 * np.convolve(*laws)
        observed = np.bincount(counts[:, place], minlength=101)
        usable = expected > 10
        chi = ((observed - expected)[usable] ** 2 / expected[usable]).sum()
        assert stats.chi2.sf(chi, usable.sum() - 1) > 1e-6
    assert counts[:, 0].var() < 0.7 * 100 * counts[:, 0].mean() / 100 * (1 - counts[:, 0].mean() / 100)


def test_rare_places_stay_exact_where_blocks_differ():
    """Places of 1e-12 in one block and 0.5 in another, in any order: 1e15 pulses find a bias of 1 % in the rare one."""
    rare = 1e-12
    rows = np.array([[rare, 0.5, 0.5 - rare], [0.5, rare, 0.5 - rare], [0.5 - 1e-9, 0.5, 1e-9]])
    for order in itertools.permutations(range(3)):
        tables = rows[:, order]
        lengths = np.array([10**15, 10**15, 10**12])
        for block in range(3):
            # other blocks empty, but the order of places is that of all three
            weights = np.where(np.arange(3) == block, lengths, 1)
            counts = draw_blocks(generator(block), tables, weights, 400)
            mean = 400.0 * weights @ tables
            assert_counts_agree(counts.sum(axis=0), mean, 400.0 * weights @ (tables * (1 - tables)) + 1200.0)


def exact_counts_law(rows):
    """Law of the counts of independent pulses over three places, as a square array over the first two counts."""
    law = np.zeros((len(rows) + 1, len(rows) + 1))
    law[0, 0] = 1.0
    for p in rows:
        moved = p[2] * law
        moved[1:] += p[0] * law[:-1]
        moved[:, 1:] += p[1] * law[:, :-1]
        law = moved
    return law


@pytest.mark.parametrize("pulses", [2, 3, 12, 60])
@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
def test_bound_holds_and_is_not_idle(pulses, spread):
    """Total variation computed exactly for random unequal pulses, one bin and two; below the bound, from 12 pulses on above 1/8 of it."""
    rng = generator(round(1000 * spread) + pulses)
    for _ in range(20):
        q = rng.dirichlet([1.0, 2.0, 4.0])
        rows = np.abs(q * (1 + spread * rng.uniform(-1, 1, (pulses, 1)) * rng.normal(size=3)))
        rows /= rows.sum(axis=1, keepdims=True)
        halves = np.array_split(rows, 2)
        for bins in ([rows], halves):
            means = [part.mean(axis=0) for part in bins]
            spreads = [((part - mean) ** 2).sum(axis=0) for part, mean in zip(bins, means, strict=True)]
            bound = pooling_bound(Moments(np.array([len(part) for part in bins]), np.array(means), np.array(spreads)))
            pooled = np.concatenate([np.tile(mean, (len(part), 1)) for part, mean in zip(bins, means, strict=True)])
            distance = 0.5 * np.abs(exact_counts_law(rows) - exact_counts_law(pooled)).sum()
            assert distance <= bound + 1e-14
            if len(bins) == 1 and pulses >= 12 and 1e-6 < bound < 0.1:
                assert bound < 8 * distance


def test_bound_is_sharp_to_one_third():
    """100 pulses of two kinds: the second-order term alone gives 0.68 of the bound, so that no constant may be smaller by 1/3."""
    p = 0.3 + np.tile([0.04, -0.04], 50)
    rows = np.stack([p, 1 - p, 0 * p], axis=1)
    mean = rows.mean(axis=0)
    bound = pooling_bound(Moments(np.array([100]), mean[None], ((rows - mean) ** 2).sum(axis=0)[None]))
    distance = 0.5 * np.abs(exact_counts_law(rows) - exact_counts_law(np.tile(mean, (100, 1)))).sum()
    assert 0.6 < distance / bound < 0.75


def test_bound_keeps_its_digits():
    """Probabilities down to 1e-15 and 1e15 pulses: 0.35 theta, theta = p x relative variance; a sure 0; never above 1."""
    p, relative = 1e-15, 0.3
    means = np.array([[p, 1 - p]])
    spreads = np.array([[1e15 * (p * relative) ** 2] * 2])
    np.testing.assert_allclose(
        pooling_bound(Moments(np.array([10**15]), means, spreads)), p * relative**2 / 8**0.5, rtol=1e-6
    )
    assert pooling_bound(Moments(np.array([10**15]), means, 0 * spreads)) == 0.0
    assert pooling_bound(Moments(np.array([10]), np.array([[0.5, 0.5]]), np.array([[2.5, 2.5]]))) == 1.0
    many = pooling_bound(Moments(np.full(10**6, 100), np.full((10**6, 2), 0.5), np.full((10**6, 2), 0.5)))
    assert many == 1.0


def satellite(blocks, rng):
    """Transmittance of a pass with scintillation, and a table of 4 places: click, error, two photons, nothing."""
    time = np.linspace(-1.0, 1.0, blocks)
    transmittance = 1e-3 / (1 + 9 * time**2) * np.exp(0.3 * rng.normal(size=blocks))

    def rows(transmittance, noise=1e-6):
        clicks = np.stack([transmittance, 0.01 * transmittance + noise, 0.1 * transmittance**2], axis=-1)
        return np.concatenate([clicks, 1 - clicks.sum(axis=-1, keepdims=True)], axis=-1)

    return transmittance, rows


def test_pool_meets_its_target():
    rng = generator(6)
    transmittance, rows = satellite(20_000, rng)
    tables, lengths = rows(transmittance), rng.integers(1, 10**7, 20_000)
    bins = []
    for target in (1e-3, 1e-5, 1e-6, 1e-7, 1e-12, 0.0):
        pooled = pool(tables, lengths, transmittance, target)
        assert pooled.bound <= target and pooled.lengths.sum() == lengths.sum() and pooled.lengths.dtype == np.int64
        np.testing.assert_allclose(pooled.lengths @ pooled.tables, lengths @ tables, rtol=1e-12)
        np.testing.assert_allclose(pooled.tables.sum(axis=1), 1.0, rtol=1e-13)
        bins.append(pooled.lengths.size)
    assert bins[0] == 1 and bins == sorted(bins) and bins[2] <= 64 and bins[-1] == 20_000
    # a function in place of the array, of the state, gives the same bins
    lazy = pool(lambda states: rows(states[:, 0]), lengths, transmittance, 1e-6)
    np.testing.assert_array_equal(lazy.tables, pool(tables, lengths, transmittance, 1e-6).tables)


def test_pool_reports_the_bound_of_its_bins():
    """Moments merged from a fine grid give the bound that follows from the blocks directly."""
    transmittance, rows = satellite(3000, generator(7))
    lengths = generator(8).integers(1, 10**6, 3000)
    one = pool(rows(transmittance), lengths, transmittance, 1.0)
    mean = lengths @ rows(transmittance) / lengths.sum()
    spread = lengths @ (rows(transmittance) - mean) ** 2
    np.testing.assert_allclose(one.tables[0], mean, rtol=1e-13)
    np.testing.assert_allclose(
        one.bound, pooling_bound(Moments(lengths.sum(keepdims=True), mean[None], spread[None])), rtol=1e-9
    )


@pytest.mark.parametrize("quantities", [1, 2])
@pytest.mark.parametrize("target", [1e-5, 1e-7, 1e-12])
def test_pool_by_terms_is_pool_by_tables(quantities, target):
    """Moments from the few terms of a series give the bins and the bound of the tables themselves."""
    rng = generator(13)
    transmittance, rows = satellite(6000, rng)
    states = np.stack([transmittance, 1e-6 * (1 + (quantities - 1) * rng.random(6000))], axis=1)
    lengths = rng.integers(0, 10**6, 6000)
    series = interpolate(lambda some: rows(some[:, 0], some[:, 1]), lengths, states)
    assert isinstance(series.tables, Series) and series.error < 1e-7
    fast, slow = (
        pool(tables, lengths, states, target) for tables in (series.tables, lambda some: rows(some[:, 0], some[:, 1]))
    )
    np.testing.assert_array_equal(fast.lengths, slow.lengths)
    np.testing.assert_allclose(fast.tables, slow.tables, rtol=1e-9, atol=1e-20)
    np.testing.assert_allclose(fast.bound, slow.bound, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(("halvings", "unit"), [(10, 1.0), (24, 1.0), (10, 1e-150)])
def test_moments_of_one_quantity_are_those_of_the_tables(halvings, unit):
    """On a fine grid, crowded or nearly empty, in any unit; a cell that holds one value has no spread at all."""
    rng = generator(14)
    transmittance, rows = satellite(6000, rng)
    transmittance[1::7] = transmittance[::7][: transmittance[1::7].size]
    states, lengths = np.stack([unit * transmittance, np.full(6000, 1e-6)], axis=1), rng.integers(1, 10**6, 6000)
    series = interpolate(lambda some: rows(some[:, 0] / unit, some[:, 1]), lengths, states).tables
    grid = ((transmittance - transmittance.min()) / np.ptp(transmittance) * (2**halvings - 1)).astype(np.int64)[:, None]
    cells, fast = moments(series, lengths, states, grid)
    table = rows(transmittance, states[:, 1])
    for cell, pulses, mean, spread in zip(cells[:, 0], *fast, strict=True):
        inside = grid[:, 0] == cell
        exact = np.average(table[inside], axis=0, weights=lengths[inside])
        assert pulses == lengths[inside].sum()
        np.testing.assert_allclose(mean, exact, rtol=1e-9, atol=1e-20)
        if np.ptp(transmittance[inside]) == 0.0:
            assert not spread.any()
        elif cell % 20 == 0:
            around = (lengths[inside, None] * (table[inside] - exact) ** 2).sum(axis=0)
            np.testing.assert_allclose(spread, around, rtol=1e-6, atol=1e-22 * pulses)


def test_pool_of_equal_states_is_exact():
    """As many bins as states, bound 0; empty blocks do not count; no block at all gives no bin."""
    states = np.repeat([[1e-3, 0.0], [2e-3, 1e-5], [1e-3, 1e-5]], 400, axis=0)
    _, rows = satellite(1, generator(0))
    tables, lengths = rows(states[:, 0], states[:, 1]), np.full(1200, 10**6)
    lengths[:400:2] = 0
    for target in (0.0, 1e-30):
        pooled = pool(tables, lengths, states, target)
        assert pooled.bound == 0.0 and sorted(pooled.lengths) == [200 * 10**6, 400 * 10**6, 400 * 10**6]
    alone = pool(tables[:400], lengths[:400], states[:400])
    assert alone.bound == 0.0 and alone.lengths.tolist() == [200 * 10**6]
    np.testing.assert_array_equal(alone.tables[0], tables[0])
    nearly = pool(tables[:400], lengths[:400], 0.3 + 2.0**-54 * np.arange(400))  # one unit in the last place apart
    assert nearly.lengths.size == 1 and nearly.bound < 1e-15
    nothing = pool(tables, 0 * lengths, states)
    assert nothing.lengths.size == 0 and draw_blocks(generator(0), nothing.tables, nothing.lengths, 3).sum() == 0


def test_pool_over_two_quantities():
    rng = generator(9)
    states = np.stack([rng.uniform(1e-4, 1e-2, 5000), rng.uniform(0.0, 1e-4, 5000)], axis=1)
    _, rows = satellite(1, rng)
    tables, lengths = rows(states[:, 0], states[:, 1]), np.full(5000, 10**6)
    pooled = pool(tables, lengths, states, 1e-5)
    assert 1 < pooled.lengths.size < 300 and 0 < pooled.bound <= 1e-5
    np.testing.assert_allclose(pooled.lengths @ pooled.tables, lengths @ tables, rtol=1e-12)


def test_pooled_and_exact_draws_agree():
    """Mean and variance of 4000 sums over 300 blocks, pooled and not, against p and p (1 - p) summed over blocks."""
    transmittance, rows = satellite(300, generator(10))
    tables, lengths = rows(transmittance), np.full(300, 10**5)
    pooled = pool(tables, lengths, transmittance, 1e-6)
    for seed, (table, pulses) in enumerate(((tables, lengths), (pooled.tables, pooled.lengths))):
        counts = draw_blocks(generator(seed), table, pulses, 4000)
        assert (counts.sum(axis=1) == 300 * 10**5).all()
        variance = lengths @ (tables * (1 - tables))
        assert_counts_agree(counts.sum(axis=0), 4000 * lengths @ tables, 4000 * variance)
        np.testing.assert_allclose(counts.var(axis=0), variance, rtol=4.9 * np.sqrt(3 / 4000))


@pytest.mark.parametrize("pooling_error", [1e-5, 1e-2])
def test_a_record_pooled_into_few_bins_or_one(pooling_error):
    """Through the sampler, against the expectation; 1e9 pulses find 0.5 % in clicks."""
    time, loss = np.arange(200) * 0.1, 20.0 + 0.01 * np.arange(200)
    record = pm.Recorded(file="r", samples=Samples(time, loss, np.zeros(200)))
    study = pm.Study(
        pm.Link(pm.WeakCoherent(5e7, (0.5, 0.1, 0.0), (0.7, 0.2, 0.1)), record, RECEIVERS["active_basis"]),
        pm.BB84(0.9),
        pm.Run(pooling_error=pooling_error, seed=4),
    )
    found, mean = pm.simulate(study, sampler="counts"), pm.simulate(study, sampler="expected")
    assert found.pooling_error_bound[0] <= pooling_error
    assert_counts_agree(found.counts.detections, mean.counts.detections, mean.counts.detections)
    assert_counts_agree(found.detector_clicks, mean.detector_clicks, mean.detector_clicks)


def test_rows_of_a_record_that_begins_late():
    """Times far from 0 are rounded by more than a part of a gate; each row holds its 37 gates all the same."""
    record = pm.Recorded(file="r", samples=Samples(10.0 + 37e-9 * np.arange(600), np.full(600, 20.0), np.zeros(600)))
    link = pm.Link(SOURCES["weak_coherent"], record, RECEIVERS["active_basis"])
    assert record.pulses(1e9) == 22_200 and (link.block_lengths(22_200) == 37).all()
