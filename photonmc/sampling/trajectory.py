"""Trajectory of a channel for a sampler: how many pulses each of its states holds for, and the states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from photonmc.contracts import ChannelState
from photonmc.random import fold_name

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link

FOREVER = 1 << 60
"""Pulses of a run that waits for detections."""


def realization_key(key: Any, link: Link, realization: int) -> Any:
    """Key of the trajectory of a realization: the same for all where the channel does not fluctuate."""
    return jax.random.fold_in(key, realization) if link.channel.fluctuates else key


def block_lengths(link: Link, pulses: int | None) -> np.ndarray:
    """Pulses of each block of a run, int64; None where it waits for detections."""
    return link.block_lengths(FOREVER if pulses is None else pulses)


def trajectory(
    key: Key[Array, ""], link: Link, pulses: int | None, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, ChannelState]:
    """Blocks of one point: their pulses, int64, none of them empty, and their states, on the host.

    Args:
        key: Of the point.
        link: Concrete values only.
        pulses: Of the run; None where it waits for detections.
        lengths: As `block_lengths` gives them, where they are known.
    """
    lengths = block_lengths(link, pulses) if lengths is None else lengths
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # the same states whatever device samples
        states = jax.device_get(link.draw(fold_name(key, "channel"), lengths))
    used = lengths > 0
    return (lengths, states) if used.all() else (lengths[used], jax.tree.map(lambda leaf: np.asarray(leaf)[used], states))


def least_transmittance(link: Link, pulses: int | None) -> float:
    """Transmittance from which on the link's selection keeps a block."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return float(link.least_transmittance(None if pulses is None else float(pulses)))


def kept_blocks(link: Link, pulses: int | None, states: ChannelState) -> np.ndarray:
    """Which blocks of a trajectory the link's selection keeps, shape (block,); all of them where it has none."""
    return np.asarray(states.transmittance >= least_transmittance(link, pulses))
