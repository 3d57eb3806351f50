"""Defects that were found by attack, each as its kind, with the right value."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

import photonmc as pm

FIBER = ROOT / "configs" / "fiber.toml"


def test_realizations_belong_to_a_point():
    study = pm.load_config(FIBER, ["run.pulses=1e6", "run.realizations={values=[1, 3]}"])
    one, three = pm.simulate(study).to_dict()["points"]
    assert one["pulses"] == 10**6 and isinstance(one["sifted_z"], int)
    assert (
        three["pulses"] == 1e6
        and three["sifted_z"] == sum(r["detections"] for r in three["counts"] if r["basis"] == "Z") / 3
    )
    assert "secret_key_bits_quantiles" in three and "secret_key_bits_quantiles" not in one


def test_expected_points_beside_sampled_ones():
    overrides = ["run.realizations=3", 'run.sampler={values=["expected", "counts"]}']
    expected, sampled = pm.simulate(pm.load_config(FIBER, overrides)).to_dict()["points"]
    assert expected["pulses"] == sampled["pulses"] == 1e10
    assert "truth" not in expected and sum(row["detections"] for row in sampled["truth"]) > 0
    np.testing.assert_allclose(expected["sifted_z"], sampled["sifted_z"], rtol=1e-3)


LABORATORY = """
schema = 1
[source]
kind = "weak_coherent"
pulse_rate_hz = 1e9
intensities = [0.5, 0.05, 0.0]
intensity_probabilities = [0.5, 0.3, 0.2]
[channel]
kind = "fixed_loss"
loss_db = 20.0
[receiver]
efficiency = 0.5
dark_count_probability = 1e-7
misalignment_error = 0.01
[protocol]
kind = "bb84"
basis_probability_z = 0.9
[security]
analysis = "ma2005"
[run]
"""


def test_sent_and_pulses_of_laboratory_counts_are_float64(cli, tmp_path):
    """Sent = N p_k q^2 and pulses = sum(sent) / P(equal bases), to 1e-13; float32 gave 6e-8 and another key."""
    config, csv = tmp_path / "lab.toml", tmp_path / "lab.csv"
    rows = [("Z", 0.5, 405_000_000_000), ("Z", 0.05, 243_000_000_000), ("Z", 0.0, 162_000_000_000)]
    rows += [("X", 0.5, 5_000_000_000), ("X", 0.05, 3_000_000_000), ("X", 0.0, 2_000_000_000)]
    gains = {0.5: 2.5e-3, 0.05: 2.5e-4, 0.0: 2e-7}
    counted = [
        (b, mu, sent, round(sent * gains[mu]), round(sent * gains[mu] * (0.5 if mu == 0 else 0.0104)))
        for b, mu, sent in rows
    ]
    csv.write_text("basis,intensity,detections,errors\n" + "".join(f"{b},{mu},{d},{e}\n" for b, mu, _, d, e in counted))
    config.write_text(LABORATORY + "pulses = 1e12\n")
    short = json.loads(cli("key", config, "--counts", csv, "--json")[1])
    for row, (_, _, sent) in zip(short["counts"], rows, strict=True):
        assert row["sent"] == pytest.approx(sent, rel=1e-13)
    csv.write_text(
        "basis,intensity,sent,detections,errors\n" + "".join(f"{b},{mu},{s},{d},{e}\n" for b, mu, s, d, e in counted)
    )
    given = json.loads(cli("key", config, "--counts", csv, "--json")[1])
    config.write_text(LABORATORY + "block_size_z = 1e9\n")
    block = json.loads(cli("key", config, "--counts", csv, "--json")[1])
    assert block["pulses"] == pytest.approx(1e12, rel=1e-13)
    assert abs(short["secret_key_bits"] - given["secret_key_bits"]) <= 1
    assert abs(block["secret_key_bits"] - given["secret_key_bits"]) <= 1


@pytest.mark.parametrize("analysis", ["lim2014", "rusca2018"])
def test_empty_bases_give_numbers(analysis):
    """Nothing detected in Z, in X, or in both: 0 bits, finite terms, a reason; also with an epsilon per bit."""
    cls = {"lim2014": pm.Lim2014, "rusca2018": pm.Rusca2018}[analysis]
    k = cls.intensity_count
    mu, p = ((0.5, 0.1, 0.0), (0.7, 0.2, 0.1)) if k == 3 else ((0.5, 0.1), (0.7, 0.3))
    link = pm.Link(pm.WeakCoherent(1e9, mu, p), pm.FixedLoss(10.0), pm.ActiveBasis(0.2, 0.01, 1e-6))
    for empty in (0, 1, slice(None)):
        detections = np.tile([10000.0, 500.0, 0.0][:k], (2, 1))
        detections[empty] = 0
        for eps in ({"epsilon_secrecy": 1e-9}, {"epsilon_secrecy_per_bit": 1e-15}):
            study = pm.Study(link, pm.BB84(0.9), pm.Run(pulses=1e9), cls(epsilon_correctness=1e-15, **eps))
            key = pm.key_length(pm.Counts(1e9, np.full((2, k), 1e8), detections, detections * 0.01), study)
            assert key.secret_key_bits == 0 and all(math.isfinite(term) for term in key.terms.values())


def test_terms_without_a_number_are_outside_validity(cli):
    code, out, _ = cli("run", FIBER, "--json", "--sampler", "expected", "--set", "source.intensities=[1e-300, 1e-301, 0.0]")
    point = json.loads(out)
    assert code == 0 and point["secret_key_bits"] == 0 and "outside_validity" in point["status"]
    settings = ["--set", "receiver.count_model=lim2014", "--set", "receiver.dark_count_probability=0.9"]
    assert "outside_validity" in json.loads(cli("run", FIBER, "--json", *settings)[1])["status"]


def test_small_epsilons_do_not_overflow():
    study = pm.load_config(FIBER, ["security.epsilon_correctness=1e-300", "security.epsilon_secrecy=1e-300"])
    point = pm.simulate(study, sampler="expected").point()
    cost = 6 * (math.log2(21) + 300 * math.log2(10)) + 1 + 300 * math.log2(10)
    assert point["terms"]["epsilon_cost_bits"] == pytest.approx(cost, rel=1e-12)
    assert math.isfinite(point["terms"]["secret_key_bits_real"])


def test_loose_epsilon_still_adds_a_deviation():
    """Where the logarithm of the printed bound turns negative, Serfling's bound stands in; 0 would be unsafe."""
    overrides = [
        "security.epsilon_secrecy=0.1",
        "run.pulses=1e13",
        "channel.length_km=25.0",
        "protocol.basis_probability_z=0.5",
    ]
    for bound in ("fung", "yin_safe", "serfling"):
        study = pm.load_config(FIBER, [*overrides, f"security.phase_error_sampling={bound}"])
        assert pm.simulate(study, sampler="expected").point()["terms"]["phase_error_deviation"] > 1e-7


