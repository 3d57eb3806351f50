"""The same as `photonmc.sampling.memory` for the commonest receivers, several times as fast.

Detectors of one dead time, non-paralyzable, each on its own, no recovery, no trap or one that every avalanche fills anew:
then an avalanche is all that a detector remembers, and the delay to the release that it brings can be drawn ahead, beside
the candidates. A candidate that clicks takes the first of two delays that are drawn with it, the first release before it
the second one; a further click before the same candidate, which is rare, takes one that belongs to its gate. Gates are
counted from the beginning of a lane, in 32 bits where they fit.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.detector.memory import Memory
from photonmc.sampling.candidates import NEVER, PLACES
from photonmc.sampling.codes import CLICK_0, CLICK_1, KEPT, LIGHT
from photonmc.sampling.memory import LONG_AGO, RELEASES, Events, State
from photonmc.sampling.philox import exponential, joined, minus_log, words_at

OWN, BEFORE = 4, 5
"""Streams of random words, by jump: delay of the release of a candidate, and of that of the first release before it."""
FAR = {True: 1 << 29, False: 1 << 58}
"""Gates from the beginning of a lane that stand for never, in 32 bits (narrow) and in 64."""


def is_plain(memory: Memory) -> bool:
    """Whether a receiver is of the common kind."""
    alone = memory.policy != "blank_all" and not memory.paralyzable and not memory.recovery.any()
    equal = memory.dead_time[0] == memory.dead_time[1]
    return bool(alone and equal and memory.lifetimes.size <= 1 and not (memory.keeps_all and memory.lifetimes.size))


def fits(gates: int, memory: Memory) -> bool:
    """Whether lanes of so many gates can be counted in 32 bits."""
    return bool(gates + memory.dead_gates[0] + 40.0 * memory.lifetimes.max(initial=0.0) < FAR[True] - 2)


def _word(key: Any, place: Any, stream: Any) -> Any:
    high, low, _, _ = words_at(place, stream, key)
    return joined(high, low)


def comes(key: Any, place: Any, stream: int, memory: Memory) -> Any:
    """Whether an avalanche brings a release: the number that `_gates_to_release` draws is below the mean of releases."""
    chance = -jnp.expm1(-memory.releases[0, 0])
    return (_word(key, place, stream) >> np.uint64(12)) < (chance * 2.0**52).astype(jnp.uint64)


@functools.partial(jax.jit, static_argnames="narrow")
def _some_delays(key: Any, place: Any, stream: Any, memory: Memory, narrow: bool) -> Any:
    return _gates_to_release(_word(key, place, stream), memory, narrow)


def drawn_delays(key: Any, first_place: int, coming: np.ndarray, memory: Memory, narrow: bool) -> np.ndarray:
    """Gates from an avalanche to the gate that its release fills, `FAR` where none comes; few do, and only they are drawn.

    Args:
        key: Of the random words.
        first_place: Name of the first jump of the first lane, see `photonmc.sampling.candidates.places`.
        coming: Whether a release comes, shape (stream OWN or BEFORE, step, lane).
        memory: Of the detectors.
        narrow: Whether gates are counted in 32 bits.
    """
    delays = np.full(coming.shape, FAR[narrow], np.int32 if narrow else np.int64)
    where = np.flatnonzero(coming.ravel())
    which, step, lane = np.unravel_index(where, coming.shape)
    filled = np.zeros((2, 1 << max(8, int(where.size).bit_length())), np.int64)  # few sizes, few compilations
    filled[:, : where.size] = first_place + lane * PLACES + step, OWN + which
    delays.ravel()[where] = np.asarray(_some_delays(key, *filled, memory, narrow))[: where.size]
    return delays


def _gates_to_release(word: Any, memory: Memory, narrow: bool) -> Any:
    # as `delay_of` and `filled` of the general way, in the fewest operations
    share = exponential(word) * (1.0 / memory.releases[0, 0])
    delay = memory.lifetimes[0] * minus_log(1.0 - jnp.where(share < 1.0, share, 0.0))
    gates = jnp.maximum(jnp.ceil(memory.dead_time[0] + delay), memory.dead_gates[0] + 1.0)
    whole = jnp.minimum(gates, float(FAR[narrow])).astype(jnp.int32 if narrow else jnp.int64)
    return jnp.where(share < 1.0, whole, FAR[narrow])


def follow_plainly(
    state: State, packed: Any, delays: Any, first: Any, start: Any, stop: Any, key: Any, memory: Memory, most: int
) -> tuple[State, Any, Any, Any, Any]:
    """Follow each lane from its candidate `first` to its end.

    Args:
        state: Of each lane before its first candidate.
        packed: Four times the gate from the lane's beginning, plus the detectors that fire, shape (step, lane).
        delays: Of releases, None without a trap; shape (2, step, lane).
        first: Index of the first candidate of each lane.
        start: First gate of each lane.
        stop: First gate after it.
        key: Of the random words.
        memory: Of the detectors.
        most: Events that a lane may have.

    Returns:
        The states at `stop`; gates from the beginning of the lane, bits and index of the candidate of each event; and
        whether all lanes came to their end.
    """
    steps, lanes = packed.shape
    kind, narrow = packed.dtype, packed.dtype == jnp.int32
    lane, never = jnp.arange(lanes), np.dtype(kind).type(FAR[narrow])
    length = (stop - start).astype(kind)
    dead = memory.dead_gates[0].astype(kind)

    def unfinished(carry: Any) -> Any:
        return carry[-1] & (carry[-2] < most)

    def step(carry: Any) -> Any:
        last, release, index, served, events, count, _ = carry
        here = jnp.minimum(index, steps - 1)
        candidate = jnp.where(index < steps, packed[here, lane], (never - 1) * 4)
        at = candidate >> 2
        gate = jnp.minimum(at, jnp.minimum(release[0], release[1]))
        running = gate < length
        light = (at == gate) & running
        live = [gate - last[d] > dead for d in (0, 1)]
        clicks = [running & live[d] & ((light & ((candidate >> d) & 1 > 0)) | (release[d] == gate)) for d in (0, 1)]
        anyone = clicks[0] | clicks[1]
        kept = anyone & live[0] & live[1] if memory.policy == "all_live" else anyone
        bits = clicks[0] * CLICK_0 + clicks[1] * CLICK_1 + kept * KEPT + (light & (candidate & 3 > 0)) * LIGHT
        last = [jnp.where(clicks[d], gate, last[d]) for d in (0, 1)]
        if delays is not None:
            ahead = delays[jnp.where(light, 0, 1), here, lane]
            both = clicks[0] & clicks[1]
            late = anyone & ~light & (served == index)
            served = jnp.where(anyone & ~light, index, served)

            def of_gate(_: Any) -> Any:
                a, b, c, d = words_at(start + gate.astype(jnp.int64), RELEASES, key)
                first, second = (_gates_to_release(joined(*words), memory, narrow) for words in ((a, b), (c, d)))
                return jnp.where(late, first, ahead), second

            one, other = jax.lax.cond((both | late).any(), of_gate, lambda _: (ahead, ahead), None)
            comes = [one, jnp.where(both, other, one)]
            release = [jnp.where(clicks[d], jnp.where(comes[d] < never, gate + comes[d], never), release[d]) for d in (0, 1)]
        row = (gate, bits.astype(jnp.uint8), index)
        events = jax.tree.map(lambda all_, new: jax.lax.dynamic_update_index_in_dim(all_, new, count, 0), events, row)
        return last, release, index + light, served, events, count + 1, running.any()

    def offset(gates: Any) -> Any:
        return jnp.clip(gates - start, -int(never), int(never)).astype(kind)

    nothing = (
        jnp.zeros((most, lanes), kind),
        jnp.zeros((most, lanes), jnp.uint8),
        jnp.zeros((most, lanes), jnp.int32),
    )
    before = [offset(state.blinded[d]) for d in (0, 1)]
    begin = (before, [offset(state.release[d]) for d in (0, 1)], first, jnp.full(lanes, -1, jnp.int32), nothing)
    last, release, _, _, events, _, more = jax.lax.while_loop(unfinished, step, (*begin, jnp.int32(0), jnp.array(True)))
    clicked = jnp.stack([last[d] != before[d] for d in (0, 1)])
    blinded = jnp.where(clicked, start + jnp.stack(last).astype(jnp.int64), state.blinded)
    blinded = jnp.where(stop - blinded > dead.astype(jnp.int64), LONG_AGO, blinded)  # what is over is forgotten
    pending = jnp.stack(release)
    release_at = jnp.where(pending < never, start + pending.astype(jnp.int64), NEVER)
    return state._replace(blinded=blinded, release=release_at), *events, ~more


def as_events(start: Any, gate: Any, bits: Any, index: Any, category: Any) -> Events:
    """Events as `photonmc.sampling.memory.follow` gives them; what comes after a lane's end has no bits."""
    lane = jnp.arange(gate.shape[1])
    here = jnp.minimum(index, category.shape[0] - 1)
    return Events(jnp.where(bits > 0, start + gate.astype(jnp.int64), NEVER), bits, category[here, lane])


def packed_candidates(gates: Any, fired: Any, start: Any, narrow: bool) -> Any:
    """Candidates of a batch as `follow_plainly` takes them; jumps that were cut at the end of a block fire nothing."""
    last = FAR[narrow] - 1
    offset = jnp.minimum(jnp.where(gates < 0, -gates - 1, gates) - start, last)
    pattern = jnp.where((gates >= 0) & (gates < NEVER), fired[0] * CLICK_0 + fired[1] * CLICK_1, 0)
    return (offset * 4 + pattern).astype(jnp.int32 if narrow else jnp.int64)


def candidates_in(packed: Any, narrow: bool) -> Any:
    """Number of candidates of each lane."""
    return ((packed >> 2) < FAR[narrow] - 1).sum(axis=0)
