"""Slant paths against published and first-principles numbers: geometry, diffraction, extinction, turbulence, sky, fading."""

from __future__ import annotations

import itertools
import json

import jax
import numpy as np
import pytest
from conftest import ROOT
from scipy import integrate, special, stats

from photonmc.channel import atmosphere, diffraction, fading, geometry, sky, turbulence
from photonmc.channel.bessel import airy, bessel_j

CASES = {case["id"]: case for case in json.loads((ROOT / "tests" / "reference" / "satellite.json").read_text())}
ZENITH = np.pi / 2


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def case(name):
    return CASES[name]["inputs"], CASES[name]["expected"]


def path(wavelength, elevation, slew=0.0, station=0.0, top=500e3, wind=21.0):
    above, weights = turbulence.heights_above()
    strength = turbulence.hufnagel_valley(above + station, station, 1.7e-14, wind) * weights
    across = turbulence.bufton(above + station, 5.0) + slew * above / np.sin(elevation)
    return turbulence.Path(turbulence.Layers(above, strength, across), 1 / np.sin(elevation), wavelength, top - station)


def orbit(altitude=500e3, culmination=90.0, station=0.0):
    return geometry.Orbit(altitude, np.radians(culmination), station, geometry.orbital_rate(altitude))


@pytest.mark.parametrize("order", [0, 1])
def test_bessel(order):
    x = np.concatenate([np.linspace(-30, 30, 601), np.geomspace(30, 1e5, 200)])
    np.testing.assert_allclose(jax.jit(bessel_j, static_argnums=0)(order, x), special.jv(order, x), atol=2e-12)
    slopes = jax.vmap(jax.grad(lambda x: bessel_j(order, x)))(x)
    np.testing.assert_allclose(slopes, special.jvp(order, x), atol=2e-12)
    assert airy(0.0) == 1.0 and jax.grad(airy)(0.0) == 0.0


def test_pass_geometry():
    assert 2 * orbit().time_s(np.radians(10.0)) == pytest.approx(
        case("pass-duration-500km-elmax90")[1]["duration_s"], rel=1e-5
    )
    given, wanted = case("micius-20161219-range")
    one = orbit(given["altitude_m"], given["el_max_deg"], given["station_alt_m"])
    elevation = one.elevation(np.array(given["t_s"]))
    np.testing.assert_allclose(one.range_m(elevation), wanted["range_m"], rtol=1e-5)
    np.testing.assert_allclose(np.degrees(elevation), wanted["elevation_deg"], rtol=1e-4)
    assert orbit().slew(ZENITH) == pytest.approx(0.01523312, rel=1e-6)  # v / h, theory 1.1
    assert orbit(culmination=20.0).time_s(np.radians(30.0)) == 0.0
    below = orbit(culmination=60.0)
    step = 1e-4  # the slew is how fast the line of sight turns: elevation and azimuth, by finite differences of the vector
    for elevation in np.radians([15.0, 40.0, 59.9]):
        time = float(below.time_s(elevation))

        def sight(t, one=below):
            least, phase = float(one.earth_angle(one.culmination)), float(one.rate) * t
            place = np.array([np.cos(least) * np.cos(phase), np.sin(phase), np.sin(least) * np.cos(phase)])
            way = (6371e3 + one.altitude_m) * place - np.array([6371e3, 0.0, 0.0])
            return way / np.linalg.norm(way)

        turned = np.linalg.norm(sight(time + step) - sight(time - step)) / (2 * step)
        assert below.slew(elevation) == pytest.approx(turned, rel=1e-6)
    for inclination, latitude in np.radians([(97.4, 40.0), (51.6, -48.0), (55.0, 0.0), (60.0, 60.0)]):
        axis = np.array([0.0, -np.sin(inclination), np.cos(inclination)])  # of the orbit, whose node lies along x
        turns = float(geometry.orbital_rate(500e3)) * axis - np.array([0.0, 0.0, geometry.EARTH_ROTATION])
        along = np.arcsin(np.sin(latitude) / np.sin(inclination))
        place = [np.cos(along), np.cos(inclination) * np.sin(along), np.sin(inclination) * np.sin(along)]
        exact = np.linalg.norm(np.cross(turns, place))
        assert place[2] == pytest.approx(np.sin(latitude))
        assert geometry.rate_over_ground(500e3, inclination, latitude) == pytest.approx(exact, rel=1e-12)
    slopes = jax.grad(lambda c: geometry.Orbit(500e3, c, 0.0, 1e-3).elevation(0.0))(ZENITH)
    assert np.isfinite(slopes)


