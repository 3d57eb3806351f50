"""Topologies: how sources, channels and receivers are put together. Here the simplest, one arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from photonmc.contracts import ChannelState, record

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key


@record
class Link:
    """One arm: a source, a channel, a receiver.

    Attributes:
        source: A record of `photonmc.source`, or anything with the methods of `photonmc.contracts.Source`.
        channel: A record of `photonmc.channel`, or anything with the methods of `photonmc.contracts.Channel`.
        receiver: A record of `photonmc.detector`, or anything with the methods of `photonmc.contracts.Receiver`.
    """

    source: Any
    channel: Any
    receiver: Any

    def nodes(self) -> tuple[ChannelState, Float[Array, " node"]]:
        """Quadrature points of the channel and their weights."""
        return self.channel.nodes()

    def draw(self, key: Key[Array, ""], blocks: int) -> ChannelState:
        """One trajectory of the channel."""
        return self.channel.draw(key, blocks)
