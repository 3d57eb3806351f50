"""Passes of a satellite: what is drawn against the quadrature, the budget against references, and every rule."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, Z_LIMIT, assert_mistakes
from scipy import integrate, stats

import photonmc as pm
from photonmc import fields
from photonmc.budget import fading_samples
from photonmc.channel import diffraction, fading, validity
from photonmc.channel.trajectories import shortest_time_s
from photonmc.contracts import quadrature

CONFIG = ROOT / "configs" / "downlink.toml"
CASES = {case["id"]: case for case in json.loads((ROOT / "tests" / "reference" / "satellite.json").read_text())}


def loaded(*overrides):
    return pm.load_config(CONFIG, overrides)


def case(name):
    return CASES[name]["inputs"], CASES[name]["expected"]


def terms(budget):
    return {term["name"]: term["db"] for term in budget["terms"]}


# States


def test_drawn_pass_has_the_moments_of_the_nodes():
    """Mean and mean square of the transmittance over 1e6 blocks, at 1e-6 each; 0.8 % and 1 % too much are found."""
    one = loaded(
        "channel.coherence_time_ms=0.2", "channel.pointing_correlation_time_ms=0.2", "run.duration_s=200.0",
        "channel.receiver_aperture_m=0.3", "channel.pointing_jitter_urad=4.0", "channel.boresight_error_urad=1.0",
    )  # fmt: skip
    link, pulses = one.link, round(200.0 * one.link.source.pulse_rate_hz)
    with jax.enable_x64(True):
        states, weights = quadrature(link, float(pulses))
        lengths = link.block_lengths(pulses)
        drawn = np.asarray(link.draw(jax.random.key(5), lengths).transmittance)
    assert len(lengths) == 1_000_000 and np.ptp(lengths) == 0
    values, weights = np.asarray(states.transmittance), np.asarray(weights)
    for power, finds in ((1, 0.008), (2, 0.01)):
        exact, square = ((weights * values ** (power * n)).sum() for n in (1, 2))
        # neighbors are correlated by 1/e at most (Gebelein's inequality), which leaves fewer independent blocks
        deviation = math.sqrt((square - exact**2) * (1 + math.exp(-1)) / (1 - math.exp(-1)) / len(lengths))
        assert Z_LIMIT * deviation < finds * exact
        assert abs((drawn**power).mean() - exact) < Z_LIMIT * deviation


def test_fading_at_one_elevation(cli, tmp_path):
    """Samples of the budget command at 1e-6: moments that agree with its terms, correlation exp(-t/tau)."""
    path, blocks = tmp_path / "fading.csv", 100_000
    overrides = ["correlation_time_ms=0.5", "jitter_urad=3.0"]
    overrides = [*(f"channel.pointing_{one}" for one in overrides), "channel.receiver_aperture_m=0.5"]
    arguments = [part for override in overrides for part in ("--set", override)]
    arguments += ["--elevation", "20", "--json", "--samples", path, "--blocks", blocks, "--seed", 3]
    code, out, err = cli("budget", CONFIG, *arguments)
    assert code == 0, err
    budget = json.loads(out)
    assert path.read_text().splitlines()[0] == "time_s,pointing,scintillation,transmittance"
    time, pointing, light, whole = np.loadtxt(path, delimiter=",", skiprows=1).T
    assert time.size == blocks and np.allclose(np.diff(time), 5e-4)  # the shorter correlation time
    lost = terms(budget)
    still = 10 ** (-0.1 * (budget["total_db"] - lost["pointing"]))
    np.testing.assert_allclose(whole, still * pointing * light, rtol=1e-9)

    def agrees(values, mean, kept, finds):
        """Mean of blocks that are correlated from one to the next; a relative error that this finds."""
        deviation = math.sqrt(values.var() * (1 + kept) / (1 - kept) / blocks)
        assert abs(values.mean() - mean) < Z_LIMIT * deviation < finds * abs(mean)

    slow, fast = math.exp(-0.5), math.exp(-1.0)  # of the light, whose coherence time is 1 ms, and of the pointing
    agrees(pointing, 10 ** (-0.1 * lost["pointing"]), fast, 0.02)
    agrees(light, 1.0, slow, 0.01)
    agrees((light - 1.0) ** 2, budget["scintillation_index"], slow, 0.06)
    normal = np.log(light) / np.log1p(budget["scintillation_index"]) ** 0.5
    agrees((normal[1:] - normal.mean()) * (normal[:-1] - normal.mean()), slow, slow, 0.08)
    assert np.all((pointing >= 0) & (pointing <= 1))
    assert cli("budget", CONFIG, *arguments)[0] == 2, "an existing file is kept"


@pytest.mark.nightly
def test_gamma_gamma_is_drawn_from_its_law():
    """Distribution function against that of the nodes, theory 3.3; 1e5 blocks find 1.2 % of any probability."""
    link = loaded('channel.fading="gamma_gamma"', "channel.receiver_aperture_m=0.03").link
    light = fading_samples(link, 20.0, 200_000, seed=2)["scintillation"][::2]  # neighbors are correlated by exp(-2)
    with jax.enable_x64(True):
        rytov = link.channel.path(np.radians(20.0), 850e-9).rytov_variance()
        a, b = map(float, fading.gamma_shapes(rytov))
        normal = np.linspace(-8.0, 8.0, 33)
        tail = np.where(normal > 0, stats.gamma.isf(stats.norm.sf(normal), a), stats.gamma.ppf(stats.norm.cdf(normal), a))
        np.testing.assert_allclose(np.exp(fading.log_gamma_quantile(normal, a)) * a, tail, rtol=1e-9)
    for at in (0.2, 0.6, 1.0, 2.0, 4.0):
        product, _ = integrate.quad(lambda x, at=at: stats.gamma.cdf(b * at / x, b) * stats.gamma.pdf(a * x, a) * a, 0, 60)
        deviation = math.sqrt(product * (1 - product) / light.size * (1 + math.exp(-2)) / (1 - math.exp(-2)))
        assert abs((light <= at).mean() - product) < Z_LIMIT * deviation < 0.012


@pytest.mark.parametrize("jitter", [1.2, 2.5, 20.0])
def test_pointing_of_a_disc(jitter):
    """Overlap of two circles over Rayleigh's law, by adaptive quadrature between the offsets where the circles touch."""
    channel = loaded("channel.receiver_obscuration_m=0.3").link.channel
    with jax.enable_x64(True):
        spot, sigma = 1e-5 * 800e3, 1e-6 * jitter * 800e3
        offset, weights = fading.offset_nodes(sigma, 0.0, channel.bends(800e3, 850e-9))
        found = float((channel.shares(0.0, 800e3, offset, 850e-9) * weights).sum())
        share = jax.jit(diffraction.disc_share)

        def density(r):
            return r / sigma**2 * math.exp(-0.5 * (r / sigma) ** 2) * float(share(spot, r, 1.0, 0.3))

        touch = np.clip([0.0, *(0.5 * (spot + edge) for edge in (-1.0, -0.3, 0.3, 1.0))], 0.0, 9.0 * sigma)
        exact = sum(integrate.quad(density, *pair, epsabs=1e-12, epsrel=1e-6)[0] for pair in itertools.pairwise(touch))
    assert found == pytest.approx(exact, rel=1e-6)


