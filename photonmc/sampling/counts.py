"""Counts sampler: exact multinomials over the outcome table, at a cost that does not depend on the number of pulses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from photonmc.contracts import NO_CLICK, Drawn, unwatched
from photonmc.random import fold_name, host_generator, multinomial, trials_until
from photonmc.sampling.blocks import draw_blocks
from photonmc.sampling.interpolation import interpolate
from photonmc.sampling.places import blind_probabilities, place_probabilities, places_of
from photonmc.sampling.pooling import pool
from photonmc.sampling.renewal import draw_dead_time, draw_dead_time_until
from photonmc.sampling.trajectory import realization_key, trajectory

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from photonmc.link import Link

CHUNK = 1024
"""Realizations that share one random stream; fixed, so that results do not depend on how work is cut."""


def draw_tally(
    rng: np.random.Generator, table: np.ndarray, draws: int, pulses: int | None, block_size_z: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole blocks of a link without memory in one state of its channel.

    A block of fixed size stops at the n-th sifted Z detection: its pulses follow a negative binomial law, and given
    them the n detections and the other pulses fall into their places independently (two multinomials).

    Args:
        rng: Host generator.
        table: Probability of each place of the tally, shape (basis, intensity, hidden, result), summing to 1 or less.
        draws: Independent blocks.
        pulses: Pulses of each block, or None.
        block_size_z: Sifted Z detections of each block, or None.

    Returns:
        Pulses, shape (draws,), and tallies, shape (draws, basis, intensity, hidden, result), int64.
    """
    places = np.append(table.ravel(), max(0.0, 1.0 - table.sum()))  # the last place: bases differ
    if block_size_z is None:
        assert pulses is not None
        sent = np.full(draws, pulses, dtype=np.int64)
        tally = multinomial(rng, sent, places)
    else:
        stopping = np.zeros(table.shape, dtype=bool)
        stopping[0, ..., NO_CLICK + 1 :] = True
        stops = np.append(stopping.ravel(), False)
        tally = np.zeros((draws, places.size), dtype=np.int64)
        sent = trials_until(rng, block_size_z, places[stops].sum() / places.sum(), draws)
        tally[:, stops] = multinomial(rng, np.full(draws, block_size_z), places[stops])
        tally[:, ~stops] = multinomial(rng, sent - block_size_z, places[~stops])
    return sent, tally[:, :-1].reshape(draws, *table.shape)


def sample_counts(
    key: Key[Array, ""],
    link: Link,
    protocol: Any,
    realizations: int,
    pulses: int | None,
    block_size_z: int | None,
    pooling_error: float,
    watch: Callable[[float], bool] = unwatched,
) -> Iterator[Drawn]:
    """Realizations of a block in chunks.

    Args:
        key: Of the point.
        link: Concrete values only; its receiver has no memory, or one that each click renews on a constant channel.
        protocol: Its cells, outcomes and tally labels are read.
        realizations: Independent blocks.
        pulses: Pulses of each block, or None.
        block_size_z: Sifted Z detections at which a block stops, or None; for a channel that never changes.
        pooling_error: Bound on the total-variation error of a channel that changes; 0 draws block by block.
        watch: Is told how many pulses were drawn, and says whether to stop.
    """
    stream = fold_name(key, "counts")
    size = 1 if link.channel.fluctuates else CHUNK  # each realization of a channel that fluctuates has a law of its own
    for chunk, start in enumerate(range(0, realizations, size)):
        if start == 0 or link.channel.fluctuates:
            law = Law(realization_key(key, link, chunk), link, protocol, pulses, pooling_error)
        rng = host_generator(jax.random.fold_in(stream, chunk))
        counts = law.draw(rng, min(size, realizations - start), pulses, block_size_z)
        sent = counts.sum(axis=1)
        stopped = watch(float(sent.sum())) and start + size < realizations
        yield Drawn(sent, *law.places.sums(counts), law.bound, stopped)
        if stopped:
            return


class Law:
    """What the counts of a block are drawn from: one table of places, or one a block of the channel or a bin of blocks."""

    def __init__(self, key: Any, link: Link, protocol: Any, pulses: int | None, pooling_error: float) -> None:
        self.places = places_of(link, protocol)
        lengths, states = trajectory(key, link, pulses)
        memory = link.receiver.memory(float(link.source.pulse_rate_hz))
        self.dead_gates = int(memory.dead_gates[0])
        self.bound = 0.0
        self.blind: np.ndarray | None = None  # of a channel that never changes

        def tables(values: np.ndarray) -> np.ndarray:
            chosen = jax.tree.unflatten(structure, list(values.T))
            return np.asarray(_tables(link, protocol, chosen, self.places.index, self.places.tally.size))

        leaves, structure = jax.tree.flatten(states)
        values = np.stack(leaves, axis=1)
        if len(lengths) == 1:
            self.tables, self.lengths = tables(values), lengths
            one = jax.tree.map(lambda leaf: leaf[0], states)
            self.blind = self.tables[0]
            if self.dead_gates > 0:
                self.blind = np.asarray(blind_probabilities(link, protocol, one, self.places))
        else:
            assert memory.none
            interpolated = interpolate(tables, lengths, values, 0.01 * pooling_error)
            self.tables, self.lengths, bound = pool(interpolated.tables, lengths, values, pooling_error)
            self.bound = min(1.0, bound + interpolated.error)

    def draw(self, rng: np.random.Generator, draws: int, pulses: int | None, block_size_z: int | None) -> np.ndarray:
        """Counts over places, shape (draws, place)."""
        if self.blind is None:
            return draw_blocks(rng, self.tables, self.lengths, draws)
        live, clicking = self.tables[0], self.places.clicking
        if block_size_z is not None:
            stopping = self.places.detections_z
            return draw_dead_time_until(rng, live, self.blind, clicking, stopping, self.dead_gates, block_size_z, draws)
        assert pulses is not None
        return draw_dead_time(rng, live, self.blind, clicking, self.dead_gates, pulses, draws)


@functools.partial(jax.jit, static_argnames="size")
def _tables(link: Link, protocol: Any, states: Any, index: Any, size: int) -> Any:
    return jax.vmap(lambda state: place_probabilities(link, protocol, state, index, size))(states)
