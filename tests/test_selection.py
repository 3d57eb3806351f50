"""Selected blocks: the share that is kept, slopes by the threshold, samplers; records of passes, ours and SatQuMA's."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, Z_LIMIT
from scipy import integrate

import photonmc as pm
from photonmc.contracts import quadrature
from photonmc.timeline import timeline

CONFIG = ROOT / "configs" / "downlink.toml"


def loaded(*overrides):
    return pm.load_config(CONFIG, overrides)


# Law above the threshold


@jax.jit
def kept(threshold, link):
    """Share that is kept, and its part of mean and mean square of the transmittance; with their slopes by the threshold."""

    def of(threshold):
        states, weights = dataclasses.replace(link, selection=pm.Selection(threshold)).nodes(1e10)
        return jnp.stack([(weights * states.transmittance**power).sum() for power in range(3)])

    return jax.jvp(of, (threshold,), (jnp.ones_like(threshold),))


def slopes_agree(link, threshold):
    found, slopes = kept(threshold, link)
    step = 1e-4
    differences = (kept(threshold + step, link)[0] - kept(threshold - step, link)[0]) / (2 * step)
    np.testing.assert_allclose(slopes, differences, rtol=3e-6)
    assert np.all(slopes < 0)
    return found


STILL = (  # no scintillation, and a beam that is Gaussian in the far field
    'channel.fading="none"', 'channel.divergence_kind="half_1e2"', "channel.pointing_jitter_urad=4.0",
    "channel.receiver_aperture_m=0.01", "run.duration_s=100.0",
)  # fmt: skip


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_kept_share_of_a_gaussian_beam(threshold):
    """Far-field Gaussian pointing, P(F > t) = 1 - t^(gamma^2) (theory (15)), at each time of 100 s; slopes by differences."""
    link = loaded(*STILL).link
    gamma2, time = 10.0**2 / (4 * 4.0**2), np.linspace(0.0, 50.0, 20001)
    with jax.enable_x64(True):
        found = slopes_agree(link, threshold)
        elevation = link.channel.orbit().elevation(time)
        peak = link.channel.transmittance(elevation, 850e-9) * 10 ** (-0.1 * link.channel.excess_db(elevation))
        peak = np.asarray(peak / link.channel.orbit().range_m(elevation) ** 2)
        whole = kept(0.0, link)[0]
    peak = peak / (peak[0] * gamma2 / (gamma2 + 1.0))  # relative to the mean at culmination
    least = np.minimum(threshold / peak, 1.0)
    assert found[0] == pytest.approx(integrate.trapezoid(1.0 - least**gamma2, time) / 50.0, rel=3e-6)
    moment = integrate.trapezoid(peak * (1.0 - least ** (gamma2 + 1.0)), time) / integrate.trapezoid(peak, time)
    assert found[1] / whole[1] == pytest.approx(moment, rel=3e-6)


@pytest.mark.nightly
def test_scintillation_above_the_threshold():
    """A disc that jitters and scintillates, against 2e6 random numbers at 1e-6 (1 % is found); all is kept at threshold 0."""
    link = loaded("channel.receiver_aperture_m=0.3", "channel.pointing_jitter_urad=2.5").link
    with jax.enable_x64(True):
        states, weights = quadrature(link, 1e10)
        whole = [(weights * states.transmittance**power).sum() for power in range(3)]
        np.testing.assert_allclose(kept(0.0, link)[0], whole, rtol=1e-5)
        share, part, _ = slopes_agree(link, 0.6)
        selected = dataclasses.replace(link, selection=pm.Selection(0.6))
        assert link.channel.summary(selected, 1e10)["kept_share"] == pytest.approx(float(share), rel=1e-9)
        channel, best = link.channel, float(link.channel.best_transmittance(link, 1e10))
        rng, count = np.random.default_rng(3), 2_000_000
        times = 49.5 * np.linspace(0.0, 1.0, 129)
        slow = jax.jit(jax.vmap(lambda at: channel.slow(channel.orbit().elevation(at), 850e-9)))(times)
        time = rng.uniform(0.0, 50.0, count)

        def at(values):
            return np.interp(time, times, np.asarray(values))  # beyond 49.5 s constant: off by 1e-4 of a hundredth

        offset = at(slow.jitter) * np.hypot(*rng.standard_normal((2, count)))
        variance = np.log1p(at(slow.index))
        light = np.exp(np.sqrt(variance) * rng.standard_normal(count) - 0.5 * variance)
        collected = np.asarray(jax.jit(lambda r, d: channel.collected(d, r, 850e-9))(offset, at(slow.distance)))
    drawn = at(slow.steady) * collected * light
    inside = drawn >= 0.6 * best
    for values, exact in ((inside, share), (inside * drawn, part)):
        deviation = values.std() / math.sqrt(count)
        assert abs(values.mean() - exact) < Z_LIMIT * deviation < 0.01 * exact


@pytest.mark.nightly
def test_gamma_gamma_above_the_threshold():
    """Slopes and moments at threshold 0 for the law that has its own density."""
    link = loaded(
        'channel.fading="gamma_gamma"', "channel.receiver_aperture_m=0.03", "channel.pointing_jitter_urad=0.0"
    ).link
    with jax.enable_x64(True):
        states, weights = quadrature(link, 1e10)
        whole = [(weights * states.transmittance**power).sum() for power in range(3)]
        np.testing.assert_allclose(kept(0.0, link)[0], whole, rtol=1e-5)
        slopes_agree(link, 0.7)


# Runs

SHORT = (
    *STILL, "source.pulse_rate_hz=1e6", "run.duration_s=2.0001", "channel.receiver_aperture_m=1.0", "channel.divergence_urad=4.0",
    "channel.pointing_jitter_urad=1.0", "channel.coherence_time_ms=0.2", "channel.pointing_correlation_time_ms=0.2",
    "channel.excess_loss_per_airmass_db=0.0", "receiver.optics_transmittance=1.0",
)  # fmt: skip


def test_counts_of_a_pass():
    """Counts against their expectation at 1e-6, whatever the fading did; 7 % too many pulses or detections are found."""
    one = loaded(*SHORT, "selection={threshold_transmittance=0.9}")
    one = dataclasses.replace(one, security=None)
    mean, drawn = pm.expected_counts(one), pm.simulate(one, sampler="counts", seed=4).counts
    assert drawn.pulses[0] == pytest.approx(mean.pulses) == 2_000_100
    share = 2.0 * mean.sent.sum() / mean.pulses  # half of all have equal bases
    assert 0.5 < share < 0.8
    # 1e4 blocks, whose neighbors are correlated by 1/e at most (Gebelein's inequality); above the threshold light varies little
    blocks = (1 + math.exp(-1)) / (1 - math.exp(-1)) / 1e4
    relative = math.sqrt(blocks * ((1 - share) / share + 0.05))
    assert Z_LIMIT * relative < 0.07
    for name in ("sent", "detections", "errors"):
        exact = getattr(mean, name)
        deviation = np.sqrt(exact + (relative * exact) ** 2)
        assert np.all(np.abs(getattr(drawn, name)[0] - exact) < Z_LIMIT * deviation)


def test_passes_that_keep_no_block():
    """Where pointing stays as it is, each pass keeps all or nothing; seed 4 keeps three of four, and 0.5 % more are found."""
    still = "channel.pointing_correlation_time_ms=1e6", "run.realizations=4"
    study = loaded(*SHORT, "selection={threshold_transmittance=0.9}", *still)
    counts = pm.simulate(study, sampler="counts", seed=4).counts
    assert counts.pulses[0] == 4 * 2_000_100
    assert abs(counts.sent.sum() - 3 * 1_000_050) < Z_LIMIT * math.sqrt(3 * 500_025)  # half of all have equal bases
    nothing = pm.simulate(study.replace({"run.realizations": 1}), sampler="counts", seed=9)
    assert nothing.counts.pulses[0] == 2_000_100 and not nothing.counts.sent.any() and not nothing.counts.detections.any()
    assert nothing.point()["status"] == ["no_key_multiphoton"] and nothing.keys.bits[0] == 0


def recorded(tmp_path, rows, threshold, *overrides):
    (tmp_path / "pass.csv").write_text(f"time_s,loss_db,background_counts_hz\n{rows}")
    text = (ROOT / "configs" / "pass.toml").read_text()
    (tmp_path / "pass.toml").write_text(f"{text}[selection]\nthreshold_transmittance = {threshold}\n")
    one = pm.load_config(tmp_path / "pass.toml", overrides)
    return one if one.free else dataclasses.replace(one, security=None)


ALTERNATING = "0,10,2e5\n1,13,2e5\n2,10.1,2e5\n3,13.1,2e5\n"


@pytest.mark.parametrize("sampler", ["counts", "clicks", "pulses"])
def test_samplers_leave_rows_out(tmp_path, sampler):
    """Every sampler counts in rows above the threshold alone; 1 % of what is kept is found at 1e-6."""
    one = recorded(tmp_path, ALTERNATING, 0.6, "source.pulse_rate_hz=1e6")
    result, mean = pm.simulate(one, sampler=sampler, seed=4), pm.expected_counts(one)
    assert result.counts.pulses[0] == mean.pulses == 4e6
    assert mean.sent.sum() == pytest.approx(2e6 * (0.8**2 + 0.2**2))
    for name in ("sent", "detections", "errors"):
        exact = getattr(mean, name)
        assert np.all(np.abs(getattr(result.counts, name)[0] - exact) < Z_LIMIT * np.sqrt(exact))
    clicks = pm.simulate(one, sampler="expected").detector_clicks[0]
    assert np.all(np.abs(result.detector_clicks[0] - clicks) < Z_LIMIT * np.sqrt(clicks))


def test_rows_left_out_blind_detectors(tmp_path):
    """Detectors remember clicks of rows that do not count: a dead time of a whole row lets the next row count next to none."""
    rows = "0,3,0\n1e-3,0,0\n2e-3,3,0\n3e-3,0,0\n"
    short = "source.pulse_rate_hz=1e7", "receiver.dead_time_ns=1e6", 'receiver.dead_time_policy="blank_all"'
    one = recorded(tmp_path, rows, 0.9, *short, "receiver.dark_count_rate_hz=0.0")
    for sampler in ("clicks", "pulses"):
        result = pm.simulate(one, sampler=sampler, seed=4)
        assert result.counts.sent.sum() < 20_000  # of 40 000 pulses
        assert result.detector_clicks.sum() <= 2 and result.counts.detections.sum() <= 2  # one a millisecond, in all rows


NOISY = "0,20,2000\n10,30,2000\n20,40,2000\n30,50,2000\n40,60,2000\n"


def test_rows_of_a_record(tmp_path):
    """The threshold is relative to the best row of the run, and drops whole rows."""
    one = recorded(tmp_path, NOISY, 0.005)
    whole = dataclasses.replace(one, link=dataclasses.replace(one.link, selection=None))
    mean = pm.expected_counts(one)
    np.testing.assert_allclose(mean.sent, 0.6 * pm.expected_counts(whole).sent)  # 20, 30 and 40 dB of five rows
    np.testing.assert_allclose(mean.detections, pm.expected_counts(whole.replace({"run.duration_s": 30.0})).detections)
    assert one.link.least_transmittance(1e9) == pytest.approx(5e-5)


@pytest.mark.nightly
def test_optimizer_leaves_noisy_rows_out(tmp_path):
    one = recorded(tmp_path, NOISY, "{ optimize = [0.0, 0.9] }")
    assert one.free[0].path == "selection.threshold_transmittance"
    best = pm.optimize(one)
    thresholds = 0.0, 5e-5, 5e-4, 5e-3, 0.05, 0.5
    runs = (pm.simulate(one.replace({one.free[0].path: at}), sampler="expected") for at in thresholds)
    keys = [run.point()["secret_key_bits"] for run in runs]
    assert best.point()["secret_key_bits"] == max(keys) > keys[0]


# Records


def test_a_record_runs_to_the_same_law(tmp_path, cli):
    record = tmp_path / "drawn.csv"
    overrides = [*SHORT, "run.seed=7"]
    sets = [part for override in overrides for part in ("--set", override)]
    code, out, err = cli("run", CONFIG, "--json", "--record", record, *sets)
    assert code == 0 and f"wrote {record}, the pass of realization 0 of seed 7" in err
    time, _, background = np.loadtxt(record, delimiter=",", skiprows=1).T
    assert record.read_text().startswith("time_s,loss_db,background_counts_hz\n0,")
    assert time.size == 10_002 and time[-1] - time[-2] == pytest.approx(5e-5)  # the last block is a half
    one = loaded(*overrides)
    with jax.enable_x64(True):
        counts = float(one.link.background.counts_hz(one.link, one.link.channel.area_m2()))
    np.testing.assert_allclose(background, counts, rtol=1e-9)
    text = CONFIG.read_text()
    start, end = text.index("[channel]"), text.index("[receiver]")
    text = text[:start] + f'[channel]\nkind = "recorded"\nfile = "{record.name}"\n\n' + text[end:]
    (tmp_path / "again.toml").write_text(text)
    again = pm.load_config(tmp_path / "again.toml", ["source.pulse_rate_hz=1e6", "receiver.optics_transmittance=1.0"])
    again = dataclasses.replace(again, security=None)
    assert pm.expected_counts(again).pulses == 2_000_100
    drawn, told = pm.simulate(again, sampler="counts", seed=7).counts, json.loads(out)["counts"]
    exact = pm.expected_counts(again)
    for name in ("sent", "detections", "errors"):
        for counted in (getattr(drawn, name)[0].ravel(), np.array([row[name] for row in told])):
            wanted = getattr(exact, name).ravel()
            assert np.all(np.abs(counted - wanted) < Z_LIMIT * np.sqrt(wanted + 1))
    code, _, err = cli("run", CONFIG, "--record", record, *sets)
    assert code == 2 and "exists; --force replaces it" in err


def test_record_refusals(cli, tmp_path):
    fiber = str(ROOT / "configs" / "fiber.toml")
    code, out, err = cli(
        "run", fiber, "--record", tmp_path / "no" / "x.csv", "--set", "run.realizations=2", "--set", "selection={}"
    )
    assert code == 2 and out == ""
    assert 'selection: is read by "downlink", "uplink" and "recorded" alone, but channel.kind = "fiber"' in err
    assert "--record" in err and "does not exist" in err
    several = ["run.realizations=2", "channel.polarization_rotation_deg=1.0", "channel.excess_loss_db={scan=[0,1,2]}"]
    sets = [part for override in several for part in ("--set", override)]
    code, _, err = cli("run", CONFIG, "--record", tmp_path / "x.csv", "--out", tmp_path / "x.csv", *sets)
    assert code == 2
    for message in (
        "channel.excess_loss_db: is scanned, but a record belongs to one point",
        "run.realizations: must be 1 for --record",
        "channel.polarization_rotation_deg: must be 0 for --record, which has no column for it, but is 1",
        "is another file of this command",
    ):
        assert message in err
    assert (
        'must be "downlink" or "uplink" for --record, but is "fiber"' in cli("run", fiber, "--record", tmp_path / "x.csv")[2]
    )
    code, _, err = cli("check", CONFIG, "--set", "selection={threshold_transmittance=1.0, threshold=0.5}")
    assert code == 2 and "2 mistakes" in err
    assert (
        "selection.threshold_transmittance: must be in [0, 1), but is 1.0" in err
        and "selection.threshold: unknown key" in err
    )


SATQUMA = """# Time (s), Elevation Angle (rad),Link Efficiency,,,
2,0.5,1.00E-03,,,
1,1.0,1.50E-03,,,
0,1.57,2.00E-03,,,
-1,1.0,1.50E-03,,,
"""


def test_loss_files_of_satquma(tmp_path):
    """The header is that of the file that comes with SatQuMA 2.0.0; a second layout is what it writes itself."""
    text = (ROOT / "configs" / "pass.toml").read_text()
    (tmp_path / "pass.toml").write_text(text)

    def samples(content):
        (tmp_path / "pass.csv").write_bytes(content.replace("\n", "\r\n").encode())
        return pm.load_config(tmp_path / "pass.toml").link.channel

    channel = samples(SATQUMA)
    np.testing.assert_array_equal(channel.samples.time_s, [-1.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(channel.samples.loss_db, -10 * np.log10([1.5e-3, 2e-3, 1.5e-3, 1e-3]))
    assert channel.pulses(1e9) == 4e9 and not channel.samples.background_counts_hz.any()
    written = "# Time (s),Elevation (rad),eta_tot,eta_diff\n1.0e+00,0.1,0.5,1.0\n0.0e+00,0.2,1.0,1.0\n"
    np.testing.assert_allclose(samples(written).samples.loss_db, [0.0, 10 * np.log10(2)])
    with pytest.raises(pm.ConfigError) as raised:
        samples(SATQUMA + "-2,0.5,0,,,\n-1,0.5,x\n-3,0.5\n-4,0.5,1.5,,,\n")
    assert [str(mistake) for mistake in raised.value.mistakes] == [
        "channel.file pass.csv line 6: Link Efficiency must be in (0, 1], but is 0",
        "channel.file pass.csv line 7: Time (s) must differ from line to line, but -1 comes again",
        'channel.file pass.csv line 7: Link Efficiency must be a number, but is "x"',
        "channel.file pass.csv line 8: must have 3 cells at least, but has 2",
        "channel.file pass.csv line 9: Link Efficiency must be in (0, 1], but is 1.5",
    ]


PLAIN = "time_s,loss_db\n0,10\n1,20\n"


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("", ["is empty"]),
        ("\n \n", ["is empty"]),
        ("Time (s), Link Efficiency, Link Efficiency\n0,1,1\n1,1,1\n",
         ["column `Link Efficiency` or `eta_tot` of SatQuMA must stand once, but stands 2 times"]),
        ("# Time (s),eta_tot,Link Efficiency\n0,1,1\n1,1,1\n",
         ["column `Link Efficiency` or `eta_tot` of SatQuMA must stand once, but stands 2 times"]),
        ("# Time (s),Elevation (rad)\n0,1\n1,1\n",
         ['column `Link Efficiency` or `eta_tot` of SatQuMA is required, but the header is "Time (s),Elevation (rad)"']),
        ("Elevation (rad),eta_tot\n0,1\n1,1\n",
         ['column `Time (s)` of SatQuMA is required, but the header is "Elevation (rad),eta_tot"']),
        ("time_s,lossdb\n0,1\n1,1\n",
         ['unknown column "lossdb" (did you mean `loss_db`?)', 'column `loss_db` is required, but the header is "time_s,lossdb"']),
        (PLAIN + '"2","x"\n', ['line 4: loss_db must be a number, but is "x"']),
    ],
)  # fmt: skip
def test_records_that_are_none(tmp_path, content, messages):
    (tmp_path / "r.csv").write_text(content)
    with pytest.raises(pm.ConfigError) as raised:
        pm.Recorded(file="r.csv").loaded(tmp_path)
    found = [str(mistake) for mistake in raised.value.mistakes]
    assert [text.removeprefix("channel.file r.csv").removeprefix(":").strip() for text in found] == messages


def test_records_with_quotes(tmp_path):
    (tmp_path / "plain.csv").write_text(PLAIN)
    (tmp_path / "quoted.csv").write_text('"time_s","loss_db"\n"0","10"\n1,"20"\n')
    plain, quoted = (pm.Recorded(file=f"{name}.csv").loaded(tmp_path) for name in ("plain", "quoted"))
    assert plain.samples == quoted.samples and quoted.samples.loss_db.tolist() == [10.0, 20.0]


@pytest.mark.nightly
def test_timeline_of_kept_blocks():
    """What accumulates to the end of a pass is what is expected of the whole, to the 2e-3 of its 129 times."""
    one = pm.load_config(
        CONFIG,
        ["selection.threshold_transmittance=0.4", 'background.sky="full_moon"', "channel.pointing_jitter_urad=6.0"],
    )
    whole, course = pm.simulate(one, sampler="expected").point(), timeline(one)
    assert course.sifted_z[-1] == pytest.approx(whole["sifted_z"], rel=2e-3)
    assert course.secret_key_bits[-1] == pytest.approx(whole["secret_key_bits"], rel=2e-3)
    best = -10.0 * np.log10(0.4) + course.loss_db.min()
    assert course.least_db == pytest.approx(best, abs=1e-3)


def test_kept_share_of_a_paper_model(tmp_path):
    """Its pulses are those of kept rows, too."""
    one = recorded(tmp_path, NOISY, 0.005)
    printed = dataclasses.replace(one.link.receiver, count_model="lim2014")
    paper = pm.expected_counts(dataclasses.replace(one, link=dataclasses.replace(one.link, receiver=printed)))
    np.testing.assert_allclose(paper.sent, pm.expected_counts(one).sent)
