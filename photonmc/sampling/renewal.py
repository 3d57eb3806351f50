"""Counts under dead time at a cost that does not depend on the number of gates.

Receiver whose clicks, of either detector, blank all detectors for d whole gates (non-paralyzable, no afterpulses, no
recovery), on a channel that does not change. Live gates are independent of each other and of what was before, so the
process is a sequence of live gates, each of which is followed by d blind ones if it clicks. What a gate leaves behind
depends on nothing but which of three kinds it is: live with a click, live without, blind.

References:
    P[at least n clicks in G gates] = P[Binomial(G - (n - 1) d, p) >= n], started live. The last dead time may be cut by
    the end. Mean p / (1 + p d) per gate, variance (1 - p) / (1 + p d)^2 of the mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from photonmc.random import binomial, multinomial, trials_until

LONG = 2000
"""Dead times left below which the last clicks are followed one by one."""


class Gates(NamedTuple):
    """Gates of each kind, int64, shape (draws,) each; they add up to all gates.

    Attributes:
        clicks: Live gates with a click.
        silent: Live gates without.
        blind: Gates within the dead time of a click.
    """

    clicks: np.ndarray
    silent: np.ndarray
    blind: np.ndarray


def draw_gates(rng: np.random.Generator, probability: float, dead_gates: int, gates: int, draws: int) -> Gates:
    """Exact number of gates of each kind in a run of fixed length that starts live.

    Peels off blocks of live gates that fit into what is left together with their dead times (but for a probability of
    1e-300), each by one binomial draw; the last few thousand dead times are geometric gaps. Cost is logarithmic in the
    number of gates.

    Args:
        rng: Host generator.
        probability: Click probability p of a live gate.
        dead_gates: Gates d that a click blanks after its own.
        gates: Gates of the run, up to 1e15.
        draws: Independent runs.
    """
    left = np.full(draws, gates, dtype=np.int64)
    clicks, silent, blind = (np.zeros(draws, dtype=np.int64) for _ in range(3))
    if probability <= 0.0:
        return Gates(clicks, left, blind)
    probability, dead = min(probability, 1.0), min(dead_gates, gates)
    while np.any(long := left > LONG * dead):
        block = _live_gates_that_fit(left[long], probability, dead)
        # with p > 1/2 count the silent gates instead, which are the rarer ones
        rare = binomial(rng, block, min(probability, 1.0 - probability))
        hits = rare if probability <= 0.5 else block - rare
        clicks[long] += hits
        silent[long] += block - hits
        blind[long] += dead * hits
        left[long] -= block + dead * hits
    active = np.flatnonzero(left > 0)
    while active.size:
        remaining = left[active]
        gap = rng.geometric(probability, size=active.size)
        hit = gap <= remaining
        passed = np.where(hit, gap - 1, remaining)
        blanked = np.where(hit, np.minimum(dead, remaining - passed - hit), 0)
        clicks[active] += hit
        silent[active] += passed
        blind[active] += blanked
        left[active] = remaining - passed - hit - blanked
        active = active[left[active] > 0]
    return Gates(clicks, silent, blind)


def _live_gates_that_fit(left: np.ndarray, probability: float, dead: int) -> np.ndarray:
    """Largest M with M + d (M p + 40 sqrt(M p) + 800) <= left: M gates have more clicks with probability below 1e-300."""
    if dead == 0:
        return left
    spare = left - 800.0 * dead
    spread, slope = 40.0 * dead * np.sqrt(probability), 1.0 + dead * probability
    root = 2.0 * spare / (spread + np.sqrt(spread**2 + 4.0 * slope * spare))
    return np.floor(root**2).astype(np.int64)


def draw_dead_time(
    rng: np.random.Generator,
    live: np.ndarray,
    blind: np.ndarray,
    clicking: np.ndarray,
    dead_gates: int,
    gates: int,
    draws: int,
) -> np.ndarray:
    """Counts over places of runs of fixed length that start live.

    Args:
        rng: Host generator.
        live: Probability of each place in a live gate, shape (place,), summing to 1.
        blind: Likewise in a blind gate.
        clicking: Places with a click of any detector, shape (place,).
        dead_gates: Gates d that a click blanks after its own.
        gates: Gates of each run, up to 1e15.
        draws: Independent runs.

    Returns:
        Counts, shape (draws, place), int64; every row sums to the number of gates.
    """
    kinds = draw_gates(rng, float(live[clicking].sum() / live.sum()), dead_gates, gates, draws)
    counts = multinomial(rng, kinds.blind, blind)
    counts[:, clicking] += multinomial(rng, kinds.clicks, live[clicking])
    counts[:, ~clicking] += multinomial(rng, kinds.silent, live[~clicking])
    return counts


def draw_dead_time_until(
    rng: np.random.Generator,
    live: np.ndarray,
    blind: np.ndarray,
    clicking: np.ndarray,
    stopping: np.ndarray,
    dead_gates: int,
    successes: int,
    draws: int,
) -> np.ndarray:
    """Counts over places of runs that start live and end with the n-th event of a kind, which is a click.

    Each click but the last is followed by its whole dead time. Live gates up to the n-th event follow a negative
    binomial law; given their number, events and other live gates fall into their places independently.

    Args:
        rng: Host generator.
        live: Probability of each place in a live gate, shape (place,), summing to 1.
        blind: Likewise in a blind gate.
        clicking: Places with a click of any detector, shape (place,).
        stopping: Places that count towards n, some of the clicking ones, shape (place,).
        dead_gates: Gates d that a click blanks after its own.
        successes: Number n of events, at least 1.
        draws: Independent runs.

    Returns:
        Counts, shape (draws, place), int64; a row sums to the gates of its run.
    """
    gates = trials_until(rng, successes, float(live[stopping].sum() / live.sum()), draws)
    counts = np.zeros((draws, live.size), dtype=np.int64)
    counts[:, stopping] = multinomial(rng, np.full(draws, successes), live[stopping])
    counts[:, ~stopping] = multinomial(rng, gates - successes, live[~stopping])
    clicks = counts[:, clicking].sum(axis=1)
    return counts + multinomial(rng, dead_gates * (clicks - 1), blind)
