"""Clicks sampler: jumps from click to click, exact for detectors with memory, at a cost that follows clicks, not pulses.

A batch of candidate clicks is drawn (`candidates`), their light is drawn from the outcome table (`light`), the memory of the
detectors decides which of them register (`memory`), and registered clicks are sifted into a tally. Pulses in which nothing
happened are drawn in one go at the end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import NO_CLICK, ChannelState, Drawn, unwatched
from photonmc.detector.memory import Memory
from photonmc.random import fold_name, host_generator, multinomial
from photonmc.sampling.candidates import NEVER, OUTCOMES, Blocks, Plan, blocks_of, draw_candidates, places
from photonmc.sampling.light import Alias, alias_table, cell_weights, drawn_cell, drawn_mark, joint_table, look_up
from photonmc.sampling.memory import CLICK_0, CLICK_1, KEPT, LIGHT, Events, State, follow, fresh, reach
from photonmc.sampling.philox import joined, words_at
from photonmc.sampling.trajectory import trajectory

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link

SILENT, MARKS = 2, 3
"""Streams of random words by gate: settings of silent gates, outcomes of recovering detectors."""
HIDDEN, OUTCOMES_OF_A_GATE = 4, 5
CELL = HIDDEN * OUTCOMES_OF_A_GATE
"""Hidden classes (0, 1, 2, 3 and more photons), outcomes, and categories of one cell."""


class Record(NamedTuple):
    """Registered clicks in the order of gates; arrays of one entry a gate in which something clicked.

    Attributes:
        pulse: Index of the gate.
        bits: CLICK_0, CLICK_1, KEPT.
        cell: Settings of the pulse.
        coin: Random bit of a double click.
        place: Place in the flattened tally (basis, intensity, result, hidden), -1 where the bases differ.
    """

    pulse: np.ndarray
    bits: np.ndarray
    cell: np.ndarray
    coin: np.ndarray
    place: np.ndarray


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
    """Categories, (cell x hidden class + hidden class) x 5 + outcome, of candidates; only cells where the rest is drawn later."""
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


@functools.partial(jax.jit, static_argnames=("lanes", "steps", "late"))
def _candidates(
    key: Any, link: Any, protocol: Any, light: Light, blocks: Blocks, segment: Any, edges: Any, lanes: int, steps: int, late: bool
) -> tuple[Any, ...]:
    """Gates of a batch of candidates with their blocks and categories; and whether all segments were finished."""
    gates, block, word, done = draw_candidates(key, segment, *edges, blocks, lanes, steps)
    category = _of_candidates(link, protocol, light, word, places(segment, steps, lanes), block, key, late)
    return gates, block, category.astype(jnp.int32), done


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


@functools.partial(jax.jit, static_argnames=("releases", "whole"))
def _sifted(
    key: Any,
    link: Any,
    protocol: Any,
    light: Light,
    blocks: Blocks,
    drawn: Any,
    events: Events | None,
    releases: bool,
    whole: bool,
) -> Any:
    """Tally of a batch, registered clicks of each detector, gates in it; and with `whole` the record of its events."""
    gates, block, category = drawn
    remembered = events is not None
    if events is None:  # without memory the candidates are the registered clicks
        there = (gates >= 0) & (gates < NEVER)
        fired = _fired(category, there)
        bits = jnp.where(there, fired[0] * CLICK_0 + fired[1] * CLICK_1 + (KEPT | LIGHT), 0)
        events = Events(jnp.where(there, gates, NEVER), bits, category)
    category = events.category
    lit, cell, hidden = (events.bits & LIGHT) > 0, category // CELL, category // OUTCOMES_OF_A_GATE % HIDDEN
    coin = category % OUTCOMES_OF_A_GATE - 3  # of a double click of the light alone
    clicked = events.bits & (CLICK_0 | CLICK_1)
    if releases:
        silent_cell, silent_hidden, silent_coin = _of_silent(link, protocol, light, events.gate, blocks, key)
        cell, hidden = jnp.where(lit, cell, silent_cell), jnp.where(lit, hidden, silent_hidden)
        coin = jnp.where(lit & (coin >= 0), coin, silent_coin)
    label, nowhere = protocol.tally_labels(link), 6 * len(link.source.intensities)
    kept = (events.bits & KEPT) > 0
    outcome = jnp.where(kept, jnp.where(clicked == 3, 3 + jnp.maximum(coin, 0), clicked), 0)
    at = jnp.asarray(label)[cell, outcome]
    meant = lit | (clicked > 0)
    if blocks.ends.shape[0] == 1:
        by_block = meant.sum()[None]
    else:
        if remembered:
            block = jnp.searchsorted(blocks.ends, events.gate, side="right")
        rows = light.candidate.shape[0]
        by_block = jnp.zeros(rows + 1, jnp.int32).at[jnp.where(meant, block - light.first, rows)].add(1)[:-1]
    place = jnp.where(meant & (at >= 0), at * HIDDEN + jnp.where(kept, hidden, 0), nowhere * HIDDEN)
    tally = jnp.zeros(nowhere * HIDDEN + 1, jnp.int32).at[place].add(1)[:-1]
    clicks = jnp.stack([((events.bits & bit) > 0).sum() for bit in (CLICK_0, CLICK_1)])
    record = (events.gate, events.bits, cell, coin, jnp.where(at >= 0, place, -1)) if whole else None
    return tally, clicks, by_block, record


class _Run:
    """One realization in the making: its plan, its tables, what the detectors remember at the end of the last batch."""

    def __init__(
        self, key: Any, link: Link, protocol: Any, states: ChannelState, lengths: np.ndarray, block_size_z: int | None
    ) -> None:
        self.link, self.protocol, self.stream = link, protocol, key
        self.key = np.asarray(jax.random.key_data(key)).astype(np.uint32)
        self.states = jax.tree.map(np.asarray, states)
        self.memory = link.receiver.memory(float(link.source.pulse_rate_hz))
        self.late = self.memory.recovers
        self.weights = tuple(map(np.asarray, cell_weights(link, protocol, states)))
        probability = np.minimum(self.weights[0].sum(axis=1), 1.0)
        self.blocks, self.lengths = blocks_of(lengths, probability), lengths
        self.labels = protocol.tally_labels(link)
        self.rows = len(link.source.intensities) * 3
        in_z = (self.labels[:, 0] >= 0) & (self.labels[:, 0] < self.rows)
        gain = max(self.weights[0][0, in_z].sum(), 1e-300)
        self.plan = Plan(lengths, probability, reach(self.memory), None if block_size_z is None else block_size_z / gain)
        self.carry = fresh(1, self.memory)
        one = len(lengths) == 1 and not self.late
        self.tables = self._tables_of_all() if one else None

    def block(
        self,
        pulses: int | None,
        block_size_z: int | None,
        listener: Callable[[Record], None] | None,
        watch: Callable[[float], bool],
    ) -> Drawn:
        """The whole block: batch after batch, then the silent gates at once."""
        whole = listener is not None or block_size_z is not None
        tally = np.zeros(2 * self.rows * HIDDEN, np.int64)
        clicks, meant, gates = np.zeros(2, np.int64), np.zeros(len(self.lengths), np.int64), pulses
        stopped, end = False, 0
        for index in range(self.plan.batches()):
            counted, clicked, by_block, record = self.batch(index, whole)
            if whole:
                record, count = _in_order(record)
                if block_size_z is not None and (cut := self._last(record, block_size_z, tally)) is not None:
                    gates = int(record.pulse[cut]) + 1
                    record = Record(*(array[: cut + 1] for array in record))
                    count = cut + 1
                counted = np.bincount(record.place[record.place >= 0], minlength=tally.size)
                clicked = [(record.bits & bit > 0).sum() for bit in (CLICK_0, CLICK_1)]
                by_block = by_block if block_size_z is None else np.array([count])
                if listener is not None:
                    registered = record.bits & (CLICK_0 | CLICK_1) > 0
                    listener(Record(*(array[registered] for array in record)))
            first = 0 if self.tables is not None else self._first
            room = meant[first : first + len(by_block)]
            room += by_block[: len(room)]
            tally, clicks = tally + counted, clicks + clicked
            if block_size_z is not None and gates is not None:
                break
            before, end = end, int(self.plan.batch(index)[1][-1])
            if watch(float(end - before)) and end != pulses:
                stopped, gates = True, end
                break
        assert gates is not None
        # a run that ended early ends within some block
        lengths = np.diff(np.minimum(np.append(0, self.blocks.ends), gates))
        tally = tally + self._silent(lengths - meant)
        shaped = tally.reshape(2, self.rows // 3, 3, HIDDEN)
        return Drawn(np.array([gates]), np.swapaxes(shaped, -1, -2)[None], clicks[None], stopped=stopped)

    def _last(self, record: Record, block_size_z: int, tally: np.ndarray) -> int | None:
        """Index of the event that brings the last missing Z detection, None where it comes later."""
        label = record.place // HIDDEN
        detected = (record.place >= 0) & (label < self.rows) & (label % 3 != NO_CLICK)
        so_far = tally[: self.rows * HIDDEN].reshape(-1, 3, HIDDEN)[:, NO_CLICK + 1 :].sum()
        reached = np.flatnonzero(np.cumsum(detected) == block_size_z - so_far)
        return int(reached[0]) if reached.size else None

    def _silent(self, gates: np.ndarray) -> np.ndarray:
        """Tally of gates in which nothing could click, by the block that they lie in."""
        rng = host_generator(fold_name(self.stream, "silent"))
        cells = _multinomials(rng, gates, self.weights[1])
        label = self.labels[:, 0]
        tally = np.zeros(2 * self.rows * HIDDEN, np.int64)
        np.add.at(tally, label[label >= 0] * HIDDEN, cells[label >= 0])
        return tally

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

    def batch(self, index: int, whole: bool) -> Any:
        """Tally, clicks, gates in which something could click by block, and record, of one batch."""
        start, stop, block = self.plan.batch(index)
        last = int(min(np.searchsorted(self.blocks.ends, stop[-1] - 1, side="right"), len(self.blocks.ends) - 1))
        self._first = int(block[0])
        light = self._light(self._first, last)
        common = self.key, self.link, self.protocol, light
        lanes, steps, done = self.plan.lanes, self.plan.steps, False
        while not done:
            *drawn, done = _candidates(
                *common, self.blocks, np.int64(index * lanes), (start, stop, block), lanes, steps, self.late
            )
            steps *= 2
        events = None if self.memory.none else self._remembered(common, drawn, stop)
        tally, clicks, meant, record = _sifted(
            *common, self.blocks, drawn, events, self.memory.lifetimes.size > 0, whole
        )
        return np.asarray(tally), np.asarray(clicks), np.asarray(meant), record

    def _remembered(self, common: Any, drawn: list[Any], stop: np.ndarray) -> Events:
        """Events of a batch, every lane from where the one before it ends.

        Each lane is first followed over its last candidates from live detectors, which mostly forget that they were; what
        comes out begins the next lane. All lanes are then followed in full, and once more from the ends so found if any of
        those differs from what the next lane began with, until none does: then all of them are true, by induction from the
        first lane.
        """
        gates, lanes = drawn[0], self.plan.lanes
        zeros = np.zeros(lanes, np.int32)
        most = self._most()
        starts = fresh(lanes, self.memory)
        if lanes > 1:
            number = np.asarray((gates < NEVER).sum(axis=0))
            ends, _, _ = self._follow(common, drawn, starts, np.maximum(number - WARM_UP, 0), stop, most)
            starts = self._shifted(ends)
        else:
            starts = self.carry
        while True:
            ends, events, done = self._follow(common, drawn, starts, zeros, stop, most)
            if not done:
                most *= 2
                continue
            wanted = self._shifted(ends)
            if all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(starts), strict=True)):
                break
            starts = wanted
        self.carry = jax.tree.map(lambda leaf: np.asarray(leaf)[..., -1:], ends)
        return events

    def _follow(self, common: Any, drawn: Any, state: State, first: Any, stop: Any, most: int) -> Any:
        return _follow(*common, tuple(drawn), state, first, stop, self.memory, most, self.late)

    def _shifted(self, ends: State) -> State:
        """Where each lane begins, given where each ends."""
        return jax.tree.map(
            lambda own, leaf: np.concatenate([own, np.asarray(leaf)[..., :-1]], axis=-1), self.carry, ends
        )

    def _most(self) -> int:
        """Events of a lane: its candidates and the releases that they bring, at most."""
        steps, mean = self.plan.steps, float(self.memory.releases.sum(axis=1).max(initial=0.0))
        if mean == 0.0:
            return steps + 1
        more = steps * min(2.0, mean / max(0.1, 1.0 - mean) if self.memory.keeps_all else math.expm1(mean))
        return steps + math.ceil(more + 9.0 * math.sqrt(more)) + 40


def _multinomials(rng: np.random.Generator, trials: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum over blocks of multinomial draws, shape (category,)."""
    if len(trials) == 1:
        return multinomial(rng, trials, weights[0])[0]
    total, left = np.zeros(weights.shape[1], np.int64), trials.copy()
    remaining = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    for index in range(weights.shape[1]):
        share = weights[:, index] / np.where(remaining[:, index] > 0.0, remaining[:, index], 1.0)
        drawn = rng.binomial(left, np.clip(share, 0.0, 1.0)) if index < weights.shape[1] - 1 else left
        total[index], left = drawn.sum(), left - drawn
    return total


def _in_order(arrays: Any) -> tuple[Record, int]:
    """Gates of a batch that are no empty places, in the order of time, and their number."""
    gate, *others = (np.asarray(array).T.ravel() for array in arrays)
    there = gate < NEVER
    record = Record(*(array[there] for array in (gate, *others)))
    return record, len(record.pulse)


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
    for realization in range(realizations):
        run = _Run(jax.random.fold_in(stream, realization), link, protocol, states, lengths, block_size_z)
        drawn = run.block(pulses, block_size_z, listener, watch)
        yield drawn
        if drawn.stopped:
            return
