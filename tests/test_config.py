"""Configs: every mistake at once, with its path; marks; round trips; and a fuzz that never finds a third way out."""

from __future__ import annotations

import copy
import json
import tomllib

import jsonschema
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import photonmc as pm
from photonmc import config, schema
from photonmc.errors import ConfigError
from photonmc.study import as_sections

TEXT = (ROOT / "configs" / "fiber.toml").read_text()
FILES = sorted((ROOT / "configs").glob("*.toml"))


def tree():
    return tomllib.loads(TEXT)


def mistakes(changes, drop=()):
    """Messages for the fixed study with values put at paths."""
    data = tree()
    for path in drop:
        section, _, name = path.partition(".")
        (data[section] if name else data).pop(name or section)
    found = config.apply_overrides(data, [])
    for path, value in changes.items():
        parts = config.split_path(path)
        holder = data
        for part in parts[:-1]:
            holder = holder.setdefault(part, {}) if isinstance(holder, dict) else holder[part]
        holder[parts[-1]] = value
    with pytest.raises(ConfigError) as raised:
        config.study_from_tree(data, found)
    return [str(mistake) for mistake in raised.value.mistakes]


SINGLE = [
    ({"source.pulse_rate_hz": "fast"}, "source.pulse_rate_hz: must be a number"),
    ({"source.pulse_rate_hz": True}, "source.pulse_rate_hz: must be a number"),
    ({"source.pulse_rate_hz": 0.5}, r"source.pulse_rate_hz: must be in [1, 1e+13] Hz, but is 0.5"),
    ({"receiver.efficiency": float("nan")}, "receiver.efficiency: must be a finite number, but is nan"),
    ({"receiver.efficiency": float("inf")}, "receiver.efficiency: must be a finite number, but is inf"),
    ({"receiver.efficiency": 10**400}, "receiver.efficiency: must be a number below 1e300, but has 401 digits"),
    ({"channel.lenght_km": 3.0}, "channel.lenght_km: unknown key (did you mean `length_km`?)"),
    ({"channel.kind": "fibre"}, 'channel.kind: must be one of "fiber", "fixed_loss", "recorded", "downlink", "uplink" (did you mean `fiber`?)'),
    ({"receivr": {}}, "receivr: unknown key (did you mean `receiver`?)"),
    ({"schema": 2}, "schema: must be 1, but is 2"),
    ({"source.intensity_probabilities": [0.7, 0.2, 0.2]}, "source.intensity_probabilities: must sum to 1"),
    ({"source.intensity_probabilities": [0.8, 0.2]}, "source.intensity_probabilities: must be as many as"),
    ({"source.intensities": [0.1, 0.5, 0.0]}, "source.intensities: must fall strictly"),
    ({"source.intensities": [0.5, 0.45, 0.1]}, "source.intensities: lim2014 needs mu1 > mu2 + mu3"),
    ({"source.intensities": [0.5, 0.1], "source.intensity_probabilities": [0.5, 0.5]}, "source.intensities: lim2014 takes 3"),
    ({"security.analysis": "rusca2018"}, "source.intensities: rusca2018 takes 2 intensities, but there are 3"),
    ({"security.epsilon_secrecy_per_bit": 1e-15}, "security: give exactly one of epsilon_secrecy"),
    ({"receiver.dead_time_ns": 30.0, "run.sampler": "expected"}, "receiver.dead_time_ns: must be 0"),
    ({"receiver.dead_time_ns": [30.0, 20.0], "run.sampler": "counts"}, "receiver.dead_time_ns: must be 0"),
    ({"receiver.efficiency": [0.1, 0.2, 0.3]}, "receiver.efficiency: must have 2 entries at most"),
    ({"receiver.efficiency": [0.1, 1.2]}, "receiver.efficiency[1]: must be in [0, 1], but is 1.2"),
    ({"receiver.afterpulse_probability": 0.1}, "receiver.afterpulse_time_ns: is required with afterpulse_probability"),
    ({"receiver.afterpulse_probability": [0.1, 0.2], "receiver.afterpulse_time_ns": 10.0}, "receiver.afterpulse_time_ns: must have as many"),
    ({"receiver.afterpulse_kind": "band", "receiver.afterpulse_time_ns": [20.0, 10.0]}, "receiver.afterpulse_time_ns: must be [shortest, longest]"),
    ({"channel": {"kind": "recorded", "file": "none.csv"}}, "channel.file none.csv: cannot be read: there is no such file"),
    ({"channel": {"kind": "recorded"}}, "channel.file: is required"),
    ({"receiver.gate_width_ns": 1.0}, "receiver.gate_width_ns: is read with dark_count_rate_hz or background alone"),
    ({"receiver.dark_count_rate_hz": 1e3}, "receiver.dark_count_probability: give either"),
    ({"receiver.count_model": "lim2014", "run.sampler": "counts"}, "run.sampler: must be"),
    ({"run.pulses": 0.0}, "run.pulses: must be in [1, 1e+15]"),
    ({"run.pulses": 1e30}, "run.pulses: must be in [1, 1e+15]"),
    ({"run.duration_s": 1.0}, "run: give exactly one of pulses, duration_s, block_size_z"),
    ({"run.realizations": 1.5}, "run.realizations: must be a whole number"),
    ({"run.seed": -1}, "run.seed: must be in"),
    ({"channel.length_km": {"scan": [0, 100, 1]}}, "channel.length_km: a scan must have 2 to 1e+07 points, but has 1"),
    ({"channel.length_km": {"scan": [0, 100, 10**9]}}, "channel.length_km: a scan must have 2 to 1e+07 points"),
    ({"channel.length_km": {"scan": [0, 1, 5000]}, "run.seed": {"scan": [0, 4999, 5000]}}, "a scan may have 1e+07 points"),
    ({"channel.length_km": {"scan": [0, 9000, 10]}}, "channel.length_km: must be in [0, 5000] km, but is 9000.0"),
    ({"channel.length_km": {"scan": [0, 9, 10], "scale": "log"}}, "channel.length_km: a scan on a log scale"),
    ({"channel.length_km": {"values": [1.0, "x"]}}, "channel.length_km: values must be all numbers"),
    ({"source.intensities[0]": {"scan": [0.05, 0.5, 4]}}, "source.intensities: must fall strictly"),
    ({"security.concentration": {"values": ["kl", "klx"]}}, "security.concentration: must be one of"),
    ({"run.pulses": {"optimize": [1e6, 1e9]}}, "run.pulses: cannot be optimized"),
    ({"receiver.efficiency": {"optimize": [0.2, 1.2]}}, "receiver.efficiency: bounds must be in [0, 1], but is 1.2"),
    ({"protocol.basis_probability_z": {"optimize": [0.5, 1.1]}}, "protocol.basis_probability_z: bounds must be in [0, 1], but is 1.1"),
    ({"run.joined_passes": {"values": [1, 1.5, 3]}}, "run.joined_passes: must be in [1, 10000], whole numbers alone, but is 1.5"),
    ({"run.joined_passes": {"scan": [1, 4, 3]}}, "run.joined_passes: must be in [1, 10000], whole numbers alone, but is 2.5"),
    ({"receiver.efficiency": {"optimize": [0.5, 0.2]}}, "receiver.efficiency: optimize must be [low, high]"),
    ({"receiver.efficiency": {"optimize": [0.1, 0.2], "start": 0.5}}, "receiver.efficiency.start: must lie in"),
    ({"receiver.efficiency": {"optimize": [0.1, 0.2], "begin": 0.15}}, "receiver.efficiency.begin: unknown key beside optimize"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), SINGLE)