def test_single_free_probability_takes_what_is_left():
    study = pm.load_config(FIBER)
    best = pm.optimize(study, free={"source.intensity_probabilities[0]": (0.01, 0.9)})
    assert best.tuned["source.intensity_probabilities[0]"][0] == pytest.approx(0.7, abs=1e-12)
    with pytest.raises(pm.ConfigError, match="able to sum to 1"):
        pm.optimize(study, free={"source.intensity_probabilities[0]": (0.01, 0.5)})


@pytest.mark.parametrize("overrides", [
    ["receiver.dead_time_ns={optimize=[0, 1], start=0}", "run.sampler=expected"],
    ["source.wavelength_nm={optimize=[1000, 1500]}"],
    ["run.pulses={optimize=[1e6, 1e9]}"],
    ["channel.kind={values=[\"fiber\", \"fixed_loss\"]}"],
    ["source.intensities={optimize=[0.1, 0.5]}"],
    ["run.sampler={scan=[0, 1, 100000]}"],
    ["run.seed={values=[1e300, 2e300]}"],
    ["schema=true"],
    ["schema=1.0"],
    ["channel.length_km={scan=[-1e308, 1e308, 5]}"],
    ["channel.length_km={scan=[0, 9, 3], scale=\"lin\"}"],
    ["security=5"],
])  # fmt: skip
def test_one_mistake_is_said_once(overrides):
    with pytest.raises(pm.ConfigError) as raised:
        pm.load_config(FIBER, overrides)
    per_path = [mistake.path for mistake in raised.value.mistakes]
    assert len(per_path) <= 2 and "null" not in str(raised.value)


