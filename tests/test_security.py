"""Proofs: an independent implementation, the traps of real implementations, invariants, and soundness against the truth."""

from __future__ import annotations

import dataclasses
import math

import jax
import mpmath
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import stats

import photonmc as pm
from photonmc.security.concentration import CONCENTRATIONS
from photonmc.security.phase_error import SAMPLING_BOUNDS

MU, P = (0.4, 0.145, 2e-4), (0.82, 0.113, 0.067)
DETECTIONS = np.array([[916443873, 46026959, 261349], [3104328, 155910, 885]], float)
ERRORS = np.array([[23334830, 1286242, 112904], [79044, 4357, 382]], float)
QUICK = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def study_of(analysis="lim2014", mu=None, p=None, **security):
    cls = {"lim2014": pm.Lim2014, "rusca2018": pm.Rusca2018}[analysis]
    if "epsilon_secrecy_per_bit" not in security:
        security = {"epsilon_secrecy": 1e-9} | security
    mu, p = mu or (MU if analysis == "lim2014" else (0.5, 0.15)), p or (P if analysis == "lim2014" else (0.7, 0.3))
    link = pm.Link(pm.WeakCoherent(1e9, mu, p), pm.FixedLoss(10.0), pm.ActiveBasis(0.2, 0.01, 1e-6))
    return pm.Study(link, pm.BB84(0.9), pm.Run(pulses=1e12), cls(epsilon_correctness=1e-15, **security))


def counts_of(detections=DETECTIONS, errors=ERRORS):
    return pm.Counts(1e12, np.asarray(detections) * 50, detections, errors)


def real_length(study, detections=DETECTIONS, errors=ERRORS):
    return float(pm.key_length(counts_of(detections, errors), study).terms["secret_key_bits_real"])


def plain_lim2014(n, m, mu, p, eps_sec, eps_cor, f_ec):
    """Lim et al. 2014 typed again from the paper in plain Python, printed ranges, Hoeffding and Fung."""
    eps = eps_sec / 21
    h = lambda x: 0.0 if x in (0, 1) else -x * math.log2(x) - (1 - x) * math.log2(1 - x)  # noqa: E731
    tau = [sum(q * math.exp(-a) * a**j for q, a in zip(p, mu, strict=True)) for j in (0, 1)]

    def photons(counts):
        total = sum(counts)
        d = math.sqrt(total / 2 * math.log(1 / eps))
        low = [math.exp(a) / q * (c - d) for a, q, c in zip(mu, p, counts, strict=True)]
        high = [math.exp(a) / q * (c + d) for a, q, c in zip(mu, p, counts, strict=True)]
        s0 = min(max(tau[0] * (mu[1] * low[2] - mu[2] * high[1]) / (mu[1] - mu[2]), 0), total)
        bracket = low[1] - high[2] - (mu[1] ** 2 - mu[2] ** 2) / mu[0] ** 2 * (high[0] - s0 / tau[0])
        s1 = tau[1] * mu[0] * bracket / (mu[0] * (mu[1] - mu[2]) - mu[1] ** 2 + mu[2] ** 2)
        return s0, min(max(s1, 0), total)

    (s0, s1), (_, z1) = photons(n[0]), photons(n[1])
    d = math.sqrt(sum(m[1]) / 2 * math.log(1 / eps))
    v = tau[1] * (math.exp(mu[1]) / p[1] * (m[1][1] + d) - math.exp(mu[2]) / p[2] * (m[1][2] - d)) / (mu[1] - mu[2])
    v = min(max(v, 0), sum(n[1]))
    phi = 0.5
    if z1 > 0 and v / z1 < 0.5:
        b = v / z1
        gamma = 0.0
        if b > 0 and s1 > 0:
            gamma = math.sqrt(
                (z1 + s1) * (1 - b) * b / (z1 * s1 * math.log(2)) * math.log2((z1 + s1) / (z1 * s1 * (1 - b) * b * eps**2))
            )
        phi = min(b + gamma, 0.5)
    leak = f_ec * sum(n[0]) * h(min(sum(m[0]) / sum(n[0]), 0.5))
    return s0 + s1 * (1 - h(phi)) - leak - 6 * math.log2(21 / eps_sec) - math.log2(2 / eps_cor)