@jax.jit
def of_a_link(link):
    """All that depends on a link over a pass, in a few numbers."""
    channel, wavelength = link.channel, 1e-9 * link.source.wavelength_nm
    low = jnp.radians(channel.min_elevation_deg)
    states, weights = link.nodes()
    path = channel.path(low, wavelength)
    times = channel.duration_s(), channel.coherence_s(path, low, wavelength), shortest_time_s(channel, low[None], wavelength)
    means = ((leaf * weights).sum() for leaf in jax.tree.leaves(states))
    return jnp.stack([*times, *means, (states.transmittance**2 * weights).sum(), path.greenwood_frequency()])


BASES = (
    {},
    {
        "divergence_urad": None, "divergence_kind": None, "beam_waist_m": 0.13, "transmitter_aperture_m": 0.3,
        "slew_rad_s": 0.01, "coherence_time_ms": None, "pointing_correlation_time_ms": 1.0, "earth_rotation": True, "inclination_deg": 97.4, "latitude_deg": 40.0,
        "transmitter_obscuration_m": 0.1, "receiver_obscuration_m": 0.2, "boresight_error_urad": 0.5, "atmosphere": "zenith",
        "cn2_profile_m": (10.0, 1000.0, 20000.0), "cn2_profile": (1e-14, 1e-16, 1e-18),
    },
)  # fmt: skip
WORDS = {"kind", "fading", "divergence_kind", "atmosphere", "earth_rotation", "sky"}
"""Fields of other tests, whose values are no numbers."""


