"""The same as `photonmc.sampling.memory` for the commonest receivers, several times as fast.

Detectors of one dead time, non-paralyzable, each on its own, no recovery, no trap or one that every avalanche fills anew:
then an avalanche is all that a detector remembers, and the two detectors are rows of one array. Candidates are taken step
by step in all lanes at once, with few and simple operations. Releases come between candidates and are few: which avalanche
brings one, and after how long, is drawn ahead for every place that an avalanche may take, by jumps from one that brings a
release to the next. An avalanche's place is its candidate, or the candidate that follows a release and how many releases
came before it since the last candidate (its level).

Times are counted from the beginning of a lane in half gates, gates being even, so that the end of a lane is a candidate
that meets no gate; in 32 bits where they fit.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.detector.memory import Memory
from photonmc.sampling.candidates import NEVER, uncut
from photonmc.sampling.codes import CLICK_0, CLICK_1, KEPT, LIGHT
from photonmc.sampling.memory import LONG_AGO, State, filled
from photonmc.sampling.philox import exponential, joined, minus_log, words_at

OWN = 1 << 8
"""Stream of random words by jump: releases of candidates' avalanches; those of the levels of releases follow."""
FAR = {True: 1 << 30, False: 1 << 60}
"""Half gates that stand for never, in 32 bits (narrow) and in 64; those of a lane are fewer than half as many."""
MOST_RELEASES = 0.25
"""Largest mean number of releases of an avalanche; with more of them there are too many levels."""


class Table(NamedTuple):
    """What `follow_plainly` reads of a batch, detectors side by side: shape (step, 2 x lane).

    Attributes:
        candidates: Twice the time of each candidate, plus 1 where it fires the detector.
        delays: From an avalanche to the gate that its release fills, `FAR` where none comes; of candidates, then by levels.
    """

    candidates: Any
    delays: tuple[Any, ...]


class Releases(NamedTuple):
    """Gates that a release filled where no candidate is, rising, and their bits (none but clicks and KEPT)."""

    gate: np.ndarray
    bits: np.ndarray


def is_plain(memory: Memory) -> bool:
    """Whether a receiver is of the common kind."""
    alone = memory.policy != "blank_all" and not memory.paralyzable and not memory.recovery.any()
    equal = memory.dead_time[0] == memory.dead_time[1]
    trap = memory.lifetimes.size == 1 and not memory.keeps_all and memory.releases.max() < MOST_RELEASES
    return bool(alone and equal and (memory.lifetimes.size == 0 or trap))


