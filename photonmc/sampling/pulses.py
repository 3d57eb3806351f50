"""Pulses sampler: every pulse is followed mechanism by mechanism. It never reads the outcome table.

The independent ground truth for everything else. Work is cut into chunks of a fixed number of pulses. The random words
of a pulse depend on seed, point, realization, index of its chunk and place in it, so that results do not depend on how
many chunks are played at once, nor on the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import NO_CLICK, Drawn, unwatched
from photonmc.detector.memory import Memory
from photonmc.random import fold_name
from photonmc.sampling.chunks import CHUNK, Played, chunk_fates, play_chunk, room_for
from photonmc.sampling.codes import CLICK_0, CLICK_1, CODES, DOUBLE, HIDDEN, KEPT, Record, Sifting
from photonmc.sampling.gates import live_and_empty, through_gates
from photonmc.sampling.mechanisms import MARKS, Fates, unit
from photonmc.sampling.parallel import in_order
from photonmc.sampling.thresholds import Thresholds, thresholds_of
from photonmc.sampling.trajectory import kept_blocks, realization_key, trajectory
from photonmc.words import words_of_chunk

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link


class Counting(NamedTuple):
    """How settings and outcomes of a protocol become a tally, detectors without memory.

    Attributes:
        place: Place of each (cell, marks) in the flattened tally (basis, intensity, result); -1 where it is not sifted.
        intensities: Number of intensities.
    """

    place: np.ndarray
    intensities: int

    @classmethod
    def of(cls, link: Link, protocol: Any) -> Counting:
        """Outcomes in the order none, only 0, only 1, both read as 0, both read as 1; marks are bits of fired and bit."""
        outcome = np.array([0, 1, 2, 3, 0, 1, 2, 4])
        return cls(protocol.tally_labels(link)[:, outcome], len(link.source.intensities))

    def sums(self, played: Played) -> tuple[np.ndarray, np.ndarray]:
        """Tally (basis, intensity, hidden, result) of a chunk, and clicks of each detector."""
        shape = (2, self.intensities, 3)
        tally = np.zeros((*shape, HIDDEN), dtype=np.int64)
        tally[:, :, NO_CLICK] = played.quiet[: 8 * self.intensities].reshape(2, self.intensities, HIDDEN)
        fates = played.fates.reshape(-1, HIDDEN, MARKS)
        sifted = self.place >= 0
        np.add.at(tally.reshape(-1, HIDDEN), self.place[sifted], np.swapaxes(fates, 1, 2)[sifted])
        by_mark = fates.sum(axis=(0, 1))
        clicks = [by_mark[[mark for mark in range(MARKS) if mark >> detector & 1]].sum() for detector in (0, 1)]
        return np.swapaxes(tally, -1, -2), np.array(clicks)

    def z_detections(self, played: Played) -> np.ndarray:
        """Positions of the sifted Z detections of a chunk, rising."""
        codes = np.asarray(played.codes)[: played.busy]
        place = self.place[codes // (HIDDEN * MARKS), codes % MARKS]
        found = (place >= 0) & (place < 3 * self.intensities) & (place % 3 != NO_CLICK)
        return np.sort(np.asarray(played.positions)[: played.busy][found])


def sample_pulses(
    key: Key[Array, ""],
    link: Link,
    protocol: Any,
    realizations: int,
    pulses: int | None,
    block_size_z: int | None,
    generator: str = "philox4x32",
    listener: Callable[[Record], None] | None = None,
    watch: Callable[[float], bool] = unwatched,
) -> Iterator[Drawn]:
    """Realizations of a block, one at a time; needs x64.

    Args:
        key: Key of the point.
        link: Source, channel and receiver, concrete values only.
        protocol: Protocol model.
        realizations: Independent blocks.
        pulses: Pulses of each block, or None.
        block_size_z: Sifted Z detections at which each block stops, or None; for a channel that never changes.
        generator: Name of the random number generator, see `photonmc.words.GENERATORS`.
        listener: Is given the registered clicks of each chunk, in the order of gates.
        watch: Is told how many pulses were played, and says whether to stop.
    """
    stream = fold_name(key, "pulses")
    memory = link.receiver.memory(float(link.source.pulse_rate_hz))
    counted = memory.none and listener is None
    many = counted and generator == "philox4x32" and len(link.source.intensities) <= 3 and _on_gpu()
    for realization in range(realizations):
        if realization == 0 or link.channel.fluctuates:
            stretches = Stretches(realization_key(key, link, realization), link, protocol, pulses, many)
        words = functools.partial(words_of_chunk, generator, jax.random.fold_in(stream, realization))
        if counted:
            drawn = _counted(words, stretches, Counting.of(link, protocol), block_size_z, watch)
        else:
            drawn = _followed(words, stretches, Sifting(link, protocol), memory, block_size_z, listener, watch)
        yield drawn
        if drawn.stopped:
            return


def _on_gpu() -> bool:
    """Whether arrays live on a GPU where nothing else is said, and this jax can compile kernels for it."""
    if any(device.platform != "gpu" for device in jnp.zeros(()).devices()):
        return False
    try:
        import photonmc.sampling.gpu_pulses  # noqa: F401
    except ImportError:
        return False
    return True


class Stretch(NamedTuple):
    """Pulses played together: number of their first chunk, first pulse, how many, and thresholds of the channel's state."""

    chunk: int
    first: int
    pulses: int
    thresholds: Thresholds
    kept: bool = True
    """Whether the selection keeps them."""
    tables: Any = None
    """What a GPU reads instead of leading bits, where it plays many chunks at once."""


