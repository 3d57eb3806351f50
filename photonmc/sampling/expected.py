"""Closed-form expectation: the outcome table summed into a tally, and counts as real numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.channel.interpolation import condensed
from photonmc.contracts import ChannelState, Counts, counts_from_tally
from photonmc.protocol.count_models import COUNT_MODELS

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from photonmc.link import Link
    from photonmc.sampling.run import Run


NODES_AT_ONCE = 512
"""States of the channel whose outcome tables are held at once."""
TRANSMITTANCES = 64
"""Transmittances whose tables stand for those of all others, where nothing else varies."""


def tally_probabilities(link: Link, protocol: Any, state: ChannelState) -> Float[Array, "basis intensity hidden result"]:
    """Probability that a pulse ends in each place of the tally, in one state of the channel; the rest is not sifted."""
    joint = protocol.cells(link)[:, None, None] * protocol.outcomes(link, state)
    labels = protocol.tally_labels(link)
    shape = (2, len(link.source.intensities), 3)
    sifted = jnp.zeros((joint.shape[1], np.prod(shape))).at[:, np.maximum(labels, 0)]
    summed = sifted.add(jnp.where(labels[:, :, None] >= 0, jnp.swapaxes(joint, 1, 2), 0.0).transpose(2, 0, 1))
    return jnp.moveaxis(summed.reshape(-1, *shape), 0, 2)


def node_mean(link: Link, pulses: Any, of: Callable[[ChannelState], Any]) -> Any:
    """Mean over the channel's quadrature of what a state gives (an array), in pieces that fit into memory."""
    states, weights = link.nodes(pulses)
    if weights.size > 4 * TRANSMITTANCES and getattr(link.channel, "steady_noise", False):
        # exact to rounding: a state gives polynomials of its transmittance times exp(-a t), with a below 100 photons
        points, weights = condensed(states.transmittance, weights, TRANSMITTANCES)
        states = dataclasses.replace(
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0], points.shape), states), transmittance=points
        )

    def weighted(node: tuple[ChannelState, Any]) -> Any:
        return node[1] * of(node[0])

    if weights.size <= NODES_AT_ONCE:
        return jax.vmap(weighted)((states, weights)).sum(axis=0)
    missing = -weights.size % NODES_AT_ONCE
    padded = jax.tree.map(lambda leaf: jnp.pad(leaf, (0, missing), mode="edge"), states)
    pieces = jax.tree.map(
        lambda leaf: leaf.reshape(-1, NODES_AT_ONCE), (padded, jnp.pad(weights, (0, missing), constant_values=0.0))
    )
    nothing = jnp.zeros(jax.eval_shape(of, jax.tree.map(lambda leaf: leaf[0], states)).shape)

    @jax.checkpoint  # slopes work a piece out once more, instead of keeping its tables
    def add(total: Any, piece: Any) -> tuple[Any, None]:
        return total + jax.vmap(weighted)(piece).sum(axis=0), None

    return jax.lax.scan(add, nothing, pieces)[0]


def detector_clicks(link: Link, protocol: Any, pulses: Any = None) -> Float[Array, " detector"]:
    """Probability that each detector clicks in a pulse, sifted or not, detectors without memory."""

    def of(state: ChannelState) -> Any:
        _, only_0, only_1, *both = jnp.tensordot(protocol.cells(link), protocol.outcomes(link, state).sum(axis=1), axes=1)
        return jnp.stack([only_0 + sum(both), only_1 + sum(both)])

    return node_mean(link, pulses, of)


def per_pulse(link: Link, protocol: Any, pulses: Any = None) -> Counts:
    """Counts expected per pulse; the mean over the channel's quadrature nodes is taken over counts, never over losses."""
    if link.receiver.count_model == "exact":
        return counts_from_tally(1.0, node_mean(link, pulses, lambda state: tally_probabilities(link, protocol, state)))
    printed = COUNT_MODELS[link.receiver.count_model]
    detections, errors = node_mean(link, pulses, lambda state: jnp.stack(printed(link, protocol, state)))
    sent = protocol.matching_probabilities()[:, None] * jnp.asarray(link.source.intensity_probabilities)
    kept = 1.0 if link.selection is None else node_mean(link, pulses, lambda _: jnp.ones(()))
    return Counts(1.0, kept * sent, detections, errors)


def expected(link: Link, protocol: Any, run: Run) -> Counts:
    """Expected counts of a block.

    Returns:
        Counts as real numbers. Where a block of fixed size waits for Z detections that cannot come, `pulses` is
        infinite and all counts are 0.
    """
    mean = per_pulse(link, protocol, run.length_of_channel(link))
    pulses = run.expected_pulses(link, mean.detections[0].sum())
    finite = jnp.where(jnp.isfinite(pulses), pulses, 0.0)
    return Counts(pulses, *(finite * array for array in (mean.sent, mean.detections, mean.errors)))
