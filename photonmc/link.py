"""Topologies: how sources, channels and receivers are put together. Here the simplest, one arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from photonmc.contracts import ChannelState, record

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Float, Key


@record
class Link:
    """One arm: a source, a channel, a receiver.

    Attributes:
        source: A record of `photonmc.source`, or anything with the methods of `photonmc.contracts.Source`.
        channel: A record of `photonmc.channel`, or anything with the methods of `photonmc.contracts.Channel`.
        receiver: A record of `photonmc.detector`, or anything with the methods of `photonmc.contracts.Receiver`.
        background: Light of the sky, a record of `photonmc.channel.Background`, for channels that see it; or None.
        selection: Which blocks are kept, a record of `photonmc.channel.Selection`, for channels that change; None keeps all.
    """

    source: Any
    channel: Any
    receiver: Any
    background: Any = None
    selection: Any = None

    def nodes(self, pulses: Any = None) -> tuple[ChannelState, Float[Array, " node"]]:
        """Quadrature points of the channel and their weights, over the first pulses, or all that the channel lasts for.

        With a selection, the points are those that it keeps, and their weights sum to the share of pulses kept.
        """
        return self.channel.nodes(self, pulses)

    def block_lengths(self, pulses: int) -> np.ndarray:
        """Pulses of each block in which the channel's state holds, int64; they sum to the pulses of the run."""
        return self.channel.block_lengths(self, pulses)

    def draw(self, key: Key[Array, ""], lengths: np.ndarray) -> ChannelState:
        """One trajectory of the channel over blocks of so many pulses."""
        return self.channel.draw(key, self, lengths)

    def least_transmittance(self, pulses: Any) -> Any:
        """Transmittance below which a block of a run of so many pulses is left out; 0 where all are kept."""
        if self.selection is None:
            return 0.0
        return self.selection.threshold_transmittance * self.channel.best_transmittance(self, pulses)

    def gate_s(self) -> Any:
        """Time in which background can fire a detector in one pulse [s]: the gate, or the whole period without one."""
        gate_ns = self.receiver.gate_ns()
        return 1.0 / self.source.pulse_rate_hz if gate_ns is None else gate_ns * 1e-9

    def background_outshines_dark_counts(self) -> bool:
        """Whether the sky fires a detector more often than the dark does; concrete values only."""
        if self.background is None:
            return False
        with jax.enable_x64(True):
            counts = 0.5 * self.background.counts_hz(self, self.channel.area_m2()) * self.gate_s()
            return bool(counts > sum(self.receiver.dark_probability()) / 2.0)

    def broken_assumptions(self, pulses: Any = None) -> dict[str, Any]:
        """What takes a result of so many pulses out of its validity: a sentence, and whether it applies; concrete or not."""
        found: dict[str, Any] = {}
        if hasattr(self.channel, "broken_assumptions"):
            found |= self.channel.broken_assumptions(self, pulses)
        return found | (self.receiver.broken_assumptions() if self.receiver.count_model == "exact" else {})