def test_diffraction():
    given, wanted = case("satquma-diffraction-500km")
    far = diffraction.far_field_share(
        given["L_m"], 0.0, 2 * given["a_r_m"], 0.0, given["wavelength_m"], given["w0_m"], 0.3, 0.0
    )
    assert far == pytest.approx(wanted["eta"], rel=3e-6)
    waist, wavelength = 0.15 / 1.12, 850e-9
    gain = diffraction.far_field(0.0, wavelength, waist, 0.3, 0.0) * diffraction.emitted_share(waist, 0.3, 0.0)
    assert gain * wavelength**2 / (np.pi * 0.15**2) == pytest.approx(case("klein-degnan-0")[1]["g_T"], rel=1e-6)
    given, wanted = case("micius-22db")
    distance, angle = given["L_m"], given["divergence_full_rad"]
    assert -10 * np.log10(diffraction.disc_share(angle * distance, 0.0, 1.0, 0.0)) == pytest.approx(
        wanted["tophat_db"], abs=1e-4
    )
    spot = diffraction.HALF_ANGLE["full_1e2"] * angle * distance
    gaussian = -10 * np.log10(diffraction.gaussian_share(spot, 0.0, 1.0, 0.0))
    assert gaussian == pytest.approx(wanted["gaussian_if_1e2_full_angle_db"], abs=1e-4)


@pytest.mark.parametrize(
    ("w", "offset", "aperture", "obscuration"), [(1, 0.4, 1, 0), (1, 3, 2, 0.5), (0.1, 0.45, 1, 0.2), (5, 9, 1, 0)]
)
def test_share_of_a_gaussian_spot(w, offset, aperture, obscuration):
    """Noncentral chi-square law, theory (14)."""
    wanted = [stats.ncx2.cdf((d / w) ** 2, 2, (2 * offset / w) ** 2) for d in (aperture, obscuration or 1e-12)]
    assert diffraction.gaussian_share(float(w), offset, aperture, obscuration) == pytest.approx(
        wanted[0] - wanted[1], rel=1e-8
    )


def test_overlap_of_discs():
    rng = np.random.default_rng(3)
    points = rng.uniform(-1.0, 1.0, (400_000, 2))
    for one, other, distance in ((1.0, 0.6, 0.9), (0.5, 1.0, 0.3), (0.4, 0.4, 0.9), (0.5, 0.3, 0.75)):
        inside = (np.hypot(*points.T) < one) & (np.hypot(points[:, 0] - distance, points[:, 1]) < other)
        area = 4 * inside.mean()  # of what lies within the square of side 2, which holds the first circle
        wanted = diffraction.disc_overlap(one, other, distance)
        assert abs(area - wanted) < 4.9 * 4 * np.sqrt(max(wanted / 4, 1e-6) / points.shape[0])
    assert np.isfinite(jax.grad(lambda d: diffraction.disc_share(1.0, d, 1.0, 0.0))(0.5))


def test_far_field_of_a_wide_beam_is_gaussian():
    """A telescope much wider than the waist does not cut the beam: theory (12), off the axis too."""
    wavelength, waist, distance = 850e-9, 0.05, 800e3
    w = wavelength * distance / (np.pi * waist)
    for offset, telescope in ((0.0, 0.4), (3.0, 0.4), (8.0, 0.4), (3.0, 40.0)):
        cut = diffraction.far_field_share(distance, offset, 4.0, 1.0, wavelength, waist, telescope, 0.0)
        assert cut == pytest.approx(float(diffraction.gaussian_share(w, offset, 4.0, 1.0)), rel=1e-6)


