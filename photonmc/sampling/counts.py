"""Counts sampler: exact multinomials over the outcome table, at a cost that does not depend on the number of pulses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from photonmc.contracts import NO_CLICK, Drawn, unwatched
from photonmc.random import fold_name, host_generator, multinomial, trials_until
from photonmc.sampling.blocks import draw_blocks
from photonmc.sampling.interpolation import Interpolated, interpolate
from photonmc.sampling.parallel import in_order
from photonmc.sampling.places import Places, blind_probabilities, place_probabilities, places_of
from photonmc.sampling.pooling import pool
from photonmc.sampling.renewal import draw_dead_time, draw_dead_time_until
from photonmc.sampling.trajectory import block_lengths, least_transmittance, realization_key, trajectory

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
    laws = Laws(link, protocol, pulses, pooling_error)
    size = 1 if link.channel.fluctuates else CHUNK  # each realization of a channel that fluctuates has a law of its own
    first = laws.of(realization_key(key, link, 0))

    def chunk_of(chunk: int) -> tuple[Law, np.ndarray]:
        law = laws.of(realization_key(key, link, chunk)) if link.channel.fluctuates and chunk else first
        rng = host_generator(jax.random.fold_in(stream, chunk))
        return law, law.draw(rng, min(size, realizations - chunk * size), pulses, block_size_z)

    for chunk, (law, counts) in enumerate(in_order(chunk_of, ((chunk,) for chunk in range(-(-realizations // size))))):
        sent = counts.sum(axis=1) + law.left_out
        stopped = watch(float(sent.sum())) and (chunk + 1) * size < realizations
        yield Drawn(sent, *laws.places.sums(counts), law.bound, stopped)
        if stopped:
            return


class Laws:
    """Laws of the counts of a link, one for each trajectory of its channel."""

    def __init__(self, link: Link, protocol: Any, pulses: int | None, pooling_error: float) -> None:
        self._link, self._protocol, self._pulses, self._pooling_error = link, protocol, pulses, pooling_error
        self._lengths = block_lengths(link, pulses)
        self.places = places_of(link, protocol)
        self._memory = link.receiver.memory(float(link.source.pulse_rate_hz))
        self._least = least_transmittance(link, pulses)
        self._interpolated: tuple[np.ndarray, np.ndarray, Interpolated] | None = None

    def of(self, key: Any) -> Law:
        """Law of the trajectory that belongs to a key."""
        lengths, states = trajectory(key, self._link, self._pulses, self._lengths)
        leaves, structure = jax.tree.flatten(states)
        values = np.stack(leaves).T  # quantity by quantity
        kept = np.asarray(states.transmittance >= self._least)

        def tables(values: np.ndarray) -> np.ndarray:
            chosen = jax.tree.unflatten(structure, list(values.T))
            return np.asarray(_tables(self._link, self._protocol, chosen, self.places.index, self.places.tally.size))

        if not kept.any():
            nowhere = np.zeros((0, self.places.tally.size))
            return Law(self.places, nowhere, lengths[kept], left_out=int(lengths.sum()))
        if len(lengths) > 1 or not kept.all():
            assert self._memory.none
            left_out = 0 if kept.all() else int(lengths[~kept].sum())
            if left_out:
                lengths, values = lengths[kept], values[kept]
            interpolated = self._tables(tables, lengths, values)
            bins = pool(interpolated.tables, lengths, values, self._pooling_error)
            bound = min(1.0, bins.bound + interpolated.error)
            return Law(self.places, bins.tables, bins.lengths, bound, left_out=left_out)
        table = tables(values)
        blind = table[0]
        dead_gates = int(self._memory.dead_gates[0])
        if dead_gates > 0:
            one = jax.tree.map(lambda leaf: leaf[0], states)
            blind = np.asarray(blind_probabilities(self._link, self._protocol, one, self.places))
        return Law(self.places, table, lengths, 0.0, dead_gates, blind)

    def _tables(self, tables: Callable[[np.ndarray], np.ndarray], lengths: np.ndarray, values: np.ndarray) -> Interpolated:
        """Tables of the states; where the channel fluctuates, those of the first trajectory as far as they reach."""
        if not self._link.channel.fluctuates or not len(values):
            return interpolate(tables, lengths, values, 0.01 * self._pooling_error)
        low, high = values.min(axis=0), values.max(axis=0)
        if self._interpolated is None:
            wider = np.where(high > low, np.stack([0.5 * low, np.minimum(1.5 * high, 1.0)]), low)
            found = interpolate(tables, lengths, np.concatenate([values, wider]), 0.01 * self._pooling_error)
            self._interpolated = (*wider, found)
        least, most, known = self._interpolated
        within = (least <= low).all() and (high <= most).all()
        return known if within else interpolate(tables, lengths, values, 0.01 * self._pooling_error)


@dataclasses.dataclass(frozen=True)
class Law:
    """What the counts of a block are drawn from: one table of places, or one a block of the channel or a bin of blocks.

    Attributes:
        places: What the columns of the tables count.
        tables: Probability of each place, shape (bin, place).
        lengths: Pulses of each bin.
        bound: Bound on the total-variation error of pooling and interpolation.
        dead_gates: Dead time of a channel that never changes [gates].
        blind: Probabilities while both detectors are blind, of a channel that never changes; or None.
        left_out: Pulses of blocks that the selection leaves out; they are counted in no place.
    """

    places: Places
    tables: np.ndarray
    lengths: np.ndarray
    bound: float = 0.0
    dead_gates: int = 0
    blind: np.ndarray | None = None
    left_out: int = 0

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
