"""Time tags of whole runs, read by other people's readers: counts, dead time and jitter come back."""

from __future__ import annotations

import json

import jax
import numpy as np
import pyarrow.parquet
import pytest
from conftest import ROOT, Z_LIMIT
from scipy import integrate, stats

from photonmc.detector.jitter import share_within

DETECTORS, FIBER = (ROOT / "configs" / f"{name}.toml" for name in ("detectors", "fiber"))


def columns(path):
    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.mark.parametrize("sampler", ["clicks", "pulses"])
def test_counts_come_back(cli, tmp_path, sampler):
    """Rows recomputed from the file are those of the JSON, dead time is in the pulses, jitter of 3 periods sorted in the times."""
    path = tmp_path / "run.parquet"
    pulses = "3e7" if sampler == "clicks" else "2e6"
    options = [
        "--set",
        f"run.pulses={pulses}",
        "--set",
        "receiver.timing_jitter_ps=3000",
        "--sampler",
        sampler,
        "--seed",
        "3",
    ]
    code, out, _ = cli("run", DETECTORS, *options, "--set", "channel.length_km=10", "--json", "--time-tags", path)
    assert code == 0
    point, rows, side = json.loads(out), columns(path), json.loads(path.with_suffix(".json").read_text())
    assert point["detector_clicks"] == np.bincount(rows["detector"], minlength=2).tolist()
    sifted = rows["kept"] & (rows["basis"] == rows["alice_basis"])
    _, first = np.unique(rows["pulse"][sifted], return_index=True)
    chosen = np.flatnonzero(sifted)[first]
    for row, sent in zip(point["counts"], side["sent"], strict=True):
        intensity = [0.5, 0.1, 0.0].index(row["intensity"])
        of = chosen[(rows["basis"][chosen] == "ZX".index(row["basis"])) & (rows["intensity"][chosen] == intensity)]
        wrong = rows["bit"][of] != rows["alice_bit"][of]
        assert (of.size, wrong.sum(), sent["sent"]) == (row["detections"], row["errors"], row["sent"])
    assert np.all(np.diff(rows["time_ps"]) >= 0) and rows["time_ps"].min() >= 0
    for detector in (0, 1):
        gates = np.sort(rows["pulse"][rows["detector"] == detector])
        assert np.diff(gates).min() == 41  # 40 ns at 1 GHz
    delay = rows["time_ps"] - side["offset_ps"] - 1000 * rows["pulse"]
    sigma = np.hypot(3000 / 2.3548, 50.0)
    assert abs(delay.mean() - 50.0) < Z_LIMIT * sigma / np.sqrt(delay.size)
    assert abs(delay.std() / sigma - 1) < Z_LIMIT / np.sqrt(2 * delay.size)
    doubles = rows["pulse"][np.flatnonzero(np.bincount(np.unique(rows["pulse"], return_inverse=True)[1]) == 2)]
    assert doubles.size == 0 or np.all(rows["bit"] <= 1)


def test_detection_window(cli, tmp_path):
    """Photons that jitter moves out of the window are lost, in every sampler alike, and no tag lies outside.

    Shares: cases cw-point-0 and cw-point-dead of the reference, and by quadrature. 2e6 clicks find 0.35 %.
    """
    with jax.enable_x64(True):
        np.testing.assert_allclose(share_within(1000.0, 460.0, 0.0), 0.989520338, rtol=1e-8)
        np.testing.assert_allclose(share_within(300.0, 460.0, 0.0), 0.5574392033, rtol=1e-8)
        np.testing.assert_allclose(share_within(500.0, 0.0, 100.0), -np.expm1(-2.5), rtol=1e-8)
    sigma, tail, half = 400.0 / 2.3548200450309493, 100.0, 250.0

    def inside(t):
        return np.exp(-t / tail) / tail * np.diff(stats.norm.cdf([-half - t, half - t], scale=sigma))[0]

    share = integrate.quad(inside, 0.0, 40.0 * tail, epsabs=1e-13)[0]

    def clicks(sampler, *settings):
        names = ["timing_jitter_ps=400", "timing_jitter_tail_ps=100", *settings]
        options = [part for name in names for part in ("--set", f"receiver.{name}")]
        code, out, err = cli("run", FIBER, *options, "--set", "run.pulses=3e8", "--json", "--sampler", sampler)
        assert code == 0, err
        return np.sum(json.loads(out)["detector_clicks"])

    exact = clicks("expected", "timing_jitter_ps=0", "timing_jitter_tail_ps=0", f"efficiency={0.25 * share}")
    for sampler in ("expected", "counts", "clicks"):
        windowed = clicks(sampler, "detection_window_ps=500", "efficiency=0.25")
        assert abs(windowed - exact) < (1e-6 * exact if sampler == "expected" else Z_LIMIT * np.sqrt(exact)), sampler
    path = tmp_path / "w.parquet"
    code, _, err = cli(
        "run", DETECTORS, "--set", "receiver.detection_window_ps=500", "--set", "run.pulses=1e7", "--time-tags", path
    )
    assert code == 0, err
    rows, side = columns(path), json.loads(path.with_suffix(".json").read_text())
    assert 240 < np.abs(rows["time_ps"] - side["offset_ps"] - 1000 * rows["pulse"]).max() <= 251


def test_ptu_holds_the_same_clicks(cli, tmp_path):
    import ptufile

    options = ["--set", "run.pulses=2e7", "--seed", "5"]
    for name in ("a.parquet", "b.ptu"):
        assert cli("run", DETECTORS, *options, "--time-tags", tmp_path / name)[0] == 0
    rows = columns(tmp_path / "a.parquet")
    with ptufile.PtuFile(tmp_path / "b.ptu") as file:
        records = file.decode_records()
    records = records[records["channel"] >= 0]
    np.testing.assert_array_equal(records["time"], rows["time_ps"])
    np.testing.assert_array_equal(records["channel"], rows["detector"] + 2 * rows["basis"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler", "counts"], "counts"),
        (["--sampler", "expected"], "expected"),
        (["--set", "run.realizations=2"], "run.realizations: must be 1"),
        (["--set", "channel.length_km={scan=[0, 10, 3]}"], "is scanned"),
        (["--set", "run.pulses=1e15", "--set", "source.pulse_rate_hz=1e6"], "are too many"),
    ],
)
def test_refusals(cli, tmp_path, options, said):
    neutral = ("dead_time_ns=0", "timing_jitter_ps=0", "timing_jitter_tail_ps=0", "afterpulse_probability=0")
    memoryless = [part for setting in neutral for part in ("--set", f"receiver.{setting}")] if "--sampler" in options else []
    code, out, err = cli("run", DETECTORS, *memoryless, *options, "--time-tags", tmp_path / "x.csv")
    assert code == 2 and out == "" and said in err and "must end in one of .parquet .ptu" in err
    assert list(tmp_path.iterdir()) == []
