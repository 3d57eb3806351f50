"""Detector memory gate by gate, for the pulses sampler: every gate is looked at, whether anything happens in it or not.

Written apart from `photonmc.sampling.memory`, which jumps from event to event, so that the two can check each other: here
releases of a trap are a hazard of each gate, there they are times drawn ahead.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.detector.memory import Memory
from photonmc.sampling.codes import CLICK_0, CLICK_1, KEPT

LONG_AGO = -(1 << 60)
"""A gate before all memory."""


class Detectors(NamedTuple):
    """What two detectors remember from gate to gate, shape (2,) each.

    Attributes:
        blinded: Gate at which the last dead time began.
        avalanche: Gate of the last avalanche.
        loads: Mean releases after the dead time at the last avalanche, shape (2, trap).
    """

    blinded: Any
    avalanche: Any
    loads: Any


def live_and_empty(memory: Memory) -> Detectors:
    """Detectors as a run finds them."""
    ago = np.full(2, LONG_AGO)
    return Detectors(ago, ago, np.zeros((2, memory.lifetimes.size)))


@functools.partial(jax.jit, static_argnames="levels")
def through_gates(
    state: Detectors, first: Any, count: Any, hits: Any, uniform: Any, memory: Memory, levels: bool
) -> tuple[Detectors, Any]:
    """Pass through consecutive gates.

    Args:
        state: Before the first gate.
        first: Its index.
        count: Number of gates; what the arrays hold beyond them is passed over.
        hits: Whether light or noise fires each detector, shape (gate, 2); with `levels` the relative efficiency above which
            it does.
        uniform: Random numbers in [0, 1), shape (gate, 2): a release comes where it is below the probability of one.
        memory: Of the detectors.
        levels: What `hits` holds.

    Returns:
        The state after the last gate, and the bits of every gate.
    """

    def step(state: Detectors, inputs: tuple[Any, Any, Any]) -> tuple[Detectors, Any]:
        gate, hit, chance = inputs
        since = gate - state.blinded
        live = since > memory.dead_gates
        if levels:
            recovering = live & (memory.recovery > 0.0)
            u = since - memory.dead_time  # counted from the end of the dead time
            efficiency = jnp.where(recovering, -jnp.expm1(-u / jnp.where(recovering, memory.recovery, 1.0)), 1.0)
            hit = hit < efficiency
        clicks = live & hit
        if memory.lifetimes.size:
            # releases between the gate before and this one, but for those within the dead time (theory 5.4)
            start = jnp.maximum(gate - 1.0, state.blinded + memory.dead_time)
            late, later = (
                jnp.exp(-(jnp.minimum(at - state.avalanche, 2.0**60) - memory.dead_time)[:, None] / memory.lifetimes)
                for at in (start, gate + jnp.zeros(2))
            )
            mean = (state.loads * (late - later)).sum(axis=1)
            clicks = clicks | (live & (chance < -jnp.expm1(-mean)))
        blinded = clicks
        if memory.policy == "blank_all":
            blinded = jnp.broadcast_to(clicks.any(), (2,))
        if memory.paralyzable:
            blinded = blinded | (hit & ~live)
        kept = clicks.any() & (live.all() if memory.policy == "all_live" else True)
        loads = memory.releases
        if memory.keeps_all:
            passed = jnp.minimum(gate - state.avalanche, 2.0**60)[:, None]
            loads = loads + state.loads * jnp.exp(-passed / memory.lifetimes)
        after = Detectors(
            jnp.where(blinded, gate, state.blinded),
            jnp.where(clicks, gate, state.avalanche),
            jnp.where(clicks[:, None], loads, state.loads),
        )
        after = jax.tree.map(lambda new, old: jnp.where(gate < first + count, new, old), after, state)
        return after, (clicks[0] * CLICK_0 + clicks[1] * CLICK_1 + kept * KEPT).astype(jnp.uint8)

    gates = first + jnp.arange(hits.shape[0], dtype=jnp.int64)
    return jax.lax.scan(step, state, (gates, hits, uniform))
