"""What a person types and sees: exit codes, messages, files, and counts from a laboratory."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest
from conftest import ROOT

FIBER = ROOT / "configs" / "fiber.toml"
POINT_KEYS = {
    "secret_key_bits", "secret_key_bits_per_pulse", "secret_key_rate_bps", "secret_key_bits_standard_error", "qber_z", "qber_x",
    "pulses", "sifted_z", "sifted_x", "detector_clicks", "counts", "truth", "terms", "acceptance", "analysis", "status", "reason", "sampler", "seed",
    "version", "jax", "device",
}  # fmt: skip


def test_run_json(cli):
    code, out, err = cli("run", FIBER, "--json")
    point = json.loads(out)
    assert code == 0 and err == "" and set(point) == POINT_KEYS
    assert point["acceptance"] == "observed" and point["sampler"] == "counts" and point["status"] == ["ok"]
    assert len(point["counts"]) == 6 and len(point["truth"]) == 24
    assert point["sifted_z"] == sum(row["detections"] for row in point["counts"] if row["basis"] == "Z")
    assert 0 < point["secret_key_bits_standard_error"] < 0.05 * point["secret_key_bits"]
    assert cli("run", FIBER, "--json")[1] == out, "the same seed gives the same bytes"
    assert cli("run", FIBER, "--json", "--seed", "1")[1] != out


def test_standard_error_is_that_of_realizations(cli):
    """Spread of 2000 blocks against the redraws of one: 200 redraws are good to 5 %, at 1e-6 within 30 %."""
    many = json.loads(cli("run", FIBER, "--json", "--set", "run.realizations=2000")[1])
    one = json.loads(cli("run", FIBER, "--json")[1])
    width = many["secret_key_bits_quantiles"]["0.95"] - many["secret_key_bits_quantiles"]["0.05"]
    assert abs(width / (2 * 1.645 * one["secret_key_bits_standard_error"]) - 1) < 0.3


def test_expected_and_realizations(cli):
    point = json.loads(cli("run", FIBER, "--json", "--sampler", "expected")[1])
    assert "truth" not in point and "secret_key_bits_standard_error" not in point
    assert isinstance(point["counts"][0]["detections"], float)
    code, out, _ = cli("run", FIBER, "--json", "--set", "run.realizations=300", "--set", "run.pulses=2e8")
    many = json.loads(out)
    assert code == 0 and set(many["secret_key_bits_quantiles"]) == {"0.05", "0.5", "0.95"}
    assert 0 <= many["probability_no_key"] <= 1 and many["pulses"] == 2e8
    assert sum(row["detections"] for row in many["counts"] if row["basis"] == "Z") == pytest.approx(300 * many["sifted_z"])


def test_without_security(cli, tmp_path):
    path = tmp_path / "plain.toml"
    text = FIBER.read_text()
    start, end = text.index("[security]"), text.index("[run]")
    path.write_text(text[:start] + text[end:])
    for extra in ([], ["--sampler", "expected"], ["--set", "channel.length_km={scan=[0,10,2]}"]):
        code, out, err = cli("run", path, "--json", *extra)
        assert code == 0, err
        point = json.loads(out)
        point = point.get("points", [point])[0]
        assert not {"terms", "acceptance", "analysis"} & set(point) and not any(k.startswith("secret_key") for k in point)
        assert cli("run", path, *extra)[0] == 0
    code, _, err = cli("key", path, "--counts", path)
    assert code == 2 and "security: is required" in err


def test_laboratory_leaves_channel_and_receiver_alone(cli, tmp_path):
    counts = tmp_path / "counts.csv"
    bits = json.loads(cli("run", FIBER, "--json", "--out", counts)[1])["secret_key_bits"]
    text = FIBER.read_text()
    bare = text[: text.index("[channel]")] + text[text.index("[protocol]") :]
    for extra in ("", "[receiver]\ndead_time_ns = 40.0\nbrand = 'x'\n[channel]\nlength_km = { scan = [0, 1, 3] }\n"):
        path = tmp_path / "bare.toml"
        path.write_text(bare + extra)
        code, out, err = cli(
            "key", path, "--counts", counts, "--json", "--out", tmp_path / "k.nc", "--out", tmp_path / "k.png", "--force"
        )
        assert code == 0 and json.loads(out)["secret_key_bits"] == bits, err


def test_laboratory_round_trip(cli, tmp_path):
    counts = tmp_path / "counts.csv"
    ran = json.loads(cli("run", FIBER, "--json", "--out", counts)[1])
    code, out, err = cli("key", FIBER, "--counts", counts, "--json")
    key = json.loads(out)
    assert code == 0, err
    for name in ("secret_key_bits", "status", "counts", "qber_z", "secret_key_rate_bps"):
        assert key[name] == ran[name]
    assert key["terms"] == pytest.approx(ran["terms"], rel=1e-12)  # keys of other batches: sums in another order
    assert key["sampler"] == "measured" and "truth" not in key
    # without `sent` it is the mean number, which lim2014 does not read
    rows = list(csv.DictReader(io.StringIO(counts.read_text())))
    short = tmp_path / "short.csv"
    short.write_text(
        "basis,intensity,detections,errors\n"
        + "".join(f"{r['basis']},{r['intensity']},{r['detections']},{r['errors']}\n" for r in rows[::-1])
    )
    assert json.loads(cli("key", FIBER, "--counts", short, "--json")[1])["secret_key_bits"] == ran["secret_key_bits"]
    code, _, err = cli("key", FIBER, "--counts", short, "--set", "run.block_size_z=1e6", "--set", "run.pulses=1e9")
    assert code == 2
    block = tmp_path / "block.toml"
    block.write_text(FIBER.read_text().replace("pulses = 1e10", "block_size_z = 1e6"))
    code, _, err = cli("key", block, "--counts", short)
    assert code == 2 and "`sent` is required with run.block_size_z" in err
    sent = sum(int(row["sent"]) for row in rows)
    point = json.loads(cli("key", block, "--counts", counts, "--json")[1])
    assert point["pulses"] == pytest.approx(sent / (0.81 + 0.01), rel=1e-9)


BAD_COUNTS = {
    "errors above detections": ("Z,0.5,100,50,60", "2: errors must not exceed detections, but 60 > 50"),
    "detections above sent": ("Z,0.5,100,500,60", "2: detections must not exceed sent, but 500 > 100"),
    "fraction": ("Z,0.5,100,50.5,6", "2: detections must be a whole number"),
    "negative": ("Z,0.5,100,-5,6", "2: detections must be a whole number"),
    "scientific": ("Z,0.5,1e9,5,1", "2: sent must be a whole number"),
    "basis": ("Y,0.5,100,50,6", "2: basis must be Z or X"),
    "intensity": ("Z,0.6,100,50,6", "2: intensity must be one of 0.5, 0.1, 0"),
    "cells": ("Z,0.5,100,50", "2: must have 5 cells as the header has, but has 4"),
    "duplicate": ("Z,0.1,1000,20,3", "3: basis Z and intensity 0.1 stand in a row above already"),
    "huge": ("Z,0.5,99999999999999999999999,50,6", "2: sent must be a whole number in"),
}


@pytest.mark.parametrize("name", BAD_COUNTS)
def test_bad_counts(cli, tmp_path, name):
    row, message = BAD_COUNTS[name]
    path = tmp_path / "counts.csv"
    rest = ["Z,0.1,1000,20,3", "Z,0.0,1000,0,0", "X,0.5,1000,20,3", "X,0.1,1000,20,3", "X,0.0,1000,0,0"]
    path.write_text("\n".join(["basis,intensity,sent,detections,errors", row, *rest]) + "\n")
    code, out, err = cli("key", FIBER, "--counts", path)
    assert code == 2 and out == ""
    assert any(part in err for part in message.split("|")), err


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01\xff", b"a,b\n1,2\n", b"basis,intensity,detections\nZ,0.5,3\n", b"x" * 2_000_000]
)
def test_unreadable_counts(cli, tmp_path, content):
    path = tmp_path / "counts.csv"
    path.write_bytes(content)
    code, out, err = cli("key", FIBER, "--counts", path)
    assert code == 2 and out == "" and str(path) in err
    for bad in (tmp_path / "none.csv", tmp_path, "/dev/zero"):
        assert cli("key", FIBER, "--counts", bad)[0] == 2


@pytest.mark.parametrize("content", [b"", b"   \n", b"\x00\x01\xff", b"a = [", b"a = 1\n" * 300_000, b"[" * 5000])
def test_unreadable_config(cli, tmp_path, content):
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    code, out, err = cli("run", path)
    assert code == 2 and out == "" and "Traceback" not in err


@pytest.mark.parametrize("arguments", [
    ["run"], ["run", "a.toml", "b.toml"], ["rum", str(FIBER)], ["run", str(FIBER), "--sed", "3"], ["run", "preset:gis"],
    ["run", str(FIBER), "--seed", "x"], ["run", str(FIBER), "--seed", "1.5"], ["run", str(FIBER), "--sampler", "magic"],
    ["run", str(FIBER), "--set", "x"], ["run", str(FIBER), "--set", "a.b[=3"], ["run", str(FIBER), "--set", "source.intensities[9]=1"],
    ["optimize", str(FIBER)], ["key", str(FIBER)], ["run", str(ROOT / "configs" / "tuned.toml")], ["run", ".", "--json"],
    ["run", str(FIBER), "--set", "run.block_size_z=1"],
])  # fmt: skip
def test_bad_arguments(cli, arguments):
    code, out, err = cli(*arguments)
    assert code == 2 and out == "" and err.strip() and "Traceback" not in err


def test_config_and_options_in_one_list(cli, tmp_path):
    existing = tmp_path / "old.json"
    existing.write_text("kept")
    code, out, err = cli(
        "run", FIBER, "--set", "channel.length_km=-1", "--set", "foo.bar=1", "--sampler", "magic", "--out", existing,
        "--out", tmp_path / "no" / "x.png", "--out", tmp_path / "x.doc", "--json",
    )  # fmt: skip
    assert code == 2 and out == "" and "6 mistakes" in err
    for part in (
        "channel.length_km",
        "foo",
        "run.sampler",
        "exists; --force replaces it",
        "does not exist",
        "must end in one of",
    ):
        assert part in err
    assert existing.read_text() == "kept" and [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_outputs(cli, tmp_path):
    files = [tmp_path / f"result{suffix}" for suffix in (".json", ".csv", ".nc", ".png")]
    arguments = ["run", FIBER, "--set", "channel.length_km={scan=[0,60,3]}"]
    code, _, err = cli(*arguments, *[part for path in files for part in ("--out", path)])
    assert code == 0, err
    assert json.loads(files[0].read_text())["points"][2]["settings"] == {"channel.length_km": 60.0}
    rows = list(csv.DictReader(io.StringIO(files[1].read_text())))
    assert list(rows[0]) == ["channel.length_km", "basis", "intensity", "sent", "detections", "errors"] and len(rows) == 18
    assert files[3].read_bytes().startswith(b"\x89PNG") and files[3].stat().st_size > 10_000
    before = [path.read_bytes() for path in files]
    assert cli(*arguments, "--out", files[0])[0] == 2
    assert [path.read_bytes() for path in files] == before
    assert cli(*arguments, "--out", files[0], "--force")[0] == 0
    assert sorted(tmp_path.iterdir()) == sorted(files), "no file is left behind"
    assert cli("run", FIBER, "--set", "run.realizations=3", "--out", tmp_path / "many.csv")[0] == 2


def test_check_schema_presets(cli, tmp_path):
    code, out, _ = cli("check", FIBER, "--resolved", "--set", "channel.length_km={values=[1.0, 2.0]}")
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(out)
    assert code == 0
    first = cli("run", FIBER, "--json", "--set", "channel.length_km={values=[1.0, 2.0]}")[1]
    assert cli("run", resolved, "--json")[1] == first
    assert cli("check", FIBER)[1].strip().endswith("valid, 1 point, 0 optimized settings")
    assert json.loads(cli("schema")[1])["$schema"]
    assert cli("presets")[1].count("preset:") == 5


def test_module_and_closed_pipe():
    done = subprocess.run([sys.executable, "-m", "photonmc", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == __import__("photonmc").__version__
    pipe = subprocess.run(
        f"{sys.executable} -m photonmc schema | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert pipe.stdout == "{\n" and pipe.stderr == ""