def test_extinction():
    for name in ("airmass-ky-30", "airmass-ky-10"):
        given, wanted = case(name)
        assert atmosphere.airmass(np.radians(given["elevation_deg"])) == pytest.approx(wanted["airmass"], rel=1e-8)
    for wavelength in (785, 810, 850, 1550):
        given, wanted = case(f"modtran-{wavelength}")
        found = [atmosphere.tabulated_transmittance(np.radians(e), wavelength + 2.0) for e in given["elevation_deg"]]
        np.testing.assert_allclose(found, wanted["transmittance"], rtol=1e-12)
    between = atmosphere.tabulated_transmittance(np.radians(27.0), 810.0)
    air = [float(atmosphere.airmass(np.radians(e))) for e in (25.0, 27.0, 30.0)]
    share = (air[1] - air[0]) / (air[2] - air[0])
    assert np.log(between) == pytest.approx((1 - share) * np.log(0.6466) + share * np.log(0.6860), rel=1e-12)
    assert atmosphere.tabulated_wavelength(845.0) == 850.0 and atmosphere.tabulated_wavelength(900.0) is None


def test_turbulence():
    given, wanted = case("hv57")
    at = path(given["wavelength_m"], ZENITH)
    assert at.fried_parameter() == pytest.approx(wanted["reference_r0_m"], rel=1e-5)
    assert at.isoplanatic_angle() == pytest.approx(wanted["reference_theta0_rad"], rel=1e-5)
    given, wanted = case("turb-850-el90")
    at = path(850e-9, ZENITH)
    found = at.fried_parameter(), at.isoplanatic_angle(), at.rytov_variance(), at.rytov_variance(True)
    np.testing.assert_allclose(found, [wanted[n] for n in ("r0_m", "theta0_rad", "rytov_plane", "rytov_uplink")], rtol=2e-5)
    given, wanted = case("greenwood-leo")
    assert path(850e-9, ZENITH, given["slew_rad_s"]).greenwood_frequency() == pytest.approx(wanted["f_G_hz"], rel=1e-4)
    np.testing.assert_allclose(np.expm1(np.add(*turbulence.strong_index(np.array([0.1, 0.5, 1, 4, 10])))),
                               case("scint-strong")[1]["sigma_I2"], rtol=1e-5)  # fmt: skip
    for name in ("itu-p1622-t2-v21-532", "itu-p1622-t2-v21-850", "itu-p1622-t2-v21-1550", "itu-p1622-t2-v30-1064"):
        given, wanted = case(name)
        at = path(given["wavelength_m"], np.radians(75), station=5.5, wind=given["v_rms"])
        assert at.rytov_variance() == pytest.approx(wanted["log_irradiance_variance"], abs=0.006)


def test_aperture_averaging():
    index = jax.jit(turbulence.Path.scintillation_index, static_argnames="spherical")
    for name in ("scint-ap-1.0m-el90", "scint-ap-1.0m-el20"):
        given, wanted = case(name)
        at = path(given["wavelength_m"], np.radians(given["elevation_deg"]))
        assert index(at, given["D_m"]) == pytest.approx(wanted["sigma_I2"], rel=1e-4)
    at = path(850e-9, ZENITH)
    assert index(at, 1e-6) == pytest.approx(float(at.rytov_variance()), rel=2e-3)  # 2.25 is rounded
    assert index(at, 1e-6, spherical=True) == pytest.approx(float(at.rytov_variance(True)), rel=2e-3)
    large = (
        17.34 * 400.0 ** (-7 / 3) * (at.layers.cn2 * at.layers.above_m**2).sum()
    )  # theory 3.2, far beyond Fresnel lengths
    assert index(at, 400.0) == pytest.approx(float(large), rel=5e-3)


@pytest.mark.parametrize(("size", "ratio"), [(3.0, 0.3), (13.0, 0.4), (80.0, 0.2)])
def test_frequency_integral(size, ratio):
    """The tabulated integral of theory (29) against adaptive quadrature, wave by wave."""

    def integrand(x):
        ring = [2 * special.j1(0.5 * d * x) / (0.5 * d * x) if d else 1.0 for d in (size, ratio * size)]
        return x ** (-8 / 3) * np.sin(0.5 * x * x) ** 2 * ((ring[0] - ratio**2 * ring[1]) / (1 - ratio**2)) ** 2

    edges = np.concatenate([np.geomspace(1e-6, 1.0, 12), np.sqrt(np.arange(1.5, 600.0))])
    exact = sum(integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-9)[0] for a, b in itertools.pairwise(edges))
    assert turbulence.filtered(size, turbulence.aperture_filter(ratio)) == pytest.approx(exact, rel=1e-4)


