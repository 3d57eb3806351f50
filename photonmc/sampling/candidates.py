"""Candidate clicks: gates that would click were both detectors live and recovered, found by jumps from one to the next.

Gates are independent, so that the gaps between candidates are geometric (theory 6.2); a gap that would pass the end of a
block is cut there and drawn anew, which is exact because gates have no memory. The timeline is cut into segments, which are
drawn side by side, one a lane.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.sampling.philox import exponential, joined, words_at

if TYPE_CHECKING:
    from jaxtyping import Array, Int, UInt64

NEVER = 1 << 62
"""A gate that no run reaches."""
GAPS, OUTCOMES = 0, 1
"""Streams of random words, by segment and step: of gap and settings, and of the outcome where that is drawn apart."""


PLACES = 1 << 24
"""Jumps that a segment may have."""


def uncut(gates: Any) -> Any:
    """Gates as `draw_candidates` gives them, with the last gate of its block for a jump that was cut there."""
    return gates ^ (gates >> 63)  # minus a block's end, -e, is e - 1 with all bits turned


def places(first_segment: Any, steps: int, lanes: int) -> Any:
    """Name of each jump of a batch, by which its random words are found, shape (step, lane)."""
    segment = first_segment + jnp.arange(lanes, dtype=jnp.int64)
    return segment[None, :] * PLACES + jnp.arange(steps, dtype=jnp.int64)[:, None]


class Blocks(NamedTuple):
    """Stretches of gates in which the channel's state holds.

    Attributes:
        ends: First gate after each block, int64, rising.
        gap_scale: Mean of the exponential gap [gates]: 1 / -ln(1 - p) with p the probability of a candidate.
    """

    ends: np.ndarray
    gap_scale: np.ndarray


def blocks_of(lengths: np.ndarray, probability: np.ndarray) -> Blocks:
    """Blocks of so many gates each, with their probabilities of a candidate; none may be empty."""
    with np.errstate(divide="ignore"):
        return Blocks(np.cumsum(lengths), np.where(probability < 1.0, -1.0 / np.log1p(-np.minimum(probability, 1.0)), 0.0))


SHAPES = ((8, 256), (64, 256), (256, 1024), (64, 1 << 13), (8, 1 << 16), (1, 1 << 19))
"""Lanes and jumps of a batch, from short runs to long ones (a quarter of a million candidates) and on to long memories."""


def shape_of(total: float, least: float) -> tuple[int, int]:
    """Lanes and jumps of the batches of a run: the smallest shape that takes it whole, or else the first large one.

    Args:
        total: Jumps of the whole run.
        least: Jumps that a segment must have.
    """
    long_enough = [shape for shape in SHAPES if shape[1] >= least] or [SHAPES[-1]]
    whole = [shape for shape in long_enough if shape[0] * shape[1] >= total]
    return whole[0] if whole else next((s for s in long_enough if s[0] * s[1] >= 1 << 18), SHAPES[-1])


class Plan:
    """How a run is cut into segments of about equal numbers of jumps, and segments into batches.

    Attributes:
        lanes: Segments of a batch, drawn side by side.
        steps: Jumps of a segment, at most.
        segments: Of the whole run.
    """

    def __init__(
        self, lengths: np.ndarray, probability: np.ndarray, reach: float, blind: float, gates: float | None = None
    ) -> None:
        """Plan a run.

        Args:
            lengths: Gates of each block.
            probability: Of a candidate in a gate of each block.
            reach: Gates over which a detector remembers; segments are much longer, as far as that goes.
            blind: Gates of its dead time.
            gates: About how many gates the run has, where it ends before its blocks do.
        """
        self._lengths, self._starts = lengths, np.concatenate([[0], np.cumsum(lengths)])
        self._jumps = lengths * probability + 1.0  # candidates of each block, and the jump over its end
        self._cumulative = np.concatenate([[0.0], np.cumsum(self._jumps)])
        density = self._cumulative[-1] / self._starts[-1]
        total = self._cumulative[-1] if gates is None else density * gates + 1.0
        # a detector that mostly waits for the end of its dead time forgets when that began only after about as many of them
        # as there are candidates in one
        self.lanes, jumps = shape_of(total, 16.0 * (1.0 + reach * density + (blind * density) ** 2))
        self.segments = max(1, math.ceil(self._cumulative[-1] / jumps))
        # the number of jumps has a variance below its mean; a segment that needs more is drawn again with room for them
        self.steps = jumps + 5 * math.isqrt(jumps) + 20

    def batches(self) -> int:
        """Number of batches."""
        return -(-self.segments // self.lanes)

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First gate of each segment of a batch, first gate after it, and its first block; int64, shape (lane,)."""
        segment = np.minimum(index * self.lanes + np.arange(self.lanes + 1), self.segments)
        at = self._cumulative[-1] * (segment / self.segments)
        block = np.clip(np.searchsorted(self._cumulative, at, side="right") - 1, 0, len(self._lengths) - 1)
        inside = np.floor((at - self._cumulative[block]) / self._jumps[block] * self._lengths[block]).astype(np.int64)
        edges = self._starts[block] + np.clip(inside, 0, self._lengths[block] - 1)
        edges = np.where(segment >= self.segments, self._starts[-1], edges)
        return edges[:-1], edges[1:], block[:-1].astype(np.int64)


@functools.partial(jax.jit, static_argnames=("lanes", "steps"))
def draw_candidates(
    key: Any, first_segment: Any, start: Any, stop: Any, block: Any, blocks: Blocks, lanes: int, steps: int
) -> tuple[Int[Array, "step lane"], Int[Array, "step lane"] | None, UInt64[Array, "step lane"], Any]:
    """Candidates of a batch of segments.

    Args:
        key: Two uint32 words.
        first_segment: Number of the batch's first segment, which names its random words.
        start: First gate of each segment, shape (lane,).
        stop: First gate after each segment.
        block: Block of the first gate.
        blocks: Of the whole run.
        lanes: Segments.
        steps: Jumps drawn for each.

    Returns:
        Gates (`NEVER` after a segment's last candidate, minus a block's end where a jump was cut there), block of each (None
        where there is one), a random word of 64 bits for each, and whether all segments were finished.
    """
    single = blocks.ends.shape[0] == 1
    place = places(first_segment, steps, lanes)
    high, low, *more = words_at(place, GAPS, key)
    gaps = exponential(joined(high, low))

    def step(carry: tuple[Any, Any], exponent: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        gate, at = carry
        scale = blocks.gap_scale[0] if single else blocks.gap_scale[at]
        end = stop if single else jnp.minimum(stop, blocks.ends[at])
        jump = jnp.where(exponent > 0.0, exponent * scale, 0.0)
        target = gate + jnp.minimum(jump, 2.0**61).astype(jnp.int64)
        hit = target < end
        emitted = jnp.where(hit, target, jnp.where(end == stop, NEVER, -end))
        onward = (jnp.where(hit, target + 1, end), at if single else jnp.where(hit | (end == stop), at, at + 1))
        return onward, (emitted, None if single else at)

    (gate, _), (gates, at) = jax.lax.scan(step, (start, block), gaps)
    return gates, at, joined(*more), (gate >= stop).all()
