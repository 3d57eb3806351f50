"""Many chunks of pulses at once on a GPU: two kernels in place of the compiled steps of `photonmc.sampling.chunks`.

The first draws the same leading bits as `photonmc.sampling.mechanisms.quiet`, sorts pulses by small tables, counts the
quiet ones in registers and writes down where the others are. The second lets `photonmc.sampling.mechanisms.follow` play
those. Both see the words that the other way sees, so that all results are the same; a pulse that
only one of the two filters lets through ends silent after it was followed.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from photonmc.sampling.chunks import CHUNK, Played
from photonmc.sampling.mechanisms import HIDDEN, MARKS, follow
from photonmc.sampling.thresholds import FEW, Thresholds
from photonmc.words import PhiloxWords, philox4x32

CHUNK_BITS, CHUNKS = CHUNK.bit_length() - 1, 256
"""Pulses of a chunk as a power of 2, and chunks that are played together."""
LANES, WORD, BLOCKS = 128, 32, 16
"""Lanes of a program, consecutive pulses of a lane, and how often a program goes on to the next of them."""
FOLLOWED = 128
"""Busy pulses of a program of the second kernel."""
COPIES = 256
"""Histograms of fates that are filled side by side, so that additions seldom wait for each other."""
FIELD, NONE = 5, 31
"""Bits of a counter in a word of them, and the shift of what is not counted: it falls off the word's upper end."""
UPPER, PHOTON_UPPER = 10, 8
"""Upper bits by which the tables of settings and of photon numbers are read; where two thresholds share them, pulses are
let through."""
BUSY = 1 << 7
"""Mark of an entry that does not tell what a number means."""


class Tables(NamedTuple):
    """What leading bits mean, by their upper few: a threshold, and a code of 8 bits on each side of it.

    Attributes:
        settings: Threshold, code above, code below; a code is `BUSY`, intensity (2 bits), shift of the counter (5 bits).
        photons: The same for each intensity; a code is `BUSY` or the photon number.
        bounds: Leading bits of the bounds on detection for each photon number, and of noise.
        busy: Probability that a pulse is let through.
    """

    settings: np.ndarray
    photons: np.ndarray
    bounds: np.ndarray
    busy: float

    @classmethod
    def of(cls, thresholds: Thresholds) -> Tables:
        """Tables of thresholds on the host."""
        intensities = thresholds.photons.shape[0]
        place = np.asarray(thresholds.quiet_labels, np.int64) // 4
        intensity = np.arange(3 * intensities) // 3
        codes = np.where(place < 2 * intensities, FIELD * place, NONE) | intensity << FIELD
        settings = _table(np.asarray(thresholds.settings_leading), codes, UPPER)
        photons = [_table(np.asarray(row)[::-1], [BUSY, 3, 2, 1, 0], PHOTON_UPPER) for row in thresholds.photons_leading]
        bounds = np.array([*np.asarray(thresholds.found_leading), thresholds.noise_leading], np.uint32)
        silent = 1.0 - (bounds + 1.0) / (1 << 16)
        meaning = _meaning(settings) >> FIELD
        quiet = 0.0
        for index, row in enumerate(photons):
            number = _meaning(row)
            undetected = np.where(number < FEW, silent[number % FEW], 0.0)
            quiet += float(np.mean(meaning == index) * np.mean(undetected) * silent[FEW])
        return cls(settings, np.concatenate(photons), bounds, 1.0 - quiet)


def _table(thresholds: np.ndarray, codes: Any, bits: int) -> np.ndarray:
    """Entries for rising thresholds of 16 bits; code j belongs to numbers from threshold j - 1 on and below j."""
    number = np.arange(1 << 16)
    code = np.asarray(codes)[np.searchsorted(thresholds, number, side="right")].reshape(1 << bits, -1)
    entries = np.zeros(1 << bits, np.uint32)
    for upper in range(1 << bits):
        cuts = np.unique(thresholds[thresholds >> 16 - bits == upper])
        nowhere = 0xFFFF if upper == 0 else 0  # equals no number with these upper bits
        cut = int(cuts[0]) if cuts.size else nowhere
        below, above = (int(code[upper, 0]), int(code[upper, -1])) if cuts.size < 2 else (BUSY, BUSY)
        entries[upper] = cut << 16 | above << 8 | below
    return entries


