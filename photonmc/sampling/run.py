"""How long a run lasts, and how it is sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax.numpy as jnp

from photonmc.contracts import record
from photonmc.units import Range, Whole, static

if TYPE_CHECKING:
    from photonmc.link import Link

MAX_PULSES = 1e15
"""Most pulses of one block that are sampled [count]."""


@record
class Run:
    """Length of a block: a number of pulses, a duration, or a number of sifted Z detections; exactly one of them.

    A channel that lasts for a time of its own, such as a pass or a record, needs none; several of them may make a block.
    """

    pulses: Annotated[float, Range(1.0, MAX_PULSES, "pulses")] | None = None
    """Pulses in the block; of each pass that it joins."""
    duration_s: Annotated[float, Range(0.0, 1e15, "s", open_low=True)] | None = None
    """Duration of the block [s]; of each pass that it joins."""
    block_size_z: Annotated[float, Range(1.0, 1e13, "detections")] | None = None
    """Sifted Z detections at which the block stops."""
    sampler: Literal["auto", "expected", "counts", "clicks", "pulses"] = static(default="auto")
    """Sampler; "auto" takes the cheapest exact one."""
    generator: Literal["philox4x32", "threefry"] = static(default="philox4x32")
    """Random words of the sampler "pulses"; "threefry" is slow, and checks the other."""
    joined_passes: Annotated[float, Whole(1.0, 10_000.0)] = 1.0
    """Passes (or runs of a record), each with a trajectory of its own, whose counts make one block."""
    realizations: Annotated[int, Range(1, 1_000_000)] = static(default=1)
    """Independent draws of the whole block."""
    pooling_error: Annotated[float, Range(0.0, 1.0)] = 1e-5
    """Bound on the total-variation error of pooled counts of a channel that changes; 0 draws block by block."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = static(default=0)
    """Seed of all random streams."""

    def fixed_pulses(self, link: Link) -> Any:
        """Pulses of one pass, or of a whole block that does not wait for detections; samplers alone round them."""
        if self.pulses is not None:
            return self.pulses
        if self.duration_s is not None:
            return self.duration_s * link.source.pulse_rate_hz
        return link.channel.pulses(link.source.pulse_rate_hz)

    def length_of_channel(self, link: Link) -> Any:
        """Pulses over which the channel's states are averaged; None where a block waits for detections."""
        return None if self.block_size_z is not None else self.fixed_pulses(link)

    def expected_pulses(self, link: Link, detection_probability_z: Any) -> Any:
        """Mean number of pulses; infinite where a block waits for detections that cannot come."""
        if self.block_size_z is None:
            return jnp.asarray(self.joined_passes * self.fixed_pulses(link))
        possible = detection_probability_z > 0
        return jnp.where(possible, self.block_size_z / jnp.where(possible, detection_probability_z, 1.0), jnp.inf)
