"""Laws of a wandering beam and tabulated turbulence, against closed forms, adaptive and dense quadrature."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Z_LIMIT, assert_mistakes
from scipy import integrate, optimize, special
from test_passes import CONFIG, case, loaded, terms

import photonmc as pm
from photonmc.budget import fading_samples
from photonmc.channel import beams, diffraction, fading, turbulence

GAUSSIAN = ('channel.divergence_kind="half_1e2"', "channel.pointing_correlation_time_ms=1.0")
"""A Gaussian beam; blocks are as long as both correlation times."""


def agree(drawn, probability, finds):
    """A share of blocks against its probability at 1e-6; deviations of `finds` are found at least."""
    # neighbors are correlated by 1/e at most (Gebelein's inequality)
    kept = math.exp(-1.0)
    deviation = math.sqrt(probability * (1 - probability) / drawn.size * (1 + kept) / (1 - kept))
    assert abs(drawn.mean() - probability) < Z_LIMIT * deviation < finds


# Log-negative Weibull


def test_weibull_parameters():
    """Reference case, the printed formula with scipy's Bessel functions, and the limit of a small aperture."""
    given, wanted = case("weibull-wander")
    with jax.enable_x64(True):
        found = beams.weibull(given["w_m"], 2.0 * given["a_m"])
        np.testing.assert_allclose(found, [wanted["R_m"], wanted["lam"]], rtol=1e-5)
        for w in (0.05, 0.3, 0.999, 1.001, 3.0, 10.0):
            y = 1.0 / w**2
            edge = 1.0 - special.ive(0, y)
            log = math.log(-2.0 * math.expm1(-0.5 * y) / edge)
            exponent = 2.0 * y * special.ive(1, y) / edge / log
            np.testing.assert_allclose(beams.weibull(w, 1.0), [0.5 * log ** (-1.0 / exponent), exponent], rtol=1e-10)
        np.testing.assert_allclose(beams.weibull(1.0, 1e-7), [math.sqrt(0.5), 2.0], rtol=1e-12)
        assert jax.grad(lambda w: beams.weibull(w, 1e-7)[0])(1.0) == pytest.approx(math.sqrt(0.5), rel=1e-12)


@pytest.mark.nightly
def test_weibull_is_drawn_from_its_law():
    """Distribution function of the reference case: a spot of 2 urad at 500 km; 1e5 blocks find 1.2 %."""
    given, wanted = case("weibull-wander")
    aperture = 2.0 * given["a_m"] / (given["w_m"] / 1.0)
    link = loaded(
        *GAUSSIAN, 'channel.fading="lognegative_weibull"', "channel.divergence_urad=2.0", f"channel.receiver_aperture_m={aperture}",
        f"channel.pointing_jitter_urad={2.0 * given['sigma_m'] / given['w_m']}", "channel.max_elevation_deg=90.0",
    ).link  # fmt: skip
    columns = fading_samples(link, 90.0, 100_000, seed=4)
    assert np.all(columns["scintillation"] == 1.0)
    for eta, probability in zip(given["eta"], wanted["cdf"], strict=True):
        agree(columns["pointing"] * wanted["T0"] <= eta, probability, 0.012)
    scale, power, sigma = wanted["R_m"], wanted["lam"], given["sigma_m"]
    mean, _ = integrate.quad(lambda r: r / sigma**2 * math.exp(-0.5 * (r / sigma) ** 2 - (r / scale) ** power), 0, 8 * sigma)
    lost = terms(pm.link_budget(link, 90.0))
    assert 10 ** (-0.1 * lost["pointing"]) == pytest.approx(mean, rel=1e-5)
    assert 10 ** (-0.1 * lost["diffraction"]) == pytest.approx(wanted["T0"], rel=1e-5)


# Elliptic beam


def test_share_of_an_ellipse():
    """Reference case by brute force; a telescope with an obscuration, and a small one far off, by adaptive quadrature."""
    given, wanted = case("elliptic-point")
    x, y = given["x0"] * math.cos(given["phi"]), -given["x0"] * math.sin(given["phi"])
    with jax.enable_x64(True):
        found = beams.ellipse_share(x, y, given["w1"], given["w2"], 2.0 * given["a"], 0.0)
        assert found == pytest.approx(wanted["exact"], rel=wanted.get("rel", 1.2e-6))

        def density(v, u, x, y, w_x, w_y):
            return 2.0 / (math.pi * w_x * w_y) * math.exp(-2.0 * (((u - x) / w_x) ** 2 + ((v - y) / w_y) ** 2))

        for spot in ((0.3, 0.2, 0.6, 0.4), (2.0, 3.0, 2.0, 1.5)):
            exact = 0.0
            for sign, radius in ((1, 0.5), (-1, 0.2)):
                chord = (lambda u, r=radius: -math.sqrt(r * r - u * u)), (lambda u, r=radius: math.sqrt(r * r - u * u))
                exact += sign * integrate.dblquad(density, -radius, radius, *chord, args=spot, epsabs=0, epsrel=1e-9)[0]
            assert beams.ellipse_share(*spot, 1.0, 0.4) == pytest.approx(exact, rel=1e-8)


