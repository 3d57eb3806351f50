"""Clicks sampler: jumps from click to click, exact for detectors with memory, at a cost that follows clicks, not pulses.

A batch of candidate clicks is drawn (`candidates`), their light is drawn from the outcome table (`light`), the memory of the
detectors decides which of them register (`memory`), and registered clicks are sifted into a tally. Pulses in which nothing
happened are drawn in one go at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from photonmc.contracts import ChannelState, Drawn, unwatched
from photonmc.random import fold_name, host_generator
from photonmc.sampling.blocks import draw_blocks
from photonmc.sampling.candidates import PLACES, Plan, blocks_of, uncut
from photonmc.sampling.click_kernels import (
    GENERAL,
    NARROW,
    NOT_YET,
    PLAIN,
    RECOVERING,
    Light,
    candidates_of,
    codes_of_events,
    codes_of_light,
    follow_lanes,
    late_codes,
    plain_codes,
)
from photonmc.sampling.codes import CLICK_0, CLICK_1, DOUBLE, LIGHT, Record, Sifting
from photonmc.sampling.light import alias_table, cell_weights, joint_table
from photonmc.sampling.memory import Events, State, fresh, reach
from photonmc.sampling.parallel import in_order
from photonmc.sampling.plain_memory import (
    FAR,
    Releases,
    Table,
    as_events,
    drawn_delays,
    fits,
    follow_plainly,
    is_plain,
    levels_of,
    releases_of,
)
from photonmc.sampling.trajectory import kept_blocks, realization_key, trajectory

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link


class Candidates(NamedTuple):
    """Candidates of a batch.

    Attributes:
        drawn: Gates, blocks and categories.
        number: Of candidates in each lane.
        table: The same for detectors of the common kind.
        common: What else kernels read.
        start: First gate of each lane.
        stop: First gate after it.
        lanes: Lanes that hold a segment; the last batch may not fill all.
        first: Block of the first gate.
        place: Name of the first jump of the first lane, see `photonmc.sampling.candidates.places`.
    """

    drawn: Any
    number: np.ndarray
    table: Table | None
    common: Any
    start: np.ndarray
    stop: np.ndarray
    lanes: int
    first: int
    place: int


class Followed(NamedTuple):
    """What became of a batch.

    Attributes:
        coded: Histogram over codes, code and bits of each event, see `photonmc.sampling.click_kernels`.
        gate: Of each event.
        category: What the light was.
        releases: Further events, which came between candidates, where they are kept apart.
    """

    coded: tuple[Any, Any, Any]
    gate: Any
    category: Any
    releases: Releases | None


class Batch(NamedTuple):
    """Events of a batch: histogram over codes, gates with events in each block from `first` on, its end, its record."""

    histogram: np.ndarray
    by_block: np.ndarray
    first: int
    end: int
    record: Record | None


class _Run:
    """Realizations of one point: plan and tables of all, random words of the one in the making."""

    def __init__(
        self,
        link: Link,
        protocol: Any,
        states: ChannelState,
        lengths: np.ndarray,
        block_size_z: int | None,
        kept: np.ndarray | None = None,
    ) -> None:
        self.link, self.protocol = link, protocol
        self.states = jax.tree.map(np.asarray, states)
        self.memory = link.receiver.memory(float(link.source.pulse_rate_hz))
        self.weights = tuple(map(np.asarray, cell_weights(link, protocol, states)))
        probability = np.minimum(self.weights[0].sum(axis=1), 1.0)
        self.blocks, self.lengths = blocks_of(lengths, probability), lengths
        self.kept = np.ones(len(lengths), dtype=bool) if kept is None else kept  # blocks that the selection keeps
        self.selects = not self.kept.all()
        self.sifting = Sifting(link, protocol)
        label = protocol.tally_labels(link)[:, 0]
        in_z = (label >= 0) & (label < 3 * len(link.source.intensities))
        gain = max(self.weights[0][0, in_z].sum(), 1e-300)
        self.plan = Plan(
            lengths,
            probability,
            reach(self.memory),
            float(self.memory.dead_time.max()),
            None if block_size_z is None else block_size_z / gain,
        )
        widest = math.ceil(lengths.sum() / self.plan.segments) if len(lengths) == 1 else int(FAR[True])
        self.kind = GENERAL
        if self.memory.recovers:
            self.kind = RECOVERING
        elif not self.memory.none and is_plain(self.memory):
            self.kind = NARROW if fits(widest + 1, self.memory) else PLAIN
        one = len(lengths) == 1 and self.kind != RECOVERING
        self.tables = self._tables_of_all() if one else None

    def begin(self, key: Any) -> None:
        """Begin a realization."""
        self.stream = key
        self.key = np.asarray(jax.random.key_data(key)).astype(np.uint32)

    def block(
        self,
        pulses: int | None,
        block_size_z: int | None,
        listener: Callable[[Record], None] | None,
        watch: Callable[[float], bool],
    ) -> Drawn:
        """The whole block: batch after batch, then the silent gates at once."""
        whole = listener is not None or block_size_z is not None
        histogram = np.zeros(self.sifting.size, np.int64)
        meant, gates = np.zeros(len(self.lengths), np.int64), pulses
        stopped, end = False, 0
        for batch in self._batches(whole):
            counted, by_block = batch.histogram, batch.by_block
            if whole:
                record = batch.record
                assert record is not None
                if block_size_z is not None:
                    detected = self.sifting.detected_z
                    missing = block_size_z - int(histogram[detected].sum())
                    reached = np.flatnonzero(np.cumsum(detected[record.code]) == missing)
                    if reached.size:
                        gates = int(record.pulse[reached[0]]) + 1
                        record = record.first(int(reached[0]) + 1)
                        counted = np.bincount(record.code, minlength=histogram.size)
                        by_block = np.array([record.code.size])
                if listener is not None:
                    listener(record.registered())
            histogram += counted
            room = meant[batch.first : batch.first + len(by_block)]
            room += by_block[: len(room)]
            if block_size_z is not None and gates is not None:
                break
            before, end = end, batch.end
            if watch(float(end - before)) and end != pulses:
                stopped, gates = True, end
                break
        assert gates is not None
        lengths = np.diff(np.minimum(np.append(0, self.blocks.ends), gates))  # a run that ends early ends within some block
        sums = self.sifting.sums(histogram, self._silent(np.where(self.kept, lengths - meant, 0)))
        return Drawn(np.array([gates]), *sums, stopped=stopped)

    def _silent(self, gates: np.ndarray) -> np.ndarray:
        """Number of gates in each cell among those in which nothing could click, given by the block that they lie in."""
        return draw_blocks(host_generator(fold_name(self.stream, "silent")), self.weights[1], gates, 1)[0]

    def _tables_of_all(self) -> Light:
        joint = np.asarray(joint_table(self.link, self.protocol, jax.tree.map(lambda leaf: leaf[0], self.states)))
        clicking = joint.copy()
        clicking[..., 0] = 0.0
        silent = alias_table(joint[..., 0].ravel())
        return Light(alias_table(clicking.ravel()), silent, None, np.int64(0))

    def _light(self, first: int, last: int) -> Light:
        """Tables of the blocks that a batch touches, filled up to a power of two."""
        if self.tables is not None:
            return self.tables
        span = slice(first, last + 1)
        filled = 1 << (last - first).bit_length()

        def padded(rows: np.ndarray) -> np.ndarray:
            return np.concatenate([rows[span], np.repeat(rows[last : last + 1], filled - (last - first + 1), axis=0)])

        candidate, silent = (self._cumulated(padded(weights)) for weights in self.weights)
        return Light(candidate, silent, jax.tree.map(padded, self.states), np.int64(first))

    @staticmethod
    def _cumulated(weights: np.ndarray) -> np.ndarray:
        cumulative = np.cumsum(weights, axis=1)
        total = cumulative[:, -1:]
        return cumulative / np.where(total > 0.0, total, 1.0)

    def _batches(self, whole: bool) -> Iterator[Batch]:
        """Batches in their order; several are in the making at a time.

        Each lane begins where the one before it ends. Every lane is first followed over its last candidates from live
        detectors, which mostly forget that they were; what comes out begins the next lane, and is made true before a batch
        is passed on.
        """
        jobs = ((index,) for index in range(self.plan.batches()))
        if self.memory.none:
            yield from in_order(lambda index: self._without_memory(self._candidates(index), whole), jobs)
            return

        def begun() -> Iterator[tuple[Any, ...]]:
            begin = fresh(1, self.memory)
            for candidates, guess in in_order(self._begun, jobs):
                yield candidates, begin, guess, whole
                begin = _last(guess, candidates.lanes)

        true = fresh(1, self.memory)
        for candidates, begin, ends, batch in in_order(self._remembered, begun()):
            if not _same(true, begin):
                *_, ends, batch = self._remembered(candidates, true, ends, whole)
            true = _last(ends, candidates.lanes)
            yield batch

    def _candidates(self, index: int) -> Candidates:
        """Candidates of a batch."""
        start, stop, block = self.plan.batch(index)
        first = int(block[0])
        last = int(min(np.searchsorted(self.blocks.ends, stop[-1] - 1, side="right"), len(self.blocks.ends) - 1))
        common = self.key, self.link, self.protocol, self._light(first, last)
        lanes, steps, done = self.plan.lanes, self.plan.steps, False
        edges = start, stop, block
        while not done:
            segment = np.int64(index * lanes)
            *drawn, number, times, done = candidates_of(*common, self.blocks, segment, edges, lanes, steps, self.kind)
            steps *= 2
        used = max(1, int((stop > start).sum()))
        table = None if times is None else Table(times, ())
        one = Candidates(tuple(drawn), np.asarray(number), table, common, start, stop, used, first, index * lanes * PLACES)
        return one if table is None else self._with_delays(one, levels_of(self.memory, times.size))

    def _with_delays(self, candidates: Candidates, levels: int) -> Candidates:
        """The same with delays of candidates and of so many levels of releases."""
        table = candidates.table
        assert table is not None
        missing = range(len(table.delays), levels + 1 if levels else 0)
        shape, narrow = table.candidates.shape, self.kind == NARROW
        more = (drawn_delays(self.key, candidates.place, level, shape, self.memory, narrow) for level in missing)
        return candidates._replace(table=table._replace(delays=(*table.delays, *more)))

    def _without_memory(self, candidates: Candidates, whole: bool) -> Batch:
        """Batch of detectors that forget at once: every candidate is a registered click."""
        gates, _, category = candidates.drawn
        coded = codes_of_light(gates, category, self.sifting.size)
        return self._counted(candidates, Followed(coded, gates, category, None), whole)

    def _counted(self, candidates: Candidates, followed: Followed, whole: bool) -> Batch:
        """Histogram of a batch; with `whole` the record of its events."""
        (histogram, code, bits), gate, category, releases = followed
        counted, code = np.array(histogram, dtype=np.int64), np.asarray(code)
        late = np.zeros(0, np.int64)
        if self.memory.lifetimes.size:
            code = code.copy()
            unsettled = np.nonzero(code == NOT_YET)
            ours = [np.asarray(array)[unsettled] for array in (gate, bits, category)]
            ours[0] = uncut(ours[0])
            if releases is not None:
                more = *releases, np.zeros(releases.gate.size, np.int32)
                ours = [np.concatenate(pair) for pair in zip(ours, more, strict=True)]
            late = self._late_codes(candidates, *ours)
            code[unsettled] = late[: unsettled[0].size]
            counted += np.bincount(late, minlength=counted.size)
        end, first = int(candidates.stop[-1]), candidates.first if self.tables is None else 0
        if not whole and len(self.lengths) == 1 and not self.selects:
            return Batch(counted, counted.sum(keepdims=True), 0, end, None)
        code, gate, bits = (np.asarray(array).T.ravel() for array in (code, gate, bits))
        there = code >= 0
        record = Record(uncut(gate[there]), bits[there] % LIGHT, code[there])
        if releases is not None:
            record = record.with_more(*releases, late[late.size - releases.gate.size :])
        block = np.searchsorted(self.blocks.ends, record.pulse, side="right") - first
        if self.selects:  # what blocks that are left out registered still blinds detectors, but does not count
            inside = self.kept[first + block]
            counted = np.bincount(record.code[inside], minlength=counted.size)
            record = record._replace(bits=np.where(inside, record.bits, record.bits & DOUBLE))
        return Batch(counted, np.bincount(block, minlength=1), first, end, record)

    def _late_codes(self, candidates: Candidates, gate: np.ndarray, bits: np.ndarray, category: np.ndarray) -> np.ndarray:
        filled = np.zeros((3, 1 << max(8, int(gate.size - 1).bit_length())), np.int64)  # few sizes, few compilations
        filled[:, : gate.size] = gate, bits, category
        return np.asarray(late_codes(*candidates.common, self.blocks, *filled))[: gate.size]

    def _begun(self, index: int) -> tuple[Candidates, State]:
        """Candidates of a batch, and a guess at the state at the end of each lane, from its last candidates."""
        candidates = self._candidates(index)
        first = np.maximum(candidates.number - WARM_UP, 0).astype(np.int32)
        live = fresh(self.plan.lanes, self.memory)
        if candidates.table is not None:
            return candidates, self._follow_plainly(candidates, live, int(first.min()), False)[0]
        return candidates, self._follow_generally(candidates, live, first)[0]

    def _remembered(
        self, candidates: Candidates, begin: State, ends: State, whole: bool
    ) -> tuple[Candidates, State, State, Batch]:
        """Batch whose first lane begins in a state, given a guess at the ends of all lanes; returned with the true ends.

        All lanes are followed, and once more from the ends so found if any of those differs from what the next lane began
        with, until none does: then all of them are true, by induction from the first lane.
        """
        while True:
            starts = jax.tree.map(lambda own, leaf: np.concatenate([own, leaf[..., :-1]], axis=-1), begin, ends)
            guess = ends
            ends, followed = self._follow(candidates, starts)
            if _same(guess, ends, candidates.lanes - 1):
                return candidates, begin, ends, self._counted(candidates, followed, whole)

    def _follow(self, candidates: Candidates, state: State) -> tuple[State, Followed]:
        """Follow all lanes of a batch from their first candidates on."""
        gates, _, category = candidates.drawn
        if candidates.table is None:
            ends, events = self._follow_generally(candidates, state, np.zeros(self.plan.lanes, np.int32))
            coded = *codes_of_events(events.bits, events.category, self.sifting.size), events.bits
            return ends, Followed(coded, events.gate, events.category, None)
        while True:
            ends, happened = self._follow_plainly(candidates, state, 0, True)
            levels, releases, clicks = len(candidates.table.delays) - 1, None, []
            if levels > 0:
                releases, enough = releases_of(np.asarray(happened), candidates.table, candidates.start)
                if not enough:
                    candidates = self._with_delays(candidates, 2 * levels)
                    continue
            policy = self.memory.policy
            coded = plain_codes(happened, candidates.table, category, policy, self.sifting.size)
            if releases is None:
                return ends, Followed(coded, gates, category, None)
            if policy == "all_live":
                gate, bits = uncut(np.asarray(gates).T.ravel()), np.asarray(coded[-1]).T.ravel()
                clicks = [gate[bits & click > 0] for click in (CLICK_0, CLICK_1)]
            more = as_events(releases, clicks, state.blinded[:, 0], self.memory)
            return ends, Followed(coded, gates, category, more)

    def _follow_plainly(self, candidates: Candidates, state: State, first: int, whole: bool) -> tuple[State, Any]:
        start, stop, last = candidates.start, candidates.stop, int(candidates.number.max()) + 1
        ends, happened = follow_plainly(state, candidates.table, start, stop, first, last, self.memory, whole)
        return jax.tree.map(np.asarray, ends), happened

    def _follow_generally(self, candidates: Candidates, state: State, first: np.ndarray) -> tuple[State, Events]:
        most, done = self._most(), False
        common, stop, late = candidates.common, candidates.stop, self.kind == RECOVERING
        while not done:
            ends, events, done = follow_lanes(*common, candidates.drawn, state, first, stop, self.memory, most, late)
            most *= 2
        return jax.tree.map(np.asarray, ends), events

    def _most(self) -> int:
        """Events of a lane: its candidates and the releases that they bring, at most."""
        steps, mean = self.plan.steps, float(self.memory.releases.sum(axis=1).max(initial=0.0))
        if mean == 0.0:
            return steps + 1
        more = steps * min(2.0, mean / max(0.1, 1.0 - mean) if self.memory.keeps_all else math.expm1(mean))
        return steps + math.ceil(more + 9.0 * math.sqrt(more)) + 40


def _last(state: State, lanes: int) -> State:
    """State of the last of so many lanes."""
    return jax.tree.map(lambda leaf: leaf[..., lanes - 1 : lanes], state)


def _same(one: State, other: State, lanes: int = 1) -> bool:
    """Whether the states of the first lanes are the same."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a[..., :lanes], b[..., :lanes]) for a, b in pairs)


