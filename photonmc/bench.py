"""Speed of the samplers as ratios, each against its baseline in the same run: `python -m photonmc.bench`.

Needs jax, numpy, optax and chex alone. Baselines are scripts that a user would write instead of photonmc, found by
`--baselines`; one whose import fails is skipped by name. Ours and the baseline take turns, and the best of each counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.channel import Downlink, Fiber, Recorded
from photonmc.channel.recorded import Samples
from photonmc.contracts import counts_from_tally
from photonmc.detector import ActiveBasis
from photonmc.link import Link
from photonmc.protocol import BB84
from photonmc.sampling.clicks import sample_clicks
from photonmc.sampling.counts import Laws, sample_counts
from photonmc.sampling.expected import expected, tally_probabilities
from photonmc.sampling.parallel import in_order, processors
from photonmc.sampling.pulses import sample_pulses
from photonmc.sampling.run import Run
from photonmc.security import Lim2014
from photonmc.security.keyrate import key_of_counts
from photonmc.source import WeakCoherent
from photonmc.words import words_of_chunk

SOURCE = WeakCoherent(1e9, (0.5, 0.1, 0.0), (0.7, 0.2, 0.1))
RECEIVER: dict[str, Any] = {"efficiency": 0.25, "misalignment_error": 0.01, "dark_count_probability": 6e-7}
FIBER, PROTOCOL = Fiber(length_km=50.0, attenuation_db_per_km=0.2), BB84(0.9)
MEMORY: dict[str, Any] = {
    "dead_time_ns": 100.0,
    "dead_time_policy": "individual",
    "afterpulse_probability": 0.02,
    "afterpulse_time_ns": 200.0,
}
PASS_BLOCKS, PASS_BLOCK_PULSES = 400_000, 1_000_000
DOWNLINK: dict[str, Any] = {
    "altitude_km": 500.0,
    "max_elevation_deg": 60.0,
    "divergence_urad": 10.0,
    "divergence_kind": "full_1e2",
    "receiver_aperture_m": 1.0,
    "pointing_jitter_urad": 1.2,
    "pointing_correlation_time_ms": 10.0,
    "coherence_time_ms": 1.0,
}
SECURITY = Lim2014(epsilon_secrecy=1e-9, epsilon_correctness=1e-15)


class Row(NamedTuple):
    """One comparison: how fast both are, and what bounds ours; rates are None where there is no baseline."""

    model: str
    unit: str
    ours_per_s: float
    baseline: str
    baseline_per_s: float | None
    ratio: float | None
    bound_by: str


def best(jobs: dict[str, Callable[[], float]], seconds: float) -> dict[str, float]:
    """Best rate of each job [1/s], taking turns for about so many seconds; a job returns how much it did.

    Each job is done once before, so that compilation and pools do not count.
    """
    for job in jobs.values():
        job()
    rates = dict.fromkeys(jobs, 0.0)
    start, turns = time.perf_counter(), 0
    while turns < 2 or time.perf_counter() - start < seconds:
        for name, job in jobs.items():
            began = time.perf_counter()
            done = job()
            rates[name] = max(rates[name], done / (time.perf_counter() - began))
        turns += 1
    return rates


def link(**receiver: Any) -> Link:
    """The link of all baselines: 50 km of fiber."""
    return Link(SOURCE, FIBER, ActiveBasis(**(RECEIVER | receiver)))


# Ours


def pulses_job(number: int) -> Callable[[], float]:
    """Pulses of the memoryless link, played one by one."""

    def job() -> float:
        with jax.enable_x64(True):
            (drawn,) = sample_pulses(jax.random.key(1), link(), PROTOCOL, 1, number, None)
        return float(drawn.pulses[0])

    return job


def clicks_job(number: int, **receiver: Any) -> Callable[[], float]:
    """Pulses passed over by jumps from click to click."""

    def job() -> float:
        with jax.enable_x64(True):
            (drawn,) = sample_clicks(jax.random.key(1), link(**receiver), PROTOCOL, 1, number, None)
        return float(drawn.pulses[0])

    return job


def counts_job(number: float, calls: int) -> Callable[[], float]:
    """Calls of the counts sampler for one realization of a constant link."""

    def job() -> float:
        with jax.enable_x64(True):
            for seed in range(calls):
                next(sample_counts(jax.random.key(seed), link(), PROTOCOL, 1, int(number), None, 0.0))
        return float(calls)

    return job


def satellite_pass() -> Link:
    """A pass of 400 s at 1 GHz: 30 to 50 dB of loss, fading from block to block of 1 ms."""
    time_s = np.arange(PASS_BLOCKS) * 1e-3
    fading = 10.0 * np.log10(np.exp(0.3 * np.random.default_rng(0).standard_normal(PASS_BLOCKS) - 0.045))
    loss_db = 30.0 + 20.0 * ((time_s - 200.0) / 200.0) ** 2 - fading
    record = Recorded(file="pass", samples=Samples(time_s, np.maximum(loss_db, 0.0), np.full(PASS_BLOCKS, 200.0)))
    return Link(SOURCE, record, ActiveBasis(**RECEIVER))


def pass_job(one: Link, draws: int) -> Callable[[], float]:
    """Further realizations of a record that has been read and pooled."""
    pulses = PASS_BLOCKS * PASS_BLOCK_PULSES
    with jax.enable_x64(True):
        law = Laws(one, PROTOCOL, pulses, 1e-5).of(jax.random.key(0))
    rng = np.random.Generator(np.random.Philox(7))

    def job() -> float:
        for _ in range(draws):
            law.places.sums(law.draw(rng, 1, pulses, None))
        return float(draws)

    return job


def numpy_binomial_job(one: Link) -> Callable[[], float]:
    """What a user would write for one pass: a binomial for each block, setting and outcome."""
    with jax.enable_x64(True):
        states = one.draw(jax.random.key(0), np.full(PASS_BLOCKS, PASS_BLOCK_PULSES))
        tally = np.asarray(tally_probabilities(one, PROTOCOL, jax.tree.map(lambda leaf: leaf[0], states)))
    shape = tally.sum(axis=2).ravel()
    transmittance = np.asarray(states.transmittance)
    probabilities = [np.clip(p * transmittance / transmittance[0], 0.0, 1.0) for p in np.resize(shape, 24 * 3)]
    lengths = np.full(PASS_BLOCKS, PASS_BLOCK_PULSES)
    rng = np.random.default_rng(1)

    def job() -> float:
        for p in probabilities:
            rng.binomial(lengths, p).sum()
        return 1.0

    return job


def overhead(**changes: Any) -> Link:
    """A pass of a satellite: 400 s at 1 GHz, with pointing and log-normal scintillation."""
    source = WeakCoherent(1e9, (0.5, 0.1, 0.0), (0.7, 0.2, 0.1), wavelength_nm=850.0)
    return Link(source, Downlink(**(DOWNLINK | changes)), ActiveBasis(**RECEIVER))


def passes_job(passes: int) -> Callable[[], float]:
    """Passes drawn block by block, with a finite key each."""
    one, pulses = overhead(), PASS_BLOCKS * PASS_BLOCK_PULSES
    keys = jax.jit(jax.vmap(lambda counts: key_of_counts(counts, one, PROTOCOL, SECURITY).secret_key_bits))

    def job() -> float:
        with jax.enable_x64(True):
            drawn = list(sample_counts(jax.random.key(1), one, PROTOCOL, passes, pulses, None, 1e-5))
            pulses_of, tally = (
                np.concatenate(parts).astype(float) for parts in zip(*((d.pulses, d.tally) for d in drawn), strict=True)
            )
            jax.block_until_ready(keys(counts_from_tally(pulses_of, tally)))
        return float(passes)

    return job


def key_of_pass(settings: Any) -> Any:
    """Expected key of a pass [bit], not rounded, by divergence, telescope, intensities and probabilities."""
    divergence, aperture, signal, decoy, first, second, z = settings
    source = WeakCoherent(1e9, (signal, decoy, 1e-3), (first, second, 1.0 - first - second), wavelength_nm=850.0)
    one = dataclasses.replace(overhead(divergence_urad=divergence, receiver_aperture_m=aperture), source=source)
    protocol = BB84(z)
    counts = expected(one, protocol, Run(pulses=4e11))
    return SECURITY.evaluate(counts, one, protocol)["secret_key_bits_real"]


SETTINGS = (10.0, 1.0, 0.5, 0.1, 0.6, 0.25, 0.9)


def gradient_jobs() -> tuple[Callable[[], float], Callable[[], float]]:
    """Gradient of the key of a pass, and central differences of it."""
    with jax.enable_x64(True):
        at = np.array(SETTINGS)
        slope, key = jax.jit(jax.grad(key_of_pass)), jax.jit(key_of_pass)

    def gradient() -> float:
        with jax.enable_x64(True):
            jax.block_until_ready(slope(at))
        return 1.0

    def differences() -> float:
        with jax.enable_x64(True):
            for step in np.diag(1e-5 * at):
                jax.block_until_ready((key(at + step), key(at - step)))
        return 1.0

    return gradient, differences


# Baselines


def baseline_job(folder: Path | None, script: str, model: str, number: int) -> Callable[[], float] | None:
    """A script of the folder as a job, None where there is no folder or its import fails."""
    if folder is None:
        return None
    sys.path.insert(0, str(folder))
    try:
        module, common = importlib.import_module(script), importlib.import_module("common")
    except ImportError as error:
        print(f"photonmc.bench: skipped {script}: {error}", file=sys.stderr)
        return None
    finally:
        sys.path.remove(str(folder))

    def job() -> float:
        module.run(common.LINK, number, 1, min(2, processors()), model)
        return float(number)

    return job


def words_per_s() -> float:
    """Rate at which the generator alone makes random words, on all processors [1/s]."""
    size = 1 << (28 if jax.default_backend() == "gpu" else 20)
    kernel = jax.jit(lambda words: sum(word ^ (word >> 1) for word in words(0, jax.lax.iota(jnp.uint32, size))).sum())

    def one(chunk: int) -> Any:
        return jax.block_until_ready(kernel(words_of_chunk("philox4x32", jax.random.key(0), chunk)))

    def job() -> float:
        with jax.enable_x64(True):
            return 4.0 * size * sum(1 for _ in in_order(one, ((chunk,) for chunk in range(8 if size > 1 << 20 else 32))))

    return best({"words": job}, 1.0)["words"]


def rows(folder: Path | None, seconds: float) -> list[Row]:
    """All comparisons, each for about so many seconds."""
    words = words_per_s()
    gpu = jax.default_backend() == "gpu"
    played = pulses_job(1 << 34 if gpu else 1 << 25)

    def compared(
        model: str, unit: str, ours: Callable[[], float], name: str, other: Callable[[], float] | None, bound: Any
    ) -> Row:
        rates = best({"ours": ours} | ({"other": other} if other else {}), seconds)
        theirs = rates.get("other")
        return Row(model, unit, rates["ours"], name, theirs, theirs and rates["ours"] / theirs, bound(rates["ours"]))

    def pulse_bound(rate: float) -> str:
        share = 100 * 2.1 * rate / words
        return f"comparisons of the filter and the busy pulses; 2.1 words a pulse are {share:.0f} % of {words:.2g} words/s"

    def click_bound(rate: float) -> str:
        share = 100 * 8 * 0.0093 * rate / words
        return f"gaps, table and histogram; 8 words a candidate are {share:.0f} % of {words:.2g} words/s"

    full, naive = (
        baseline_job(folder, "bb84_numba", "full", 20_000_000),
        baseline_job(folder, "bb84_jax", "lean", 400_000_000 if gpu else 4_000_000),
    )
    sparse = baseline_job(folder, "bb84_sparse", "lean", 400_000_000)
    one = satellite_pass()
    found = [
        compared("pulses", "pulses", played, "bb84_numba_full", full, pulse_bound),
        compared("pulses", "pulses", played, "bb84_jax", naive, pulse_bound),
        compared("clicks", "pulses", clicks_job(10**9), "bb84_sparse", sparse, click_bound),
        compared(
            "clicks_memory",
            "pulses",
            clicks_job(10**9, **MEMORY),
            "clicks",
            clicks_job(10**9),
            lambda _: "drawing releases ahead and reading tables of them, mostly empty",
        ),
        compared(
            "counts_pass",
            "realizations",
            pass_job(one, 50),
            "numpy_binomial",
            numpy_binomial_job(one),
            lambda _: "binomials of bins x places",
        ),
        compared(
            "counts_constant",
            "calls",
            counts_job(1e15, 20),
            "counts_1e6",
            counts_job(1e6, 20),
            lambda _: "setting up the table; the draws take less",
        ),
    ]
    gradient, differences = gradient_jobs()
    bound = "moments of bins, Gaussian numbers, neighbors"
    passes = compared("passes", "passes", passes_job(48), "1", None, lambda _: bound)
    found += [
        passes._replace(baseline_per_s=1.0, ratio=passes.ours_per_s),
        compared(
            "pass_gradient", "gradients", gradient, "finite differences", differences, lambda _: "outcome tables of nodes"
        ),
    ]
    if gpu:
        found.append(compared("pulses_gpu", "pulses", played, "bb84_jax", naive, pulse_bound))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or with --json one object."""
    parser = argparse.ArgumentParser(prog="python -m photonmc.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--baselines", type=Path, help="folder of bb84_numba.py, bb84_sparse.py, bb84_jax.py, common.py")
    parser.add_argument("--seconds", type=float, default=6.0, help="time of each comparison (default 6)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.baselines is not None and not options.baselines.is_dir():
        parser.error(f"--baselines {options.baselines}: there is no such folder")
    if not 0.0 < options.seconds <= 600.0:
        parser.error(f"--seconds must be in (0, 600], but is {options.seconds:g}")
    found = rows(options.baselines, options.seconds)
    device = jax.devices()[0].device_kind
    if device == "cpu":
        device = f"cpu, {processors()} processors"
    if options.json:
        print(json.dumps({"device": device, "rows": [row._asdict() for row in found]}))
        return
    print(f"device: {device}; jax {jax.__version__}")
    print(f"{'model':<16} {'ours':>22} {'baseline':>18} {'its rate':>12} {'ratio':>9}  bound by")
    for row in found:
        theirs = "-" if row.baseline_per_s is None else f"{row.baseline_per_s:.3g}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        ours = f"{row.ours_per_s:.3g} {row.unit}/s"
        print(f"{row.model:<16} {ours:>22} {row.baseline:>18} {theirs:>12} {ratio:>9}  {row.bound_by}")


if __name__ == "__main__":
    main()
