"""Expected counts against an independent route: the closed forms of theory in 150-digit arithmetic."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import photonmc as pm

ROWS = [
    # intensities, loss_db, efficiency, p_d, e_mis
    ((0.5, 0.1, 0.0), 10.0, 0.25, 6e-7, 0.01),
    ((0.7, 0.2, 0.02), 0.0, 1.0, 1e-3, 0.03),
    ((100.0, 1e-6, 0.0), 0.0, 1.0, 0.9, 0.5),
    ((0.5, 0.1, 1e-9), 120.0, 0.1, 1e-12, 0.0),
    ((0.5, 0.1, 0.0), 1000.0, 0.5, 0.0, 0.01),
    ((0.5, 0.1, 0.0), 3.0, 0.0, 1e-8, 0.01),
]


def closed_form(mu, eta, p_d, e):
    """Gain and error probability of matching bases, theory 1.1, naive formulas in 150 digits."""
    mu, eta, p_d, e = map(mpmath.mpf, (mu, eta, p_d, e))
    a = (1 - p_d) * mpmath.exp(-eta * mu * e)
    b = (1 - p_d) * mpmath.exp(-eta * mu * (1 - e))
    return 1 - a * b, (1 + b - a - a * b) / 2


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("bob", [None, 0.6])
def test_exact_counts(row, bob):
    mu, loss, efficiency, p_d, e = row
    p, z, pulses = (0.7, 0.2, 0.1), 0.9, 1e12
    link = pm.Link(
        pm.WeakCoherent(1e9, mu, p), pm.FixedLoss(loss), pm.ActiveBasis(efficiency, e, p_d, optics_transmittance=0.7)
    )
    counts = pm.expected_counts(pm.Study(link, pm.BB84(z, bob), pm.Run(pulses=pulses)))
    z_bob = z if bob is None else bob
    eta = mpmath.mpf(10) ** (-mpmath.mpf(loss) / 10) * mpmath.mpf(efficiency) * mpmath.mpf(0.7)
    for basis, chosen in enumerate((mpmath.mpf(z) * z_bob, (1 - mpmath.mpf(z)) * (1 - mpmath.mpf(z_bob)))):
        for k in range(3):
            sent = pulses * chosen * p[k]
            gain, error = closed_form(mu[k], eta, p_d, e)
            np.testing.assert_allclose(counts.sent[basis, k], float(sent), rtol=1e-13)
            np.testing.assert_allclose(counts.detections[basis, k], float(sent * gain), rtol=1e-12, atol=0)
            np.testing.assert_allclose(counts.errors[basis, k], float(sent * error), rtol=1e-12, atol=0)


def test_photon_numbers_sum_to_the_total():
    """The table by photon number against the n-photon closed forms Y_n, e_n Y_n of theory 1.1."""
    import jax

    from photonmc.sampling.expected import tally_probabilities

    mu, eta, p_d, e = 0.8, 0.37, 2e-4, 0.04
    link = pm.Link(pm.WeakCoherent(1e9, (mu,), (1.0,)), pm.FixedLoss(0.0), pm.ActiveBasis(eta, e, p_d))
    with jax.enable_x64(True):
        state = jax.tree.map(lambda leaf: leaf[0], link.nodes()[0])
        table = np.asarray(tally_probabilities(link, pm.BB84(0.5), state))[0, 0] / 0.25
    for n in range(3):
        a, b, z = (
            (1 - p_d) * (1 - eta * e) ** n,
            (1 - p_d) * (1 - eta * (1 - e)) ** n,
            (1 - p_d) ** 2 * (1 - eta) ** n,
        )
        weight = np.exp(-mu) * mu**n / [1, 1, 2][n]
        np.testing.assert_allclose(table[n, 1:].sum(), weight * (1 - z), rtol=1e-12)
        np.testing.assert_allclose(table[n, 2], weight * (1 + b - a - z) / 2, rtol=1e-12)


def test_block_sizes_and_durations():
    link = pm.Link(pm.WeakCoherent(2e8, (0.5, 0.1), (0.7, 0.3)), pm.Fiber(30.0, 0.2), pm.ActiveBasis(0.3, 0.01, 1e-6))
    by_pulses = pm.expected_counts(pm.Study(link, pm.BB84(0.8), pm.Run(pulses=1e9)))
    by_time = pm.expected_counts(pm.Study(link, pm.BB84(0.8), pm.Run(duration_s=5.0)))
    np.testing.assert_allclose(by_time.detections, by_pulses.detections, rtol=1e-14)
    block = float(by_pulses.detections[0].sum())
    by_block = pm.expected_counts(pm.Study(link, pm.BB84(0.8), pm.Run(block_size_z=block)))
    np.testing.assert_allclose(by_block.pulses, 1e9, rtol=1e-13)
    np.testing.assert_allclose(by_block.errors, by_pulses.errors, rtol=1e-13)


def test_block_that_cannot_come():
    link = pm.Link(pm.WeakCoherent(1e9, (0.5, 0.1, 0.0), (0.7, 0.2, 0.1)), pm.FixedLoss(0.0), pm.ActiveBasis(0.0, 0.01, 0.0))
    security = pm.Lim2014(epsilon_correctness=1e-15, epsilon_secrecy=1e-9)
    study = pm.Study(link, pm.BB84(0.8), pm.Run(block_size_z=1e6), security)
    point = pm.simulate(study, sampler="expected").point()
    assert point["pulses"] is None and point["secret_key_bits"] == 0 and point["qber_z"] is None
    with pytest.raises(pm.ConfigError, match="cannot come"):
        pm.simulate(study, sampler="counts")


def test_rusca_count_model():
    """App. B by hand: dead time as printed, without a floor, S of the key basis alone."""
    p_z, p, mu, eta, p_dc, e, rate, dead = 0.85 * 0.7, (0.6, 0.4), (0.5, 0.15), 0.2, 1e-4, 0.02, 1e9, 37e-9
    receiver = pm.ActiveBasis(eta, e, p_dc, dead_time_ns=37.0, count_model="rusca2018")
    link = pm.Link(pm.WeakCoherent(rate, mu, p), pm.FixedLoss(0.0), receiver)
    counts = pm.expected_counts(pm.Study(link, pm.BB84(0.85, 0.7), pm.Run(pulses=1e9)))
    light = [1 - np.exp(-m * eta) for m in mu]
    s = p_z * sum(q * (x + p_dc) for q, x in zip(p, light, strict=True))
    live = 1 / (1 + rate * s * dead)
    for k in range(2):
        np.testing.assert_allclose(counts.detections[0, k], 1e9 * live * p_z * p[k] * (light[k] + p_dc), rtol=1e-12)
        np.testing.assert_allclose(
            counts.errors[1, k], 1e9 * live * 0.15 * 0.3 * p[k] * (light[k] * e + p_dc / 2), rtol=1e-12
        )