counts_strategy = st.tuples(*[st.integers(0, 10**9)] * 3)


@QUICK
@given(counts_strategy, counts_strategy, st.floats(0, 0.3), st.floats(0, 0.3), st.sampled_from([1e-12, 1e-9, 1e-5, 0.1]))
def test_lim2014_against_plain_python(n_z, n_x, e_z, e_x, eps):
    """Any counts whatever: the same length to 1e-9, so that traps 1-13 of real implementations would show."""
    n = np.array([n_z, n_x], float)
    n[:, 0] += 1
    m = np.floor(n * np.array([[e_z], [e_x]]))
    try:
        expected = plain_lim2014(n.tolist(), m.tolist(), MU, P, eps, 1e-15, 1.16)
    except ValueError:
        assume(False)  # the logarithm of the sampling bound is not positive, and another bound stands in
    got = real_length(study_of(epsilon_secrecy=eps), n, m)
    assert math.isfinite(got)
    assert abs(got - expected) <= 1e-9 * max(abs(expected), n.sum() * 1e-3, 1.0)


@pytest.mark.parametrize("name", CONCENTRATIONS)
@pytest.mark.parametrize("x", [0.0, 1e-2, 1.0, 37.0, 1e6, 1e13])
@pytest.mark.parametrize("eps", [1e-2, 1e-10, 1e-40])
def test_tail_bounds_against_mpmath(name, x, eps):
    beta, total, big = -mpmath.log(mpmath.mpf(eps)), 2 * x + 10, mpmath.mpf(x)
    with jax.enable_x64(True):
        lower, upper = CONCENTRATIONS[name](np.float64(x), np.float64(total), np.float64(-math.log(eps)))
    if name == "kl":
        if x == 0:
            expected = (mpmath.mpf(0), beta)
        else:
            expected = tuple((-big * mpmath.lambertw(-mpmath.exp(-1 - beta / big), k)).real for k in (0, -1))
    elif name == "chernoff":
        expected = (
            big - beta / 2 - mpmath.sqrt(2 * beta * big + beta**2 / 4),
            big + beta + mpmath.sqrt(2 * beta * big + beta**2),
        )
    else:
        width = mpmath.sqrt(total * beta / 2)
        expected = (big - width, big + width)
    for got, wanted in zip((lower, upper), expected, strict=True):
        assert abs(got - float(wanted)) <= 1e-12 * max(abs(float(wanted)), x * 1e-2, 1e-30)


@pytest.mark.parametrize(("seen", "unseen"), [(200, 1000), (1000, 10000), (20000, 20000), (50000, 2000)])
@pytest.mark.parametrize("errors", [0, 1, 7, 60])
def test_safe_sampling_bounds_lie_above_the_exact_one(seen, unseen, errors):
    """Smallest number of errors in all that is refuted by the hypergeometric law; yin_safe and serfling never miss."""
    eps, b = 1e-6, errors / seen
    total = np.arange(errors, seen + unseen)
    refuted = stats.hypergeom.cdf(errors, seen + unseen, total, seen) < eps
    exact = (total[refuted.argmax()] - errors) / unseen - b if refuted.any() else 1.0
    with jax.enable_x64(True):
        for name in ("yin_safe", "serfling"):
            assert SAMPLING_BOUNDS[name](*map(np.float64, (eps, b, seen, unseen))) >= exact * 0.999, name