def test_every_number_matters():
    """Each number of a pass and of its background changes something, by 1 % of itself or where it is 0."""
    plain = loaded("channel.polarization_rotation_deg=1.0").link
    sky = dataclasses.replace(plain.background, sky=None, radiance_w_m2_sr_um=1e-5)
    missing = {name for record in (plain.channel, sky) for name in fields.fields_of(type(record))} - WORDS
    with jax.enable_x64(True):
        for changes in BASES:
            channel = dataclasses.replace(plain.channel, **changes)
            link = dataclasses.replace(plain, channel=channel, background=sky)
            base = np.asarray(of_a_link(link))
            for section, record in (("channel", channel), ("background", sky)):
                for name in missing & set(fields.fields_of(type(record))):
                    value = getattr(record, name)
                    if isinstance(value, (float, tuple)):
                        moved = jax.tree.map(lambda number: 1.01 * number + 0.01 * (number == 0.0), value)
                        moved = dataclasses.replace(record, **{name: moved})
                        if not np.array_equal(of_a_link(dataclasses.replace(link, **{section: moved})), base):
                            missing = missing - {name}
    assert not missing


# Budget


def test_budget(cli):
    """Terms and turbulence against first principles and MODTRAN's table; sources stand with the reference cases."""
    code, out, err = cli("budget", CONFIG, "--elevation", 30, "--json")
    budget = json.loads(out)
    assert code == 0 and err == ""
    lost = terms(budget)
    assert list(lost) == ["diffraction", "pointing", "atmosphere", "excess", "receiver_optics", "detector"]
    assert budget["total_db"] == pytest.approx(sum(lost.values()), rel=1e-14)
    assert budget["airmass"] == pytest.approx(case("airmass-ky-30")[1]["airmass"], rel=1e-7)
    given, wanted = case("micius-22db")  # a disc, whose share falls with the square of the range
    assert lost["diffraction"] + 20 * np.log10(1e-3 * given["L_m"] / budget["range_km"]) == pytest.approx(
        wanted["tophat_db"], abs=1e-4
    )
    given, wanted = case("modtran-850")
    assert lost["atmosphere"] == pytest.approx(-10 * np.log10(wanted["transmittance"][given["elevation_deg"].index(30)]))
    assert lost["excess"] == pytest.approx(1.6 * budget["airmass"])
    assert (lost["receiver_optics"], lost["detector"]) == pytest.approx((-10 * np.log10(0.16), -10 * np.log10(0.5)))
    assert "total" in cli("budget", CONFIG, "--elevation", 30)[1]
    still = ("--set", "channel.pointing_jitter_urad=0", "--set", "receiver.efficiency=1.0")
    assert all("-0.0" not in cli("budget", CONFIG, "--elevation", 30, *still, *how)[1] for how in ((), ("--json",)))
    narrow, small = (loaded(f"channel.{least}").link for least in ("divergence_urad=0.01", "receiver_aperture_m=1e-9"))
    assert terms(pm.link_budget(narrow, 30.0))["diffraction"] == pytest.approx(0.0, abs=1e-9)
    assert terms(pm.link_budget(small, 30.0))["diffraction"] == pytest.approx(lost["diffraction"] + 180.0)
    blind = cli("budget", CONFIG, "--elevation", 30, "--json", "--set", "receiver.efficiency=0.0")[1]
    assert json.loads(blind)["total_db"] is None


