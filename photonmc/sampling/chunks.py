"""One chunk of pulses: filtered, its busy pulses followed, and both counted; or every pulse written down.

Kernels are compiled for a few lengths alone. Numbers are counted on the host where the kernels run there, because
scattered additions are slow in compiled code for processors; on an accelerator nothing but histograms leaves it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.sampling.mechanisms import HIDDEN, MARKS, Fates, busy_label, follow, label_type, quiet
from photonmc.sampling.thresholds import Thresholds

CHUNK = 1 << 20
"""Pulses of one chunk [count]; a chunk is played in one state of the channel."""
LENGTHS = (1 << 12, 1 << 16, CHUNK)
"""Lengths for which the filter is compiled; a chunk that is not needed whole takes the next larger one."""
BATCHES = (1 << 12, 1 << 15, 1 << 18)
"""Busy pulses followed at once; the smallest batch of which four are enough, or the largest."""


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


@functools.partial(jax.jit, static_argnames="lanes")
def _labels(words: Any, thresholds: Thresholds, lanes: int, limit: Any) -> Any:
    return quiet(words, thresholds, lanes, limit)


@jax.jit
def _codes(words: Any, thresholds: Thresholds, positions: Any) -> Any:
    return follow(words, thresholds, positions).packed()


@functools.partial(jax.jit, static_argnames=("lanes", "levels"))
def _fates(words: Any, thresholds: Thresholds, lanes: int, levels: bool) -> Fates:
    return follow(words, thresholds, jax.lax.iota(jnp.uint32, lanes), levels)


@functools.partial(jax.jit, static_argnames="bins")
def _device_histogram(values: Any, counted: Any, bins: int) -> Any:
    """Histogram of the first values, on the device; what is not counted falls out of the range."""
    place = jnp.where(jnp.arange(values.size) < counted, values.astype(jnp.int32), bins)
    return jnp.zeros(bins, jnp.int32).at[place].add(1, mode="drop")


@functools.partial(jax.jit, static_argnames="bins")
def _device_counts(labels: Any, bins: int) -> Any:
    """Histogram of labels on the device, by sums: they are few, and additions to one place would wait for each other."""
    return (labels == jnp.arange(bins, dtype=labels.dtype)[:, None]).sum(axis=1, dtype=jnp.int32)


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
    labels = _labels(words, thresholds, room_for(limit), np.uint32(limit))
    if on_host is None:
        on_host = next(iter(labels.devices())).platform == "cpu"
    if on_host:
        labels = np.asarray(labels).view(label_type(intensities))
        counts = _histogram(labels, bins)
        batch, room = _batches(int(counts[-1]))
        positions = np.zeros(room, dtype=np.uint32)
        positions[: counts[-1]] = np.flatnonzero(labels == busy_label(intensities))
    else:
        labels = _apart(labels, intensities)
        counts = np.asarray(_device_counts(labels, bins), np.int64)
        batch, room = _batches(int(counts[-1]))
        positions = _device_positions(labels, intensities, room)
    busy = int(counts[-1])
    starts = range(0, room, batch)
    parts = [_codes(words, thresholds, positions[start : start + batch]) for start in starts]
    bins = 8 * intensities * HIDDEN * MARKS
    if on_host:
        codes: Any = np.concatenate([np.asarray(part) for part in parts])
        fates = np.bincount(codes[:busy], minlength=bins)
    else:
        codes = jnp.concatenate(parts)
        fates = np.asarray(_device_histogram(codes, busy, bins), np.int64)
    return Played(counts, fates, positions, codes, busy)


def chunk_fates(words: Any, thresholds: Thresholds, pulses: int, levels: bool = False) -> Fates:
    """Record mode: the fate of each of the first pulses of a chunk, from the very words that `play_chunk` compares.

    Args:
        words: Random words of the chunk.
        thresholds: Of the state of the channel in which it is played.
        pulses: How many, at most `CHUNK`.
        levels: Whether to draw activation levels, for detectors whose efficiency recovers; slower.

    Returns:
        NumPy arrays; booleans fired_0 and fired_1 are those of full efficiency, equal to levels below 1.
    """
    fates = jax.device_get(_fates(words, thresholds, room_for(pulses), levels))
    return jax.tree.map(lambda array: array[:pulses], fates)


def room_for(pulses: int) -> int:
    """Length for which kernels are compiled that takes so many pulses."""
    return next(length for length in LENGTHS if length >= pulses)


def _batches(busy: int) -> tuple[int, int]:
    """Length of a batch, and of all batches together."""
    batch = next((batch for batch in BATCHES if 4 * batch >= busy), BATCHES[-1])
    return batch, max(1, -(-busy // batch)) * batch


def _histogram(labels: np.ndarray, bins: int) -> np.ndarray:
    """Histogram of an even number of labels; those of one byte are counted in pairs, which takes half the time."""
    if labels.itemsize > 1:
        return np.bincount(labels, minlength=bins)
    pairs = np.zeros((bins, 256), dtype=np.int64)
    for piece in np.array_split(labels.view(np.uint16), max(1, labels.size >> 16)):
        pairs += np.bincount(piece, minlength=pairs.size).reshape(pairs.shape)
    return pairs[:, :bins].sum(axis=0) + pairs.sum(axis=1)
