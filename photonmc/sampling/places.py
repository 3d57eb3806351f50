"""Places: what one pulse can leave behind, as far as anybody counts it.

A pulse adds one to at most one place of the tally and clicks in no, one or both detectors. All combinations of settings,
hidden class and outcome that add the same are one place here, so that a sampler draws few categories: one without click
for each basis and intensity, 6 with one for each hidden class of those (right or wrong, by which detectors clicked) and 4
for everything that is not sifted, 154 for three intensities instead of 480 combinations.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from photonmc.contracts import NO_CLICK, ChannelState
from photonmc.sampling.codes import HIDDEN

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from photonmc.link import Link

OUTCOME_CLICKS = ((0, 0), (1, 0), (0, 1), (1, 1), (1, 1))
"""Clicks of detectors 0 and 1 in each outcome: none, only 0, only 1, both read as 0, both read as 1."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Places of a link; an array over places has them on its last axis, and probabilities sum to 1.

    Attributes:
        index: Place of each combination, shape (cell, hidden, outcome).
        tally: Place in the flattened tally (basis, intensity, hidden, result) that each adds to; -1 where not sifted.
        clicks: Registered clicks of detectors 0 and 1 in each, shape (place, 2).
        shape: Shape of the tally.
    """

    index: np.ndarray
    tally: np.ndarray
    clicks: np.ndarray
    shape: tuple[int, ...]

    @property
    def clicking(self) -> np.ndarray:
        """Places with a click in any detector, sifted or not."""
        return self.clicks.sum(axis=1) > 0

    @property
    def detections_z(self) -> np.ndarray:
        """Places that are a sifted detection in basis Z, at the n-th of which a block of fixed size stops."""
        sifted_z = (self.tally >= 0) & (self.tally < self.tally_size // 2)
        return sifted_z & (self.tally % self.shape[-1] != NO_CLICK)

    @property
    def tally_size(self) -> int:
        """Entries of the tally."""
        return int(np.prod(self.shape))

    def sums(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum counts (or probabilities) over places into what is reported.

        Args:
            counts: Shape (..., place).

        Returns:
            Tally, shape (..., basis, intensity, hidden, result), and registered clicks of each detector, shape (..., 2).
        """
        adds_to = (self.tally[:, None] == np.arange(self.tally_size)).astype(np.int64)
        return (counts @ adds_to).reshape(*counts.shape[:-1], *self.shape), counts @ self.clicks


def places_of(link: Link, protocol: Any) -> Places:
    """Collapse the combinations of a link that count the same; concrete values only."""
    labels = protocol.tally_labels(link)[:, None, :]  # over (basis, intensity, result)
    results = 3
    hidden = np.arange(HIDDEN)[:, None]
    hidden = np.where(labels % results == NO_CLICK, 0, hidden)  # nobody asks for the photons of a silent pulse
    by_hidden = (labels // results * HIDDEN + hidden) * results + labels % results
    place = np.where(labels >= 0, by_hidden, -1)
    clicks = np.broadcast_to(np.array(OUTCOME_CLICKS), (*place.shape, 2))
    combinations = np.concatenate([place[..., None], clicks], axis=-1).reshape(-1, 3)
    distinct, index = np.unique(combinations, axis=0, return_inverse=True)
    shape = (2, len(link.source.intensities), HIDDEN, results)
    return Places(index.reshape(place.shape), distinct[:, 0], distinct[:, 1:], shape)


def place_probabilities(link: Link, protocol: Any, state: ChannelState, index: Any, size: int) -> Float[Array, " place"]:
    """Probability of each of `size` places for a gate in which the detectors are live, in one state of the channel.

    Args:
        link: Where the pulses are sent.
        protocol: Its cells and outcomes are read.
        state: Of the channel.
        index: `Places.index`.
        size: Number of places.
    """
    joint = protocol.cells(link)[:, None, None] * protocol.outcomes(link, state)
    return jnp.zeros(size).at[index.ravel()].add(joint.ravel())


def blind_probabilities(link: Link, protocol: Any, state: ChannelState, places: Places) -> Float[Array, " place"]:
    """Probability of each place for a gate in which both detectors are blind: settings and photon number alone."""
    joint = protocol.cells(link)[:, None] * protocol.outcomes(link, state).sum(axis=-1)
    silent = OUTCOME_CLICKS.index((0, 0))
    return jnp.zeros(places.tally.size).at[places.index[..., silent].ravel()].add(joint.ravel())