def test_budget_of_turbulence_and_sky():
    fast = loaded("channel.slew_rad_s=0.0152", 'background.sky="bright_day"', "background.filter_bandwidth_nm=0.2").link
    zenith, low = pm.link_budget(fast, 90.0), pm.link_budget(fast, 20.0)
    wanted = case("turb-850-el90")[1]
    found = [zenith[name] for name in ("fried_parameter_m", "isoplanatic_angle_urad", "rytov_variance")]
    np.testing.assert_allclose(found, [wanted["r0_m"], 1e6 * wanted["theta0_rad"], wanted["rytov_plane"]], rtol=2e-5)
    assert zenith["greenwood_frequency_hz"] == pytest.approx(case("greenwood-leo")[1]["f_G_hz"], rel=1e-4)
    for budget, name in ((zenith, "scint-ap-1.0m-el90"), (low, "scint-ap-1.0m-el20")):
        assert budget["scintillation_index"] == pytest.approx(case(name)[1]["sigma_I2"], rel=1e-4)
    given, wanted = case("bg-itu-bright")
    detected = wanted["mean_per_gate"] / given["gate_s"] / given["D_m"] ** 2 * 0.16 * 0.5
    assert zenith["background_counts_hz"] == pytest.approx(detected, rel=2e-4)


def test_background_acts_in_the_gate():
    """Half of it at each detector; jitter moves as much of it into the detection window as out of it."""
    link = loaded('background.sky="clear_day"').link
    window = dataclasses.replace(link.receiver, gate_width_ns=None, detection_window_ps=500.0, timing_jitter_ps=400.0)
    counts = pm.link_budget(link, 50.0)["background_counts_hz"]
    assert window.window_shares()[0] < 0.9
    for receiver, gate_s in ((link.receiver, 2e-9), (window, 0.5e-9)):
        one = dataclasses.replace(link, receiver=receiver)
        assert pm.link_budget(one, 50.0)["background_counts_hz"] == counts
        with jax.enable_x64(True):
            noise = np.asarray(one.receiver.noise_probabilities(one.channel._state(one, np.ones(()))))
        np.testing.assert_allclose(noise, -np.expm1(-(25.0 + 0.5 * counts) * gate_s), rtol=1e-12)


def test_budget_of_an_uplink():
    """Long-term spot and wander, theory (31), (32), by the reference and by their formulas."""
    given, wanted = case("uplink-810")
    plain = loaded("channel.excess_loss_per_airmass_db=0.0", "channel.pointing_jitter_urad=0.0").link
    beam = {"divergence_urad": None, "divergence_kind": None, "beam_waist_m": given["w0_m"], "max_elevation_deg": 90.0}
    values = {field.name: getattr(plain.channel, field.name) for field in dataclasses.fields(plain.channel)}
    channel = pm.Uplink(**{**values, **beam, "kind": "uplink", "atmosphere": "zenith", "earth_rotation": False})
    link = dataclasses.replace(plain, channel=channel, source=dataclasses.replace(plain.source, wavelength_nm=810.0))
    budget = pm.link_budget(link, 90.0)
    with jax.enable_x64(True):
        long, short, wander = (float(spot) for spot in channel.spots(np.pi / 2, given["wavelength_m"]))
    assert long == pytest.approx(wanted["w_LT_m"], rel=5e-3)  # there with the Fried parameter of a plane wave
    assert math.sqrt(2) * wander == pytest.approx(wanted["wander_rms_m"], rel=5e-3)
    r0, still = budget["fried_parameter_m"], 0.1 * math.hypot(1.0, 810e-9 * 500e3 / (math.pi * 0.01))
    assert long == pytest.approx(still * (1 + (2 * math.sqrt(2) * 0.1 / r0) ** (5 / 3)) ** 0.6, rel=1e-9)
    assert wander**2 == pytest.approx(0.172 * (500e3 * 810e-9 / 0.2) ** 2 * (0.2 / r0) ** (5 / 3), rel=1e-9)
    assert short**2 == pytest.approx(long**2 - 4 * wander**2, rel=1e-9)
    lost = terms(budget)
    assert lost["diffraction"] == pytest.approx(-10 * math.log10(-math.expm1(-0.5 / long**2)), rel=1e-9)
    # what the short-term spot collects as it wanders is what the long-term spot does, theory (16)
    assert lost["pointing"] == pytest.approx(0.0, abs=1e-9)
    assert budget["rytov_variance"] == pytest.approx(
        case("turb-850-el90")[1]["rytov_uplink"] * (850 / 810) ** (7 / 6), rel=2e-5
    )


# Configs