def _meaning(entries: np.ndarray) -> np.ndarray:
    """Codes of all numbers of 16 bits, `BUSY` where there is none."""
    number = np.arange(1 << 16)
    entry = entries[number * entries.size >> 16]
    cut = entry >> 16
    return np.where(number == cut, BUSY, np.where(number > cut, entry >> 8, entry) & 0xFF)


def _entry(table: Any, row: Any, number: Any, bits: int) -> tuple[Any, Any]:
    """Code of a number of 16 bits in a row of a table, and whether it equals a threshold."""
    entry = table[(row | number >> np.uint32(16 - bits)).astype(jnp.int32)]
    cut = entry >> np.uint32(16)
    return jnp.where(number >= cut, entry >> np.uint32(8), entry), number == cut


def _quiet(one: Any, other: Any, settings: Any, photons: Any, bounds: Any) -> tuple[Any, Any, list[Any]]:
    """Whether pulses are busy; the addend that counts them (0 for those); whether they have 1, 2, 3 photons at least."""
    low = np.uint32(0xFFFF)
    code, equal = _entry(settings, np.uint32(0), one >> np.uint32(16), UPPER)
    row = (code & np.uint32(3 << FIELD)) << np.uint32(PHOTON_UPPER - FIELD)
    number, equals = _entry(photons, row, one & low, PHOTON_UPPER)
    count = number & np.uint32(FEW - 1)
    least = [count >= np.uint32(some) for some in range(1, FEW)]
    bound = bounds[0]
    for some, reached in enumerate(least):
        bound = jnp.where(reached, bounds[some + 1], bound)
    busy = equal | equals | ((code | number) & np.uint32(BUSY) != 0) | (other >> np.uint32(16) <= bound)
    busy |= other & low <= bounds[FEW]
    return busy, jnp.where(busy, np.uint32(0), np.uint32(1) << (code & np.uint32(31))), least


def _ones(bits: Any) -> Any:
    """Number of ones in words; the kernels' compiler has no instruction for it."""
    bits = bits - (bits >> np.uint32(1) & np.uint32(0x55555555))
    bits = (bits & np.uint32(0x33333333)) + (bits >> np.uint32(2) & np.uint32(0x33333333))
    return ((bits + (bits >> np.uint32(4)) & np.uint32(0x0F0F0F0F)) * np.uint32(0x01010101) >> np.uint32(24)).astype(
        jnp.int32
    )


