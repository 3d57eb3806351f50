"""Interpolated tables against evaluated ones; the error is the total-variation distance that it makes in the counts."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from cases import CHANNELS, PROTOCOLS, RECEIVERS, SOURCES
from test_random import generator

import photonmc as pm
from photonmc.contracts import ChannelState
from photonmc.sampling.interpolation import BATCH, interpolate
from photonmc.sampling.places import place_probabilities, places_of

LINK = pm.Link(SOURCES["weak_coherent"], CHANNELS["fiber"], RECEIVERS["active_basis"])
PROTOCOL = PROTOCOLS["bb84"]


@pytest.fixture(scope="module")
def tables_of():
    """Tables of a link; asked for in batches of one size alone."""
    places = places_of(LINK, PROTOCOL)

    @jax.jit
    def compiled(states):
        return jax.vmap(lambda s: place_probabilities(LINK, PROTOCOL, ChannelState(*s), places.index, places.tally.size))(
            states
        )

    def tables(states):
        assert states.shape[0] == BATCH
        return np.asarray(compiled(states))

    with jax.enable_x64(True):
        yield tables


def evaluated(tables_of, states):
    return np.concatenate([tables_of(part) for part in np.split(states, states.shape[0] // BATCH)])


@pytest.mark.parametrize("strongest", [1e-3, 0.9])
@pytest.mark.parametrize("varying", [1, 2, 3])
def test_interpolation_is_exact_to_rounding(tables_of, strongest, varying):
    """1e15 pulses in 4096 blocks: relative errors below 1e-9 in every place above 1e-13, total variation below 4e-6."""
    rng = generator(varying)
    states = np.full((4096, 3), (strongest / 2, 1e-6, 0.01))
    for quantity, top in list(enumerate((strongest, 1e-4, 0.05)))[:varying]:
        states[:, quantity] = top * rng.random(4096)
    lengths = np.full(4096, 10**15 // 4096)
    found = interpolate(tables_of, lengths, states, tolerance=1e-6)
    assert 0.0 < found.error <= 1e-6
    some = np.arange(4096).reshape(-1, 8)[:, 0]
    truth, tables = evaluated(tables_of, states[some]), found.tables(states[some])
    counted = truth > 1e-13
    np.testing.assert_allclose(tables[counted], truth[counted], rtol=1e-9)
    squares = (tables - truth) ** 2 / np.maximum(np.maximum(tables, truth), 1e-300)
    assert np.sqrt(lengths.sum() * squares.sum(axis=1).max()) < 4e-6  # between the states where it was measured, too


def test_few_or_rough_states_are_evaluated(tables_of):
    """Exact where there are few states, no tolerance, nothing that varies, or a table with a step."""
    states = np.stack([generator(1).random(512), np.zeros(512), np.zeros(512)], axis=1)
    index = np.array([3, 500, 3])
    few = interpolate(tables_of, np.full(512, 10**6), states)
    assert few.error == 0.0 and few.tables(states[:0]).shape == (0, 154)
    np.testing.assert_array_equal(few.tables(states[index]), evaluated(tables_of, states)[index])

    def step(states):
        high = (states[:, 0] > 0.4) * 0.1 + 0.1
        return np.stack([high, 1 - high], axis=1)

    many = np.tile(states, (8, 1)) * (1 + 1e-3 * np.arange(8).repeat(512)[:, None])
    rough = interpolate(step, np.full(4096, 10**6), many)
    assert rough.error == 0.0
    np.testing.assert_array_equal(rough.tables(many), step(many))
    same = interpolate(step, np.full(4096, 10**6), many * 0 + 0.3)
    assert same.error == 0.0 and (same.tables(many * 0 + 0.3)[:, 0] == 0.1).all()
    assert interpolate(step, np.full(4096, 10**6), many, tolerance=0.0).error == 0.0