def test_traps():
    base = study_of()
    length = real_length(base)
    key = pm.key_length(counts_of(), base)
    # 3, 13: no error at all, and an error rate beyond 1/2, are no way to more key
    assert real_length(base, errors=ERRORS * 0) > length
    for worse in (2.0, 10.0, 20.0):
        many = np.minimum(ERRORS * [[1.0], [worse]], DETECTIONS)
        assert real_length(base, errors=many) < length
        assert pm.key_length(counts_of(errors=many), base).terms["phase_error_z"] <= 0.5
    # 6: tau_n is the mixture of all intensities
    np.testing.assert_allclose(key.terms["tau_1"], sum(p * math.exp(-m) * m for m, p in zip(MU, P, strict=True)), rtol=1e-14)
    # 10: leak of all intensities together, in bits of the whole block
    q = ERRORS[0].sum() / DETECTIONS[0].sum()
    h = -q * math.log2(q) - (1 - q) * math.log2(1 - q)
    np.testing.assert_allclose(key.terms["leak_bits"], 1.16 * DETECTIONS[0].sum() * h, rtol=1e-13)
    # 21: the validity conditions are enforced
    with pytest.raises(pm.ConfigError, match="mu1 > mu2 \\+ mu3"):
        pm.key_length(counts_of(), study_of(mu=(0.4, 0.39, 0.02)))
    # 2: bases are not exchangeable, but exchanging bases and counts gives the other key
    assert real_length(base, DETECTIONS[::-1], ERRORS[::-1]) < length


@QUICK
@given(
    st.floats(0.5, 1.0),
    st.floats(1.0, 5.0),
    st.sampled_from(["lim2014", "rusca2018"]),
    st.sampled_from(["hoeffding", "chernoff", "kl"]),
)
def test_monotone(fewer_errors, more, analysis, concentration):
    study = study_of(analysis, concentration=concentration)
    k = len(study.link.source.intensities)
    n, m = DETECTIONS[:, :k], ERRORS[:, :k] / 4
    length = real_length(study, n, m)
    assert length <= n[0].sum()
    assert real_length(study, n, m * fewer_errors) >= length - 1e-6
    assert real_length(study, n * more, m * more) >= more * length - 1e-6 * abs(length)
    wider = study.replace({"security.epsilon_secrecy": 1e-8})
    assert real_length(wider, n, m) >= length


def test_order_of_variants():
    """Clamped >= printed; kl >= chernoff; all below the length without fluctuation."""
    small = (DETECTIONS / 1e4, ERRORS / 1e4)
    for n, m in (small, (DETECTIONS, ERRORS)):
        printed, clamped = (real_length(study_of(clamp=c), n, m) for c in (False, True))
        assert clamped >= printed
        kl, chernoff = (real_length(study_of(concentration=c), n, m) for c in ("kl", "chernoff"))
        assert kl >= chernoff
        ideal = pm.key_length(counts_of(n, m), study_of()).secret_key_bits_fluctuation_free
        assert ideal >= max(printed, clamped, kl, chernoff, 0)


def test_epsilon_per_bit_is_a_fixed_point():
    for scale in (1.0, 1e-2, 1e-3, 2e-4):
        study = study_of(epsilon_secrecy_per_bit=1e-15, clamp=True, concentration="kl")
        terms = pm.key_length(counts_of(DETECTIONS * scale, ERRORS * scale), study).terms
        epsilon = 1e-15 * max(float(terms["secret_key_bits_real"]), 1.0)
        np.testing.assert_allclose(terms["epsilon_secrecy"], epsilon, rtol=1e-9)
        fixed = study_of(epsilon_secrecy=epsilon, clamp=True, concentration="kl")
        np.testing.assert_allclose(
            real_length(fixed, DETECTIONS * scale, ERRORS * scale), terms["secret_key_bits_real"], rtol=1e-9
        )


def test_two_decoys_without_fluctuation_are_those_of_ma():
    """Lim's s_X1 / (N q^2 tau_1) is Ma's Y1 for vacuum and weak decoy (theory 9)."""
    mu, p = (0.5, 0.1, 0.0), (0.7, 0.2, 0.1)
    lim, ma = study_of(mu=mu, p=p), dataclasses.replace(study_of(mu=mu, p=p), security=pm.Ma2005())
    counts = pm.expected_counts(lim)
    terms = pm.key_length(counts, ma).terms
    with jax.enable_x64(True):
        ideal = jax.device_get(lim.security.evaluate(counts, lim.link, lim.protocol, fluctuating=False))
    for basis, chosen in (("z", 0.81), ("x", 0.01)):
        y_1 = ideal[f"single_photon_detections_{basis}"] / (1e12 * chosen * ideal["tau_1"])
        np.testing.assert_allclose(y_1, terms[f"single_photon_yield_{basis}"], rtol=1e-11)
    np.testing.assert_allclose(ideal["phase_error_z"], terms["phase_error_z"], rtol=1e-10)


