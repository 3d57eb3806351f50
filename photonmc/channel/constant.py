"""Channels whose state never changes: a fiber, and a fixed loss."""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import ChannelState, record
from photonmc.units import Range, static, transmittance_from_db

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

    from photonmc.link import Link


class _Constant(abc.ABC):
    """Shared by channels of one state: a single quadrature node of weight 1, a single block however long the run."""

    fluctuates: ClassVar[bool] = False

    @abc.abstractmethod
    def total_loss_db(self) -> Float[Array, ""]:
        """Loss from Alice's exit to the receiver's entrance [dB]."""

    def pulses(self, pulse_rate_hz: Any) -> float:
        """Any number of pulses can be sent."""
        return math.inf

    def block_lengths(self, link: Link, pulses: int) -> np.ndarray:
        """One block, which holds all pulses."""
        return np.array([pulses], dtype=np.int64)

    def nodes(self, link: Link, pulses: Any = None) -> tuple[ChannelState, Float[Array, " node"]]:
        """One node of weight 1."""
        transmittance = jnp.atleast_1d(transmittance_from_db(self.total_loss_db()))
        return ChannelState(transmittance, jnp.zeros(1), jnp.zeros(1)), jnp.ones(1)

    def draw(self, key: Key[Array, ""], link: Link, lengths: np.ndarray) -> ChannelState:
        """The same state in each block; the key is not used because nothing fluctuates."""
        state, _ = self.nodes(link)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(lengths),)), state)


@record
class Fiber(_Constant):
    """Optical fiber: loss = length x attenuation + excess loss."""

    length_km: Annotated[float, Range(0.0, 5000.0, "km")]
    """Fiber length [km]."""
    attenuation_db_per_km: Annotated[float, Range(0.0, 100.0, "dB/km")]
    """Attenuation [dB/km]."""
    excess_loss_db: Annotated[float, Range(0.0, 1000.0, "dB")] = 0.0
    """Loss of splices, connectors and filters on the way [dB]."""
    kind: Literal["fiber"] = static(default="fiber")

    def total_loss_db(self) -> Float[Array, ""]:
        """Loss of the fiber and of what is spliced into it [dB]."""
        return jnp.asarray(self.length_km * self.attenuation_db_per_km + self.excess_loss_db)


@record
class FixedLoss(_Constant):
    """Any channel that is known by its loss alone."""

    loss_db: Annotated[float, Range(0.0, 1000.0, "dB")]
    """Loss from Alice's exit to the receiver's entrance [dB]."""
    kind: Literal["fixed_loss"] = static(default="fixed_loss")

    def total_loss_db(self) -> Float[Array, ""]:
        """The loss itself [dB]."""
        return jnp.asarray(self.loss_db)