def test_sky():
    given, wanted = case("bg-itu-bright")
    area = np.pi * given["D_m"] ** 2 / 4
    rate = sky.counts_hz(given["radiance"], given["fov_full_rad"], area, given["bandwidth_nm"] * 1e-3, given["wavelength_m"])
    assert rate * given["gate_s"] == pytest.approx(wanted["mean_per_gate"], rel=2e-4)
    given, wanted = case("bg-itu-table")
    for mine, theirs in (("bright_day", "bright"), ("clear_day", "normal"), ("overcast_day", "overcast")):
        found = [sky.radiance_of(mine, 1e3 * wavelength) for wavelength in given["wavelength_um"]]
        np.testing.assert_allclose(found, wanted[theirs])
    assert sky.radiance_of("half_moon", 1550.0) == 1.5e-4


@pytest.mark.parametrize(("jitter", "boresight"), [(1.0, 0.0), (1.2, 3.0), (0.0, 2.0), (0.0, 0.0), (0.01, 2.0)])
def test_pointing_offsets(jitter, boresight):
    """Moments of Rice's law and the mean of a Gaussian spot, theory (17)."""
    r, weights = fading.offset_nodes(jitter, boresight)
    assert (r**2 * weights).sum() == pytest.approx(2 * jitter**2 + boresight**2, rel=1e-8, abs=1e-15)
    w = 25.0 + 4 * jitter**2
    assert (np.exp(-2 * r**2 / 25) * weights).sum() == pytest.approx(25 / w * np.exp(-2 * boresight**2 / w), rel=1e-9)


def test_pointing_law():
    for name in ("pointing-beta-0.5urad", "pointing-beta-1.2urad"):
        given, wanted = case(name)
        r, weights = fading.offset_nodes(given["sigma_per_axis_rad"], 0.0)
        share = np.exp(-2 * (r / given["w_rad"]) ** 2)
        mean = (share * weights).sum()
        assert mean == pytest.approx(wanted["mean"], rel=1e-5)
        assert np.sqrt((share**2 * weights).sum() / mean**2 - 1) == pytest.approx(wanted["rel_std"], rel=1e-4)


@pytest.mark.parametrize("index", [0.0, 0.02, 0.5])
def test_lognormal(index):
    values, weights = fading.lognormal_nodes(index)
    moments = [(values**n * weights).sum() for n in range(4)]
    np.testing.assert_allclose(moments, [(1 + index) ** (n * (n - 1) / 2) for n in range(4)], rtol=1e-6)


@pytest.mark.parametrize("rytov", [0.05, 0.5, 2.0, 10.0])
def test_gamma_gamma(rytov):
    """Moments in closed form, theory 3.3."""
    values, weights = fading.gamma_gamma_nodes(rytov)
    a, b = map(float, fading.gamma_shapes(rytov))
    for n in range(1, 4):
        exact = special.poch(a, n) * special.poch(b, n) / (a * b) ** n
        assert (values**n * weights).sum() == pytest.approx(exact, rel=2e-5)


def test_correlated_processes():
    """Variance 1, correlation exp(-lag / tau); z limits of 4.9 at 1e6 blocks find 1 % of either."""
    decay = np.full(1_000_000, np.exp(-0.2))
    x = np.asarray(fading.ornstein_uhlenbeck(jax.random.key(2), decay, 2))
    independent = decay.size * (1 - np.exp(-0.4)) / (1 + np.exp(-0.4))
    for row in x:
        assert abs(row.var() - 1) < 4.9 * np.sqrt(2 / independent)
        for lag in (1, 5):
            assert abs((row[lag:] * row[:-lag]).mean() - np.exp(-0.2 * lag)) < 4.9 * np.sqrt(2 / independent)
    assert abs((x[0] * x[1]).mean()) < 4.9 / np.sqrt(independent)