def test_mistake(changes, message):
    found = mistakes(changes)
    assert any(text.startswith(message) for text in found), found


def test_all_mistakes_at_once_and_once_each():
    changes = {
        "source.pulse_rate_hz": "fast",
        "channel.length_km": -3.0,
        "receiver.efficiency": 2.0,
        "protocol.basis_probability_z": 1.0,
        "security.epsilon_secrecy": 0.0,
        "run.seed": 0.5,
        "source.intensity_probabilities": [0.1, 0.1, 0.1],
        "foo": 1,
    }
    found = mistakes(changes, drop=["security.epsilon_correctness"])
    assert len(found) == len(set(found)) == len(changes) + 1
    for path in [*changes, "security.epsilon_correctness"]:
        assert sum(text.startswith(path + ":") for text in found) == 1, (path, found)


@pytest.mark.parametrize("section", ["source", "channel", "receiver", "protocol", "run"])
@pytest.mark.parametrize("value", [None, 3, [], "x", [{}]])
def test_sections_that_are_none(section, value):
    found = mistakes({section: value} if value is not None else {}, drop=[section])
    assert any(text.startswith(section) for text in found)
    assert not any("Error" in text for text in found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_configs_load_resolve_and_fit_the_schema(path):
    study = pm.load_config(path)
    text = config.resolved_toml(study)
    assert config.study_from_tree(tomllib.loads(text), folder=path.parent) == study
    for data in (tomllib.loads(path.read_text()), tomllib.loads(text)):
        jsonschema.Draft202012Validator(schema.json_schema()).validate(data)


@pytest.mark.parametrize("name", config.preset_names())
def test_presets(name):
    jsonschema.Draft202012Validator(schema.json_schema()).validate(tomllib.loads(config.preset_text(name)))
    point = pm.simulate(pm.preset(name), sampler="expected").point()
    assert point["secret_key_bits"] > 0 and "ok" in point["status"]
    assert "Approximates" in config.preset_text(name)


def test_schema_refuses():
    validator = jsonschema.Draft202012Validator(schema.json_schema())
    for changes in ({"channel": {"length_km": 3.0}}, {"surprise": 1}, {"source": {"kind": "laser"}}):
        assert not validator.is_valid({**tree(), **changes})
    data = tree()
    data["receiver"]["efficiency"] = 1.5
    assert not validator.is_valid(data)


def test_scan_values_and_order():
    study = pm.load_config(
        ROOT / "configs" / "fiber.toml",
        [
            "channel.length_km={scan=[0, 100, 3]}",
            'run.pulses={values=[1e8, 1e9], zip="a"}',
            'run.seed={values=[1, 2], zip="a"}',
        ],
    )
    assert study.shape == (3, 2)
    assert [study.settings(i)["channel.length_km"] for i in range(6)] == [0.0, 0.0, 50.0, 50.0, 100.0, 100.0]
    assert study.settings(3) == {"channel.length_km": 50.0, "run.pulses": 1e9, "run.seed": 2}
    result = pm.simulate(study)
    alone = pm.simulate(study.at(0))
    np.testing.assert_array_equal(result.counts.detections[0], alone.counts.detections[0])
    log = pm.load_config(ROOT / "configs" / "fiber.toml", ['run.pulses={scan=[1e6, 1e12, 13], scale="log"}'])
    np.testing.assert_allclose(log.axes[0].values[0], np.geomspace(1e6, 1e12, 13))
    assert np.isfinite(pm.simulate(log, sampler="counts").keys.bits).all()


def test_all_values_of_a_field():
    study = pm.load_config(
        ROOT / "configs" / "fiber.toml", ['run.realizations={values=[1, 900], zip="a"}', 'run.seed={values=[3, 4], zip="a"}']
    )
    assert study.values_of("run.realizations") == [1, 900] and study.values_of("run.seed") == [3, 4]
    assert study.values_of("run.sampler") == ["auto"] and study.values_of("source.intensities[1]") == [0.1]


def test_scanned_words_are_programs_of_their_own():
    overrides = ['security.concentration={values=["hoeffding", "kl"]}', "channel.length_km={values=[10, 30]}"]
    result = pm.simulate(pm.load_config(ROOT / "configs" / "fiber.toml", overrides), sampler="expected")
    for index in range(4):
        assert (
            result.point(index)["secret_key_bits"]
            == pm.simulate(result.study.at(index), sampler="expected").point()["secret_key_bits"]
        )


def test_replace_lists_all_unknown_paths():
    study = pm.load_config(ROOT / "configs" / "fiber.toml")
    with pytest.raises(ConfigError) as raised:
        study.replace(
            {
                "channel.lenght_km": 1.0,
                "chanel.x": 2.0,
                "source.intensities[7]": 0.1,
                "channel.kind": "fixed_loss",
                "a b": 1,
            }
        )
    assert len(raised.value.mistakes) == 5
    with pytest.raises(ConfigError, match=r"channel.length_km: must be in \[0, 5000\] km, but is -1.0") as raised:
        pm.simulate(study.replace({"channel.length_km": -1.0, "receiver.efficiency": float("nan")}))
    assert len(raised.value.mistakes) == 2


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["", "kl", "nan", "[", "\u2028", "fiber", 1e-320, 1e308, -0.0, [], {}, [[]], {"scan": [0, 1, 3]},
                     {"values": [1, 2]}, {"optimize": [0.1, 0.2]}, {"scan": []}, {"scan": 1, "values": 2}, [{"values": [0.5, 0.6]}, 0.1, 0.0]]),
)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=400, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_fuzz(data):
    """Types, deletions, huge and odd values: a study or a list of mistakes, never anything else."""
    mutated = copy.deepcopy(tree())
    for _ in range(data.draw(st.integers(1, 4))):
        section = data.draw(st.sampled_from(sorted(mutated)))
        holder = mutated
        key = section
        if isinstance(mutated[section], dict) and mutated[section] and data.draw(st.integers(0, 9)):
            holder = mutated[section]
            key = data.draw(st.sampled_from(sorted(holder)))
            if isinstance(holder[key], list) and holder[key] and data.draw(st.booleans()):
                holder, key = holder[key], data.draw(st.integers(0, len(holder[key]) - 1))
        if data.draw(st.integers(0, 3)) or isinstance(holder, list):
            holder[key] = copy.deepcopy(data.draw(ODD))  # loading changes what it is given
        else:
            holder.pop(key)
        if not mutated:
            return
    try:
        study = config.study_from_tree(mutated)
    except ConfigError as error:
        assert error.mistakes and all(mistake.message for mistake in error.mistakes)
    else:
        assert config.study_from_tree(tomllib.loads(config.resolved_toml(study))) == study
        json.dumps(as_sections(study))
