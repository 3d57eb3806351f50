"""What the parts of a simulation hand to each other, and what each kind of part must offer.

Samplers, expectation and optimizer know these contracts and no concrete model. A model is a frozen record
(`record`) with the methods of one of the Protocols below, plus one line in the registry of its package.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar, dataclass_transform

import jax
import numpy as np

from photonmc.units import static

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    from photonmc.link import Link

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def record(cls: type[T]) -> type[T]:
    """Make a class a record: frozen dataclass, pytree of its numbers, words static, unknown keys refused by the config.

    Records hold no derived fields and check nothing when built, so that jax may rebuild them around tracers; ranges
    are checked at the border (`photonmc.study.check` and `photonmc.config`).
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    cls.__pydantic_config__ = {"extra": "forbid", "strict": True, "allow_inf_nan": False}  # type: ignore[attr-defined]
    return jax.tree_util.register_dataclass(cls)


@record
class ChannelState:
    """Condition of a channel at one quadrature point, or in one block of a trajectory; leading axes are those.

    Attributes:
        transmittance: Power transmittance from Alice's exit to the receiver's entrance.
        noise_click_probability: Click probability per gate and detector that the channel adds (background light).
        misalignment_error: Probability, independent of the receiver's, that a photon leaves for the wrong detector.
    """

    transmittance: Float[Array, ...]
    noise_click_probability: Float[Array, ...]
    misalignment_error: Float[Array, ...]


@record
class Counts:
    """Sifted events of a block: pulses where both parties chose a basis, clicks among them, bit errors among those.

    Attributes:
        pulses: All pulses emitted, whatever the bases; batch axes only.
        sent: Pulses where both chose that basis, shape (..., basis, intensity); bases in the order Z, X.
        detections: Those with a click.
        errors: Those whose bit differs from Alice's.
    """

    pulses: Any
    sent: Any
    detections: Any
    errors: Any


class Truth(NamedTuple):
    """What no experiment sees: photon number at Alice's exit behind each sifted detection and error.

    Both arrays have shape (..., basis, intensity, 4); the last axis is 0, 1, 2, and 3 for three and more photons.
    """

    detections: np.ndarray
    errors: np.ndarray


class Drawn(NamedTuple):
    """Whole blocks drawn by a sampler, one along the first axis.

    Attributes:
        pulses: Pulses of each block, shape (draw,).
        tally: Sifted pulses, shape (draw, basis, intensity, hidden class, result).
        detector_clicks: Registered clicks of each detector over all pulses, sifted or not, shape (draw, 2).
        pooling_error_bound: Bound on the total-variation error of pooled blocks, 0 where none were pooled.
        stopped: Whether the run was stopped before the end of the last block.
    """

    pulses: np.ndarray
    tally: np.ndarray
    detector_clicks: np.ndarray
    pooling_error_bound: float = 0.0
    stopped: bool = False


def unwatched(pulses: float) -> bool:
    """What a sampler tells of its progress, and asks whether to stop, where nobody looks."""
    return False


NO_CLICK, RIGHT, WRONG = 0, 1, 2
"""Last axis of a tally: a sifted pulse without click, with the right bit, with the wrong bit."""


def counts_from_tally(pulses: Any, tally: Any) -> Counts:
    """Counts from a tally of shape (..., basis, intensity, hidden class, result); numbers may be probabilities."""
    by_result = tally.sum(axis=-2)
    errors = by_result[..., WRONG]
    return Counts(pulses, by_result.sum(axis=-1), by_result[..., RIGHT] + errors, errors)


def truth_from_tally(tally: np.ndarray) -> Truth:
    """Photon-number truth from a tally of shape (..., basis, intensity, hidden class, result)."""
    errors = tally[..., WRONG]
    return Truth(tally[..., RIGHT] + errors, errors)


class Source(Protocol):
    """Light that leaves Alice."""

    pulse_rate_hz: float
    intensities: tuple[float, ...]
    intensity_probabilities: tuple[float, ...]

    def light_patterns(
        self, intensity: Float[Array, " cell"], to_0: Float[Array, " cell"], to_1: Float[Array, " cell"]
    ) -> Float[Array, "cell hidden pattern"]:
        """Joint probability of hidden class and of which detectors light alone would fire (none, 0, 1, both).

        Args:
            intensity: Setting of the source in each cell.
            to_0: Probability that one emitted photon fires detector 0.
            to_1: Likewise detector 1; a photon fires one of them at most.
        """
        ...

    def photon_number_tails(self) -> np.ndarray:
        """P(n > j) of each intensity, shape (intensity, j), until it falls below 2^-64."""
        ...