def test_budget_refuses(cli, tmp_path):
    out_of_range = ("--elevation", 91, "--samples", tmp_path / "x.csv", "--blocks", 0, "--seed=-1")
    code, out, err = cli("budget", ROOT / "configs" / "fiber.toml", *out_of_range)
    assert code == 2 and out == "" and "4 mistakes" in err
    for message in (
        'channel.kind: must be "downlink" or "uplink" for a budget, but is "fiber"',
        "--elevation: must be in [0, 90] deg, but is 91",
        "--blocks: must be in [1, 10000000], but is 0",
        "--seed: must be in [0, 2^63), but is -1",
    ):
        assert message in err
    copy = tmp_path / "copy.toml"
    copy.write_text(CONFIG.read_text())
    arguments = ("--samples", copy, "--force", "--set", "run={}", "--set", "security=3")  # which it does not read
    code, _, err = cli("budget", copy, "--elevation", 3, *arguments)
    assert code == 2 and "is read as input" in err and 'must be 5 at least for atmosphere = "table", but is 3' in err
    assert copy.read_text() == CONFIG.read_text()
    marks = ("--set", "receiver.efficiency={scan=[0.1, 0.5, 3]}", "--set", "source.intensities[0]={optimize=[0.5, 0.9]}")
    code, out, err = cli("budget", CONFIG, "--elevation", 30, "--blocks", 5, "--seed", 0, "--force", *marks)
    assert code == 2 and out == "" and "5 mistakes" in err
    for message in (
        "receiver.efficiency: is scanned, but a budget belongs to one point",
        "source.intensities[0]: is marked for `optimize`, but a budget belongs to one point",
        *(f"{option}: must be left out without --samples, but is given" for option in ("--blocks", "--seed", "--force")),
    ):
        assert message in err


