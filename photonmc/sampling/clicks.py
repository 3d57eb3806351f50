"""Clicks sampler: jumps from click to click, exact for detectors with memory, at a cost that follows clicks, not pulses.

A batch of candidate clicks is drawn (`candidates`), their light is drawn from the outcome table (`light`), the memory of the
detectors decides which of them register (`memory`), and registered clicks are sifted into a tally. Pulses in which nothing
happened are drawn in one go at the end.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import ChannelState, Drawn, unwatched
from photonmc.detector.memory import Memory
from photonmc.random import fold_name, host_generator
from photonmc.sampling.blocks import draw_blocks
from photonmc.sampling.candidates import NEVER, OUTCOMES, PLACES, Blocks, Plan, blocks_of, draw_candidates, places
from photonmc.sampling.codes import CLICK_0, CLICK_1, CODES, DOUBLE, HIDDEN, KEPT, LIGHT, Record, Sifting
from photonmc.sampling.light import OUTCOMES as OUTCOMES_OF_A_GATE
from photonmc.sampling.light import Alias, alias_table, cell_weights, drawn_cell, drawn_mark, joint_table, look_up
from photonmc.sampling.memory import Events, State, follow, fresh, reach
from photonmc.sampling.parallel import in_order, processors
from photonmc.sampling.philox import joined, words_at
from photonmc.sampling.plain_memory import (
    BEFORE,
    FAR,
    OWN,
    as_events,
    candidates_in,
    comes,
    drawn_delays,
    fits,
    follow_plainly,
    is_plain,
    packed_candidates,
)
from photonmc.sampling.trajectory import trajectory

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link

SILENT, MARKS = 2, 3
"""Streams of random words by gate: settings of silent gates, outcomes of recovering detectors."""
CELL = HIDDEN * OUTCOMES_OF_A_GATE
"""Categories of one cell."""
GENERAL, RECOVERING, PLAIN, NARROW = "general", "recovering", "plain", "narrow"
"""Kinds of memory: any, with efficiencies that recover, and that of `photonmc.sampling.plain_memory` in 64 and 32 bits."""
NOT_YET, NOTHING = -1, -2
"""Codes that are none; see `_codes`."""


class Candidates(NamedTuple):
    """Candidates of a batch.

    Attributes:
        drawn: Gates, blocks, categories and delays.
        common: What else kernels read.
        start: First gate of each lane.
        stop: First gate after it.
        lanes: Lanes that hold a segment; the last batch may not fill all.
        first: Block of the first gate.
    """

    drawn: Any
    common: Any
    start: np.ndarray
    stop: np.ndarray
    lanes: int
    first: int


class Batch(NamedTuple):
    """Events of a batch: histogram over codes, gates with events in each block from `first` on, its end, its record."""

    histogram: np.ndarray
    by_block: np.ndarray
    first: int
    end: int
    record: Record | None


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
def _candidates(
    key: Any,
    link: Any,
    protocol: Any,
    light: Light,
    blocks: Blocks,
    memory: Memory,
    segment: Any,
    edges: Any,
    lanes: int,
    steps: int,
    kind: str,
) -> tuple[Any, ...]:
    """Gates of a batch of candidates with their blocks, categories and delays; and whether all segments were finished."""
    gates, block, word, done = draw_candidates(key, segment, *edges, blocks, lanes, steps)
    place = places(segment, steps, lanes)
    category = _of_candidates(link, protocol, light, word, place, block, key, kind == RECOVERING)
    category, delays = category.astype(jnp.int32), None
    if kind in (PLAIN, NARROW):
        gates = packed_candidates(gates, _fired(category, True), edges[0], kind == NARROW)
        if memory.lifetimes.size:
            delays = jnp.stack([comes(key, place, stream, memory) for stream in (OWN, BEFORE)])
    return gates, block, category, delays, done


def _fired(category: Any, there: Any) -> Any:
    """Detectors that the light of each category fires, shape (2, ...), where there is any."""
    outcome = category % OUTCOMES_OF_A_GATE
    return there & jnp.stack([(outcome == 1) | (outcome > 2), outcome > 1])


@functools.partial(jax.jit, static_argnames=("most", "late"))
def _follow(
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
    gates, block, category, _ = drawn
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


@functools.partial(jax.jit, static_argnames="most")
def _follow_plainly(key: Any, drawn: Any, state: State, first: Any, start: Any, stop: Any, memory: Memory, most: int) -> Any:
    """The same for the commonest receivers."""
    packed, _, category, delays = drawn
    state, gate, bits, index, done = follow_plainly(state, packed, delays, first, start, stop, key, memory, most)
    return state, as_events(start, gate, bits, index, category), done


@functools.partial(jax.jit, static_argnames="size")
def _codes(drawn: Any, events: Events | None, size: int) -> tuple[Any, Events, Any]:
    """Histogram of a batch's events over (cell, hidden class, bits, coin), the events, and the code of each.

    The code is `NOT_YET` where settings or coin do not come from a candidate, and `NOTHING` where nothing happened.
    """
    gates, _, category, _ = drawn
    if events is None:  # without memory the candidates are the registered clicks
        there = (gates >= 0) & (gates < NEVER)
        fired = _fired(category, there)
        bits = jnp.where(there, fired[0] * CLICK_0 + fired[1] * CLICK_1 + (KEPT | LIGHT), 0)
        events = Events(jnp.where(there, gates, NEVER), bits, category)
    bits, outcome = events.bits.astype(jnp.int32), events.category % OUTCOMES_OF_A_GATE
    code = (events.category // OUTCOMES_OF_A_GATE) * CODES + (bits % LIGHT) * 2 + (outcome == 4)
    settled = (bits >= LIGHT) & ((bits & DOUBLE != DOUBLE) | (outcome > 2))
    code = jnp.where(settled, code, jnp.where(bits > 0, NOT_YET, NOTHING))
    return jnp.zeros(size, jnp.int32).at[jnp.where(code >= 0, code, size)].add(1, mode="drop"), events, code


@jax.jit
def _late_codes(
    key: Any, link: Any, protocol: Any, light: Light, blocks: Blocks, gate: Any, bits: Any, category: Any
) -> Any:
    """Codes of releases into gates without light, and of double clicks that one release made."""
    cell, hidden, coin = _of_silent(link, protocol, light, gate, blocks, key)
    bits = bits.astype(jnp.int32)
    settings = jnp.where(bits >= LIGHT, category // OUTCOMES_OF_A_GATE, cell * HIDDEN + hidden)
    return settings * CODES + (bits % LIGHT) * 2 + coin


class _Run:
    """Realizations of one point: plan and tables of all; of the one in the making, what the detectors remember."""

    def __init__(
        self, link: Link, protocol: Any, states: ChannelState, lengths: np.ndarray, block_size_z: int | None
    ) -> None:
        self.link, self.protocol = link, protocol
        self.states = jax.tree.map(np.asarray, states)
        self.memory = link.receiver.memory(float(link.source.pulse_rate_hz))
        self.weights = tuple(map(np.asarray, cell_weights(link, protocol, states)))
        probability = np.minimum(self.weights[0].sum(axis=1), 1.0)
        self.blocks, self.lengths = blocks_of(lengths, probability), lengths
        self.sifting = Sifting(link, protocol)
        label = protocol.tally_labels(link)[:, 0]
        in_z = (label >= 0) & (label < 3 * len(link.source.intensities))
        gain = max(self.weights[0][0, in_z].sum(), 1e-300)
        self.plan = Plan(lengths, probability, reach(self.memory), None if block_size_z is None else block_size_z / gain)
        widest = math.ceil(lengths.sum() / self.plan.segments) if len(lengths) == 1 else int(FAR[True])
        self.kind = GENERAL
        if self.memory.recovers:
            self.kind = RECOVERING
        elif not self.memory.none and is_plain(self.memory):
            self.kind = NARROW if fits(widest + 1, self.memory) else PLAIN
        one = len(lengths) == 1 and self.kind != RECOVERING
        self.tables = self._tables_of_all() if one else None

    def begin(self, key: Any) -> None:
        """Begin a realization: its random words, live detectors, empty traps."""
        self.stream = key
        self.key = np.asarray(jax.random.key_data(key)).astype(np.uint32)
        self.carry = fresh(1, self.memory)

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
        sums = self.sifting.sums(histogram, self._silent(lengths - meant))
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
        """Batches in their order; candidates of the next ones are drawn while a batch is followed."""
        jobs = ((index,) for index in range(self.plan.batches()))
        if self.memory.none:
            yield from in_order(lambda index: self._counted(self._candidates(index), None, whole), jobs)
            return
        ahead = in_order(self._candidates, jobs)
        while group := list(itertools.islice(ahead, processors())):
            pairs = zip(group, self._remembered(group), strict=True)
            yield from in_order(lambda candidates, events: self._counted(candidates, events, whole), pairs)

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
            *drawn, done = _candidates(*common, self.blocks, self.memory, segment, edges, lanes, steps, self.kind)
            steps *= 2
        if drawn[-1] is not None:
            first_place = index * lanes * PLACES
            drawn[-1] = drawn_delays(self.key, first_place, np.asarray(drawn[-1]), self.memory, self.kind == NARROW)
        return Candidates(tuple(drawn), common, start, stop, max(1, int((stop > start).sum())), first)

    def _counted(self, candidates: Candidates, events: Events | None, whole: bool) -> Batch:
        """Histogram of a batch; with `whole` the record of its events."""
        histogram, events, code = _codes(candidates.drawn, events, self.sifting.size)
        counted = np.array(histogram, dtype=np.int64)
        code = np.asarray(code)
        if self.memory.lifetimes.size:
            code = code.copy()
            late = np.nonzero(code == NOT_YET)
            found = self._late_codes(candidates, *(np.asarray(array)[late] for array in events))
            code[late] = found
            counted += np.bincount(found, minlength=counted.size)
        end, first = int(candidates.stop[-1]), candidates.first if self.tables is None else 0
        if not whole and len(self.lengths) == 1:
            return Batch(counted, counted.sum(keepdims=True), 0, end, None)
        code, gate, bits = (np.asarray(array).T.ravel() for array in (code, events.gate, events.bits))
        there = code >= 0
        record = Record(gate[there], bits[there] % LIGHT, code[there])
        block = np.searchsorted(self.blocks.ends, record.pulse, side="right") - first
        return Batch(counted, np.bincount(block, minlength=1), first, end, record)

    def _late_codes(self, candidates: Candidates, gate: np.ndarray, bits: np.ndarray, category: np.ndarray) -> np.ndarray:
        filled = np.zeros((3, 1 << max(8, int(gate.size - 1).bit_length())), np.int64)  # few sizes, few compilations
        filled[:, : gate.size] = gate, bits, category
        return np.asarray(_late_codes(*candidates.common, self.blocks, *filled))[: gate.size]

    def _remembered(self, group: list[Candidates]) -> list[Events]:
        """Events of consecutive batches, every lane from where the one before it ends.

        Each lane is first followed over its last candidates from live detectors, which mostly forget that they were; what
        comes out begins the next lane. All lanes are then followed in full, and once more from the ends so found if any of
        those differs from what the next lane began with, until none does: then all of them are true, by induction from the
        first lane.
        """
        lanes = self.plan.lanes
        guessed = list(in_order(self._guess, ((candidates,) for candidates in group)))
        starts = self._shifted(group, guessed)
        ends: list[Any] = [None] * len(group)
        events: list[Any] = [None] * len(group)
        changed = list(range(len(group)))
        while changed:
            jobs = ((group[number], starts[number], np.zeros(lanes, np.int32)) for number in changed)
            for number, (end, found) in zip(changed, in_order(self._follow, jobs), strict=True):
                ends[number], events[number] = end, found
            wanted = self._shifted(group, ends)
            changed = [n for n, one in enumerate(group) if not _same(wanted[n], starts[n], one.lanes)]
            starts = wanted
        used = group[-1].lanes
        self.carry = jax.tree.map(lambda leaf: leaf[..., used - 1 : used], ends[-1])
        return events

    def _guess(self, candidates: Candidates) -> State:
        """State at the end of each lane, from its last candidates."""
        gates = candidates.drawn[0]
        plain = self.kind in (PLAIN, NARROW)
        number = np.asarray(candidates_in(gates, self.kind == NARROW) if plain else (gates < NEVER).sum(axis=0))
        first = np.maximum(number - WARM_UP, 0).astype(np.int32)
        return self._follow(candidates, fresh(self.plan.lanes, self.memory), first)[0]

    def _follow(self, candidates: Candidates, state: State, first: np.ndarray) -> tuple[State, Events]:
        """Follow all lanes of a batch from their candidates `first` on."""
        most, done = self._most(), False
        while not done:
            ends, events, done = self._follow_some(candidates, state, first, most)
            most *= 2
        return jax.tree.map(np.asarray, ends), events

    def _follow_some(self, candidates: Candidates, state: State, first: np.ndarray, most: int) -> Any:
        drawn, start, stop = candidates.drawn, candidates.start, candidates.stop
        if self.kind in (PLAIN, NARROW):
            return _follow_plainly(self.key, drawn, state, first, start, stop, self.memory, most)
        return _follow(*candidates.common, drawn, state, first, stop, self.memory, most, self.kind == RECOVERING)

    def _shifted(self, group: list[Candidates], ends: list[State]) -> list[State]:
        """Where each lane begins, given where each ends."""
        starts, before = [], self.carry
        for one, end in zip(group, ends, strict=True):
            starts.append(jax.tree.map(lambda own, leaf: np.concatenate([own, leaf[..., :-1]], axis=-1), before, end))
            before = jax.tree.map(lambda leaf, last=one.lanes: leaf[..., last - 1 : last], end)
        return starts

    def _most(self) -> int:
        """Events of a lane: its candidates and the releases that they bring, at most."""
        steps, mean = self.plan.steps, float(self.memory.releases.sum(axis=1).max(initial=0.0))
        if mean == 0.0:
            return steps + 1
        more = steps * min(2.0, mean / max(0.1, 1.0 - mean) if self.memory.keeps_all else math.expm1(mean))
        return steps + math.ceil(more + 9.0 * math.sqrt(more)) + 40


def _same(one: State, other: State, lanes: int) -> bool:
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
    lengths, states = trajectory(key, link, pulses)
    run = _Run(link, protocol, states, lengths, block_size_z)
    for realization in range(realizations):
        run.begin(jax.random.fold_in(stream, realization))
        drawn = run.block(pulses, block_size_z, listener, watch)
        yield drawn
        if drawn.stopped:
            return