@pytest.mark.nightly
def test_elliptic_beam_is_drawn_from_its_law():
    """Distribution function and moments for a small telescope, by dense quadrature; 2e5 blocks find 1 %.

    Then the share is the intensity at its center, and over the centroid the probability is known in closed form.
    """
    link = loaded(
        *GAUSSIAN, 'channel.fading="elliptic_beam"', "channel.divergence_urad=5.0", "channel.receiver_aperture_m=0.2",
        "channel.pointing_jitter_urad=1.5",
    ).link  # fmt: skip
    budget, columns = pm.link_budget(link, 20.0), fading_samples(link, 20.0, 200_000, seed=5)
    assert np.all(columns["scintillation"] == 1.0)
    variance = math.log1p(budget["scintillation_index"])
    assert 0.1 < variance < 0.3
    jitter = 4.0 * (1.5 / 5.0) ** 2  # 4 sigma^2, in units of w^2
    x, weights = np.polynomial.hermite_e.hermegauss(60)
    size, shape = math.sqrt(variance) * x[:, None, None], math.sqrt(5.0 * variance) * x[:, None]
    weights = weights[:, None, None] * weights[:, None] / weights.sum() ** 2 / 64
    cosine = np.cos(2.0 * math.pi * np.arange(64) / 64) ** 2

    def mean_share(middle):
        one, two = np.exp(middle + size + shape) + jitter, np.exp(middle + size - shape) + jitter
        return (64 * weights / np.sqrt(one * two)).sum()

    middle = optimize.brentq(lambda middle: mean_share(middle) - 1.0 / (1.0 + jitter), -2.0, 2.0)
    falls = cosine * np.exp(-middle - size - shape) + (1.0 - cosine) * np.exp(-middle - size + shape)
    for at in (0.05, 0.2, 0.5, 0.8, 1.2, 1.6):
        above = np.maximum(-middle - size - math.log(at), 0.0)  # of the intensity on the axis
        agree(columns["pointing"] <= at, (weights * np.exp(-above / (jitter * falls))).sum(), 0.01)
    square = (64 * weights / np.exp(2 * (middle + size)) / np.sqrt(
        (1 + 2 * jitter * np.exp(-middle - size - shape)) * (1 + 2 * jitter * np.exp(-middle - size + shape)))).sum()  # fmt: skip

    @jax.jit
    def moments(index, w, sigma):
        offset, pointing = fading.offset_nodes(sigma, 0.0)
        shares, inner = beams.ellipses(w, index, sigma, 0.0 * w, 0.2, 0.0).nodes(offset, 0.2, 0.0)
        shares = shares / diffraction.emitted_share(w, 0.2, 0.0)
        return jnp.stack([(pointing[:, None] * inner * shares**power).sum() for power in (1, 2)])

    with jax.enable_x64(True):
        w = 5e-3 * budget["range_km"]
        found = np.asarray(moments(budget["scintillation_index"], w, 0.3 * w))
    assert found[0] == pytest.approx(1.0 / (1.0 + jitter), rel=1e-4)
    assert found[1] == pytest.approx(square, rel=1e-3)
    assert 10 ** (-0.1 * terms(budget)["pointing"]) == pytest.approx(1.0 / (1.0 + jitter), rel=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "law"), [("downlink", "lognegative_weibull"), ("uplink", "elliptic_beam")])
def test_drawn_beam_has_the_moments_of_the_nodes(kind, law):
    """Mean and mean square over 2e5 blocks at 1e-6 each, which find 2 and 5 %; slopes by divergence against differences."""
    link = loaded(
        *GAUSSIAN, f'channel.fading="{law}"', f'channel.kind="{kind}"', "channel.divergence_urad=8.0", "run.duration_s=200.0",
        "channel.receiver_obscuration_m=0.3", "channel.pointing_jitter_urad=1.5", "channel.boresight_error_urad=1.0",
    ).link  # fmt: skip
    pulses = round(200.0 * link.source.pulse_rate_hz)

    def moments(divergence):
        channel = dataclasses.replace(link, channel=dataclasses.replace(link.channel, divergence_urad=divergence))
        states, weights = channel.nodes(float(pulses))
        powers = jnp.stack([(weights * states.transmittance**power).sum() for power in (1, 2, 4)])
        return powers[0], powers

    with jax.enable_x64(True):
        kernel = jax.jit(jax.value_and_grad(moments, has_aux=True))
        ((_, powers), slope), ((more, _), _), ((less, _), _) = (kernel(8.0 + step) for step in (0.0, 1e-4, -1e-4))
        slope, powers = float(slope), np.asarray(powers)
        lengths = link.block_lengths(pulses)
        drawn = np.asarray(link.draw(jax.random.key(6), lengths).transmittance)
    assert slope == pytest.approx(float(more - less) / 2e-4, rel=1e-6)
    assert len(lengths) == 200_000
    kept = math.exp(-1.0)
    for power, exact, square, finds in ((1, powers[0], powers[1], 0.02), (2, powers[1], powers[2], 0.05)):
        deviation = math.sqrt((square - exact**2) * (1 + kept) / (1 - kept) / drawn.size)
        assert abs((drawn**power).mean() - exact) < Z_LIMIT * deviation < finds * exact