SEVERAL = [
    (
        ["channel.min_elevation_deg=70.0", "channel.transmitter_aperture_m=0.3", "channel.receiver_obscuration_m=1.0",
         "channel.transmitter_obscuration_m=0.4", "channel.earth_rotation=true", "source.wavelength_nm=900.0",
         "channel.zenith_transmittance=0.7", "background.radiance_w_m2_sr_um=1.0"],
        ["channel.max_elevation_deg: must be above min_elevation_deg, 70, but is 60",
         "channel.transmitter_aperture_m: does not stand beside divergence_urad, but is 0.3",
         "channel.receiver_obscuration_m: must be below receiver_aperture_m, 1, but is 1",
         "channel.transmitter_obscuration_m: must be below transmitter_aperture_m, 0.3, but is 0.4",
         "channel.inclination_deg: is required with earth_rotation", "channel.latitude_deg: is required with earth_rotation",
         'source.wavelength_nm: must be within 5 nm of 785, 810, 850, 1550 for atmosphere = "table", but is 900',
         'channel.zenith_transmittance: must be left out with atmosphere = "table", but is 0.7',
         "background.sky: give either it or radiance_w_m2_sr_um, not both"],
    ),
    (
        ["channel.beam_waist_m=0.1", "channel.inclination_deg=97.4", "channel.min_elevation_deg=4.0",
         "channel.transmitter_obscuration_m=0.1", 'channel.fading="gamma_gamma"', "run.block_size_z=1e6"],
        ["channel.divergence_urad: give either divergence_urad with divergence_kind, or beam_waist_m; there are both",
         "channel.inclination_deg: is read with earth_rotation = true alone, but is 97.4",
         'channel.min_elevation_deg: must be 5 at least for atmosphere = "table", but is 4',
         "channel.transmitter_obscuration_m: is read with transmitter_aperture_m alone, but is 0.1",
         "channel.receiver_aperture_m: must be below the Fried parameter at min_elevation_deg, 0.0",
         "run.block_size_z: cannot be waited for on a pass, which ends"],
    ),
    (
        ['background.sky="clear_day"', "source.wavelength_nm=1551.0", "run.duration_s=1000.0", "run.pulses=1e9"],
        ['source.wavelength_nm: must be in [530, 1500] nm for sky = "clear_day", but is 1551',
         "run: give at most one of pulses, duration_s, but there are pulses and duration_s",
         "run.duration_s: must not exceed the pass, which holds 351."],
    ),
    (
        ['channel={kind="uplink", altitude_km=500, max_elevation_deg=60.0, receiver_aperture_m=1.0, divergence_urad=10.0, '
         'divergence_kind="tophat_full"}', 'receiver.count_model="rusca2018"'],
        ['channel.divergence_kind: must be that of a Gaussian beam for an uplink, but is "tophat_full"',
         "channel.kind: must not be a pass with count_model rusca2018"],
    ),
    (
        ['channel={kind="uplink", altitude_km=500, max_elevation_deg=60.0, receiver_aperture_m=1.0, divergence_urad=10.0}'],
        ['channel.divergence_kind: is required with divergence_urad: "half_1e2"'],
    ),
    (
        ['channel={kind="downlink", altitude_km=500, max_elevation_deg=60.0, receiver_aperture_m=1.0, '
         'transmitter_aperture_m=0.3, divergence_kind="fwhm"}'],
        ["channel.divergence_urad: give either divergence_urad with divergence_kind, or beam_waist_m; there is neither",
         'channel.divergence_kind: is read with divergence_urad alone, but is "fwhm"',
         "channel.transmitter_aperture_m: needs beam_waist_m, but is 0.3"],
    ),
    (
        ['channel={kind="downlink", altitude_km=500, max_elevation_deg=60.0, receiver_aperture_m=0.9e-9, beam_waist_m=0.9e-6, '
         'transmitter_aperture_m=0.9e-9}'],
        ["channel.receiver_aperture_m: must be in [1e-09, 100] m, but is 9e-10",
         "channel.transmitter_aperture_m: must be in [1e-09, 100] m, but is 9e-10",
         "channel.beam_waist_m: must be in [1e-06, 100] m, but is 9e-07"],
    ),
    (
        ['channel={kind="uplink", altitude_km=500, max_elevation_deg=60.0, receiver_aperture_m=1.0, beam_waist_m=0.02, '
         'transmitter_aperture_m=0.3, transmitter_obscuration_m=0.13}'],
        ["channel.transmitter_obscuration_m: must be at most 6 times beam_waist_m, 0.02, to let light pass, but is 0.13"],
    ),
    (["channel.min_elevation_deg=60", "run.duration_s=1.0"], ["channel.max_elevation_deg: must be above min_elevation_deg, 60, but is 60"]),
    (["source.wavelength_nm={optimize=[785, 1550]}"], ["source.wavelength_nm: cannot be optimized"]),
    (['channel.fading={values=["nah", "none"]}'], ['"lognegative_weibull", "elliptic_beam", but is "nah"']),
    (
        ["channel.divergence_urad=0.009"],
        ["channel.divergence_urad: must be in [0.01, 100000] urad, but is 0.009"],
    ),
    (
        ['channel={kind="fiber", length_km=10.0, attenuation_db_per_km=0.2}', "run.pulses=1e9"],
        ['background: is read by "downlink" and "uplink" alone, but channel.kind = "fiber"'],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "messages"), SEVERAL)
def test_all_mistakes_at_once(cli, overrides, messages):
    assert_mistakes(cli, CONFIG, overrides, messages)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source.wavelength_nm={values=[850, 1000, 1550]}"], 'source.wavelength_nm: must be within 5 nm of 785, 810, 850, 1550 for atmosphere = "table", but is 1000'),
        (["channel.earth_rotation=true", "channel.inclination_deg=97.4", "channel.latitude_deg={scan=[-60, 60, 5]}", "run.duration_s=347.9"],
         "run.duration_s: must not exceed the pass, which holds 347.8"),
    ],
)  # fmt: skip
def test_mistakes_between_the_ends_of_a_scan(cli, overrides, message):
    """Where the limit is not monotone: wavelengths of a table; passes, which are shortest over the equator."""
    assert_mistakes(cli, CONFIG, overrides, [message])


def test_what_a_pass_without_background_does_not_read(tmp_path):
    text = CONFIG.read_text()
    start, end = text.index("[background]"), text.index("[receiver]")
    text = (text[:start] + text[end:]).replace("dark_count_rate_hz = 25.0", "dark_count_probability = 1e-7")
    (tmp_path / "dark.toml").write_text(text.replace("wavelength_nm = 850.0", ""))
    with pytest.raises(pm.ConfigError) as raised:
        pm.load_config(tmp_path / "dark.toml")
    assert {str(mistake).split(",")[0] for mistake in raised.value.mistakes} >= {
        "receiver.gate_width_ns: is read with dark_count_rate_hz or background alone",
        'source.wavelength_nm: is required with channel.kind = "downlink"',
    }


