"""Optimizer: feasible by construction, never below its starts, the plain analysis at what it reports."""

from __future__ import annotations

import dataclasses
import signal

import jax
import numpy as np
import pytest
from conftest import ROOT
from scipy import optimize as scipy_optimize

import photonmc as pm
from photonmc.optimizer.coordinates import Coordinates
from photonmc.optimizer.search import _scores
from photonmc.runner import _expected_kernel, _key_kernel
from photonmc.study import Free, checked, kernel_study

LINK = pm.Link(
    pm.WeakCoherent(1e9, (0.5, 0.1, 0.001), (0.6, 0.3, 0.1)), pm.Fiber(50.0, 0.2), pm.ActiveBasis(0.25, 0.01, 6e-7)
)
SECURITY = pm.Lim2014(epsilon_correctness=1e-15, epsilon_secrecy=1e-9, clamp=True, concentration="kl")
STUDY = pm.Study(LINK, pm.BB84(0.9), pm.Run(pulses=1e11), SECURITY)
FREE = {
    "source.intensities[0]": (0.05, 1.0, 0.5),
    "source.intensities[1]": (0.01, 0.6, 0.1),
    "source.intensities[2]": (0.0, 0.2, 0.001),
    "source.intensity_probabilities[0]": (0.01, 0.9, 0.6),
    "source.intensity_probabilities[1]": (0.01, 0.9, 0.3),
    "source.intensity_probabilities[2]": (0.01, 0.9, 0.1),
    "protocol.basis_probability_z": (0.1, 0.99, 0.9),
}


def marks(free):
    return tuple(Free(path, *map(float, bounds)) for path, bounds in free.items())


@pytest.mark.parametrize("analysis", ["lim2014", "rusca2018", "ma2005"])
def test_every_coordinate_is_feasible(analysis):
    """5000 points of the search space, far out ones included, keep bounds, orders and the sum of probabilities."""
    coordinates = Coordinates(marks(FREE), analysis, 3)
    with jax.enable_x64(True):
        u = np.random.default_rng(1).normal(size=(5000, coordinates.size)) * 6
        values = jax.vmap(lambda at: coordinates.values(at, STUDY).link.source)(np.clip(u, -18, 18))
        mu, p = np.stack(values.intensities, -1), np.stack(values.intensity_probabilities, -1)
    assert (mu[:, 0] > mu[:, 1]).all() and (mu[:, 1] > mu[:, 2]).all()
    if analysis != "rusca2018":
        assert (mu[:, 0] > mu[:, 1] + mu[:, 2]).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)
    for array, name in ((mu, "intensities"), (p, "intensity_probabilities")):
        for k in range(3):
            low, high, _ = FREE[f"source.{name}[{k}]"]
            assert (array[:, k] >= low - 1e-12).all() and (array[:, k] <= high + 1e-12).all()


def test_starts_are_found_again_and_bounds_pulled_inside():
    coordinates = Coordinates(marks(FREE), "lim2014", 3)
    with jax.enable_x64(True):
        placed = coordinates.values(coordinates.start(STUDY), STUDY)
    np.testing.assert_allclose(placed.link.source.intensities, (0.5, 0.1, 0.001), rtol=1e-9)
    np.testing.assert_allclose(placed.link.source.intensity_probabilities, (0.6, 0.3, 0.1), rtol=1e-9)
    on_bounds = {path: (low, high, low) for path, (low, high, _) in FREE.items()}
    with jax.enable_x64(True):
        start = Coordinates(marks(on_bounds), "lim2014", 3).start(STUDY)
    assert np.isfinite(start).all() and np.abs(start).max() < 10


