"""Pulses sampler: every pulse is followed mechanism by mechanism. It never reads the outcome table.

The independent ground truth for everything else. Work is cut into chunks of a fixed number of pulses. The random words
of a pulse depend on seed, point, realization, index of its chunk and place in it, so that results do not depend on how
many chunks are played at once, nor on the device.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import NO_CLICK
from photonmc.random import fold_name
from photonmc.sampling.chunks import CHUNK, Played, in_order, play_chunk
from photonmc.sampling.mechanisms import HIDDEN, MARKS
from photonmc.sampling.thresholds import thresholds_of
from photonmc.words import words_of_chunk

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link


class Sampled(NamedTuple):
    """Blocks of one realization, or the sum over a chunk.

    Attributes:
        pulses: Pulses sent, shape (draw,), int64.
        tally: Sifted pulses, shape (draw, basis, intensity, hidden, result).
        detector_clicks: Clicks of each detector over all pulses, sifted or not, shape (draw, 2).
    """

    pulses: np.ndarray
    tally: np.ndarray
    detector_clicks: np.ndarray

    def __add__(self, other: Any) -> Sampled:
        """Sum of two parts of the same blocks."""
        return Sampled(*(mine + yours for mine, yours in zip(self, other, strict=True)))


class Sifting(NamedTuple):
    """How settings and outcomes of a protocol become a tally.

    Attributes:
        place: Place of each (cell, marks) in the flattened tally (basis, intensity, result); -1 where it is not sifted.
        intensities: Number of intensities.
    """

    place: np.ndarray
    intensities: int

    @classmethod
    def of(cls, link: Link, protocol: Any) -> Sifting:
        """Outcomes in the order none, only 0, only 1, both read as 0, both read as 1; marks are bits of fired and bit."""
        outcome = np.array([0, 1, 2, 3, 0, 1, 2, 4])
        return cls(protocol.tally_labels(link)[:, outcome], len(link.source.intensities))

    def sampled(self, pulses: int, played: Played) -> Sampled:
        """Tally of a chunk."""
        shape = (2, self.intensities, 3)
        tally = np.zeros((*shape, HIDDEN), dtype=np.int64)
        tally[:, :, NO_CLICK] = played.quiet[: 8 * self.intensities].reshape(2, self.intensities, HIDDEN)
        fates = played.fates.reshape(-1, HIDDEN, MARKS)
        sifted = self.place >= 0
        np.add.at(tally.reshape(-1, HIDDEN), self.place[sifted], np.swapaxes(fates, 1, 2)[sifted])
        by_mark = fates.sum(axis=(0, 1))
        clicks = [by_mark[[mark for mark in range(MARKS) if mark >> detector & 1]].sum() for detector in (0, 1)]
        return Sampled(np.array([pulses]), np.swapaxes(tally, -1, -2)[None], np.array([clicks]))

    def z_detections(self, played: Played) -> np.ndarray:
        """Positions of the sifted Z detections of a chunk, rising."""
        codes = np.asarray(played.codes)[: played.busy]
        place = self.place[codes // (HIDDEN * MARKS), codes % MARKS]
        found = (place >= 0) & (place < 3 * self.intensities) & (place % 3 != NO_CLICK)
        return np.asarray(played.positions)[: played.busy][found]


def sample_pulses(
    key: Key[Array, ""],
    link: Link,
    protocol: Any,
    realizations: int,
    pulses: int | None,
    block_size_z: int | None,
    generator: str = "philox4x32",
) -> Iterator[Sampled]:
    """Realizations of a block, one at a time; needs x64.

    Args:
        key: Key of the point.
        link: Source, channel and receiver.
        protocol: Protocol model.
        realizations: Independent blocks.
        pulses: Pulses of each block, or None.
        block_size_z: Sifted Z detections at which each block stops, or None.
        generator: Name of the random number generator, see `photonmc.words.GENERATORS`.
    """
    stream = fold_name(key, "pulses")
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # the same state whatever device plays the pulses
        state = jax.tree.map(lambda block: block[0], jax.device_get(link.draw(fold_name(key, "channel"), 1)))
        streams = (jax.random.fold_in(stream, realization) for realization in range(realizations))
    thresholds = jax.tree.map(jnp.asarray, thresholds_of(link, protocol, state, link.source.photon_number_tails()))
    sifting = Sifting.of(link, protocol)

    def play(stream: Any, chunk: int, limit: int) -> tuple[Sampled, Played]:
        played = play_chunk(words_of_chunk(generator, stream, chunk), thresholds, limit)
        return sifting.sampled(limit, played), played

    if block_size_z is None:
        assert pulses is not None
        chunks = -(-pulses // CHUNK)
        jobs = ((one, chunk, min(CHUNK, pulses - chunk * CHUNK)) for one in streams for chunk in range(chunks))
        results = in_order(play, jobs)
        for _ in range(realizations):
            yield functools.reduce(Sampled.__add__, (part for part, _ in itertools.islice(results, chunks)))
        return
    for one in streams:
        yield _until_last_detection(functools.partial(play, one), sifting, block_size_z)


def _until_last_detection(
    play: Callable[[int, int], tuple[Sampled, Played]], sifting: Sifting, block_size_z: int
) -> Sampled:
    """Chunks of one realization up to the pulse that brings the last missing sifted Z detection."""
    total, missing = None, block_size_z
    for chunk, (part, played) in enumerate(in_order(play, ((chunk, CHUNK) for chunk in itertools.count()))):
        positions = sifting.z_detections(played)
        if last := positions.size >= missing:
            part, _ = play(chunk, int(positions[missing - 1]) + 1)
        total = part if total is None else total + part
        if last:
            return total
        missing -= positions.size
    raise AssertionError("chunks never end")
