"""Probabilities of the mechanisms as integers, for comparison with random words.

A random number of 63 bits falls below floor(p 2^63) with probability p, exact to 2^-63: p = 1e-12 keeps seven digits,
p = 0 never happens and p = 1 always does. All thresholds are computed on the host in float64, so that every device
compares with the same integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from photonmc.contracts import NO_CLICK, ChannelState

if TYPE_CHECKING:
    from photonmc.link import Link

ONE = 1 << 63
"""Threshold of a certain event."""
FEW = 4
"""Photon numbers 0 ... FEW - 1 are told apart by the filter; pulses with more are always followed."""
BASES_ALIKE = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Order of the bases of Alice and Bob within one intensity; the sifted pairs first."""


class Thresholds(NamedTuple):
    """Integers p 2^63 of every mechanism in one state of the channel, uint64, and their bounds for the filter, uint16.

    Attributes:
        settings: Cumulated over intensity, then the bases of Alice and Bob; without the last, which is 1.
        photons: P(n > j) of each intensity, falling, shape (intensity, j).
        found: P(one of the first j + 1 photons is detected), rising, shape (bases equal, bit, j).
        to_1: P(a photon goes to detector 1, given that it is detected), shape (bases equal, bit).
        noise: Cumulated over noise in both detectors, only in 0, only in 1.
        settings_leading: Leading bits of those settings that the filter tells apart.
        photons_leading: Leading bits of P(n > j), j < FEW.
        found_leading: Leading bits of a bound of P(one of n photons is detected), n < FEW, over all settings.
        noise_leading: Leading bits of P(noise in any detector).
        quiet_labels: Label of a pulse of each setting that the filter tells apart, without a photon; see `quiet`.
    """

    settings: Any
    photons: Any
    found: Any
    to_1: Any
    noise: Any
    settings_leading: Any
    photons_leading: Any
    found_leading: Any
    noise_leading: Any
    quiet_labels: Any


def integers(probability: Any) -> np.ndarray:
    """Integers floor(p 2^63), uint64."""
    return np.floor(np.asarray(probability, dtype=np.float64) * float(ONE)).astype(np.uint64)


def leading_bits(threshold: Any) -> np.ndarray:
    """Leading 16 of 63 bits; a number whose leading bits are larger than those of a threshold does not fall below it."""
    return np.minimum(np.asarray(threshold, np.uint64) >> np.uint64(47), np.uint64(0xFFFF)).astype(np.uint16)


def cumulated(probabilities: Any) -> np.ndarray:
    """Cumulated thresholds of exclusive events that exhaust all cases, without the last, which is 1.

    Each event keeps the width of its own probability, however close to 1 its threshold lies; what rounding leaves over
    goes to the most probable one.
    """
    probabilities = np.ravel(probabilities)
    widths = [int(width) for width in integers(probabilities)]
    widths[int(np.argmax(probabilities))] += ONE - sum(widths)
    return np.cumsum(np.array(widths, dtype=np.uint64))[:-1]


def padded_tails(tails: np.ndarray) -> np.ndarray:
    """Thresholds of P(n > j), cut after the first that is 0 and padded to a width of 16, 32, 48, ... (few compilations)."""
    numbers = integers(tails)
    width = int(np.count_nonzero(numbers.any(axis=0))) + 1
    room = -(-width // 16) * 16
    return np.pad(numbers[:, :room], ((0, 0), (0, max(0, room - numbers.shape[1]))))


def thresholds_of(link: Link, protocol: Any, state: ChannelState, tails: np.ndarray) -> Thresholds:
    """Thresholds of a link in one state of its channel; concrete values only, and needs x64.

    Args:
        link: Its receiver is asked for the routing of photons and for the noise of each detector.
        protocol: Asked for the probabilities of the settings and for what is sifted.
        state: One state, without leading axes.
        tails: Photon number tails of the source.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        intensity, alice, _, bob = (np.asarray(chances, np.float64) for chances in protocol.choices(link))
        matched, bit = (np.array(values) for values in zip(*np.ndindex(2, 2), strict=True))
        routed = link.receiver.routing(state, matched == 1, bit)
        to_0, to_1 = (np.asarray(chances, np.float64).reshape(2, 2) for chances in routed)
        dark_0, dark_1 = (float(chance) for chance in link.receiver.noise_probabilities(state))
    bases = np.array([alice[a] * bob[b] for a, b in BASES_ALIKE])
    settings = cumulated(intensity[:, None] * bases)
    photons = padded_tails(tails)
    detected = to_0 + to_1
    found = integers(_first_detections(detected, photons.shape[1]))
    noise = cumulated([dark_0 * dark_1, dark_0 * (1.0 - dark_1), (1.0 - dark_0) * dark_1, (1.0 - dark_0) * (1.0 - dark_1)])
    apart = np.delete(settings, np.arange(2, settings.size, 4))  # which of two unequal bases: the filter need not know
    few = np.concatenate([[0], found.max(axis=(0, 1))[: FEW - 1]])
    return Thresholds(
        settings,
        photons,
        found,
        integers(np.divide(to_1, detected, out=np.zeros((2, 2)), where=detected > 0)),
        noise,
        leading_bits(apart),
        leading_bits(photons[:, :FEW]),
        leading_bits(few),
        leading_bits(noise[-1]),
        _quiet_labels(link, protocol),
    )


def _first_detections(detected: np.ndarray, photons: int) -> np.ndarray:
    """Probability 1 - (1 - q)^j that one of the first j = 1, 2, ... photons is detected, each with probability q."""
    with np.errstate(divide="ignore"):
        return -np.expm1(np.log1p(-detected)[..., None] * np.arange(1, photons + 1))


def _quiet_labels(link: Link, protocol: Any) -> np.ndarray:
    """Four times the place (basis, intensity) of sifted pulses, in the order of the filter's settings; last if unsifted."""
    intensities = len(link.source.intensities)
    places = protocol.tally_labels(link)[:, 0].reshape(intensities, 2, 2, 2)[:, :, 0, :]
    labels = [[places[k, a, b] for a, b in BASES_ALIKE[:3]] for k in range(intensities)]
    return (
        np.array(
            [place // 3 if place % 3 == NO_CLICK and place >= 0 else 2 * intensities for place in np.ravel(labels)],
            np.uint16,
        )
        * 4
    )
