"""Contract battery: every model of `cases.py` goes through the same checks."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import pickle
import tomllib
from pathlib import Path

import cases
import chex
import jax
import numpy as np
import pytest
from conftest import Z_LIMIT, assert_counts_agree

import photonmc as pm
from photonmc import config, fields
from photonmc.contracts import counts_from_tally, quadrature
from photonmc.random import point_key
from photonmc.runner import _expected_kernel
from photonmc.sampling.expected import expected, tally_probabilities
from photonmc.sampling.trajectory import realization_key, trajectory
from photonmc.study import kernel_study

MODELS = {
    "source": cases.SOURCES,
    "channel": cases.CHANNELS,
    "receiver": cases.RECEIVERS,
    "protocol": cases.PROTOCOLS,
    "security": cases.ANALYSES,
}
ALL = [(section, name) for section, models in MODELS.items() for name in models]


def study_with(section: str = "channel", name: str = "fiber", **run: float) -> pm.Study:
    chosen = {key: next(iter(models.values())) for key, models in MODELS.items()} | {section: MODELS[section][name]}
    source = chosen["source"]
    if name.startswith("rusca"):
        source = dataclasses.replace(source, intensities=(0.5, 0.1), intensity_probabilities=(0.7, 0.3))
    link = pm.Link(source, chosen["channel"], chosen["receiver"])
    return pm.Study(link, chosen["protocol"], pm.Run(**(run or {"pulses": 1e9})), chosen["security"])


@functools.cache
def mean_counts(section, name, seed):
    """Counts of 2e6 pulses on average; of a channel that fluctuates those of two passes, given the trajectories drawn."""
    study = study_with(section, name, pulses=2e6)
    link = study.link
    if not link.channel.fluctuates:
        return pm.expected_counts(dataclasses.replace(study, security=None))
    tally = jax.jit(jax.vmap(lambda state: tally_probabilities(link, study.protocol, state)))
    with jax.enable_x64(True):
        total = 0.0
        for realization in range(2):
            lengths, states = trajectory(realization_key(point_key(seed, 0), link, realization), link, 2_000_000)
            total = total + np.tensordot(lengths, np.asarray(tally(states)), 1)
        return jax.tree.map(np.asarray, counts_from_tally(4e6, total))


def test_every_registered_kind_has_a_row():
    for section, (tag, registry) in fields.TAGGED.items():
        assert set(registry) == {getattr(model, tag) for model in MODELS[section].values()}


@pytest.mark.parametrize(("section", "name"), ALL)
def test_record(section, name):
    model = MODELS[section][name]
    leaves, structure = jax.tree.flatten(model)
    chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), model)
    assert pickle.loads(pickle.dumps(model)) == model
    assert all(isinstance(leaf, float) or np.ndim(leaf) == 1 for leaf in leaves)
    source = ast.parse(inspect.getsource(type(model))).body[0]
    assert ast.get_docstring(source)
    tag = fields.TAGGED[section][0]
    for field_name, field in fields.fields_of(type(model)).items():
        known = field.range is not None or field.words is not None or field.base is str
        assert field_name == tag or known, f"{field_name} has no range"


@pytest.mark.parametrize(("section", "name"), ALL)
def test_toml_round_trip_and_unknown_key(section, name):
    study = study_with(section, name)
    text = config.resolved_toml(study)
    folder = Path(cases.__file__).parent / "reference"
    assert config.study_from_tree(tomllib.loads(text), folder=folder) == study
    tree = tomllib.loads(text)
    tree[section]["surprise"] = 1.0
    with pytest.raises(pm.ConfigError, match=rf"{section}\.surprise: unknown key"):
        config.study_from_tree(tree, folder=folder)


@pytest.mark.nightly
@pytest.mark.parametrize(("section", "name"), [one for one in ALL if one != ("channel", "uplink")])  # compiles like downlink
def test_transformations(section, name):
    study = study_with(section, name)
    with jax.enable_x64(True):

        def length(shift, study=study):
            def scaled(path, leaf):  # times of a record fall on whole pulses, which no derivative sees
                return leaf if "time_s" in jax.tree_util.keystr(path) else leaf * (1.0 + shift)

            moved = jax.tree_util.tree_map_with_path(scaled, study.link.channel)
            moved = dataclasses.replace(study, link=dataclasses.replace(study.link, channel=moved))
            if section == "channel":  # all that anything knows of it are its nodes
                states, weights = quadrature(moved.link, 1e9)
                return (states.transmittance * weights).sum()
            return pm.key_length(pm.expected_counts(moved), moved).terms["secret_key_bits_real"]

        step = 1e-5
        shifts = np.array([0.0, step, -step])
        values, slopes = jax.jit(jax.vmap(jax.value_and_grad(length)))(shifts)
        np.testing.assert_allclose(values[0], length(0.0), rtol=1e-12)
        np.testing.assert_allclose(slopes[0], (values[1] - values[2]) / (2 * step), rtol=1e-4)
        assert slopes[0] < 0, "more loss, less light, less key"


def limit(link, lengths, values, weights):
    """Largest deviation that the mean over a trajectory may have: 4.9 standard errors, of blocks that are correlated."""
    if not link.channel.fluctuates:
        return 0.0
    # a function of Gaussian processes is not more correlated than they are (Gebelein's inequality)
    times = link.channel.coherence_time_ms, link.channel.pointing_correlation_time_ms or 0.0
    kept = np.exp(-1e3 * lengths[0] / link.source.pulse_rate_hz / max(times))
    variance = (weights * values**2).sum() - (weights * values).sum() ** 2
    return Z_LIMIT * np.sqrt(np.maximum(variance, 0.0) * (1 + kept) / (1 - kept) / len(lengths))


@pytest.mark.parametrize("name", cases.CHANNELS)
def test_channel(name):
    """What is drawn has the mean of the nodes: exactly for a channel that does not fluctuate, else at 1e-6."""
    channel, rate, pulses = cases.CHANNELS[name], 1e9, 2_000_000
    with jax.enable_x64(True):
        link = study_with("channel", name).link
        states, weights = quadrature(link, float(pulses))
        lengths = link.block_lengths(pulses)
        drawn = link.draw(jax.random.key(1), lengths)
        np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-14)
        assert lengths.sum() == pulses <= channel.pulses(rate) and drawn.transmittance.shape == lengths.shape
        assert np.all((states.transmittance >= 0) & (states.transmittance <= 1))
        for ours, theirs in zip(jax.tree.leaves(drawn), jax.tree.leaves(states), strict=True):
            mean = (weights * theirs).sum()
            assert np.abs((lengths * ours).sum() / pulses - mean) <= 1e-12 * mean + limit(link, lengths, theirs, weights)


@pytest.mark.parametrize(("section", "name"), [row for row in ALL if row[0] != "security"])
def test_table_sums_to_one(section, name):
    study = study_with(section, name)
    with jax.enable_x64(True):
        state = jax.tree.map(lambda leaf: leaf[0], quadrature(study.link, 2e6)[0])
        outcomes = study.protocol.outcomes(study.link, state)
        assert outcomes.min() >= 0
        np.testing.assert_allclose(outcomes.sum(axis=(1, 2)), 1.0, rtol=1e-14)
        np.testing.assert_allclose(study.protocol.cells(study.link).sum(), 1.0, rtol=1e-14)


@pytest.mark.parametrize(("section", "name"), [row for row in ALL if row[0] != "security"])
@pytest.mark.parametrize("sampler", ["counts", "clicks", "pulses"])
def test_samplers_against_expectation(section, name, sampler):
    """z-test of every count at 1e-6; with 2e6 pulses a bias of 1 % in a gain of 5 % is found at 3 sigma and more."""
    study = dataclasses.replace(study_with(section, name, pulses=2e6), security=None)
    mean = mean_counts(section, name, 11)
    passes = 2 if study.link.channel.fluctuates else 1
    result = pm.simulate(study.replace({"run.realizations": passes}), sampler=sampler, seed=11)
    for field in ("sent", "detections", "errors"):
        expected = getattr(mean, field)
        assert_counts_agree(getattr(result.counts, field)[0], expected, expected * (1 - expected / (passes * 2e6)))


def test_one_compilation_serves_all_numbers():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def gain(study):
        counts = expected(study.link, study.protocol, study.run)
        return counts.detections[0].sum() / counts.pulses

    studies = [study_with("channel", "fixed_loss").replace({"channel.loss_db": loss}) for loss in (3.0, 5.0, 7.0)]
    with jax.enable_x64(True):
        gains = [gain(kernel_study(study)) for study in studies]
    assert gains[0] > gains[1] > gains[2] > 0
    before = _expected_kernel._cache_size()
    for length in (3.0, 14.0, 159.0):
        pm.expected_counts(study_with().replace({"channel.length_km": length, "source.intensities[0]": 0.3 + length / 1e3}))
    assert _expected_kernel._cache_size() <= before + 1
    assert kernel_study(study_with()) == kernel_study(dataclasses.replace(study_with(), run=pm.Run(pulses=1e9, seed=7)))


def test_tracers_need_x64():
    with pytest.raises(pm.PrecisionError, match="enable_x64"):
        jax.jit(lambda loss: pm.expected_counts(study_with("channel", "fixed_loss").replace({"channel.loss_db": loss})))(3.0)
    with pytest.raises(pm.PrecisionError):
        jax.grad(
            lambda n: pm.key_length(
                pm.Counts(1e9, np.ones((2, 3)), np.ones((2, 3)) * n, np.ones((2, 3))), study_with()
            ).terms["leak_bits"]
        )(3.0)


PERTURBATIONS = {
    "source.pulse_rate_hz": 2e9,
    "source.intensities[1]": 0.12,
    "channel.length_km": 21.0,
    "channel.attenuation_db_per_km": 0.21,
    "channel.excess_loss_db": 0.1,
    "receiver.efficiency": 0.26,
    "receiver.misalignment_error": 0.021,
    "receiver.dark_count_probability": 2e-4,
    "receiver.optics_transmittance": 0.9,
    "protocol.basis_probability_z": 0.81,
    "protocol.basis_probability_z_bob": 0.81,
    "security.epsilon_secrecy": 2e-9,
    "security.epsilon_correctness": 2e-15,
    "security.error_correction_efficiency": 1.2,
    "security.concentration": "kl",
    "security.phase_error_sampling": "serfling",
    "security.clamp": True,
    "run.pulses": 2e9,
}
DESCRIPTIVE = {"source.wavelength_nm", "run.seed", "run.realizations", "run.sampler", "run.pooling_error", "run.generator"}
REFUSED = {
    **{
        f"receiver.{name}": value
        for name, value in {
            "dead_time_ns": 10.0,
            "recovery_time_ns": 10.0,
            "afterpulse_probability": 0.1,
            "afterpulse_time_ns": 10.0,
            "timing_jitter_ps": 10.0,
            "timing_jitter_tail_ps": 10.0,
            "detection_window_ps": 2e3,
            "afterpulse_kind": "band",
            "afterpulse_memory": "all",
            "dead_time_kind": "paralyzable",
            "dead_time_policy": "individual",
        }.items()
    },
    "receiver.dark_count_rate_hz": 100.0,
    "receiver.gate_width_ns": 1.0,
    "run.duration_s": 1.0,
    "run.block_size_z": 1e6,
    "run.joined_passes": 2.0,  # of a fiber, which has none
    "security.epsilon_secrecy_per_bit": 1e-15,
}
OTHERWISE_COVERED = {"source.intensities", "source.intensity_probabilities", "receiver.count_model"}


def test_every_field_matters_or_is_refused():
    base = study_with().replace({"run.pulses": 1e8, "source.intensity_probabilities": (0.5, 0.3, 0.2)})
    plain = pm.simulate(base, sampler="expected").to_json()
    known = {
        f"{section}.{name}"
        for section in fields.SECTIONS
        if section not in ("background", "selection")  # `test_passes.py` and `test_selection.py` have those
        for name in fields.fields_of(type(base.section(section)))
        if section not in fields.TAGGED or name != fields.TAGGED[section][0]
    }
    assert known == {p for p in PERTURBATIONS if "[" not in p} | DESCRIPTIVE | set(REFUSED) | OTHERWISE_COVERED
    for path, value in PERTURBATIONS.items():
        assert pm.simulate(base.replace({path: value}), sampler="expected").to_json() != plain, path
    for path, value in REFUSED.items():
        with pytest.raises(pm.ConfigError):
            pm.simulate(base.replace({path: value}), sampler="expected")
    assert (
        pm.simulate(base.replace({"run.seed": 1}), sampler="counts").to_json()
        != pm.simulate(base, sampler="counts").to_json()
    )