@pytest.mark.parametrize("analysis", ["lim2014", "rusca2018"])
@pytest.mark.parametrize("variant", [{}, {"clamp": True, "concentration": "kl", "phase_error_sampling": "yin_safe"}])
def test_bounds_hold_against_the_truth(analysis, variant):
    """20 sampled blocks at eps_sec = 2e-5: every bound holds in each; each may fail with probability 1e-6."""
    study = study_of(analysis, epsilon_secrecy=2e-5, **variant)
    study = study.replace({"run.pulses": 1e9, "protocol.basis_probability_z": 0.6, "receiver.misalignment_error": 0.03})
    for seed in range(20):
        result = pm.simulate(study.replace({"run.realizations": 1, "run.seed": seed}))
        terms = {name: float(v[0]) for name, v in result.keys.terms.items()}
        single, wrong = result.truth.detections[0, :, :, 1].sum(axis=-1), result.truth.errors[0, :, :, 1].sum(axis=-1)
        assert terms["vacuum_detections_z"] <= result.truth.detections[0, 0, :, 0].sum()
        assert 0 < terms["single_photon_detections_z"] <= single[0]
        assert 0 < terms["single_photon_detections_x"] <= single[1]
        assert terms["single_photon_errors_x"] >= wrong[1]
        assert terms["phase_error_z"] >= wrong[0] / single[0]
        assert result.point()["secret_key_bits"] <= single[0]


REASONS = {
    "no_key_block_size": {"run.pulses": 1e6},
    "no_key_errors": {"receiver.misalignment_error": 0.2},
    "no_key_dark_counts": {"channel.loss_db": 60.0, "run.pulses": 1e15},
    "no_key_multiphoton": {"source.intensities": (5.0, 4.0, 0.0), "channel.loss_db": 30.0, "run.pulses": 1e15},
}


@pytest.mark.parametrize("word", REASONS)
def test_reason_without_key(word):
    study = study_of(mu=(0.5, 0.1, 0.0), p=(0.7, 0.2, 0.1)).replace(REASONS[word])
    point = pm.simulate(study, sampler="expected").point()
    assert point["secret_key_bits"] == 0
    assert word in point["status"] and "ok" not in point["status"], point["reason"]
    assert point["reason"].startswith(("The block", "Too many", "Dark counts", "No single"))


def test_few_errors_are_not_certified():
    study = study_of(mu=(0.5, 0.1, 0.0), p=(0.7, 0.2, 0.1), concentration="kl", clamp=True).replace({"run.pulses": 1e9})
    point = pm.simulate(study, sampler="expected").point()
    assert point["status"] == ["ok", "sampling_bound_unsafe"] and "Not certified" in point["reason"]
    safe = pm.simulate(study.replace({"security.phase_error_sampling": "yin_safe"}), sampler="expected").point()
    assert point["secret_key_bits_yin_safe"] == safe["secret_key_bits"]
    assert safe["status"] == ["ok"] and "secret_key_bits_yin_safe" not in safe


def test_ma2005_takes_only_its_own_settings():
    with pytest.raises(pm.ConfigError, match="epsilon_secrecy: is not taken by analysis"):
        pm.load_config("preset:gys", ["security.epsilon_secrecy=1e-9"])


def test_finite_rates_stay_below_asymptotic_and_plob():
    from photonmc.units import plob_bound

    for loss in (0.1, 5.0, 20.0):
        study = study_of(concentration="kl", clamp=True).replace({"channel.loss_db": loss, "run.pulses": 1e15})
        point = pm.simulate(study, sampler="expected").point()
        assert 0 < point["secret_key_bits_per_pulse"] <= float(plob_bound(10 ** (-loss / 10)))
