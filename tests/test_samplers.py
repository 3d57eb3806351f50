"""Both samplers against the expectation and against each other; false-alarm rate 1e-6 for each test."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import Z_LIMIT, assert_counts_agree
from scipy import stats

import photonmc as pm
from photonmc.study import Axis

NARROW = pm.BB84(0.7)
BUSY = pm.Link(pm.WeakCoherent(1e9, (0.7, 0.2, 0.02), (0.5, 0.3, 0.2)), pm.FixedLoss(0.0), pm.ActiveBasis(0.2, 0.03, 1e-3))


def sampled(link=BUSY, sampler="counts", protocol=NARROW, seed=1, realizations=1, **run):
    study = pm.Study(link, protocol, pm.Run(**run, seed=seed, realizations=realizations))
    return pm.simulate(study, sampler=sampler)


@pytest.mark.parametrize("pulses", [1, 7, 1e4, 1e8, 1e12, 1e15])
def test_counts_against_expectation(pulses):
    """Sums of 50 blocks; a bias of 4.9 / sqrt(50 n) in a count of mean n is found, at 1e15 pulses 1e-8."""
    result = sampled(pulses=pulses, realizations=50)
    mean = pm.expected_counts(pm.Study(BUSY, pm.BB84(0.7), pm.Run(pulses=pulses)))
    assert result.counts.pulses[0] == 50 * pulses
    for field in ("sent", "detections", "errors"):
        expected = 50 * getattr(mean, field)
        assert_counts_agree(getattr(result.counts, field)[0], expected, expected * (1 - expected / (50 * pulses)))


@pytest.mark.parametrize("sampler", ["counts", "pulses"])
def test_truth_against_closed_form(sampler):
    """Detections and errors by photon number, theory 1.1; 4e6 pulses find 2 % in a class of 1e5."""
    pulses = 4_000_000
    result = sampled(sampler=sampler, pulses=pulses, seed=4)
    truth, eta, e, p_d = result.truth, 0.2, 0.03, 1e-3
    np.testing.assert_array_equal(truth.detections.sum(axis=-1), result.counts.detections)
    np.testing.assert_array_equal(truth.errors.sum(axis=-1), result.counts.errors)
    for k, (mu, p_k) in enumerate(zip(BUSY.source.intensities, BUSY.source.intensity_probabilities, strict=True)):
        n = np.arange(60)
        weight = stats.poisson.pmf(n, mu)
        a, b, z = (1 - p_d) * (1 - eta * e) ** n, (1 - p_d) * (1 - eta * (1 - e)) ** n, (1 - p_d) ** 2 * (1 - eta) ** n
        for seen, probability in ((truth.detections, 1 - z), (truth.errors, (1 + b - a - z) / 2)):
            by_class = np.add.reduceat(weight * probability, [0, 1, 2, 3])
            for basis, chosen in enumerate((0.49, 0.09)):
                mean = pulses * p_k * chosen * by_class
                assert_counts_agree(seen[0, basis, k], mean, mean)


@pytest.mark.parametrize("sampler", ["counts", "pulses"])
def test_fixed_block_is_exact(sampler):
    """Exactly n sifted Z detections; pulses are negative binomial, X detections follow from them."""
    blocks, n = (4000, 1000) if sampler == "counts" else (30, 1000)
    study = pm.Study(BUSY, pm.BB84(0.7), pm.Run(block_size_z=n, realizations=blocks, seed=2))
    result = pm.simulate(study, sampler=sampler)
    assert result.counts.detections[0, 0].sum() == n * blocks
    mean = pm.expected_counts(study)
    gain = n / mean.pulses
    deviation = np.sqrt(blocks * n * (1 - gain)) / gain
    assert abs(result.counts.pulses[0] - blocks * mean.pulses) < Z_LIMIT * deviation
    expected = blocks * mean.detections
    share = expected / blocks / n
    variance = np.where([[True], [False]], expected * (1 - share), expected * (1 + share))
    assert_counts_agree(result.counts.detections[0], expected, variance)
    security = pm.Lim2014(epsilon_correctness=1e-15, epsilon_secrecy=1e-9)
    keyed = pm.simulate(dataclasses.replace(study, security=security, run=pm.Run(block_size_z=1e4)), sampler=sampler)
    assert keyed.point()["sifted_z"] == 10_000


def test_spread_of_counts_is_multinomial():
    """Variance over 4000 blocks of total detections: 1 +- 5 x sqrt(2/4000) of the binomial one (11 %)."""
    study = pm.Study(BUSY, pm.BB84(0.7), pm.Run(pulses=1e9, realizations=4000), pm.Ma2005())
    study = study.replace({"source.intensities[2]": 0.0})
    result = pm.simulate(study)
    low, middle, high = result.keys.sifted_z_quantiles[0]
    gain = pm.expected_counts(study).detections[0].sum() / 1e9
    sigma = np.sqrt(1e9 * gain * (1 - gain))
    assert abs(middle - 1e9 * gain) < Z_LIMIT * 1.2533 * sigma / np.sqrt(4000)
    np.testing.assert_allclose(high - low, 2 * 1.6449 * sigma, rtol=0.12)


def test_results_depend_on_seed_and_point_alone():
    study = pm.Study(BUSY, pm.BB84(0.7), pm.Run(pulses=3e5, seed=9))
    for sampler in ("counts", "pulses"):
        first, again, other = (pm.simulate(study, sampler=sampler, seed=seed) for seed in (9, 9, 10))
        np.testing.assert_array_equal(first.counts.detections, again.counts.detections)
        assert (first.counts.detections != other.counts.detections).any()
    # first point of a scan is the point alone; equal points have streams of their own
    scan = dataclasses.replace(study, axes=(Axis("channel.loss_db", ("channel.loss_db",), (np.array([0.0, 0.0]),)),))
    both = pm.simulate(scan)
    np.testing.assert_array_equal(both.counts.detections[0], pm.simulate(study).counts.detections[0])
    assert (both.counts.detections[0] != both.counts.detections[1]).any()


DEGENERATE = {
    "no light": (pm.WeakCoherent(1e9, (1e-9, 0.0), (0.5, 0.5)), pm.ActiveBasis(0.5, 0.0, 0.0)),
    "all dark": (pm.WeakCoherent(1e9, (0.5, 0.0), (0.5, 0.5)), pm.ActiveBasis(0.0, 0.0, 0.999999)),
    "no misalignment, no darks": (pm.WeakCoherent(1e9, (0.5, 0.0), (0.5, 0.5)), pm.ActiveBasis(1.0, 0.0, 0.0)),
    "bright": (pm.WeakCoherent(1e9, (100.0, 50.0), (0.5, 0.5)), pm.ActiveBasis(1.0, 0.5, 0.0)),
}


@pytest.mark.parametrize("sampler", ["counts", "pulses"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_links(name, sampler):
    source, receiver = DEGENERATE[name]
    result = sampled(pm.Link(source, pm.FixedLoss(0.0), receiver), sampler, pulses=1e5, seed=3)
    sent, detections, errors = (getattr(result.counts, f)[0] for f in ("sent", "detections", "errors"))
    assert sent.sum() < 1e5 and (detections <= sent).all() and (errors <= detections).all()
    if name == "no light":
        assert detections.sum() == 0
    if name == "all dark":
        assert (sent - detections).sum() <= 3
        assert_counts_agree(errors, sent / 2, sent / 4)
    if name == "no misalignment, no darks":
        assert errors.sum() == 0 and detections[:, 1].sum() == 0 and detections.sum() > 0
    if name == "bright":
        np.testing.assert_array_equal(detections, sent)
        assert_counts_agree(errors, sent / 2, sent / 4)


def test_whole_numbers_at_1e15_pulses():
    point = sampled(pulses=1e15).point()
    assert point["pulses"] == 10**15 and isinstance(point["pulses"], int)
    assert all(isinstance(row[name], int) for row in point["counts"] for name in ("sent", "detections", "errors"))
    assert sum(row["sent"] for row in point["counts"]) < 10**15


def test_impossible_blocks_are_refused():
    far = dataclasses.replace(BUSY, channel=pm.FixedLoss(200.0), receiver=pm.ActiveBasis(0.2, 0.03, 0.0))
    with pytest.raises(pm.ConfigError, match="on average"):
        sampled(far, block_size_z=1e6)
