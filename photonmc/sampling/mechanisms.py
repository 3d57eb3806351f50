"""What happens to each pulse, from its random words: first which pulses can be left alone, then the fates of the others.

Most pulses of a lossy link end without a detected photon and without noise. `quiet` finds those that certainly do from
the upper words alone, in one pass that stores one small number a pulse. `follow` plays any pulse to its end with words
of full length, and knows nothing of the filter: pulses that were let through in vain come out silent, and what it says
about a quiet pulse agrees with the filter.

Words of a pulse, by group and place:

    0    upper words: settings, photon number, first detected photon, noise
    1    lower words of the same; their last bits are Alice's bit (first word) and Bob's bit for a double click (fourth)
    2+r  round r: detector of the photon just found (upper, lower), next detected photon (upper, lower)
    2^30 + r and 2^31: activation levels of the photon found in round r, and of noise in each detector
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.sampling.thresholds import FEW, Thresholds

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, UInt

    from photonmc.words import Words

HIDDEN = 4
"""Photon classes: 0, 1, 2, 3 and more photons."""
MARKS = 8
"""Combinations of what fired and of the double-click bit."""
PHOTON_LEVELS, NOISE_LEVELS = 1 << 30, 1 << 31
NEVER = 2.0
"""Activation level of a detector that nothing has hit."""


def quiet(words: Words, thresholds: Thresholds, lanes: int, limit: Any) -> UInt[Array, " pulse"]:
    """Label of each of the first pulses of a chunk: of a quiet one its settings and photon number, of others `busy_label`.

    Quiet pulses are sifted ones (label = 4 (basis x intensities + intensity) + photon number), unsifted ones, and those
    from the limit on. A pulse is let through when any upper word equals that of a threshold (2^-32 a comparison), when
    its photon number is not among the few, and when a photon may be detected or noise may fire in some setting.

    Args:
        words: Random words of the chunk.
        thresholds: Of the state in which the chunk is played.
        lanes: Pulses.
        limit: First position that is not sent any more.
    """
    position = jax.lax.iota(jnp.uint32, lanes)
    settings, photons, detection, noise = words(0, position)
    label = jnp.broadcast_to(thresholds.quiet_labels[0], (lanes,))
    exceeds = [thresholds.photons_high[0, number] for number in range(FEW)]
    busy = noise <= thresholds.noise_high
    for index in range(thresholds.settings_high.shape[0]):
        reached = settings >= thresholds.settings_high[index]
        busy |= settings == thresholds.settings_high[index]
        label = jnp.where(reached, thresholds.quiet_labels[index + 1], label)
        if index % 3 == 2:
            row = thresholds.photons_high[index // 3 + 1]
            exceeds = [jnp.where(reached, row[number], before) for number, before in enumerate(exceeds)]
    found = jnp.broadcast_to(thresholds.found_high[0], (lanes,))
    for number in range(FEW - 1):
        more = photons < exceeds[number]
        busy |= photons == exceeds[number]
        label += more
        found = jnp.where(more, thresholds.found_high[number + 1], found)
    busy |= (photons <= exceeds[FEW - 1]) | (detection <= found)
    intensities = thresholds.photons.shape[0]
    label = jnp.where(busy, busy_label(intensities), label)
    label = jnp.where(position < limit, label, unsifted_label(intensities))
    return label.astype(jnp.uint8 if busy_label(intensities) < 256 else jnp.uint16)


def unsifted_label(intensities: int) -> int:
    """Label of an unsifted quiet pulse without a photon."""
    return 8 * intensities


def busy_label(intensities: int) -> int:
    """Label of a pulse that must be followed."""
    return unsifted_label(intensities) + 4


class Fates(NamedTuple):
    """How pulses end; one entry a pulse.

    Attributes:
        cell: Settings, numbered as in `BB84.cells`: intensity, Alice's basis, her bit, Bob's basis.
        photons: Photon class at Alice's exit: 0, 1, 2, 3 and more.
        double_bit: Bit that Bob takes where both detectors click.
        fired_0: Whether light or noise fires detector 0.
        fired_1: Likewise detector 1.
        levels: None, or activation levels of both detectors: a detector at a relative efficiency s fires where its
            level is below s. Smallest of the uniform numbers of all hits; `NEVER` without a hit.
    """

    cell: Any
    photons: Any
    double_bit: Any
    fired_0: Any
    fired_1: Any
    levels: tuple[Any, Any] | None = None

    def packed(self) -> UInt[Array, " pulse"]:
        """All but the levels in one number: cell, then photon class, then marks."""
        marks = self.fired_0.astype(jnp.uint32) | self.fired_1.astype(jnp.uint32) << 1 | self.double_bit << 2
        return (self.cell * np.uint32(HIDDEN) + self.photons) * np.uint32(MARKS) + marks


def long_word(upper: Any, lower: Any) -> UInt[Array, " pulse"]:
    """Random number of 63 bits from a word and the upper 31 bits of another."""
    return (upper.astype(jnp.uint64) << np.uint64(31)) | (lower >> np.uint32(1)).astype(jnp.uint64)


def unit(upper: Any, lower: Any) -> Float[Array, " pulse"]:
    """Uniform number in [0, 1) on the grid of 2^-53."""
    return ((upper.astype(jnp.uint64) << np.uint64(21)) | (lower >> np.uint32(11)).astype(jnp.uint64)) * 2.0**-53


def rank(passed: Any, width: int) -> UInt[Array, " pulse"]:
    """Number of leading places that are passed, by bisection; `passed(place)` is true up to some place, then false."""
    count = jnp.uint32(0)
    for step in (1 << power for power in reversed(range(width.bit_length()))):
        place = count + np.uint32(step - 1)
        ahead = passed(jnp.minimum(place, np.uint32(width - 1))) & (place < width)
        count = jnp.where(ahead, count + np.uint32(step), count)
    return count


def follow(words: Words, thresholds: Thresholds, position: UInt[Array, " pulse"], levels: bool = False) -> Fates:
    """Play the pulses at these positions to their end: choices, photon number, every detected photon, noise.

    Photons are looked at one after the other: the next one that is detected is found by inversion of the geometric
    law, then the detector that it goes to. Without levels the search ends once both detectors have fired.

    Args:
        words: Random words of the chunk.
        thresholds: Of the state in which the chunk is played.
        position: Positions in the chunk.
        levels: Whether to draw activation levels, which needs every photon.
    """
    high, low = words(0, position), words(1, position)
    choice, source, first, dark = (long_word(upper, lower) for upper, lower in zip(high, low, strict=True))
    bit, double_bit = low.first & np.uint32(1), low.fourth & np.uint32(1)

    setting = rank(lambda place: choice >= thresholds.settings[place], thresholds.settings.shape[0])
    intensity, bases = setting >> np.uint32(2), setting & np.uint32(3)
    alice, bob = bases & np.uint32(1), (bases & np.uint32(1)) ^ (bases >> np.uint32(1))
    width = thresholds.photons.shape[1]
    tails, starts = thresholds.photons.ravel(), intensity * np.uint32(width)
    photons = rank(lambda place: source < tails[starts + place], width)

    way = jnp.where(alice == bob, np.uint32(2), np.uint32(0)) + bit
    found, begins, to_1 = thresholds.found.ravel(), way * np.uint32(width), thresholds.to_1.ravel()[way]

    def photons_left(carry: tuple[Any, ...]) -> Any:
        return (carry[1] > 0).any()

    def next_photon(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        number, left, search, hits, lowest = carry
        skipped = rank(lambda place: search >= found[begins + place], width)
        detected = skipped < left
        drawn = words(number + np.uint32(2), position)
        goes_to_1 = long_word(drawn.first, drawn.second) < to_1
        hits |= jnp.where(detected, np.uint32(1) << goes_to_1.astype(jnp.uint32), np.uint32(0))
        left = jnp.where(detected, left - skipped - np.uint32(1), np.uint32(0))
        if levels:
            drawn_levels = words(number + np.uint32(PHOTON_LEVELS), position)
            level = jnp.where(detected, unit(drawn_levels.first, drawn_levels.second), NEVER)
            lowest = (
                jnp.where(goes_to_1, lowest[0], jnp.minimum(lowest[0], level)),
                jnp.where(goes_to_1, jnp.minimum(lowest[1], level), lowest[1]),
            )
        else:
            left = jnp.where(hits == 3, np.uint32(0), left)
        return number + np.uint32(1), left, long_word(drawn.third, drawn.fourth), hits, lowest

    nothing = jnp.full(position.shape, NEVER) if levels else None
    start = (jnp.uint32(0), photons, first, jnp.zeros_like(photons), (nothing, nothing))
    _, _, _, hits, lowest = jax.lax.while_loop(photons_left, next_photon, start)

    dark_0, dark_1 = _noise(dark, thresholds.noise)
    cell = ((intensity * np.uint32(2) + alice) * np.uint32(2) + bit) * np.uint32(2) + bob
    fates = Fates(
        cell,
        jnp.minimum(photons, np.uint32(HIDDEN - 1)),
        double_bit,
        (hits & np.uint32(1) > 0) | dark_0,
        (hits & np.uint32(2) > 0) | dark_1,
    )
    if not levels:
        return fates
    drawn = words(np.uint32(NOISE_LEVELS), position)
    return fates._replace(
        levels=(
            jnp.where(dark_0, jnp.minimum(lowest[0], unit(drawn.first, drawn.second)), lowest[0]),
            jnp.where(dark_1, jnp.minimum(lowest[1], unit(drawn.third, drawn.fourth)), lowest[1]),
        )
    )


def _noise(dark: Any, thresholds: Any) -> tuple[Bool[Array, " pulse"], Bool[Array, " pulse"]]:
    """Whether noise fires each detector: both below the first threshold, only 0 up to the second, only 1 up to the third."""
    both = dark < thresholds[0]
    return dark < thresholds[1], both | ((dark >= thresholds[1]) & (dark < thresholds[2]))
