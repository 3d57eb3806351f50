"""Counts sampler: exact multinomials over the outcome table, at a cost that does not depend on the number of pulses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import numpy as np

from photonmc.contracts import NO_CLICK
from photonmc.random import fold_name, host_generator, multinomial, trials_until

if TYPE_CHECKING:
    from jaxtyping import Array, Key

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
    key: Key[Array, ""], table: np.ndarray, realizations: int, pulses: int | None, block_size_z: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Realizations of a block in chunks; see `draw_tally` for the arguments and for what each chunk holds."""
    stream = fold_name(key, "counts")
    for chunk, start in enumerate(range(0, realizations, CHUNK)):
        rng = host_generator(jax.random.fold_in(stream, chunk))
        yield draw_tally(rng, table, min(CHUNK, realizations - start), pulses, block_size_z)
