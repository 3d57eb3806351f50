"""What the light of a gate was: settings, photon number and outcome of candidate clicks and of silent gates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import ChannelState

if TYPE_CHECKING:
    from photonmc.link import Link

OUTCOMES = 5
"""Outcomes of a gate: none, only detector 0, only 1, both read as 0, both read as 1."""


class Alias(NamedTuple):
    """Walker's alias table: a category in constant time from one word of 64 bits.

    References:
        Walker, ACM Trans. Math. Software 3, 253 (1977); Vose, IEEE Trans. Software Eng. 17, 972 (1991).
    """

    threshold: Any
    other: Any


def alias_table(weights: np.ndarray) -> Alias:
    """Table of categories with these weights; 2^k columns, so that the top bits of a word choose one."""
    count = weights.size
    bits = max(1, (count - 1).bit_length())
    columns = 1 << bits
    total = weights.sum()
    share = np.zeros(columns)
    share[:count] = weights / total * columns if total > 0 else columns / count
    threshold, other = np.ones(columns), np.arange(columns)
    small = [i for i in range(columns) if share[i] < 1.0]
    large = [i for i in range(columns) if share[i] >= 1.0]
    while small and large:
        low, high = small.pop(), large[-1]
        threshold[low], other[low] = share[low], high
        share[high] -= 1.0 - share[low]
        if share[high] < 1.0:
            small.append(large.pop())
    return Alias((threshold * 2.0 ** (63 - bits)).astype(np.uint64), other.astype(np.int32))


def look_up(table: Alias, word: Any) -> Any:
    """Category of each word."""
    bits = int(table.threshold.shape[0] - 1).bit_length()
    column = (word >> np.uint64(64 - bits)).astype(jnp.int32)
    rest = (word >> np.uint64(1)) & np.uint64((1 << (63 - bits)) - 1)
    return jnp.where(rest < table.threshold[column], column, table.other[column])


@jax.jit
def joint_table(link: Link, protocol: Any, state: ChannelState) -> Any:
    """Probability of cell, hidden class and outcome in one state of the channel."""
    return protocol.cells(link)[:, None, None] * protocol.outcomes(link, state)


@jax.jit
def cell_weights(link: Link, protocol: Any, states: ChannelState) -> tuple[Any, Any]:
    """Probability of each cell together with a candidate click, and with none, shape (block, cell)."""

    def one(state: ChannelState) -> tuple[Any, Any]:
        joint = joint_table(link, protocol, state)
        return joint[..., 1:].sum(axis=(1, 2)), joint[..., 0].sum(axis=1)

    return jax.lax.map(one, states, batch_size=256)


def drawn_cell(cumulative: Any, block: Any, uniform: Any) -> Any:
    """Cell of each gate from cumulated weights (block, cell)."""
    cell = jnp.zeros(block.shape, jnp.int32)
    for index in range(cumulative.shape[1] - 1):
        cell = cell + (uniform >= cumulative[block, index])
    return cell


def drawn_mark(
    link: Link, protocol: Any, state: ChannelState, cell: Any, uniform: Any, candidate: bool, relative: Any = None
) -> Any:
    """Hidden class x 5 + outcome of gates whose cell is known, uint8.

    Args:
        link: Where the pulses are sent.
        protocol: Whose outcome table is read.
        state: Of the channel, one a gate.
        cell: Settings of each gate.
        uniform: Random number in [0, 1) of each gate.
        candidate: Whether the gates are candidates, so that fully efficient detectors would click, or silent ones.
        relative: Efficiencies of the two detectors relative to the full ones, (2, gate): a candidate may come to nothing.
    """
    full = protocol.outcomes(link, state, cell)
    if not candidate:
        weights = full.at[..., 1:].set(0.0)
    elif relative is None:
        weights = full.at[..., 0].set(0.0)
    else:
        weights = protocol.outcomes(link, state, cell, (relative[0], relative[1]))
        weights = weights.at[..., 0].set(jnp.maximum(weights[..., 0] - full[..., 0], 0.0))
    cumulative = jnp.cumsum(weights.reshape(*cell.shape, -1), axis=-1)
    aim = uniform * cumulative[..., -1]
    return jnp.minimum((aim[..., None] >= cumulative).sum(axis=-1), cumulative.shape[-1] - 1).astype(jnp.uint8)
