"""Compiled steps of the sampler "clicks": a batch of candidates, what detector memory makes of it, and its histogram."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.detector.memory import Memory
from photonmc.sampling.candidates import NEVER, OUTCOMES, Blocks, draw_candidates, places
from photonmc.sampling.codes import CLICK_0, CLICK_1, CODES, DOUBLE, HIDDEN, KEPT, LIGHT
from photonmc.sampling.light import OUTCOMES as OUTCOMES_OF_A_GATE
from photonmc.sampling.light import Alias, drawn_cell, drawn_mark, look_up
from photonmc.sampling.memory import State, follow
from photonmc.sampling.philox import joined, words_at
from photonmc.sampling.plain_memory import (
    Table,
    bits_of,
    timed,
)

if TYPE_CHECKING:
    pass

SILENT, MARKS = 2, 3
"""Streams of random words by gate: settings of silent gates, outcomes of recovering detectors."""
CELL = HIDDEN * OUTCOMES_OF_A_GATE
"""Categories of one cell."""
GENERAL, RECOVERING, PLAIN, NARROW = "general", "recovering", "plain", "narrow"
"""Kinds of memory: any, with efficiencies that recover, and that of `photonmc.sampling.plain_memory` in 64 and 32 bits."""
NOT_YET, NOTHING = -1, -2
"""Codes that are none; see `codes_of_events`."""


class Light(NamedTuple):
    """From random words to the light of a gate; one block by tables of everything, several by tables of settings.

    Attributes:
        candidate: Alias table over (cell, hidden, outcome) of candidates; or cumulated weights (block, cell).
        silent: The same of silent gates.
        states: State of the channel in each block, None where there is one block.
        first: Number of the first block of these tables.
    """

    candidate: Any
    silent: Any
    states: Any
    first: Any


def _uniform(word: Any) -> Any:
    return (word >> np.uint64(11)).astype(jnp.float64) * 2.0**-53


def _of_candidates(link: Any, protocol: Any, light: Light, word: Any, place: Any, block: Any, key: Any, late: bool) -> Any:
    """Categories, (cell x hidden classes + hidden class) x 5 + outcome, of candidates; or cells alone."""
    if isinstance(light.candidate, Alias):
        return look_up(light.candidate, word)
    at = jnp.zeros(word.shape, jnp.int64) if block is None else block - light.first
    cell = drawn_cell(light.candidate, at, _uniform(word))
    if late:
        return cell * CELL

    def row(inputs: Any) -> Any:
        place, at, cell = inputs
        high, low, _, _ = words_at(place, OUTCOMES, key)
        state = jax.tree.map(lambda leaf: leaf[at], light.states)
        return drawn_mark(link, protocol, state, cell, _uniform(joined(high, low)), True)

    return cell * CELL + jax.lax.map(row, (place, at, cell))


def _of_silent(link: Any, protocol: Any, light: Light, gate: Any, blocks: Blocks, key: Any) -> Any:
    """Cell and hidden class of gates in which neither light nor noise could click, and a random bit beside."""
    a, b, c, d = words_at(gate, SILENT, key)
    coin = (b & np.uint32(1)).astype(jnp.int32)  # the lowest bit, which chooses no category
    if isinstance(light.silent, Alias):
        category = look_up(light.silent, joined(a, b))
        return category // HIDDEN, category % HIDDEN, coin
    at = jnp.clip(jnp.searchsorted(blocks.ends, gate, side="right") - light.first, 0, light.silent.shape[0] - 1)
    cell = drawn_cell(light.silent, at, _uniform(joined(a, b)))
    state = jax.tree.map(lambda leaf: leaf[at], light.states)
    return cell, drawn_mark(link, protocol, state, cell, _uniform(joined(c, d)), False) // OUTCOMES_OF_A_GATE, coin


@functools.partial(jax.jit, static_argnames=("lanes", "steps", "kind"))
def candidates_of(
    key: Any,
    link: Any,
    protocol: Any,
    light: Light,
    blocks: Blocks,
    segment: Any,
    edges: Any,
    lanes: int,
    steps: int,
    kind: str,
) -> tuple[Any, ...]:
    """Gates, blocks, categories, number in each lane, times; and whether all segments were finished."""
    gates, block, word, done = draw_candidates(key, segment, *edges, blocks, lanes, steps)
    place = places(segment, steps, lanes)
    category = _of_candidates(link, protocol, light, word, place, block, key, kind == RECOVERING).astype(jnp.int32)
    times = None
    if kind in (PLAIN, NARROW):
        times = timed(gates, _fired(category, True), edges[0], edges[1], kind == NARROW)
        done = done & (gates[-1] >= NEVER).all()  # the end of a lane is a candidate as well
    return gates, block, category, (gates < NEVER).sum(axis=0), times, done


def _fired(category: Any, there: Any) -> Any:
    """Detectors that the light of each category fires, shape (2, ...), where there is any."""
    outcome = category % OUTCOMES_OF_A_GATE
    return there & jnp.stack([(outcome == 1) | (outcome > 2), outcome > 1])


@functools.partial(jax.jit, static_argnames=("most", "late"))
def follow_lanes(
    key: Any,
    link: Any,
    protocol: Any,
    light: Light,
    drawn: Any,
    state: State,
    first: Any,
    stop: Any,
    memory: Memory,
    most: int,
    late: bool,
) -> Any:
    """Memory of the detectors on a batch of candidates."""
    gates, block, category = drawn
    last = gates.shape[0] - 1
    lane = jnp.arange(gates.shape[1])

    def hits(index: Any, gate: Any, there: Any, relative: Any) -> tuple[Any, Any]:
        at = jnp.minimum(index, last)
        found = category[at, lane]
        if not late:
            return _fired(found, there), found
        high, low, _, _ = words_at(gate, MARKS, key)
        row = jnp.zeros(lane.shape, jnp.int64) if block is None else block[at, lane] - light.first
        states = jax.tree.map(lambda leaf: leaf[row], light.states)
        uniform = _uniform(joined(high, low))
        found = found + drawn_mark(link, protocol, states, found // CELL, uniform, True, relative)
        return _fired(found, there), found

    return follow(state, gates, first, stop, key, memory, most, hits)


@functools.partial(jax.jit, static_argnames="size")
def codes_of_events(bits: Any, category: Any, size: int) -> tuple[Any, Any]:
    """Histogram of a batch's events over (cell, hidden class, bits, coin), and the code of each.

    The code is `NOT_YET` where settings or coin do not come from a candidate, and `NOTHING` where nothing happened.
    """
    bits, outcome = bits.astype(jnp.int32), category % OUTCOMES_OF_A_GATE
    code = (category // OUTCOMES_OF_A_GATE) * CODES + (bits % LIGHT) * 2 + (outcome == 4)
    settled = (bits >= LIGHT) & ((bits & DOUBLE != DOUBLE) | (outcome > 2))
    code = jnp.where(settled, code, jnp.where(bits > 0, NOT_YET, NOTHING))
    return jnp.zeros(size, jnp.int32).at[jnp.where(code >= 0, code, size)].add(1, mode="drop"), code


@functools.partial(jax.jit, static_argnames="size")
def codes_of_light(gates: Any, category: Any, size: int) -> tuple[Any, Any, Any]:
    """The same without memory, where candidates are the registered clicks; and bits beside."""
    there = (gates >= 0) & (gates < NEVER)
    fired = _fired(category, there)
    bits = jnp.where(there, fired[0] * CLICK_0 + fired[1] * CLICK_1 + (KEPT | LIGHT), 0).astype(jnp.uint8)
    return *codes_of_events(bits, category, size), bits


@functools.partial(jax.jit, static_argnames=("policy", "size"))
def plain_codes(happened: Any, table: Table, category: Any, policy: str, size: int) -> tuple[Any, Any, Any]:
    """The same for detectors of the common kind."""
    bits = bits_of(happened, table, policy)
    return *codes_of_events(bits, category, size), bits


@jax.jit
def late_codes(key: Any, link: Any, protocol: Any, light: Light, blocks: Blocks, gate: Any, bits: Any, category: Any) -> Any:
    """Codes of releases into gates without light, and of double clicks that one release made."""
    cell, hidden, coin = _of_silent(link, protocol, light, gate, blocks, key)
    bits = bits.astype(jnp.int32)
    settings = jnp.where(bits >= LIGHT, category // OUTCOMES_OF_A_GATE, cell * HIDDEN + hidden)
    return settings * CODES + (bits % LIGHT) * 2 + coin