WARM_UP = 96
"""Candidates at the end of a segment from which the state at its end is guessed."""


def sample_clicks(
    key: Key[Array, ""],
    link: Link,
    protocol: Any,
    realizations: int,
    pulses: int | None,
    block_size_z: int | None,
    listener: Callable[[Record], None] | None = None,
    watch: Callable[[float], bool] = unwatched,
) -> Iterator[Drawn]:
    """Realizations of a block, one at a time.

    Args:
        key: Of the point.
        link: Concrete values only.
        protocol: Its cells, outcomes and tally labels are read.
        realizations: Independent blocks.
        pulses: Pulses of each block, or None.
        block_size_z: Sifted Z detections at which a block stops, or None; for a channel that never changes.
        listener: Is given the registered clicks of each batch, in the order of gates.
        watch: Is told how many pulses were drawn, and says whether to stop.
    """
    stream = fold_name(key, "clicks")
    for realization in range(realizations):
        if realization == 0 or link.channel.fluctuates:
            lengths, states = trajectory(realization_key(key, link, realization), link, pulses)
            run = _Run(link, protocol, states, lengths, block_size_z, kept_blocks(link, pulses, states))
        run.begin(jax.random.fold_in(stream, realization))
        drawn = run.block(pulses, block_size_z, listener, watch)
        yield drawn
        if drawn.stopped:
            return