@pytest.mark.nightly
def test_against_differential_evolution():
    """Global search of SciPy over the same settings: ours is no worse than 0.1 %, and the report is the plain analysis."""
    best = pm.optimize(STUDY, free=FREE)
    tuned = {path: float(values[0]) for path, values in best.tuned.items()}
    plain = pm.simulate(STUDY.replace(tuned), sampler="expected")
    assert plain.point()["secret_key_bits"] == best.point()["secret_key_bits"]
    checked(dataclasses.replace(STUDY.replace(tuned), free=()))
    kernel = kernel_study(STUDY)

    def loss(x):
        mu = (x[0], x[1], x[2])
        p = (x[3], (1 - x[3]) * x[4], (1 - x[3]) * (1 - x[4]))
        if not (mu[0] > mu[1] + mu[2] and mu[1] > mu[2]) or min(p) < 0.01 or max(p) > 0.9:
            return 1.0
        one = kernel.replace(
            {"source.intensities": mu, "source.intensity_probabilities": p, "protocol.basis_probability_z": x[5]}
        )
        key = _key_kernel(_expected_kernel(one), one)
        return -float(key.terms["secret_key_bits_real"]) / 1e11

    bounds = [(0.05, 1.0), (0.01, 0.6), (0.0, 0.2), (0.01, 0.9), (0.01, 0.99), (0.1, 0.99)]
    with jax.enable_x64(True):
        found = scipy_optimize.differential_evolution(loss, bounds, seed=1, maxiter=60, popsize=10, polish=False)
        found = scipy_optimize.minimize(
            loss, found.x, method="Nelder-Mead", options={"maxiter": 1500, "xatol": 1e-7, "fatol": 1e-12}
        )
    assert best.keys.bits_per_pulse[0] >= -found.fun * (1 - 1e-3)


@pytest.mark.slow
def test_scan_in_one_compilation_and_no_key():
    study = pm.load_config(ROOT / "configs" / "tuned.toml")
    before = _scores._cache_size()
    result = pm.optimize(
        dataclasses.replace(study, axes=(dataclasses.replace(study.axes[0], values=(np.array([0.0, 20.0, 75.0, 90.0]),)),))
    )
    assert _scores._cache_size() == before + 1
    bits = result.scalars["secret_key_bits"]
    assert bits[0] > 0 and bits[1] > 0 and bits[3] == 0
    point = result.point(3)
    assert point["status"][0].startswith("no_key") and set(point["settings"]) == {"channel.loss_db", *result.tuned}
    assert point["sampler"] == "expected"


@pytest.mark.slow
def test_optimum_on_a_bound_and_start_that_wins():
    """A setting whose best value is its bound ends there exactly; the result is never below the start."""
    free = {"protocol.basis_probability_z": (0.1, 0.6, 0.3)}
    best = pm.optimize(STUDY, free=free)
    assert best.tuned["protocol.basis_probability_z"][0] == 0.6
    start = pm.simulate(STUDY.replace({"protocol.basis_probability_z": 0.3}), sampler="expected")
    assert best.point()["secret_key_bits"] >= start.point()["secret_key_bits"]

    class Soon(pm.Progress):
        def advance(self, pulses):
            self.stop_signal = signal.SIGINT if super().advance(pulses) or self.done >= 5 else 0
            return self.stopped

    few = pm.optimize(STUDY, free, Soon())
    assert few.point()["status"] == ["ok", "partial"] and "best settings so far are kept" in few.point()["reason"]
    assert start.point()["secret_key_bits"] < few.point()["secret_key_bits"] < best.point()["secret_key_bits"]


def test_refusals():
    with pytest.raises(pm.ConfigError, match="mark at least one"):
        pm.optimize(STUDY)
    with pytest.raises(pm.ConfigError, match="must be able to sum to 1"):
        pm.optimize(STUDY, free={f"source.intensity_probabilities[{k}]": (0.01, 0.2) for k in range(3)})
    with pytest.raises(pm.ConfigError, match="mu1 > mu2"):
        pm.optimize(STUDY, free={"source.intensities[0]": (0.01, 0.1)})
    with pytest.raises(pm.ConfigError, match="no such field"):
        pm.optimize(STUDY, free={"source.intensitys[0]": (0.01, 0.1)})
    with pytest.raises(pm.ConfigError, match=r"protocol.basis_probability_z: bounds must be in \[0, 1\], but is 1.1"):
        pm.optimize(STUDY, free={"protocol.basis_probability_z": (0.1, 1.1)})
    with pytest.raises(pm.ConfigError, match="marked for `optimize`"):
        pm.simulate(dataclasses.replace(STUDY, free=marks(FREE)))