# Runs


def test_run_of_a_pass(cli):
    """Counts drawn over a pass against their expectation at 1e-6; 2.5 % too many are found, whatever the fading did."""
    overrides = ["run.duration_s=100.0", "channel.coherence_time_ms=10.0", "channel.min_elevation_deg=9.0"]
    code, out, err = cli("run", CONFIG, "--json", *(part for override in overrides for part in ("--set", override)))
    assert code == 0, err
    point, mean = json.loads(out), pm.expected_counts(loaded(*overrides))
    assert point["sampler"] == "counts" and point["pulses"] == mean.pulses == 1e10
    assert point["pass"]["duration_s"] == 100.0 and point["pass"]["max_elevation_deg"] == 60.0
    assert point["status"] == ["ok"]  # these 100 s stay high
    assert point["pass"]["min_range_km"] == pytest.approx(570.51, rel=1e-5)  # theory (1)
    signal = 0.5 * 0.8 * mean.pulses * 10 ** (-0.1 * point["pass"]["mean_loss_db"])  # half of all pulses
    assert mean.detections[:, 0].sum() == pytest.approx(0.5 * signal, rel=3e-3)  # half of the bases agree
    # relative variance of a block's light below 0.2 (jitter, scintillation, range), correlated for 10 ms
    fading_variance = 0.2 * 2 * 0.01 / 100.0
    for name in ("detections", "errors"):
        exact = getattr(mean, name).ravel()
        drawn = np.array([row[name] for row in point["counts"]])
        assert np.all(np.abs(drawn - exact) < Z_LIMIT * np.sqrt(exact + fading_variance * exact**2))


def test_run_without_light():
    """Where 300 dB a passage of air leave no light, every pulse is still counted, and dark counts alone, at 1e-6."""
    study = loaded("run.duration_s=100.0", "channel.coherence_time_ms=10.0", "channel.excess_loss_per_airmass_db=300.0")
    drawn, mean = pm.simulate(study).counts, pm.expected_counts(study)
    dark = -2.0 * np.expm1(-2e-9 * (25.0 + 0.5 * pm.link_budget(study.link, 60.0)["background_counts_hz"]))
    assert mean.detections.sum() == pytest.approx(0.5e10 * dark, rel=1e-4) and mean.sent.sum() == pytest.approx(0.5e10)
    for name in ("sent", "detections"):
        exact = getattr(mean, name)
        assert np.all(np.abs(getattr(drawn, name)[0] - exact) < Z_LIMIT * np.sqrt(exact))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], None),
        (["channel.min_elevation_deg=9.0"], validity.FLAT),
        (["channel.min_elevation_deg=9.0", "run.duration_s=100.0"], None),
        (["channel.receiver_aperture_m=0.1", "channel.min_elevation_deg=10.0"], validity.STRONG),
        (["channel.receiver_aperture_m=0.02", 'channel.fading="gamma_gamma"', "channel.cn2_ground=1e-15"], None),
        (["channel.earth_rotation=true", "channel.inclination_deg=130.0", "channel.latitude_deg=51.0"], None),
        (["channel.earth_rotation=true", "channel.inclination_deg=130.0", "channel.latitude_deg=-53.0"], validity.FAR),
        (
            ['channel.divergence_kind="half_1e2"', "channel.divergence_urad=0.02", "channel.excess_loss_db=30.0"],
            validity.NARROW,
        ),
        (['channel.divergence_kind="half_1e2"', "channel.divergence_urad=0.1", "channel.excess_loss_db=30.0"], None),
        (["channel.divergence_urad=0.1", "channel.excess_loss_per_airmass_db=0.0"], validity.CUT),
    ],
)
def test_what_is_outside_of_validity(overrides, sentence):
    """Once for a run, by what it meets from its lowest elevation to its culmination."""
    with jax.enable_x64(True):
        said = [why for why, applies in jax.jit(pm.Study.broken_assumptions)(loaded(*overrides)).items() if applies]
    assert said == ([] if sentence is None else [sentence])


