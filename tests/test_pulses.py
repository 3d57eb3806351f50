"""The pulses sampler: filter and fates agree, integers are exact, and results do not depend on how work is cut."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Z_LIMIT, assert_counts_agree

import photonmc as pm
from photonmc.contracts import record
from photonmc.random import point_key
from photonmc.sampling import chunks, parallel, pulses
from photonmc.sampling.chunks import CHUNK, chunk_fates, play_chunk
from photonmc.sampling.mechanisms import busy_label, follow
from photonmc.sampling.pulses import Counting, sample_pulses
from photonmc.sampling.thresholds import ONE, cumulated, integers, leading_bits, thresholds_of
from photonmc.words import FourWords, words_of_chunk

PROTOCOL = pm.BB84(0.7, 0.6)


@record
class Unequal(pm.ActiveBasis):
    """Two detectors of different efficiency and noise, relative to the common ones."""

    efficiency_1: float = 1.0
    noise_1: float = 1.0

    def routing(self, state, matched, bit):
        to_0, to_1 = super().routing(state, matched, bit)
        return to_0, to_1 * self.efficiency_1

    def noise_probabilities(self, state):
        return super().noise_probabilities(state) * np.array([1.0, self.noise_1])


def link(receiver, *intensities, loss_db=0.0, chances=None):
    chances = chances or (1 / len(intensities),) * len(intensities)
    return pm.Link(pm.WeakCoherent(1e9, intensities, chances), pm.FixedLoss(loss_db), receiver)


FAR = link(pm.ActiveBasis(0.25, 0.01, 6e-7), 0.5, 0.1, 0.0, loss_db=10.0, chances=(0.7, 0.2, 0.1))
UNEQUAL = link(Unequal(0.6, 0.1, 1e-2, efficiency_1=0.4, noise_1=3.0), 1.3, 0.4)
BRIGHT = link(pm.ActiveBasis(0.9, 0.5, 1e-3), 60.0, 3.0)
MANY = link(pm.ActiveBasis(0.3, 0.02, 1e-4), *np.linspace(1.0, 0.0, 40).tolist())
LINKS = {"far": FAR, "unequal": UNEQUAL, "bright": BRIGHT, "many intensities": MANY}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def thresholds(some_link):
    state = jax.tree.map(lambda block: block[0], some_link.draw(jax.random.key(0), np.ones(1, np.int64)))
    return thresholds_of(some_link, PROTOCOL, state, some_link.source.photon_number_tails())


def settings(cell):
    return cell >> 3, cell >> 2 & 1, cell >> 1 & 1, cell & 1


@pytest.mark.parametrize("name", LINKS)
def test_filter_agrees_with_fates(name):
    """Every pulse that the filter leaves alone ends without a click, in the settings and with the photons of its label."""
    words, t = words_of_chunk("philox4x32", point_key(1, 0), 2), thresholds(LINKS[name])
    k, lanes = len(LINKS[name].source.intensities), 1 << 16
    labels = np.asarray(chunks._apart(chunks._labels(words, t, lanes, np.uint32(lanes - 100)), k))
    fates = chunk_fates(words, t, lanes)
    intensity, alice, _, bob = settings(fates.cell)
    label = np.where(alice == bob, 4 * (alice * k + intensity) + fates.photons, 8 * k + fates.photons)
    label[-100:] = 8 * k
    quiet = labels != busy_label(k)
    np.testing.assert_array_equal(labels[quiet], label[quiet])
    assert not (fates.fired_0 | fates.fired_1)[:-100][quiet[:-100]].any()
    assert quiet.any()
    if name == "far":  # few are let through in vain
        assert (~quiet).sum() < 1.2 * (fates.fired_0 | fates.fired_1).sum()


@record
class Given:
    """Words that make the four numbers of one pulse equal to given ones."""

    numbers: Any

    def __call__(self, group, position):
        u64 = np.uint64
        head, middle = self.numbers >> u64(47), self.numbers >> u64(15) & u64(0xFFFFFFFF)
        last = (self.numbers & u64(0x7FFF)) << u64(1)
        if not isinstance(group, int):
            words = (u64(0xFFFFFFFF),) * 4  # to detector 0 whenever it can; no further photon
        elif group == 0:
            words = (head[0] << u64(16) | head[1], head[2] << u64(16) | head[3]) * 2
        elif group == 1:
            words = (middle[0], middle[1], last[0] << u64(16) | last[1], u64(0))
        else:
            words = (middle[2], middle[3], last[2] << u64(16) | last[3], u64(0))
        return FourWords(*(jnp.full(position.shape, word).astype(jnp.uint32) for word in words))


NEVER = ONE - 1
"""A number that decides against everything but what is certain."""


_follow = jax.jit(lambda words, t: follow(words, t, np.zeros(2, np.uint32)))
_quiet = jax.jit(lambda words, t: chunks.quiet(words, t, 2, 2))


def fate(t, choice=0, source=NEVER, first=NEVER, dark=NEVER):
    """Intensity, Alice's basis, Bob's basis, photon class, fired; and whether the filter lets the pulse through."""
    numbers = [min(number, ONE - 1) for number in (choice, source, first, dark)]
    words, t = Given(np.array(numbers, np.uint64)), jax.tree.map(jnp.asarray, t)
    fates = _follow(words, t)
    intensity, alice, _, bob = settings(int(fates.cell[0]))
    label = int(_quiet(words, t)[0]) & 0xFF
    seen = intensity, alice, bob, int(fates.photons[0]), bool(fates.fired_0[0]), bool(fates.fired_1[0])
    return seen, label == busy_label(2)


def test_numbers_next_to_a_threshold():
    """All 63 bits count: a number just below a threshold and the threshold itself fall on its two sides."""
    t = thresholds(UNEQUAL)
    order = [(k, a, b) for k in (0, 1) for a, b in ((0, 0), (1, 1), (0, 1), (1, 0))]
    for index, threshold in enumerate(t.settings.tolist()):
        assert fate(t, choice=threshold - 1)[0][:3] == order[index]
        assert fate(t, choice=threshold)[0][:3] == order[index + 1]
    for intensity, choice in ((0, 0), (1, int(t.settings[3]))):
        for number, threshold in enumerate(t.photons[intensity, :3].tolist()):
            below, at = (fate(t, choice, source) for source in (threshold - 1, threshold))
            assert below[0][3] == min(number + 1, 3) and at[0][3] == number
            assert below[1] and at[1]  # leading bits are equal: the filter does not decide
    one_photon = int(t.photons[0, 1])
    reached = int(t.found[1, 0, 0])  # bit 0, equal bases
    assert fate(t, 0, one_photon, reached - 1)[0][4:] == (True, False)
    assert fate(t, 0, one_photon, reached)[0][4:] == (False, False)
    assert fate(t, 0, one_photon, reached)[1]
    sides = [(True, True), (True, False), (False, True), (False, False)]
    for index, threshold in enumerate(t.noise.tolist()):
        assert fate(t, dark=threshold - 1)[0][4:] == sides[index] and fate(t, dark=threshold - 1)[1]
        assert fate(t, dark=threshold)[0][4:] == sides[index + 1]


def test_integers_are_exact():
    """Of p = 1e-12 seven digits count, also as the last of several; 0 never, 1 always; cumulated widths add up to all."""
    assert abs(int(integers(1e-12)) / 2**63 / 1e-12 - 1) < 1e-6
    assert int(integers(0.0)) == 0 and int(integers(1.0)) == ONE and leading_bits(integers(1.0)) == 0xFFFF
    edges = [0, *cumulated([1e-12, 0.7, 0.0, 0.3 - 2e-12, 1e-12]).tolist(), ONE]
    widths = np.diff(np.array(edges, dtype=object))
    assert abs(widths[0] / 2**63 / 1e-12 - 1) < 1e-6 and abs(widths[4] / 2**63 / 1e-12 - 1) < 1e-6
    assert widths[2] == 0 and sum(widths) == ONE
    t = thresholds(link(pm.ActiveBasis(1.0, 0.0, 0.0), 1.0, 0.0))
    assert (t.found[1] == ONE).all() and t.to_1[1].tolist() == [0, ONE] and t.noise.tolist() == [0, 0, 0]
    assert fate(t, 0, int(t.photons[0, 1]), ONE - 1)[0][4:] == (True, False)  # efficiency 1: always
    assert fate(t, dark=0)[0][4:] == (False, False)  # noise 0: never


@pytest.mark.parametrize("name", LINKS)
def test_counting_on_host_and_device_is_the_same(name):
    """And both are the histogram of what record mode writes down; a limit cuts the same pulses."""
    words, t = words_of_chunk("philox4x32", point_key(4, 0), 0), thresholds(LINKS[name])
    sifting = Counting.of(LINKS[name], PROTOCOL)
    for limit in (1, 4001):
        host, device = (sifting.sums(play_chunk(words, t, limit, on_host)) for on_host in (True, False))
        jax.tree.map(np.testing.assert_array_equal, host, device)
        fates = chunk_fates(words, t, limit)
        place = sifting.place[fates.cell, fates.fired_0 + 2 * fates.fired_1 + 4 * fates.double_bit]
        tally = np.zeros((6 * sifting.intensities, 4), int)
        np.add.at(tally, (place[place >= 0], fates.photons[place >= 0]), 1)
        np.testing.assert_array_equal(np.swapaxes(host[0], -1, -2).reshape(tally.shape), tally)
        np.testing.assert_array_equal(host[1], [fates.fired_0.sum(), fates.fired_1.sum()])


def test_results_do_not_depend_on_what_runs_at_once(monkeypatch):
    drawn = []
    for processors in (1, 2, 5):
        monkeypatch.setattr(parallel, "processors", lambda number=processors: number)
        drawn.append(list(sample_pulses(point_key(2, 0), FAR, PROTOCOL, 2, 2 * CHUNK + 12345, None)))
    for other in drawn[1:]:
        jax.tree.map(np.testing.assert_array_equal, drawn[0], other)
    first, second = drawn[0]
    assert first.pulses == 2 * CHUNK + 12345 and (first.tally != second.tally).any()
    stream = jax.random.fold_in(pulses.fold_name(point_key(2, 0), "pulses"), 1)
    parts = [
        Counting.of(FAR, PROTOCOL).sums(play_chunk(words_of_chunk("philox4x32", stream, chunk), thresholds(FAR), limit))
        for chunk, limit in enumerate((CHUNK, CHUNK, 12345))
    ]
    for together, alone in zip((second.tally[0], second.detector_clicks[0]), zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(together, sum(alone))


@pytest.mark.parametrize("generator", ["philox4x32", "threefry"])
@pytest.mark.parametrize("name", LINKS)
def test_unequal_detectors_and_clicks(name, generator):
    """Truth-free closed form, Poissonian light on each detector: 4e5 pulses find 2 % in a click probability of 0.1."""
    chosen, n = LINKS[name], 400_000
    (sampled,) = sample_pulses(point_key(6, 0), chosen, PROTOCOL, 1, n, None, generator)
    state = jax.tree.map(lambda block: block[0], chosen.draw(jax.random.key(0), np.ones(1, np.int64)))
    noise = np.asarray(chosen.receiver.noise_probabilities(state))
    mu, p_mu = np.array(chosen.source.intensities), np.array(chosen.source.intensity_probabilities)
    clicks, tally = np.zeros(2), np.zeros((2, len(mu), 3))
    for alice, bit, bob in np.ndindex(2, 2, 2):
        weight = n * p_mu * (0.7, 0.3)[alice] * (0.6, 0.4)[bob] / 2
        routed = chosen.receiver.routing(state, np.array(alice == bob), np.array(bit))
        fires = [1 - (1 - noise[d]) * np.exp(-mu * float(routed[d])) for d in (0, 1)]
        clicks += [(weight * fires[d]).sum() for d in (0, 1)]
        if alice == bob:
            none, both = (1 - fires[0]) * (1 - fires[1]), fires[0] * fires[1]
            wrong = fires[1 - bit] * (1 - fires[bit]) + both / 2
            tally[alice] += weight[:, None] * np.stack([none, 1 - none - wrong, wrong], axis=-1)
    assert_counts_agree(sampled.tally[0].sum(axis=2), tally, tally * (1 - tally / n))
    assert_counts_agree(sampled.detector_clicks[0], clicks, clicks * (1 - clicks / n))


@pytest.mark.parametrize("name", ["unequal", "bright"])
def test_activation_levels(name):
    """Levels below 1 are the clicks of full efficiency; below s, those of efficiency and noise times s."""
    chosen, n = LINKS[name], 200_000
    words, t = words_of_chunk("philox4x32", point_key(7, 0), 1), thresholds(chosen)
    plain, fates = chunk_fates(words, t, n), chunk_fates(words, t, n, levels=True)
    assert plain.levels is None and fates.levels is not None
    for field in ("cell", "photons", "double_bit", "fired_0", "fired_1"):
        np.testing.assert_array_equal(getattr(plain, field), getattr(fates, field))
    state = jax.tree.map(lambda block: block[0], chosen.draw(jax.random.key(0), np.ones(1, np.int64)))
    noise = np.asarray(chosen.receiver.noise_probabilities(state))
    intensity, alice, bit, bob = settings(fates.cell)
    to = [np.asarray(chance) for chance in chosen.receiver.routing(state, alice == bob, bit)]
    mu = np.array(chosen.source.intensities)[intensity]
    for level, fired in zip(fates.levels, (fates.fired_0, fates.fired_1), strict=True):
        np.testing.assert_array_equal(level < 1.0, fired)
        assert ((level >= 0) & ((level < 1) | (level == 2.0))).all()
    for s in ((1.0, 1.0), (0.3, 0.3), (0.05, 0.8), (0.0, 0.5)):
        fires = [1 - (1 - s[d] * noise[d]) * np.exp(-s[d] * mu * to[d]) for d in (0, 1)]
        seen = [fates.levels[d] < s[d] for d in (0, 1)]
        for observed, p in ((seen[0], fires[0]), (seen[1], fires[1]), (seen[0] & seen[1], fires[0] * fires[1])):
            assert abs(observed.sum() - p.sum()) <= Z_LIMIT * np.sqrt((p * (1 - p)).sum())


def test_block_ends_with_its_last_detection():
    """Blocks of every size are the first pulses of one and the same stream, up to the n-th sifted Z detection."""
    words, t = (
        words_of_chunk("philox4x32", jax.random.fold_in(pulses.fold_name(point_key(3, 0), "pulses"), 0), 0),
        thresholds(FAR),
    )
    fates = chunk_fates(words, t, CHUNK)
    _, alice, _, bob = settings(fates.cell)
    detected = np.flatnonzero((alice == 0) & (bob == 0) & (fates.fired_0 | fates.fired_1))
    for n in (1, 2, 137, detected.size):
        (block,) = sample_pulses(point_key(3, 0), FAR, PROTOCOL, 1, None, n)
        assert block.pulses[0] == detected[n - 1] + 1
        assert block.tally[0, 0, :, :, 1:].sum() == n
        (fixed,) = sample_pulses(point_key(3, 0), FAR, PROTOCOL, 1, int(block.pulses[0]), None)
        jax.tree.map(np.testing.assert_array_equal, block, fixed)
    (more,) = sample_pulses(point_key(3, 0), FAR, PROTOCOL, 1, None, detected.size + 1)
    assert more.pulses[0] > CHUNK and more.tally[0, 0, :, :, 1:].sum() == detected.size + 1


def test_generator_is_a_setting_of_the_run():
    study = pm.Study(FAR, PROTOCOL, pm.Run(pulses=1e5, sampler="pulses"))
    other = dataclasses.replace(study, run=dataclasses.replace(study.run, generator="threefry"))
    first, second = pm.simulate(study), pm.simulate(other)
    assert (first.counts.sent != second.counts.sent).any()


def test_many_chunks_at_once(monkeypatch):
    """The kernels of a GPU, interpreted: the same counts and detections as chunk by chunk, to the last one."""
    from photonmc.sampling import gpu_pulses

    sent = CHUNK + 70_001
    monkeypatch.setattr(gpu_pulses, "CHUNKS", 2)
    (stretch,) = pulses.Stretches(jax.random.key(1), FAR, PROTOCOL, sent, many=True)
    first, second = (words_of_chunk("philox4x32", jax.random.key(1), chunk) for chunk in range(2))
    many = gpu_pulses.play_chunks(first, stretch.thresholds, stretch.tables, sent, interpret=True)
    one, other = (
        play_chunk(*inputs) for inputs in ((first, stretch.thresholds, CHUNK), (second, stretch.thresholds, 70_001))
    )
    counting = Counting.of(FAR, PROTOCOL)
    for together, a, b in zip(*(counting.sums(played) for played in (many, one, other)), strict=True):
        np.testing.assert_array_equal(together, a + b)
    apart = [counting.z_detections(one), counting.z_detections(other) + CHUNK]
    np.testing.assert_array_equal(counting.z_detections(many), np.concatenate(apart))
    assert abs(many.busy - sent * stretch.tables.busy) <= Z_LIMIT * np.sqrt(sent * stretch.tables.busy)
