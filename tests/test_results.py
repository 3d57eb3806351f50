"""Results: labels, files that others can read, and a table that says what it holds."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import xarray
from conftest import ROOT

import photonmc as pm

SCAN = ["channel.length_km={scan=[10,70,3]}", "run.pulses={values=[1e9, 1e10]}"]


@pytest.fixture(scope="module")
def scan():
    return pm.simulate(pm.load_config(ROOT / "configs" / "fiber.toml", SCAN))


def test_netcdf_with_plain_xarray(scan, tmp_path):
    path = tmp_path / "scan.nc"
    scan.save(path)
    data = xarray.load_dataset(path, engine="h5netcdf")
    assert data["secret_key_bits"].dims == ("channel.length_km", "run.pulses")
    assert data["detections"].dims == ("channel.length_km", "run.pulses", "basis", "intensity")
    assert data["detections"].dtype == np.int64
    assert data["truth_errors"].dims[-1] == "photons"
    for name, variable in data.data_vars.items():
        assert variable.attrs["units"] and variable.attrs["long_name"], name
    assert data["channel.length_km"].attrs["units"] == "km"
    np.testing.assert_array_equal(data["detections"].values.reshape(6, 2, 3), scan.counts.detections)
    point = scan.point(3)
    assert float(data["secret_key_bits"].sel({"channel.length_km": 40.0, "run.pulses": 1e10})) == point["secret_key_bits"]
    for name in (
        "seed",
        "version",
        "jax",
        "device",
        "analysis",
        "sampler",
        "acceptance",
        "epsilon_secrecy",
        "epsilon_secrecy_parts",
    ):
        assert name in data.attrs
    assert json.loads(data.attrs["config"])["channel"]["kind"] == "fiber"
    with h5py.File(path) as file:
        assert "flag_meanings" in file["status"].attrs


def test_json_is_strict_and_table_prints(scan):
    text = scan.to_json()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word))["points"][5]["settings"] == {
        "channel.length_km": 70.0,
        "run.pulses": 1e10,
    }
    assert len(str(scan).splitlines()) == 7
    one = pm.simulate(scan.study.at(0))
    printed = str(one)
    assert "Secret key" in printed and "±" in printed and "bit/s" in printed and "status ok" in printed


def test_zip_words_and_realizations(tmp_path):
    overrides = [
        'channel.length_km={values=[10, 20], zip="site"}',
        'channel.attenuation_db_per_km={values=[0.2, 0.25], zip="site"}',
        'security.concentration={values=["hoeffding", "kl"]}',
        "run.realizations=20",
    ]
    result = pm.simulate(pm.load_config(ROOT / "configs" / "fiber.toml", overrides))
    result.save(tmp_path / "zip.nc")
    data = xarray.load_dataset(tmp_path / "zip.nc", engine="h5netcdf")
    assert data["secret_key_bits_quantiles"].dims == ("site", "security.concentration", "quantile")
    assert data["channel.attenuation_db_per_km"].dims == ("site",)
    assert list(data["security.concentration"].values) == ["hoeffding", "kl"]


def test_undefined_ratios_are_null():
    study = pm.load_config(
        ROOT / "configs" / "fiber.toml", ["receiver.efficiency=0.0", "receiver.dark_count_probability=0.0"]
    )
    for sampler in ("expected", "counts"):
        point = pm.simulate(study, sampler=sampler).point()
        assert point["qber_z"] is None and point["secret_key_bits"] == 0
        assert "no_key_multiphoton" in point["status"]
        assert all(isinstance(value, float) for value in point["terms"].values())
        str(pm.simulate(study, sampler=sampler))