def fits(gates: int, memory: Memory) -> bool:
    """Whether lanes of so many gates can be counted in 32 bits."""
    return bool(gates + memory.dead_gates[0] + 40.0 * memory.lifetimes.max(initial=0.0) < FAR[True] // 4 - 2)


def timed(gates: Any, fired: Any, start: Any, stop: Any, narrow: bool) -> Any:
    """Candidates of a batch as `Table` holds them; jumps that were cut at the end of a block fire nothing."""
    time = jnp.where(gates < NEVER, 2 * (uncut(gates) - start), 2 * (stop - start) - 1)
    twice = (2 * time).astype(jnp.int32 if narrow else jnp.int64)
    fires = fired & ((gates >= 0) & (gates < NEVER))
    return jnp.concatenate([twice + fires[0], twice + fires[1]], axis=1)


def levels_of(memory: Memory, places: int) -> int:
    """Levels of releases that suffice in most batches of so many places."""
    if not memory.lifetimes.size:
        return 0
    return max(1, round(math.log(places) / -math.log(-math.expm1(-memory.releases[0, 0]))) - 1)


@functools.partial(jax.jit, static_argnames=("size", "narrow"))
def _jumps(key: Any, first: Any, stream: Any, memory: Memory, size: int, narrow: bool) -> tuple[Any, Any]:
    a, b, c, d = words_at(first + jnp.arange(size // 2), stream, key)
    # with m the mean number of releases and x exponential, floor(x / m) places bring none before the one that does, and the
    # rest of x is exponential below m: the share of the releases that comes before the first one (theory 6.3)
    share = exponential(jnp.concatenate([joined(a, b), joined(c, d)])) / memory.releases[0, 0]
    barren = jnp.floor(share)
    delay = memory.lifetimes[0] * minus_log(1.0 - (share - barren))
    gates, _ = filled(np.int64(0), delay, memory.dead_time[0], memory.dead_gates[0])
    kind = jnp.int32 if narrow else jnp.int64
    return jnp.minimum(barren, 2.0**40).astype(jnp.int64), jnp.minimum(2 * gates, FAR[narrow]).astype(kind)


@functools.partial(jax.jit, static_argnames="shape")
def _spread(place: Any, delay: Any, far: Any, shape: tuple[int, int]) -> Any:
    empty = jnp.full(shape[0] * shape[1], far, delay.dtype)
    return empty.at[place.astype(jnp.int32)].set(delay, mode="drop").reshape(shape)


def drawn_delays(key: Any, first: int, level: int, shape: tuple[int, int], memory: Memory, narrow: bool) -> Any:
    """Delays of one level, see `Table`.

    Args:
        key: Of the random words.
        first: Number of the batch's first random words in the stream of the level.
        level: 0 for candidates.
        shape: Of the table.
        memory: Of the detectors.
        narrow: Whether times are counted in 32 bits.
    """
    places = shape[0] * shape[1]
    mean = places * -math.expm1(-memory.releases[0, 0])
    size = 1 << math.ceil(math.log2(mean + 6.0 * math.sqrt(mean) + 16.0))  # few sizes, few compilations
    steps, delays = np.zeros(0, np.int64), np.zeros(0, np.int32 if narrow else np.int64)
    place = steps
    while place.size == 0 or place[-1] < places:
        barren, delay = _jumps(key, first + steps.size // 2, OWN + level, memory, size, narrow)
        steps, delays = np.append(steps, barren), np.append(delays, delay)
        place = np.cumsum(steps + 1) - 1
    return _spread(np.minimum(place, places), delays, FAR[narrow], shape)


@functools.partial(jax.jit, static_argnames="whole")
def follow_plainly(
    state: State, table: Table, start: Any, stop: Any, first: Any, last: Any, memory: Memory, whole: bool
) -> tuple[State, Any]:
    """Follow all lanes from one step to another.

    Args:
        state: Of each lane before its first step.
        table: Candidates and delays.
        start: First gate of each lane.
        stop: First gate after it.
        first: Number of the first step.
        last: Number of the first step that is not taken.
        memory: Of the detectors.
        whole: Whether to return what happened.

    Returns:
        The states at `stop`; and for each entry of the table four times the time of the first release between the
        candidate before and this one (-4 without), plus 2 where the detector is live for the candidate, plus 1 for a click.
    """
    kind = table.candidates.dtype
    narrow = kind == jnp.int32
    far = np.dtype(kind).type(FAR[narrow])
    dead, shape = (2 * memory.dead_gates[0]).astype(kind), table.candidates.shape

    def step(index: Any, carry: Any) -> Any:
        avalanche, release, happened = carry
        candidate, *delays = (
            jax.lax.dynamic_index_in_dim(rows, index, 0, False) for rows in (table.candidates, *table.delays)
        )
        now, before = candidate >> 1, None
        for delay in delays[1:]:
            comes = release < now
            before = jnp.where(comes, release, -1) if before is None else before
            avalanche, release = jnp.where(comes, release, avalanche), jnp.where(comes, release + delay, release)
        live = now - avalanche > dead
        click = live & (candidate & 1 > 0)
        if delays:
            click = live & ((candidate & 1 > 0) | (release == now))
            release = jnp.where(click, now + delays[0], release)
        avalanche = jnp.where(click, now, avalanche)
        if whole:
            row = (live * 2 + click).astype(happened.dtype)
            row = row if before is None else row + before * 4
            happened = jax.lax.dynamic_update_index_in_dim(happened, row, index, 0)
        return avalanche, release, happened

    def inside(gates: Any) -> Any:
        return (2 * jnp.clip(gates - start, -int(far) // 2, int(far) // 2)).astype(kind).ravel()

    def outside(times: Any) -> Any:
        return start + (times.reshape(2, -1) >> 1).astype(jnp.int64)

    begin = inside(state.blinded), inside(state.release)
    nothing = jnp.full(shape if whole else (1, 1), -4 if table.delays else 0, kind if table.delays else jnp.uint8)
    avalanche, release, happened = jax.lax.fori_loop(first, last, step, (*begin, nothing))
    clicked = (avalanche != begin[0]).reshape(2, -1)
    blinded = jnp.where(clicked, outside(avalanche), state.blinded)
    blinded = jnp.where(stop - blinded > memory.dead_gates[0], LONG_AGO, blinded)  # what is over is forgotten
    release_at = jnp.where((release < far).reshape(2, -1), outside(release), NEVER)
    return state._replace(blinded=blinded, release=release_at), happened


def bits_of(happened: Any, table: Table, policy: str) -> Any:
    """Bits of the events at the candidates of a batch, shape (step, lane)."""
    lanes = happened.shape[1] // 2
    clicks = [happened[:, side] & 1 > 0 for side in (slice(lanes), slice(lanes, None))]
    light = (table.candidates[:, :lanes] | table.candidates[:, lanes:]) & 1 > 0
    kept = clicks[0] | clicks[1]
    if policy == "all_live":
        kept = kept & (happened[:, :lanes] & happened[:, lanes:] & 2 > 0)
    return (clicks[0] * CLICK_0 + clicks[1] * CLICK_1 + kept * KEPT + light * LIGHT).astype(jnp.uint8)


def releases_of(happened: np.ndarray, table: Table, start: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """Gates of the releases between candidates, one array a detector, rising; and whether the levels sufficed."""
    now, first = np.asarray(table.candidates).ravel(), happened.ravel()
    where = np.flatnonzero(first >= 0)
    time, until = (first[where] >> 2).astype(np.int64), now[where] >> 1
    lane = where % happened.shape[1]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for delay in table.delays[1:]:
        found.append((lane, time))
        time = time + np.asarray(delay).ravel()[where]
        more = time < until
        where, time, until, lane = where[more], time[more], until[more], lane[more]
    lane, time = (np.concatenate(parts) for parts in zip(*found, strict=True))
    gate, second = start[lane % start.size] + (time >> 1), lane >= start.size
    return [np.sort(gate[~second]), np.sort(gate[second])], not where.size


def as_events(releases: list[np.ndarray], clicks: list[np.ndarray], before: np.ndarray, memory: Memory) -> Releases:
    """Releases of both detectors as events of gates.

    Args:
        releases: Gates of each detector.
        clicks: Candidates that click each detector, rising, where the policy asks for them.
        before: Gate of the last avalanche of each detector before the batch.
        memory: Of the detectors.
    """
    gate = np.union1d(*releases)
    which = [np.isin(gate, one, assume_unique=True) for one in releases]
    kept = np.ones(gate.size, bool)
    if memory.policy == "all_live":
        for own, more, earlier in zip(releases, clicks, before, strict=True):
            avalanches = np.concatenate([[earlier], np.sort(np.concatenate([own, more]), kind="stable")])
            kept &= gate - avalanches[np.searchsorted(avalanches[1:], gate)] > memory.dead_gates[0]
    return Releases(gate, (which[0] * CLICK_0 + which[1] * CLICK_1 + kept * KEPT).astype(np.uint8))
