"""Decoy-state BB84, prepare and measure: settings, outcomes, sifting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from photonmc.contracts import NO_CLICK, RIGHT, WRONG, ChannelState, record
from photonmc.units import Range, static

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from photonmc.link import Link

BASES = ("Z", "X")
"""Bases in the order of every counts array; Z is the key basis."""
READS = (None, 0, 1, 0, 1)
"""Bit that Bob writes down for each outcome: none, only detector 0, only 1, both read as 0, both read as 1."""
OpenProbability = Annotated[float, Range(0.0, 1.0, open_low=True, open_high=True)]


@record
class BB84:
    """BB84 with any number of intensities, key from basis Z, phase error from basis X.

    Settings of a pulse (a cell) are intensity, Alice's basis, her bit and Bob's basis, numbered in that order; the
    hidden class is the photon number 0, 1, 2, 3 and more.
    """

    basis_probability_z: OpenProbability
    """Probability of the key basis Z; Alice's, and Bob's too unless his is given."""
    basis_probability_z_bob: OpenProbability | None = None
    """Probability with which Bob chooses Z, where it differs."""
    kind: Literal["bb84"] = static(default="bb84")

    topology: ClassVar[str] = "Link"

    def basis_probabilities(self) -> tuple[Float[Array, " basis"], Float[Array, " basis"]]:
        """Probabilities of Z and X, of Alice and of Bob."""
        alice = jnp.asarray(self.basis_probability_z)
        bob = alice if self.basis_probability_z_bob is None else jnp.asarray(self.basis_probability_z_bob)
        return jnp.stack([alice, 1.0 - alice]), jnp.stack([bob, 1.0 - bob])

    def matching_probabilities(self) -> Float[Array, " basis"]:
        """Probability that both choose Z, and that both choose X."""
        alice, bob = self.basis_probabilities()
        return alice * bob

    def choices(self, link: Link) -> tuple[Float[Array, " choice"], ...]:
        """Probabilities of the independent choices of a pulse: intensity, Alice's basis, her bit, Bob's basis."""
        alice, bob = self.basis_probabilities()
        return jnp.asarray(link.source.intensity_probabilities), alice, jnp.full(2, 0.5), bob

    def cells(self, link: Link) -> Float[Array, " cell"]:
        """Probability of each combination of intensity, Alice's basis, her bit, Bob's basis."""
        intensity, alice, bit, bob = self.choices(link)
        return (intensity[:, None, None, None] * alice[:, None, None] * bit[:, None] * bob).reshape(-1)

    def settings(self, link: Link) -> np.ndarray:
        """Indices (intensity, Alice's basis, bit, Bob's basis) of each cell, shape (4, cell)."""
        return np.indices((len(link.source.intensities), 2, 2, 2)).reshape(4, -1)

    def outcomes(
        self, link: Link, state: ChannelState, cells: Any = None, relative: tuple[Any, Any] = (1.0, 1.0)
    ) -> Float[Array, "cell hidden outcome"]:
        """Probability of photon number and outcome in each cell.

        Args:
            link: Where the pulses are sent.
            state: Of the channel: one, or one a cell.
            cells: Indices of cells, in any order and number; all of them without it.
            relative: Efficiency of each detector relative to its full one, darks included: one, or one a cell.
        """
        settings = self.settings(link)
        intensity, alice, bit, bob = settings if cells is None else jnp.asarray(settings)[:, cells]
        to_0, to_1 = link.receiver.routing(state, alice == bob, bit)
        mu = jnp.asarray(link.source.intensities)[intensity]
        light = link.source.light_patterns(mu, to_0 * relative[0], to_1 * relative[1])
        return link.receiver.clicks(light, state, relative)

    def tally_labels(self, link: Link) -> np.ndarray:
        """Place of each (cell, outcome) in the flattened tally (basis, intensity, result); -1 for unequal bases."""
        intensity, alice, bit, bob = (index[:, None] for index in self.settings(link))
        result = np.array([[NO_CLICK if read is None else RIGHT if read == b else WRONG for read in READS] for b in (0, 1)])
        label = (alice * len(link.source.intensities) + intensity) * 3 + result[bit[:, 0]]
        return np.where(alice == bob, label, -1)