def test_results_tell_their_validity(cli):
    low = ("--set", "channel.min_elevation_deg=5", "--json")
    code, out, _ = cli("run", CONFIG, "--sampler", "expected", *low)
    found = json.loads(out)
    assert code == 0 and found["status"] == ["ok", "outside_validity"] and found["reason"].count(validity.FLAT) == 1
    code, out, _ = cli("budget", CONFIG, "--elevation", "9.9", *low)
    found = json.loads(out)
    assert code == 0 and found["status"] == ["outside_validity"] and validity.FLAT in found["reason"]


def test_joined_passes():
    """Three passes as a block: expectation three times as large, drawn counts at 1e-6 of it, one trajectory each."""
    one = loaded("run.duration_s=20.0", "channel.coherence_time_ms=20.0")
    three = one.replace({"run.joined_passes": 3.0})
    exact = pm.expected_counts(three)
    for name in ("pulses", "sent", "detections", "errors"):
        np.testing.assert_allclose(getattr(exact, name), 3.0 * getattr(pm.expected_counts(one), name), rtol=1e-12)
    several, drawn = pm.simulate(three.replace({"run.realizations": 2})), pm.simulate(three)
    assert drawn.point()["pulses"] == 6_000_000_000 and several.realizations[0] == 2
    np.testing.assert_allclose(drawn.point()["secret_key_bits_standard_error"], 2900.0, rtol=0.5)
    for counts, blocks in ((drawn.counts, 1), (several.counts, 2)):
        mean = blocks * exact.detections
        fading_variance = 0.2 * 2 * 0.02 / 60.0 / blocks  # as in `test_run_of_a_pass`
        assert np.all(np.abs(counts.detections[0] - mean) < Z_LIMIT * np.sqrt(mean + fading_variance * mean**2))
    # the first block's passes are those of three realizations of single ones
    single = pm.simulate(one.replace({"run.realizations": 3}))
    np.testing.assert_array_equal(single.counts.detections, drawn.counts.detections)


def test_joined_passes_are_tuned_together():
    """The more runs of a record a block joins, the more key a pulse has, and the fewer pulses test the other basis."""
    record = pm.load_config(ROOT / "configs" / "pass.toml")
    free = {"protocol.basis_probability_z": (0.3, 0.99)}
    few, many = (pm.optimize(record.replace({"run.joined_passes": n}), free) for n in (1.0, 50.0))
    assert many.scalars["secret_key_bits_per_pulse"][0] > 1.02 * few.scalars["secret_key_bits_per_pulse"][0]
    assert many.tuned["protocol.basis_probability_z"][0] > few.tuned["protocol.basis_probability_z"][0] + 0.02


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["channel.coherence_time_ms={values=[1, 2, 1e-3]}"], "coherence_time_ms: must leave at most 1e+07 blocks in a run, but 0.001 ms make 3.51e+08"),
        (["channel.pointing_correlation_time_ms=1e-6", "run.duration_s=0.2"], "pointing_correlation_time_ms: must leave at most 1e+07 blocks in a run, but 1e-06 ms make 2e+07"),
        (["channel.coherence_time_ms=1e-4", "run.pulses=1.1e8"], "coherence_time_ms: must leave at most 1e+07 blocks in a run, but 0.0001 ms make 1.1e+07"),
    ],
)  # fmt: skip
def test_blocks_beyond_memory_are_refused(cli, overrides, message):
    """Before anything is sampled, with the time that is too short; an expectation has no blocks."""
    assert_mistakes(cli, CONFIG, overrides, [f"channel.{message}"])
    assert cli("check", CONFIG, "--set", "run.sampler=expected", *(p for one in overrides for p in ("--set", one)))[0] == 0


def test_blocks_of_speckles_are_refused():
    """A time that nobody gave is known late."""
    link = loaded("run.pulses=1e6").link
    many = dataclasses.replace(link, channel=dataclasses.replace(link.channel, pointing_correlation_time_ms=0.001))
    with (
        jax.enable_x64(True),
        pytest.raises(pm.ConfigError, match=r"at most 1e\+07 blocks in a run, but 0.001 ms make 1e\+08"),
    ):
        many.block_lengths(10**10)