class Stretches:
    """The pulses of a run in chunks, none of which lies across a change of the channel; or in many chunks, on a GPU."""

    def __init__(self, key: Any, link: Link, protocol: Any, pulses: int | None, many: bool = False) -> None:
        self._link, self._protocol, self._many = link, protocol, many
        self._lengths, self._states = trajectory(key, link, pulses)
        self._kept = kept_blocks(link, pulses, self._states)
        self._tails = link.source.photon_number_tails()

    def __iter__(self) -> Iterator[Stretch]:
        chunk = first = 0
        for block, length in enumerate(self._lengths.tolist()):
            thresholds = self._thresholds(block)
            most, tables = CHUNK, None
            if self._many and length > CHUNK:
                from photonmc.sampling.gpu_pulses import CHUNKS, Tables

                most, tables = CHUNKS * CHUNK, Tables.of(thresholds)
            thresholds = jax.tree.map(jnp.asarray, thresholds)
            for start in range(0, length, most):
                pulses = min(most, length - start)
                yield Stretch(chunk, first, pulses, thresholds, bool(self._kept[block]), tables)
                chunk, first = chunk + -(-pulses // CHUNK), first + pulses

    def _thresholds(self, block: int) -> Thresholds:
        state = jax.tree.map(lambda leaf: leaf[block], self._states)
        return thresholds_of(self._link, self._protocol, state, self._tails)


def _counted(
    words: Callable[[int], Any],
    stretches: Stretches,
    counting: Counting,
    block_size_z: int | None,
    watch: Callable[[float], bool],
) -> Drawn:
    """One block of pulses that are independent of each other, counted chunk by chunk."""

    def play(stretch: Stretch) -> tuple[Stretch, Played | None]:
        if not stretch.kept:
            return stretch, None
        chosen = words(stretch.chunk), stretch.thresholds
        if stretch.tables is None:
            return stretch, play_chunk(*chosen, stretch.pulses)
        from photonmc.sampling.gpu_pulses import play_chunks

        return stretch, play_chunks(*chosen, stretch.tables, stretch.pulses)

    tally, clicks = np.zeros((2, counting.intensities, HIDDEN, 3), np.int64), np.zeros(2, np.int64)
    sent, missing = 0, block_size_z
    for stretch, played in in_order(play, ((stretch,) for stretch in stretches)):
        if missing is not None and played is not None:
            positions = counting.z_detections(played)
            if last := positions.size >= missing:
                stretch, played = play(stretch._replace(pulses=int(positions[missing - 1]) + 1))
            missing -= positions.size
        if played is not None:
            counted, clicked = counting.sums(played)
            tally, clicks = tally + counted, clicks + clicked
        sent += stretch.pulses
        if missing is not None and last:
            break
        if watch(float(stretch.pulses)):
            return Drawn(np.array([sent]), tally[None], clicks[None], stopped=True)
    return Drawn(np.array([sent]), tally[None], clicks[None])


def _followed(
    words: Callable[[int], Any],
    stretches: Stretches,
    sifting: Sifting,
    memory: Memory,
    block_size_z: int | None,
    listener: Callable[[Record], None] | None,
    watch: Callable[[float], bool],
) -> Drawn:
    """One block, every pulse of it written down and, where detectors have a memory, passed through gate by gate."""

    def play(stretch: Stretch) -> tuple[Stretch, Fates, Any]:
        own = words(stretch.chunk)
        uniform = None if memory.none else np.asarray(_uniforms(own, room_for(stretch.pulses)))
        return stretch, chunk_fates(own, stretch.thresholds, stretch.pulses, memory.recovers), uniform

    state = live_and_empty(memory)
    histogram, sent, stopped = np.zeros(sifting.size, np.int64), 0, False
    for stretch, fates, uniform in in_order(play, ((stretch,) for stretch in stretches)):
        if memory.none:
            bits = fates.fired_0 * CLICK_0 + fates.fired_1 * CLICK_1
            bits = bits + (bits > 0) * KEPT
        else:
            hits = np.stack(fates.levels or (fates.fired_0, fates.fired_1), axis=1)
            padded = np.pad(hits, ((0, len(uniform) - len(hits)), (0, 0)))
            state, found = through_gates(
                state, np.int64(stretch.first), np.int64(stretch.pulses), padded, uniform, memory, memory.recovers
            )
            bits = np.asarray(found)[: stretch.pulses].astype(np.int64)
        settings = fates.cell.astype(np.int64) * HIDDEN + fates.photons
        record = Record(stretch.first + np.arange(stretch.pulses), bits, settings * CODES + bits * 2 + fates.double_bit)
        if block_size_z is not None:
            missing = block_size_z - int(histogram[sifting.detected_z].sum())
            reached = np.flatnonzero(np.cumsum(sifting.detected_z[record.code]) == missing)
            record = record.first(int(reached[0]) + 1) if reached.size else record
        if stretch.kept:
            histogram += np.bincount(record.code, minlength=histogram.size)
        else:  # its clicks still blind detectors, but do not count
            record = record._replace(bits=record.bits & DOUBLE)
        sent += record.code.size
        if listener is not None:
            listener(record.registered())
        if block_size_z is not None and reached.size:
            break
        if stopped := watch(float(stretch.pulses)):
            break
    return Drawn(np.array([sent]), *sifting.sums(histogram), stopped=stopped)


RELEASES = 3 << 30
"""Group of random words that decide on releases of traps."""


@functools.partial(jax.jit, static_argnames="pulses")
def _uniforms(words: Any, pulses: int) -> Any:
    """Random numbers in [0, 1) for both detectors in each gate of a chunk, shape (pulse, 2)."""
    drawn = words(np.uint32(RELEASES), jax.lax.iota(jnp.uint32, pulses))
    return jnp.stack([unit(drawn.first, drawn.second), unit(drawn.third, drawn.fourth)], axis=1)