def _filter(
    key: Any,
    chunk: Any,
    limit: Any,
    settings: Any,
    photons: Any,
    bounds: Any,
    _: Any,
    positions: Any,
    counts: Any,
    busy: Any,
) -> None:
    """First kernel: a program's share of pulses; busy ones are written down in the order in which programs end."""
    program = pl.program_id(0).astype(jnp.uint32)
    share = np.uint32(LANES * BLOCKS)  # words of a program
    lane = jax.lax.iota(jnp.uint32, LANES)
    own_key, bound = (key[0], key[1]), [bounds[index] for index in range(FEW + 1)]
    zero = jnp.zeros(LANES, jnp.uint32)
    first, second = _chunk(chunk, program * share >> np.uint32(CHUNK_BITS - 5))
    room = positions.shape[0]

    def sort(word: Any, whole: bool) -> Any:
        """Marks of the busy ones of a word of pulses, and what its quiet ones add to the counters, by half word."""
        mask, halves = zero, []
        for half in range(2):  # a counter of 5 bits takes 31 pulses

            def step(turn: Any, carry: Any, half: int = half) -> Any:
                mask, tallies = carry
                at = np.uint32(half * WORD // 4) + turn.astype(jnp.uint32)
                pair = (word << np.uint32(4) | at) & np.uint32((1 << CHUNK_BITS - 1) - 1)
                drawn = philox4x32((pair, np.uint32(0), first, second), own_key)
                for odd, words in enumerate(((drawn.first, drawn.second), (drawn.third, drawn.fourth))):
                    place = at << np.uint32(1) | np.uint32(odd)
                    let_through, addend, least = _quiet(*words, settings, photons, bound)
                    if not whole:
                        sent = (word << np.uint32(5) | place) < limit[0]
                        let_through, addend = let_through & sent, jnp.where(sent, addend, np.uint32(0))
                    mask |= let_through.astype(jnp.uint32) << place
                    more = [jnp.where(reached, addend, np.uint32(0)) for reached in least]
                    tallies = tuple(tally + extra for tally, extra in zip(tallies, (addend, *more), strict=True))
                return mask, tallies

            mask, tallies = jax.lax.fori_loop(np.int32(0), np.int32(WORD // 4), step, (mask, (zero,) * FEW))
            halves.append(tallies)
        return mask, halves

    def block(turn: Any, sums: Any) -> Any:
        word = program * share + turn.astype(jnp.uint32) * np.uint32(LANES) + lane
        end = program * share + (turn.astype(jnp.uint32) + np.uint32(1)) * np.uint32(LANES)
        mask, halves = jax.lax.cond(
            end <= limit[0] >> np.uint32(5), functools.partial(sort, whole=True), functools.partial(sort, whole=False), word
        )
        for tallies in halves:
            sums = tuple(
                total + (tallies[index // 2] >> np.uint32(FIELD * (index % 2)) & np.uint32(0x1F07C1F))
                for index, total in enumerate(sums)
            )
        found = _ones(mask)
        before = jnp.cumsum(found, dtype=jnp.int32)
        at = triton.atomic_add(busy, (jnp.int32(0),), jnp.sum(found, dtype=jnp.int32)) + before - found

        def write(carry: Any) -> Any:
            mask, at = carry
            lowest = mask & (~mask + np.uint32(1))
            bit = _ones(lowest - np.uint32(1)).astype(jnp.uint32)
            there = (mask > 0) & (at < room)
            triton.store(positions.at[jnp.minimum(at, room - 1)], word << np.uint32(5) | bit, mask=there)
            return mask ^ lowest, at + 1

        jax.lax.while_loop(lambda carry: jnp.max(carry[0]) > 0, write, (mask, at))
        return sums

    sums = jax.lax.fori_loop(np.int32(0), np.int32(BLOCKS), block, (zero,) * (2 * FEW))
    for index, total in enumerate(sums):
        for third in range(3):
            counted = total >> np.uint32(2 * FIELD * third) & np.uint32(0x3FF)
            counts[0, index // 2 * 8 + 2 * third + index % 2] = jnp.sum(counted.astype(jnp.int32), dtype=jnp.int32)


def _chunk(first: Any, index: Any) -> tuple[Any, Any]:
    """Both words of a chunk's number, so many chunks after the first."""
    lower = first[0] + index
    return lower, first[1] + (lower < index).astype(jnp.uint32)


class _Table:
    """An array in device memory that is read in places, by the names that `follow` uses."""

    def __init__(self, reference: Any, shape: tuple[int, ...]) -> None:
        self._reference, self.shape = reference, shape

    def ravel(self) -> _Table:
        return self

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple):
            index = int(np.ravel_multi_index(index, self.shape))
        return self._reference[index if isinstance(index, int) else index.astype(jnp.int32)]


def _follow(
    key: Any,
    chunk: Any,
    busy: Any,
    positions: Any,
    settings: Any,
    photons: Any,
    found: Any,
    to_1: Any,
    noise: Any,
    codes: Any,
    *,
    intensities: int,
) -> None:
    """Second kernel: the fates of some busy pulses, packed."""
    program = pl.program_id(0)
    start = program * FOLLOWED

    @pl.when(start < busy[0])
    def _() -> None:
        index = start + jax.lax.iota(jnp.int32, FOLLOWED)
        position = positions[pl.ds(start, FOLLOWED)]
        position = jnp.where(index < busy[0], position, np.uint32(0))
        words = PhiloxWords((key[0], key[1]), _chunk(chunk, position >> np.uint32(CHUNK_BITS)))
        width = photons.shape[0] // intensities
        thresholds = Thresholds(
            _Table(settings, settings.shape),
            _Table(photons, (intensities, width)),
            _Table(found, (2, 2, width)),
            _Table(to_1, (2, 2)),
            _Table(noise, (3,)),
            *(None,) * 5,
        )
        codes[pl.ds(start, FOLLOWED)] = follow(words, thresholds, position & np.uint32((1 << CHUNK_BITS) - 1)).packed()


def play_chunks(words: PhiloxWords, thresholds: Thresholds, tables: Tables, pulses: int, interpret: bool = False) -> Played:
    """Play consecutive pulses, at most `CHUNKS` chunks of them; see `photonmc.sampling.chunks.play_chunk`.

    Args:
        words: Random words of the first chunk.
        thresholds: Of the state of the channel in which all are played.
        tables: Of these thresholds.
        pulses: That are sent.
        interpret: Whether to run the kernels without a GPU, which is slow.

    Returns:
        Positions count from the first chunk's beginning and come in no order.
    """
    limit = np.array([pulses], np.uint32)
    mean = tables.busy * pulses
    room = 1 << max(12, math.ceil(math.log2(mean + 8.0 * math.sqrt(mean) + 1.0)))
    while True:  # once, but for what is rarer than 1e-15
        at_least, fates, positions, codes, busy = _played(
            words.key, words.chunk, limit, tables[:3], thresholds, room, interpret
        )
        if int(busy) <= room:
            break
        room *= 2
    counts = np.asarray(at_least, np.int64)[:, : 2 * thresholds.photons.shape[0]]
    exactly = counts - np.pad(counts[1:], ((0, 1), (0, 0)))
    return Played(exactly.T.ravel(), np.asarray(fates, np.int64), positions, codes, int(busy))


@functools.partial(jax.jit, static_argnames=("room", "interpret"))
def _played(
    key: Any, chunk: Any, limit: Any, tables: Any, thresholds: Thresholds, room: int, interpret: bool
) -> tuple[Any, ...]:
    """Quiet pulses (photon number, place), fates, positions, codes and number of busy ones."""
    intensities = thresholds.photons.shape[0]
    programs = (CHUNKS << CHUNK_BITS) // (LANES * BLOCKS * WORD)
    bins = 8 * intensities * HIDDEN * MARKS + 1  # the last takes what is none
    whole = pl.BlockSpec(memory_space=pl.ANY)
    parameters: dict[str, Any] = {} if interpret else {"compiler_params": triton.CompilerParams(num_warps=4)}
    positions, counts, busy = pl.pallas_call(
        _filter,
        grid=(programs,),
        in_specs=[whole] * 7,
        out_specs=[whole, pl.BlockSpec((1, 8 * FEW), lambda program: (program, 0)), whole],
        out_shape=[
            jax.ShapeDtypeStruct((room,), jnp.uint32),
            jax.ShapeDtypeStruct((programs, 8 * FEW), jnp.int32),
            jax.ShapeDtypeStruct((1,), jnp.int32),
        ],
        input_output_aliases={6: 2},
        interpret=interpret,
        **parameters,
    )(key, chunk, limit, *tables, jnp.zeros(1, jnp.int32))
    flat = [part.ravel() for part in thresholds[:5]]
    codes = pl.pallas_call(
        functools.partial(_follow, intensities=intensities),
        grid=(room // FOLLOWED,),
        in_specs=[whole] * 9,
        out_specs=whole,
        out_shape=jax.ShapeDtypeStruct((room,), jnp.uint32),
        interpret=interpret,
        **parameters,
    )(key, chunk, busy, positions, *flat)
    index = jnp.arange(room)
    place = index % COPIES * bins + jnp.where(index < busy[0], codes.astype(jnp.int64), bins - 1)
    fates = jnp.zeros(COPIES * bins, jnp.int32).at[place].add(1).reshape(COPIES, bins).sum(axis=0)
    return counts.sum(axis=0).reshape(FEW, 8), fates[:-1], positions, codes, busy[0]