def test_long_scans_are_checked_at_once():
    """A million points in a field that three rules read: their ends speak for all of them."""
    start = time.process_time()
    study = pm.load_config(FIBER, ["source.intensities[0]={scan=[0.3, 0.6, 1000000]}"])
    assert study.points == 1_000_000 and time.process_time() - start < 20


def test_deep_nesting_is_refused(cli, tmp_path):
    path = tmp_path / "deep.toml"
    path.write_text(".".join(["a"] * 3000) + " = 1\n")
    code, _, err = cli("check", path)
    assert code == 2 and "nested" in err


def test_outputs_that_are_one_file_or_the_input(cli, tmp_path):
    (tmp_path / "d").mkdir()
    twice = ["--out", tmp_path / "a.json", "--out", tmp_path / "d" / ".." / "a.json"]
    assert cli("run", FIBER, *twice)[0] == 2
    many = ["--set", "run.realizations={values=[1, 3]}", "--set", "run.pulses=1e6"]
    assert cli("run", FIBER, *many, "--out", tmp_path / "b.json", "--out", tmp_path / "b.csv")[0] == 2
    csv = tmp_path / "c.csv"
    assert cli("run", FIBER, "--out", csv)[0] == 0
    before = csv.read_text()
    assert cli("key", FIBER, "--counts", csv, "--out", csv, "--force")[0] == 2 and csv.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.csv", "d"]
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "target.json")
    assert cli("run", FIBER, "--out", link)[0] == 2
    assert cli("run", FIBER, "--out", link, "--force")[0] == 0 and link.is_symlink() and (tmp_path / "target.json").is_file()


def test_control_characters_and_long_lists_do_not_reach_the_terminal(cli, tmp_path):
    path = tmp_path / "odd.toml"
    path.write_text('"\\u001b[31m" = 1\n' + "".join(f"key_{i} = 1\n" for i in range(5000)))
    code, _, err = cli("check", path)
    assert code == 2 and "\x1b" not in err and len(err.splitlines()) < 120 and "more" in err


