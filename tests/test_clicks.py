"""Clicks sampler against closed forms of detectors with memory; false-alarm rate 1e-6 each, gates as the unit of time."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from conftest import Z_LIMIT, assert_counts_agree
from scipy import stats

import photonmc as pm
from photonmc.detector.memory import memory_of
from photonmc.sampling import clicks, memory, parallel
from photonmc.sampling.codes import CLICK_0, CLICK_1, KEPT
from photonmc.sampling.light import alias_table, look_up
from photonmc.sampling.philox import minus_log

P_LIMIT = 1e-6
RATE = 1e9
"""One gate is one nanosecond."""


def dark_link(p, **receiver):
    """Detectors that fire by dark counts alone, each on its own: the laws of gated detectors hold exactly."""
    receiver = {"efficiency": 0.0, "misalignment_error": 0.0, "dark_count_probability": p} | receiver
    return pm.Link(pm.WeakCoherent(RATE, (0.5, 0.1), (0.7, 0.3)), pm.FixedLoss(0.0), pm.ActiveBasis(**receiver))


def recorded(link, gates, seed=0, sampler="clicks"):
    """Every registered click of a run: gates and bits."""
    parts = []
    study = pm.Study(link, pm.BB84(0.6), pm.Run(pulses=gates))
    pm.simulate(study, sampler=sampler, seed=seed, listener=parts.append)
    return (np.concatenate([getattr(part, name) for part in parts]) for name in ("pulse", "bits"))


def drawn(link, gates, realizations=1, seed=0, **run):
    study = pm.Study(link, pm.BB84(0.6), pm.Run(pulses=gates, realizations=realizations, **run))
    return pm.simulate(study, sampler="clicks", seed=seed)


def test_logarithm():
    x = np.concatenate([1.0 - np.arange(1, 2000) * 2.0**-52, np.geomspace(2.0**-52, 1.0, 20001), [1.0, 0.5, np.sqrt(0.5)]])
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.asarray(minus_log(x)), -np.log(x), rtol=5e-16, atol=0)


def test_alias_table_holds_its_weights():
    """Sums of columns give each weight back, also one of 1e-12 beside large ones and one of 0."""
    weights = np.array([0.3, 1e-12, 0.0, 0.5, 0.2 - 1e-12, 1e-7] + [1e-3] * 13)
    table = alias_table(weights)
    columns, width = table.threshold.size, 2.0 ** (63 - int(table.threshold.size - 1).bit_length())
    share = np.zeros(columns)
    np.add.at(share, np.arange(columns), table.threshold / width)
    np.add.at(share, table.other, 1.0 - table.threshold / width)
    np.testing.assert_allclose(share[: weights.size] / columns, weights / weights.sum(), rtol=1e-9, atol=1e-17)
    with jax.enable_x64(True):
        words = np.array([0, 2**64 - 1, 2**63, 12345], np.uint64)
        assert np.all(weights[np.asarray(look_up(table, words))] > 0)


# Laws of a single detector --------------------------------------------------------------------------------------------------


def survival(j, p, d, traps):
    """P[next click later than j gates], theory (34); traps as mean releases at the avalanche and lifetime."""
    j = np.asarray(j, dtype=float)
    left = sum(mean * (np.exp(-d / t) - np.exp(-np.maximum(j, d) / t)) for mean, t in traps)
    return (1 - p) ** np.maximum(j - d, 0) * np.exp(-left)


def test_survival_of_the_reference():
    """Case det-interval-sf: the law of this test is that of the theory."""
    found = survival([9, 10, 20, 60, 200], 0.02, 9, [(0.15, 12.0), (0.06, 80.0)])
    np.testing.assert_allclose(found, [1.0, 0.9738149476, 0.7621276506, 0.3245043909, 0.018718128], rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["clicks", "pulses"])
@pytest.mark.parametrize(("d", "traps"), [(7, []), (9, [(0.15, 12.0), (0.06, 80.0)]), (0, [(0.4, 3.0)])])
def test_interval_law(d, traps, sampler):
    """Chi-square of the intervals over equiprobable bins; 2e5 intervals find a shift of 1 % in a tenth of them."""
    p = 0.02
    receiver = {"dark_count_probability": (p, 0.0), "dead_time_ns": float(d), "dead_time_policy": "individual"}
    if traps:
        times = tuple(time for _, time in traps)
        probability = tuple(1 - np.exp(-mean * np.exp(-d / t)) for mean, t in traps)
        receiver |= {"afterpulse_probability": probability, "afterpulse_time_ns": times}
    gates = 10_000_000 if sampler == "clicks" else 1_500_000
    pulse, bits = recorded(dark_link(p, **receiver), gates, sampler=sampler)
    assert np.all(bits == CLICK_0 | KEPT)
    intervals = np.diff(pulse)
    edges = np.unique(np.searchsorted(-survival(np.arange(3000), p, d, traps), -np.linspace(1, 0, 40)))[:-1]
    cumulative = 1 - survival(edges, p, d, traps)
    expected = np.diff(np.concatenate([[0.0], cumulative, [1.0]])) * intervals.size
    observed = np.histogram(intervals, bins=[-1, *edges + 0.5, 1e18])[0]
    usable = expected > 20
    chi2 = ((observed - expected)[usable] ** 2 / expected[usable]).sum()
    assert stats.chi2.sf(chi2, usable.sum() - 1) > P_LIMIT
    assert observed[~usable].sum() <= stats.poisson.isf(P_LIMIT, max(expected[~usable].sum(), 1e-9))


def test_count_law():
    """Theory (28): P[N >= n] = P[Binomial(G - (n - 1) d, p) >= n], over 1500 runs; finds 6 % in the spread."""
    p, d, gates, runs = 0.03, 7, 2000, 1500
    link = dark_link((p, 0.0), dead_time_ns=float(d), dead_time_policy="individual")
    study = pm.Study(link, pm.BB84(0.6), pm.Run(pulses=gates))
    with jax.enable_x64(True):
        blocks = list(clicks.sample_clicks(jax.random.key(3), link, study.protocol, runs, gates, None))
    counts = np.array([block.detector_clicks[0, 0] for block in blocks])
    n = np.arange(1, 120)
    at_least = stats.binom.sf(n - 1, np.maximum(gates - (n - 1) * d, 0), p)
    expected = -np.diff(np.concatenate([[1.0], at_least, [0.0]])) * runs
    observed = np.bincount(counts, minlength=expected.size)[: expected.size]
    usable = expected > 10
    chi2 = ((observed - expected)[usable] ** 2 / expected[usable]).sum()
    assert stats.chi2.sf(chi2, usable.sum() - 1) > P_LIMIT
    assert counts.max() <= -(-gates // (d + 1))


@pytest.mark.parametrize("kind", ["nonparalyzable", "paralyzable"])
@pytest.mark.parametrize("d", [0, 3, 60])
def test_rates_under_dead_time(kind, d):
    """Clicks per gate p / (1 + p d), theory (26), or p (1 - p)^d; 3e7 gates find 1 % and less."""
    p, gates = 0.02, 30_000_000
    link = dark_link((p, 0.3 * p), dead_time_ns=d + 0.5, dead_time_kind=kind, dead_time_policy="individual")
    found = drawn(link, gates).detector_clicks[0]
    for number, q in zip(found, (p, 0.3 * p), strict=True):
        rate = q / (1 + q * d) if kind == "nonparalyzable" else q * (1 - q) ** d
        assert abs(number - gates * rate) < Z_LIMIT * np.sqrt(gates * rate) + 2  # Fano below 1


def test_policies():
    """Two equal detectors of p = 0.05 together: kept rounds, theory (36), bias of individual dead times, reference 0.336."""
    p, d, gates = 0.025, 20, 2_000_000
    live = 1 / (1 + p * d)
    common = {"dead_time_ns": float(d), "dark_count_probability": p}
    pulse, bits = recorded(dark_link(p, **common, dead_time_policy="individual"), gates, seed=4)
    single = bits[(bits & 3) != 3] & 3
    assert abs((single[1:] == single[:-1]).mean() - 0.336) < 0.01
    pulse, bits = recorded(dark_link(p, **common, dead_time_policy="all_live"), gates, seed=4)
    kept = bits[(bits & KEPT > 0) & (bits & 3 != 3)] & 3
    rate = live**2 * (1 - (1 - p) ** 2)
    assert abs((bits & KEPT > 0).sum() - gates * rate) < Z_LIMIT * np.sqrt(gates * rate)
    assert abs((kept[1:] == kept[:-1]).mean() - 0.5) < Z_LIMIT * 0.5 / np.sqrt(kept.size)
    pulse, bits = recorded(dark_link(p, **common, dead_time_policy="blank_all"), gates, seed=4)
    both = 1 - (1 - p) ** 2
    assert np.diff(pulse).min() == d + 1 and np.all(bits & KEPT)
    assert abs(pulse.size - gates * both / (1 + both * d)) < Z_LIMIT * np.sqrt(gates * both / (1 + both * d))


@pytest.mark.parametrize(("memory", "factor"), [("last", np.exp(0.3)), ("all", 1 / 0.7)])
def test_clicks_of_one_primary(memory, factor):
    """Slow light, no dead time: clicks per primary e^A and 1 / (1 - A), theory 5.4; 1e5 clusters find 1 %."""
    p, gates = 1e-6, 10**11
    receiver = {"afterpulse_probability": 1 - np.exp(-0.3), "afterpulse_time_ns": 100.0, "afterpulse_memory": memory}
    found = drawn(dark_link((p, 0.0), **receiver), gates).detector_clicks[0, 0]
    # a cluster of mean f has a variance of f^3 at most (Borel's law for "all")
    assert abs(found - gates * p * factor) < Z_LIMIT * np.sqrt(gates * p * factor**3) + 1e-4 * found


def test_afterpulse_probability_is_that_of_one_release():
    """Fraction of avalanches with a follower in the dark, several traps and a band, at a dead time of its own."""
    for extra in (
        {"afterpulse_probability": 0.2, "afterpulse_time_ns": 50.0},
        {"afterpulse_probability": (0.1, 0.15), "afterpulse_time_ns": (30.0, 900.0)},
        {"afterpulse_probability": 0.2, "afterpulse_time_ns": (20.0, 2000.0), "afterpulse_kind": "band"},
    ):
        p = 1 - np.prod(1 - np.atleast_1d(extra["afterpulse_probability"]))
        pulse, _ = recorded(dark_link((1e-7, 0.0), dead_time_ns=40.0, **extra), 10**12)
        followed = np.diff(pulse) < 40_000  # releases have long ended, and 1 in 250 darks has come
        q = p + (1 - p) * 4e-3
        assert abs(followed.mean() - q) < Z_LIMIT * np.sqrt(q / followed.size) + 1e-4


def test_band_law():
    """Times of followers in the dark: (E1(u/T2) - E1(u/T1)) of the band, theory (35), by a Kolmogorov-Smirnov test."""
    from scipy.special import exp1

    dead, short, long = 40.0, 20.0, 2000.0
    extra = {"afterpulse_probability": 0.9, "afterpulse_time_ns": (short, long), "afterpulse_kind": "band"}
    pulse, _ = recorded(dark_link((1e-8, 0.0), dead_time_ns=dead, **extra), 10**12)
    intervals = np.diff(pulse)
    intervals = intervals[intervals < 30_000]

    def releases(u):
        return exp1(u / long) - exp1(u / short)

    scale = -np.log(0.1) / releases(dead)

    def distribution(u):
        return -np.expm1(-scale * (releases(dead) - releases(np.maximum(u, dead)))) / 0.9

    # gates are whole: compare at the gates, where a release at or before has come
    gates = np.arange(41, 3000)
    observed = np.searchsorted(np.sort(intervals), gates, side="right") / intervals.size
    limit = np.sqrt(-0.5 * np.log(P_LIMIT / 2) / intervals.size)
    assert np.abs(observed - distribution(gates)).max() < limit


def test_recovery():
    """Mean interval of theory (30) at 1e12 gates a second, where gates are fine; finds 1 %."""
    r, dead, recovery, rate = 1e7, 2e-8, 3e-8, 1e11
    a = r * recovery
    mean = dead + recovery * np.exp(a) * a**-a * __import__("scipy.special").special.gamma(a) * (
        __import__("scipy.special").special.gammainc(a, a)
    )
    assert mean == pytest.approx(1.463808213e-07, rel=1e-8)  # case det-recovery-1e+07
    link = dark_link((-np.expm1(-r / rate), 0.0), dead_time_ns=dead * 1e9, recovery_time_ns=recovery * 1e9)
    link = dataclasses.replace(link, source=dataclasses.replace(link.source, pulse_rate_hz=rate))
    found = drawn(link, int(0.01 * rate)).detector_clicks[0, 0]
    expected = 0.01 / mean
    assert abs(found - expected) < Z_LIMIT * np.sqrt(expected) + 2e-4 * expected  # a gate is 7e-5 of the interval


# Machinery ------------------------------------------------------------------------------------------------------------------

BUSY = pm.WeakCoherent(RATE, (0.7, 0.2, 0.02), (0.5, 0.3, 0.2))
MEMORIES = {
    "dead time": {"dead_time_ns": (30.0, 45.0)},
    # a release between the whole gates and the real end of a dead time that began anew is lost
    "restarted, not whole gates": {
        "dead_time_ns": 1.9, "afterpulse_probability": 0.5, "afterpulse_time_ns": 2.0, "dead_time_policy": "blank_all",
    },
    "paralyzable, blanked": {"dead_time_ns": 25.0, "dead_time_kind": "paralyzable", "dead_time_policy": "blank_all"},
    "one trap": {"dead_time_ns": 30.0, "afterpulse_probability": 0.1, "afterpulse_time_ns": 60.0, "dead_time_policy": "individual"},
    "many releases": {"dead_time_ns": 5.0, "afterpulse_probability": 0.2, "afterpulse_time_ns": 20.0},
    "traps, blanked": {
        "dead_time_ns": 30.0, "afterpulse_probability": (0.1, 0.05), "afterpulse_time_ns": (60.0, 200.0),
        "dead_time_policy": "blank_all",
    },
    "traps, all": {"dead_time_ns": 20.0, "afterpulse_probability": 0.2, "afterpulse_time_ns": 40.0, "afterpulse_memory": "all"},
    "recovery": {"dead_time_ns": 10.0, "recovery_time_ns": (20.0, 5.0)},
    "everything": {
        "dead_time_ns": (20.5, 10.0), "recovery_time_ns": 15.0, "afterpulse_probability": (0.1, 0.05),
        "afterpulse_time_ns": (30.0, 100.0), "afterpulse_memory": "all", "dead_time_kind": "paralyzable",
        "efficiency": (0.25, 0.15), "dark_count_probability": (1e-3, 4e-3),
    },
}  # fmt: skip


def busy_link(name):
    receiver = {"efficiency": 0.2, "misalignment_error": 0.03, "dark_count_probability": 1e-3} | MEMORIES[name]
    return pm.Link(BUSY, pm.FixedLoss(0.0), pm.ActiveBasis(**receiver))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["dead time", "one trap", "many releases", "traps, blanked", "traps, all", "everything"])
def test_lanes_are_one_sequence(name):
    """Segments followed side by side give the very events of one detector followed from the first gate to the last."""
    link, protocol, gates = busy_link(name), pm.BB84(0.7), 60_000
    with jax.enable_x64(True):
        lengths, states = clicks.trajectory(jax.random.key(5), link, gates)
        run = clicks._Run(link, protocol, states, lengths, None)
        run.begin(jax.random.key(5))
        assert run.plan.lanes > 1
        candidates, _ = run._begun(0)
        state, lanes = memory.fresh(1, run.memory), run.plan.lanes
        together = run._remembered(candidates, state, memory.fresh(lanes, run.memory), True)[-1].record
        run.plan.lanes = 1
        alone = []
        for lane in range(lanes):

            def of_lane(array, lane=lane):
                return array[..., lane::lanes]

            one = candidates._replace(
                drawn=jax.tree.map(of_lane, candidates.drawn),
                table=jax.tree.map(of_lane, candidates.table),
                **{name: of_lane(getattr(candidates, name)) for name in ("start", "stop", "number")},
            )
            state, followed = run._follow(one, state)
            alone.append(run._counted(one, followed, True).record)
    for name in ("pulse", "bits", "code"):
        np.testing.assert_array_equal(np.concatenate([getattr(one, name) for one in alone]), getattr(together, name))
    assert together.pulse.size > 500
    assert (np.diff(together.pulse) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["paralyzable, blanked", "restarted, not whole gates", "many releases", "traps, all", "everything"]
)
def test_against_pulses(name):
    """Two independent routes; 8e6 and 2e6 gates find 1 % in clicks and 3 % in errors and photon numbers of one cell."""
    study = pm.Study(busy_link(name), pm.BB84(0.7), pm.Run(pulses=2e6, seed=8))
    few = pm.simulate(study, sampler="pulses")
    many = pm.simulate(study.replace({"run.pulses": 8e6}), sampler="clicks")

    def numbers(result):
        yield result.detector_clicks
        yield from (result.counts.sent, result.counts.detections, result.counts.errors)
        yield from result.truth

    for slow, fast in zip(numbers(few), numbers(many), strict=True):
        # clicks under dead time vary less than Poisson ones, those in showers of afterpulses more, by 1.5 here at most
        assert_counts_agree(slow, fast / 4, 1.5 * np.maximum(fast / 4, 1) * 1.25)


def test_results_do_not_depend_on_processors(monkeypatch):
    link = busy_link("one trap")
    first = drawn(link, 3e6)
    monkeypatch.setattr(parallel, "processors", lambda: 1)
    again = drawn(link, 3e6)
    np.testing.assert_array_equal(first.counts.detections, again.counts.detections)
    np.testing.assert_array_equal(first.counts.sent, again.counts.sent)


def test_blocks_of_a_record_with_dead_time_across_their_edges(tmp_path):
    """Rows of 40 gates and dead times of 30: with equal rows the record is a fiber, clicks and all."""
    (tmp_path / "r.csv").write_text("time_s,loss_db\n" + "".join(f"{i * 4e-8:.9f},3.0\n" for i in range(5000)))
    link = busy_link("one trap")
    split = dataclasses.replace(link, channel=pm.Recorded(file="r.csv").loaded(tmp_path))
    whole = dataclasses.replace(link, channel=pm.FixedLoss(3.0))
    one, other = (drawn(part, 2e5, realizations=20).detector_clicks[0] for part in (split, whole))
    assert_counts_agree(one, other, 2 * 1.5 * other)
    # a change of the loss matters where it is
    (tmp_path / "r.csv").write_text("time_s,loss_db\n0,3\n1e-4,30\n2e-4,3\n")
    changing = dataclasses.replace(link, channel=pm.Recorded(file="r.csv").loaded(tmp_path))
    pulse, _ = recorded(changing, 3e5)
    per_row = np.histogram(pulse, bins=[0, 1e5, 2e5, 3e5])[0]
    alone = drawn(whole, 1e5, realizations=10).detector_clicks.sum() / 10
    assert_counts_agree(per_row[[0, 2]], alone, 1.5 * alone)
    assert per_row[1] < 0.2 * per_row[0]


@pytest.mark.parametrize("sampler", ["clicks", "pulses"])
@pytest.mark.parametrize(
    ("gates", "receiver", "clicks_of_0"),
    [
        (1, {"dark_count_probability": 0.0}, 0),
        (10**6, {"dark_count_probability": (1.0 - 1e-16, 0.0), "dead_time_ns": 1e12}, 1),
        (10**5, {"dark_count_probability": (1.0 - 1e-16, 0.0)}, 10**5),
        (10**5, {"dark_count_probability": (1.0 - 1e-16, 0.0), "dead_time_ns": 4.0}, 20_000),
        (10**5, {"dark_count_probability": (1.0 - 1e-16, 0.0), "dead_time_ns": 4.0, "dead_time_kind": "paralyzable"}, 1),
        (10**6, {"dark_count_probability": (1e-18, 0.0), "dead_time_ns": 4.0}, 0),
    ],
)
def test_extremes(sampler, gates, receiver, clicks_of_0):
    study = pm.Study(dark_link(0.0, **receiver), pm.BB84(0.6), pm.Run(pulses=gates))
    assert pm.simulate(study, sampler=sampler).detector_clicks[0, 0] == clicks_of_0


@pytest.mark.parametrize("name", ["one trap", "recovery"])
def test_fixed_block_with_memory(name):
    """A block stops at its n-th sifted Z detection; as many detections a pulse as in a run of fixed length."""
    study = pm.Study(busy_link(name), pm.BB84(0.7), pm.Run(block_size_z=20_000, seed=3))
    result = pm.simulate(study)
    assert result.samplers[0] == "clicks" and result.counts.detections[0, 0].sum() == 20_000
    fixed = drawn(busy_link(name), 4e6)
    share = 20_000 / fixed.counts.detections[0, 0].sum() * 4e6 * 0.36 / 0.49  # basis probabilities 0.6 and 0.7
    assert abs(result.counts.pulses[0] - share) < Z_LIMIT * share * np.sqrt(1.5 / 20_000)


def test_memory_in_gates():
    """Gates within the dead time, both ends included as the decimal numbers say, and loads of traps."""
    receiver = pm.ActiveBasis(0.5, 0.0, 0.0, dead_time_ns=(0.3, 40.0))
    memory = memory_of(receiver, 1e10)
    np.testing.assert_array_equal(memory.dead_gates, [3, 400])
    receiver = dataclasses.replace(receiver, afterpulse_probability=0.02, afterpulse_time_ns=200.0)
    np.testing.assert_allclose(memory_of(receiver, 1e9).releases, -np.log(0.98) * np.ones((2, 1)))
    assert CLICK_1 == 2
