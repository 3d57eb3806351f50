"""Pulses sampler: every pulse is followed mechanism by mechanism. It never reads the outcome table.

The independent ground truth for everything else. Work is cut into chunks of a fixed number of pulses. The random words
of a pulse depend on seed, point, realization, index of its chunk and place in it, so that results do not depend on how
many chunks are played at once, nor on the device.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import NO_CLICK
from photonmc.random import fold_name
from photonmc.sampling.mechanisms import HIDDEN, MARKS, busy_label, follow, label_type, quiet
from photonmc.sampling.thresholds import Thresholds, thresholds_of
from photonmc.words import words_of_chunk

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link

CHUNK = 1 << 20
"""Pulses of one chunk [count]; a chunk is played in one state of the channel."""
SIZES = tuple(sorted({(2 + half) << power for power in range(11, 19) for half in (0, 1)} | {CHUNK}))
"""Lengths of compiled kernels; a chunk that is not needed whole, and a list of busy pulses, take the next larger one."""


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


class Played(NamedTuple):
    """One chunk: histograms of quiet labels and of fates, and the busy pulses behind the latter, padded.

    Attributes:
        quiet: Pulses of each label of the filter.
        fates: Busy pulses by cell, photon class and marks, flat.
        positions: Places of the busy pulses, rising, then padding.
        codes: Their packed fates.
        busy: Number of busy pulses.
    """

    quiet: np.ndarray
    fates: np.ndarray
    positions: Any
    codes: Any
    busy: int


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


@functools.partial(jax.jit, static_argnames="lanes")
def _labels(words: Any, thresholds: Thresholds, lanes: int, limit: Any) -> Any:
    return quiet(words, thresholds, lanes, limit)


@jax.jit
def _codes(words: Any, thresholds: Thresholds, positions: Any) -> Any:
    return follow(words, thresholds, positions).packed()


@functools.partial(jax.jit, static_argnames="bins")
def _device_histogram(values: Any, counted: Any, bins: int) -> Any:
    """Histogram of the first values, on the device; what is not counted falls out of the range."""
    place = jnp.where(jnp.arange(values.size) < counted, values.astype(jnp.int32), bins)
    return jnp.zeros(bins, jnp.int32).at[place].add(1, mode="drop")


@functools.partial(jax.jit, static_argnames="intensities")
def _apart(labels: Any, intensities: int) -> Any:
    """Labels of single pulses from those of pairs."""
    half = label_type(intensities)
    bits = labels.dtype.type(8 * np.dtype(half).itemsize)
    return jnp.stack([labels.astype(half), (labels >> bits).astype(half)], axis=1).reshape(-1)


@functools.partial(jax.jit, static_argnames=("intensities", "size"))
def _device_positions(labels: Any, intensities: int, size: int) -> Any:
    return jnp.nonzero(labels == busy_label(intensities), size=size, fill_value=0)[0].astype(jnp.uint32)


def play_chunk(words: Any, thresholds: Thresholds, limit: int, on_host: bool | None = None) -> Played:
    """Play the first pulses of a chunk.

    Args:
        words: Random words of the chunk.
        thresholds: Of the state of the channel in which it is played.
        limit: Pulses that are sent, at most `CHUNK`.
        on_host: Whether to count on the host, where labels of one byte a pulse are at hand; by default where the
            kernels run on the host. The results are the same.
    """
    intensities = thresholds.photons.shape[0]
    bins = busy_label(intensities) + 1
    labels = _labels(words, thresholds, _room(limit), np.uint32(limit))
    if on_host is None:
        on_host = next(iter(labels.devices())).platform == "cpu"
    if on_host:
        labels = np.asarray(labels).view(label_type(intensities))
        counts = _histogram(labels, bins)
        found = np.flatnonzero(labels == busy_label(intensities))
        positions = np.zeros(_room(found.size), dtype=np.uint32)
        positions[: found.size] = found
    else:
        labels = _apart(labels, intensities)
        counts = np.asarray(_device_histogram(labels, labels.size, bins))
        positions = _device_positions(labels, intensities, _room(int(counts[-1])))
    busy = int(counts[-1])
    codes = _codes(words, thresholds, positions)
    bins = 8 * intensities * HIDDEN * MARKS
    if on_host:
        codes = np.asarray(codes)
        fates = np.bincount(codes[:busy], minlength=bins)
    else:
        fates = np.asarray(_device_histogram(codes, busy, bins), np.int64)
    return Played(counts, fates, positions, codes, busy)


def _room(pulses: int) -> int:
    return next(size for size in SIZES if size >= pulses)


def _histogram(labels: np.ndarray, bins: int) -> np.ndarray:
    """Histogram of an even number of labels; those of one byte are counted in pairs, which takes half the time."""
    if labels.itemsize > 1:
        return np.bincount(labels, minlength=bins)
    pairs = np.bincount(labels.view(np.uint16), minlength=1 << 16).reshape(256, 256)
    return (pairs.sum(axis=0) + pairs.sum(axis=1))[:bins]


def in_order(function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Results of jobs in their order; as many run at once as there are processors to use, in the caller's settings."""
    device = jax.config.jax_default_device  # settings of jax belong to a thread

    def one(job: tuple[Any, ...]) -> Any:
        with jax.enable_x64(True), jax.default_device(device):
            return function(*job)

    at_once = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Any] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(one, job))
                if len(waiting) > at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()


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
        total, missing = None, block_size_z
        for chunk, (part, played) in enumerate(in_order(play, ((one, chunk, CHUNK) for chunk in itertools.count()))):
            positions = sifting.z_detections(played)
            last = positions.size >= missing
            if last:  # the block ends with the pulse of the last missing detection
                part, _ = play(one, chunk, int(positions[missing - 1]) + 1)
            total = part if total is None else total + part
            missing -= positions.size
            if last:
                break
        yield total