def stopped(number, *options):
    """Exit code, output and stderr of a run that is sent a signal when it first tells of its progress."""
    arguments = ["run", str(FIBER), "--set", "run.pulses=1e15", *map(str, options)]
    handler = "default_int_handler" if number == signal.SIGINT else "SIG_DFL"  # whatever these tests were told to ignore
    code = f"import signal; signal.signal({int(number)}, signal.{handler}); from photonmc.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    progress = process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, progress + err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_terminated_runs_keep_what_was_sampled(tmp_path, number, code):
    found, out, _ = stopped(number, "--sampler", "pulses", "--out", tmp_path / "x.json", "--json")
    assert found == code and "partial" in json.loads(out)["status"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("sampler", ["pulses", "clicks"])
def test_ctrl_c_keeps_what_was_sampled(tmp_path, sampler):
    """Status, pulses so far, exit code, progress on stderr; the tag file is closed, readable and agrees with the counts."""
    import pyarrow.parquet

    tags = tmp_path / "t.parquet"
    jitter = ["--set", "receiver.timing_jitter_ps=100", "--set", "channel.length_km=150"]
    late = ["--set", "source.pulse_rate_hz=1e10"]  # 1e15 pulses within the 107 days that 64 bits of picoseconds hold
    code, out, err = stopped(signal.SIGINT, "--sampler", sampler, "--json", "--time-tags", tags, *jitter, *late)
    point = json.loads(out)
    assert code == 130 and "partial" in point["status"] and 0 < point["pulses"] < 10**15
    assert "pulses/s" in err and "remaining" in err and "stopped before its end" in point["reason"]
    table = pyarrow.parquet.read_table(tags)
    assert len(table) == sum(point["detector_clicks"])
    assert sum(row["sent"] for row in json.loads((tmp_path / "t.json").read_text())["sent"]) <= point["pulses"]


def test_key_reads_the_csv_that_it_wrote(cli, tmp_path):
    """Counts without `sent` come back without it: a mean is no count."""
    counts, short, again = (tmp_path / name for name in ("a.csv", "b.csv", "c.csv"))
    cli("run", FIBER, "--out", counts, "--seed", "5")
    rows = [line.split(",") for line in counts.read_text().splitlines()]
    short.write_text("\n".join(",".join(cells[:2] + cells[3:]) for cells in rows) + "\n")
    first = json.loads(
        cli(
            "key",
            FIBER,
            "--counts",
            short,
            "--out",
            again,
            "--json",
            "--set",
            "source.intensity_probabilities=[0.71, 0.19, 0.1]",
        )[1]
    )
    assert again.read_text() == short.read_text()
    second = json.loads(
        cli("key", FIBER, "--counts", again, "--json", "--set", "source.intensity_probabilities=[0.71, 0.19, 0.1]")[1]
    )
    assert first == second


def test_netcdf_config_holds_the_marks():
    study = pm.load_config(FIBER, ["channel.length_km={values=[10, 90, 160]}", "run.sampler=expected"])
    data = pm.simulate(study).to_xarray()
    assert json.loads(data.attrs["config"])["channel"]["length_km"] == {"values": [10.0, 90.0, 160.0]}
    unsafe = (data["status"].values & 64) > 0
    assert unsafe.any() and not unsafe.all()
    np.testing.assert_array_equal(np.isnan(data["secret_key_bits_yin_safe"].values), ~unsafe)
    best = pm.optimize(pm.load_config(FIBER, ["channel.length_km=400.0"]), free={"source.intensities[0]": (0.15, 0.9)})
    assert json.loads(best.to_xarray().attrs["config"])["source"]["intensities"][0]["optimize"] == [0.15, 0.9]
    assert "No settings within the bounds" in best.point()["reason"]


def test_reversed_bounds_are_said():
    with pytest.raises(pm.ConfigError, match="bounds must be low < high") as raised:
        pm.optimize(pm.load_config(FIBER), free={"source.intensities[0]": (0.9, 0.1)})
    assert len(raised.value.mistakes) == 1


def test_a_stop_leaves_out_realizations_that_never_began():
    """They are no runs without a key: means are those of what was sampled."""
    study = pm.load_config(FIBER).replace({"run.pulses": 1e10, "run.realizations": 5, "receiver.dead_time_ns": 5.0})

    class InTheSecond(pm.Progress):
        def advance(self, pulses):
            self.stop_signal = signal.SIGINT if super().advance(pulses) or self.done >= 1.8e10 else 0
            return self.stopped

    progress = InTheSecond()
    part = pm.simulate(study, sampler="clicks", progress=progress).point()
    assert "partial" in part["status"] and part["probability_no_key"] == 0.0
    assert part["pulses"] == progress.done / 2 and part["secret_key_bits_quantiles"]["0.05"] > 0
    whole = pm.simulate(study.replace({"run.realizations": 1}), sampler="clicks").point()
    assert 0.5 * whole["secret_key_bits"] < part["secret_key_bits"] < whole["secret_key_bits"]


def test_a_record_longer_than_integers(cli, tmp_path):
    record = tmp_path / "far.csv"
    record.write_text("time_s,loss_db\n0,10\n1e-4,20\n1e10,30\n")
    options = ["--set", f"channel.file={record}", "--set", "run.pulses=1e6", "--json"]
    code, out, _ = cli("run", ROOT / "configs" / "pass.toml", *options)
    assert code == 0 and json.loads(out)["pulses"] == 10**6


def test_blocks_that_wait_blind_are_refused():
    """3e3 detections a block, each followed by 1e16 blind gates."""
    changes = {"source.pulse_rate_hz": 1e13, "receiver.dead_time_ns": 1e12, "receiver.dead_time_policy": "blank_all"}
    study = pm.load_config(FIBER).replace({"run.pulses": None, "run.block_size_z": 3e3, **changes})
    with pytest.raises(pm.ConfigError, match="may need 1e\\+15 pulses at most"):
        pm.simulate(study, sampler="counts")
