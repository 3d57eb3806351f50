"""Detector memory on candidate clicks: which of them register, and which afterpulses come between them.

The state of the two detectors is carried from event to event along each lane, a segment of the timeline. Random words
belong to gates, not to the order of work, so that a segment that is followed once more from another state agrees with the
first time as soon as the states do: this is how segments are followed side by side although each begins where the one
before it ends.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.detector.memory import Memory
from photonmc.sampling.candidates import NEVER, uncut
from photonmc.sampling.codes import CLICK_0, CLICK_1, KEPT, LIGHT
from photonmc.sampling.philox import exponential, joined, minus_log, words_at

if TYPE_CHECKING:
    from collections.abc import Callable

RELEASES = 8
"""Stream of random words by gate, of the first trap; the others follow."""
LONG_AGO = -(1 << 60)
"""A gate before all memory."""


class State(NamedTuple):
    """What the two detectors remember, shape (2, ...) each.

    Attributes:
        blinded: Gate at which the last dead time began.
        avalanche: Gate of the last avalanche.
        release: Gate that the next release of a trap will fill, `NEVER` where none comes.
        early: How long before that gate the release comes [gates].
        loads: Mean releases after the dead time, at the last avalanche, shape (2, trap, ...).
    """

    blinded: Any
    avalanche: Any
    release: Any
    early: Any
    loads: Any


class Events(NamedTuple):
    """Events of a batch in the order of gates, shape (event, lane); `NEVER` as gate where there is none.

    Attributes:
        gate: Index of the pulse.
        bits: CLICK_0, CLICK_1, KEPT, LIGHT; 0 in an event of no meaning.
        category: What the light was, where LIGHT is set.
    """

    gate: Any
    bits: Any
    category: Any


def fresh(lanes: int, memory: Memory) -> State:
    """Live detectors with empty traps."""
    ago, never = np.full((2, lanes), LONG_AGO), np.full((2, lanes), NEVER)
    return State(ago, ago, never, np.zeros((2, lanes)), np.zeros((2, memory.lifetimes.size, lanes)))


def reach(memory: Memory) -> float:
    """Gates over which a detector remembers what cannot be told apart from what a later click writes."""
    slow = memory.lifetimes.max(initial=0.0) if memory.releases.any() else 0.0
    return float(memory.dead_time.max() + 40.0 * memory.recovery.max() + (10.0 if memory.keeps_all else 1.0) * slow)


def forgotten(state: State, gate: Any, memory: Memory) -> State:
    """The state at a gate without what can change nothing any more, so that states with one future compare as equal."""
    since = gate - state.blinded
    over = since > (memory.dead_gates + 40.0 * memory.recovery)[:, None] + 1.0  # exp(-40) is lost beside 1
    emptied = (state.release >= NEVER) & (not memory.keeps_all)
    return state._replace(
        blinded=jnp.where(over, LONG_AGO, state.blinded), avalanche=jnp.where(emptied, LONG_AGO, state.avalanche)
    )


def delay_of(exponents: Any, left: Any, lifetimes: Any) -> Any:
    """Time from the end of a dead time to the first release, of which `left` are still to come on average; else infinite."""
    comes = exponents < left
    share = jnp.where(comes, exponents / jnp.where(comes, left, 1.0), 0.0)
    return jnp.where(comes, lifetimes * minus_log(1.0 - share), jnp.inf)


def filled(gate: Any, delay: Any, dead_time: Any, dead_gates: Any) -> tuple[Any, Any]:
    """Gate that a release fills, the first at or after it (theory 6.3, Eq. (34)), and how long before that gate it comes.

    The dead time began at `gate`.
    """
    comes = jnp.isfinite(delay)
    gates = jnp.minimum(jnp.maximum(jnp.ceil(dead_time + delay), (dead_gates + 1).astype(float)), 2.0**60)
    early = jnp.where(comes, gates - (dead_time + jnp.where(comes, delay, 0.0)), 0.0)
    return jnp.where(comes, gate + gates.astype(jnp.int64), NEVER), early


def _of_any_traps(state: State, gate: Any, clicks: Any, blinded: Any, key: Any, memory: Memory) -> State:
    """Loads of the traps after the gate, and the next release of each detector."""
    lifetimes = memory.lifetimes[None, :, None]
    loads = jnp.broadcast_to(memory.releases[:, :, None], state.loads.shape)
    if memory.keeps_all:
        passed = jnp.minimum(gate - state.avalanche, 2.0**60)[:, None] / lifetimes
        loads = loads + state.loads * jnp.exp(-passed)
    loads = jnp.where(clicks[:, None], loads, state.loads)
    avalanche = jnp.where(clicks, gate, state.avalanche)
    left = loads * jnp.exp(-(gate - avalanche).astype(float)[:, None] / lifetimes)
    words = [words_at(gate, RELEASES + trap, key) for trap in range(memory.lifetimes.size)]
    pairs = [[joined(a, b) for a, b, _, _ in words], [joined(c, d) for _, _, c, d in words]]
    delay = delay_of(exponential(jnp.stack([jnp.stack(pair) for pair in pairs])), left, lifetimes).min(axis=1)
    drawn, early = filled(gate, delay, memory.dead_time[:, None], memory.dead_gates[:, None])
    # a release within the new dead time, whole gates or not, is lost, the next one after it is drawn; a later one stands
    lost = blinded & ((state.release - gate) - state.early <= memory.dead_time[:, None])
    new = clicks | lost
    release, early = jnp.where(new, drawn, state.release), jnp.where(new, early, state.early)
    return state._replace(avalanche=avalanche, release=release, early=early, loads=loads)


def advance(
    state: State, gate: Any, key: Any, memory: Memory, hits: Callable[[Any], tuple[Any, Any]]
) -> tuple[State, Any, Any]:
    """What happens in one gate of each lane.

    Args:
        state: Before the gate.
        gate: Its index, shape (lane,).
        key: Of the random words.
        memory: Of the detectors.
        hits: Detectors that light or noise fires (2, lane), given their relative efficiencies (2, lane), and a category.

    Returns:
        The state after the gate, its bits but for LIGHT, and the category.
    """
    since = gate - state.blinded
    live = since > memory.dead_gates[:, None]
    fired, category = hits(_risen(since, live, memory))
    clicks = live & (fired | (state.release == gate))
    anyone = clicks.any(axis=0)
    blinded = clicks
    if memory.policy == "blank_all":
        blinded = blinded | anyone
    if memory.paralyzable:
        blinded = blinded | (fired & ~live)
    kept = anyone & live.all(axis=0) if memory.policy == "all_live" else anyone
    bits = clicks[0] * CLICK_0 + clicks[1] * CLICK_1 + kept * KEPT
    new = state._replace(blinded=jnp.where(blinded, gate, state.blinded))
    if memory.lifetimes.size:
        new = _of_any_traps(new, gate, clicks, blinded, key, memory)
    return new, bits.astype(jnp.uint8), category


def _risen(since: Any, live: Any, memory: Memory) -> Any:
    """Relative efficiency of each detector, 1 for blind ones, whose hits may restart the dead time."""
    recovery = memory.recovery[:, None]
    u = jnp.maximum(since - memory.dead_time[:, None], 0.0)
    risen = -jnp.expm1(-u / jnp.where(recovery > 0.0, recovery, 1.0))
    return jnp.where(live & (recovery > 0.0), risen, 1.0)


def follow(
    state: State,
    gates: Any,
    first: Any,
    stop: Any,
    key: Any,
    memory: Memory,
    most: int,
    hits: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
) -> tuple[State, Events, Any]:
    """Follow each lane from its candidate `first` to the gate `stop`.

    Args:
        state: Of each lane before its first candidate.
        gates: Candidates as `draw_candidates` gives them, shape (step, lane).
        first: Index of the first candidate of each lane.
        stop: First gate after each lane.
        key: Of the random words.
        memory: Of the detectors.
        most: Events that a lane may have.
        hits: Given index and gate of a candidate, whether there is one, and relative efficiencies (2, lane): the detectors
            that fire (2, lane), and the category of the light.

    Returns:
        The states at `stop`, the events, and whether all lanes came to their end.
    """
    steps, lanes = gates.shape
    lane = jnp.arange(lanes)

    def unfinished(carry: Any) -> Any:
        *_, count, more = carry
        return more & (count < most)

    def step(carry: Any) -> Any:
        state, index, events, count, _ = carry
        value = jnp.where(index < steps, gates[jnp.minimum(index, steps - 1), lane], NEVER)
        at, cut = uncut(value), value < 0
        gate = jnp.minimum(at, state.release.min(axis=0))
        running = gate < stop
        light = (at == gate) & ~cut & running
        after, bits, category = advance(state, gate, key, memory, functools.partial(hits, index, gate, light))
        state = jax.tree.map(lambda new, old: jnp.where(running, new, old), after, state)
        bits = jnp.where(running, bits + light * np.uint8(LIGHT), 0).astype(jnp.uint8)
        row = Events(jnp.where(running, gate, NEVER), bits, category)
        events = jax.tree.map(lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, count, 0), events, row)
        return state, index + (running & (at == gate)), events, count + 1, running.any()

    def empty(value: Any, kind: Any) -> Any:
        return jnp.full((most, lanes), value, kind)

    nothing = Events(empty(NEVER, jnp.int64), empty(0, jnp.uint8), empty(0, jnp.int32))
    start = (state, first.astype(jnp.int32), nothing, jnp.int32(0), jnp.array(True))
    state, _, events, _, more = jax.lax.while_loop(unfinished, step, start)
    return forgotten(state, stop, memory), events, ~more
