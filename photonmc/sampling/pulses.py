"""Pulses sampler: every pulse is followed mechanism by mechanism. It never reads the outcome table.

Slow, and the independent ground truth for everything else. Work is cut into chunks of a fixed number of pulses, each
with its own random stream, so that results depend on seed, point and realization alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import NO_CLICK, ChannelState, Drawn
from photonmc.random import fold_name

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link

CHUNK = 1 << 17
"""Pulses of one chunk, drawn together [count]."""
HIDDEN = 4
"""Hidden classes: 0, 1, 2, 3 and more photons."""


@functools.partial(jax.jit, static_argnames="fixed_block")
def _play_chunk(
    key: Any, link: Link, protocol: Any, state: ChannelState, tails: Any, left: Any, missing_z: Any, fixed_block: bool
) -> tuple[Any, Any]:
    """Tally of one chunk, of at most `left` pulses, or up to the pulse that brings the last missing Z detection."""
    label, hidden = protocol.play(key, link, state, tails, CHUNK)
    rows = len(link.source.intensities) * 3
    index = jnp.arange(CHUNK)
    if fixed_block:
        stops = (label >= 0) & (label < rows) & (label % 3 != NO_CLICK)
        sent = (jnp.cumsum(stops) - stops) < missing_z  # pulses after the last missing detection are not sent
    else:
        sent = index < left
    place = jnp.where(sent & (label >= 0), label * HIDDEN + hidden, 2 * rows * HIDDEN)
    return sent.sum(), jnp.zeros(2 * rows * HIDDEN + 1, jnp.int32).at[place].add(1)[:-1]


def sample_pulses(
    key: Key[Array, ""],
    link: Link,
    protocol: Any,
    realizations: int,
    pulses: int | None,
    block_size_z: int | None,
) -> Iterator[Drawn]:
    """Realizations of a block, one at a time; see `photonmc.sampling.counts.draw_tally` for what each holds."""
    tails = link.source.photon_number_tails()
    stream = fold_name(key, "pulses")
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # the same state whatever device plays the pulses
        state = jax.tree.map(lambda block: block[0], jax.device_get(link.draw(fold_name(key, "channel"), 1)))
    shape = (2, len(link.source.intensities), 3, HIDDEN)
    for realization in range(realizations):
        block_key = jax.random.fold_in(stream, realization)
        sent, tally, chunk = 0, np.zeros(shape, dtype=np.int64), 0
        while True:
            left = CHUNK if pulses is None else min(CHUNK, pulses - sent)
            missing = 0 if block_size_z is None else block_size_z - int(tally[0, :, NO_CLICK + 1 :].sum())
            if left <= 0 or (block_size_z is not None and missing <= 0):
                break
            played, counted = _play_chunk(
                jax.random.fold_in(block_key, chunk),
                link,
                protocol,
                state,
                tails,
                left,
                missing,
                block_size_z is not None,
            )
            sent, tally, chunk = sent + int(played), tally + np.asarray(counted).reshape(shape), chunk + 1
        yield Drawn(np.array([sent]), np.swapaxes(tally, -1, -2)[None], np.zeros((1, 2), np.int64))