class Channel(Protocol):
    """Way from Alice's exit to the receiver's entrance.

    Attributes:
        fluctuates: Whether each realization draws a trajectory of its own.
        steady_noise: Whether nothing but the transmittance differs between nodes; may be missing, which means that it is not
            known.
    """

    fluctuates: ClassVar[bool]

    def pulses(self, pulse_rate_hz: float) -> float:
        """How many pulses it lasts for; infinite where it always does."""
        ...

    def block_lengths(self, link: Link, pulses: int) -> np.ndarray:
        """Pulses of each block in which one state holds, int64, for a run of so many pulses; host side."""
        ...

    def nodes(self, link: Link, pulses: Any = None) -> tuple[ChannelState, Float[Array, " node"]]:
        """Quadrature over time and fading: states with a leading axis, and their weights.

        Weights sum to 1, or to the share of pulses that the link's selection keeps.

        Args:
            link: What the channel is part of.
            pulses: Length of the run; None stands for all that the channel lasts for.
        """
        ...

    def draw(self, key: Key[Array, ""], link: Link, lengths: np.ndarray) -> ChannelState:
        """One trajectory: states of blocks of so many pulses, those of `block_lengths`, along a leading axis."""
        ...


@jax.jit
def quadrature(link: Link, pulses: Any = None) -> tuple[ChannelState, Float[Array, " node"]]:
    """Nodes of a link's channel, compiled."""
    return link.nodes(pulses)


class Receiver(Protocol):
    """From photons at the receiver's entrance to clicks."""

    def gate_ns(self) -> Any:
        """Width of the gate in which background acts [ns], None for the whole period."""
        ...

    def routing(
        self, state: ChannelState, matched: Float[Array, " cell"], bit: Int[Array, " cell"]
    ) -> tuple[Float[Array, " cell"], Float[Array, " cell"]]:
        """Probabilities that a photon emitted by Alice fires detector 0, and that it fires detector 1."""
        ...

    def clicks(
        self, light: Float[Array, "cell hidden pattern"], state: ChannelState, relative: tuple[Any, Any] = (1.0, 1.0)
    ) -> Float[Array, "cell hidden outcome"]:
        """Add noise to the light patterns: outcomes none, only 0, only 1, both read as 0, both read as 1."""
        ...

    def memory(self, pulse_rate_hz: float) -> Any:
        """What a click does to later gates, a `photonmc.detector.memory.Memory`; concrete values only."""
        ...

    def noise_probabilities(self, state: ChannelState) -> Float[Array, " detector"]:
        """Probability that noise fires each detector in one gate; the two are independent."""
        ...


class ProtocolModel(Protocol):
    """Settings, outcomes and sifting of one QKD protocol."""

    topology: ClassVar[str]
    """Name of the topology class that it runs on; any other is refused."""

    def choices(self, link: Link) -> tuple[Float[Array, " choice"], ...]:
        """Probabilities of the independent choices of a pulse: intensity, Alice's basis, her bit, Bob's basis."""
        ...

    def cells(self, link: Link) -> Float[Array, " cell"]:
        """Probability of each combination of settings of a pulse; sums to 1."""
        ...

    def settings(self, link: Link) -> np.ndarray:
        """Indices (intensity, Alice's basis, her bit, Bob's basis) of each cell, shape (4, cell)."""
        ...

    def outcomes(
        self, link: Link, state: ChannelState, cells: Any = None, relative: tuple[Any, Any] = (1.0, 1.0)
    ) -> Float[Array, "cell hidden outcome"]:
        """Probability of hidden class and outcome in each cell (or those given); sums to 1 over both for each cell."""
        ...

    def tally_labels(self, link: Link) -> np.ndarray:
        """Place of each (cell, outcome) in a flattened tally (basis, intensity, result); -1 where it is not sifted."""
        ...