# Profile of turbulence


def test_tabulated_turbulence():
    """Two rows have closed forms; a fine table of the Hufnagel-Valley profile gives what the profile does."""
    plain = loaded("channel.station_altitude_m=1234.0").link.channel
    edges = np.array(turbulence.PANELS_M) + 1234.0
    heights = np.unique(np.concatenate([np.linspace(*pair, 60) for pair in itertools.pairwise(edges)]))

    @jax.jit
    def of_a_path(channel):
        path = channel.path(0.5, 850e-9)
        index = path.scintillation_index(1.0, 0.2)
        return jnp.stack(
            [path.fried_parameter(), path.isoplanatic_angle(), path.greenwood_frequency(), path.rytov_variance(), index]
        )

    with jax.enable_x64(True):
        strengths = turbulence.hufnagel_valley(heights, 1234.0, plain.cn2_ground, plain.wind_rms_m_s)
        columns = {"cn2_profile_m": heights, "cn2_profile": np.asarray(strengths)}
        table = dataclasses.replace(plain, **{name: jnp.asarray(column) for name, column in columns.items()})
        np.testing.assert_allclose(of_a_path(table), of_a_path(plain), rtol=5e-5)
        rows = dataclasses.replace(
            plain, cn2_profile_m=(0.0, 2000.0, 12000.0, 20000.0), cn2_profile=(1e-13, 1e-16, 1e-17, 0.0)
        )
        found = jax.jit(lambda channel: channel.path(0.5, 850e-9).fried_parameter())(rows)
    scale = 2000.0 / math.log(1e3)  # the layer that the station stands in
    integral = scale * (1e-13 * math.exp(-1234.0 / scale) - 1e-16) + 9e-17 * 10000.0 / math.log(10.0) + 0.5 * 1e-17 * 8000.0
    wave = 2.0 * math.pi / 850e-9
    assert found == pytest.approx((0.423 * wave**2 * integral / math.sin(0.5)) ** -0.6, rel=1e-9)


# Configs

MISTAKES = [
    (
        ['channel.fading="elliptic_beam"', "channel.cn2_profile=[1e-15, 1e-16, 1e-17]", "channel.cn2_profile_m=[100.0, 50.0]",
         "channel.station_altitude_m=200.0", "channel.cn2_ground=1e-14", "channel.wind_rms_m_s=10.0"],
        ['channel.divergence_kind: must be that of a Gaussian beam for fading = "elliptic_beam", but is "tophat_full"',
         "channel.cn2_profile: must be as many as cn2_profile_m (2), but are 3",
         "channel.cn2_profile_m: must rise, but [1] = 50 is not above [0] = 100",
         "channel.cn2_profile: must be above 0 somewhere above station_altitude_m, 200",
         "channel.cn2_ground: must be left out with cn2_profile, but is 1e-14",
         "channel.wind_rms_m_s: must be left out with cn2_profile, but is 10"],
    ),
    (
        ['channel.fading="lognegative_weibull"', "channel.cn2_profile=[1e-7, 0.0]"],
        ['channel.divergence_kind: must be that of a Gaussian beam for fading = "lognegative_weibull", but is "tophat_full"',
         "channel.cn2_profile[0]: must be in [0, 1e-08] m^(-2/3), but is 1e-07"],
    ),
    (
        ["channel.cn2_profile=[1e-15]", 'channel.fading="gamma_gamma"'],
        ["channel.cn2_profile_m: is required with cn2_profile"],
    ),
    (
        ["channel.cn2_profile_m=[0.0]", "channel.cn2_profile=[1e-15]"],
        ["channel.cn2_profile_m: must have 2 entries at least, but has 1",
         "channel.cn2_profile: must be above 0 somewhere above station_altitude_m, 0"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "messages"), MISTAKES)
def test_all_mistakes_at_once(cli, overrides, messages):
    assert_mistakes(cli, CONFIG, overrides, messages)
