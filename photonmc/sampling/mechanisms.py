"""What happens to each pulse, from its random words: first which pulses can be left alone, then the fates of the others.

Most pulses of a lossy link end without a detected photon and without noise. `quiet` finds those that certainly do from
the leading 16 bits of each random number, in one pass that stores one small number a pulse. `follow` plays any pulse to
its end with numbers of 63 bits, and knows nothing of the filter: pulses that were let through in vain come out silent,
and what it says about a quiet pulse agrees with the filter.

Words by group; those of group 0 are shared by a pair of neighbouring pulses, all others belong to one pulse:

    0    leading bits, 16 each: settings, photon number, first detected photon, noise of the even pulse; then the odd one
    1    middle bits of settings, of photon number (32 each); last bits of both (16 each); Alice's bit, double-click bit
    2    middle bits of first detected photon, of noise; last bits of both
    3+r  round r: detector of the photon just found (two words), next detected photon (two words)
    2^30 + r and 2^31: activation levels of the photon found in round r, and of noise in each detector
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.sampling.codes import HIDDEN
from photonmc.sampling.thresholds import FEW, Thresholds

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, UInt

    from photonmc.words import Words

MARKS = 8
"""Combinations of what fired and of the double-click bit."""
PHOTON_LEVELS, NOISE_LEVELS = 1 << 30, 1 << 31
NEVER = 2.0
"""Activation level of a detector that nothing has hit."""


def quiet(words: Words, thresholds: Thresholds, lanes: int, limit: Any) -> UInt[Array, " pair"]:
    """Labels of the first pulses of a chunk: of a quiet one its settings and photon number, of others `busy_label`.

    Quiet pulses are sifted ones (label = 4 (basis x intensities + intensity) + photon number), unsifted ones, and those
    from the limit on. A pulse is let through when the leading bits of any number equal those of a threshold (2^-16 a
    comparison), when its photon number is not among the few, and when a photon may be detected or noise may fire in
    some setting.

    Args:
        words: Random words of the chunk.
        thresholds: Of the state in which the chunk is played.
        lanes: Pulses, an even number.
        limit: First position that is not sent any more.

    Returns:
        Labels of neighbouring pulses in one number: that of the even pulse in its lower half, see `label_type`.
    """
    pair = jax.lax.iota(jnp.uint32, lanes // 2)
    drawn = words(0, pair)
    half = label_type(thresholds.photons.shape[0])
    double = np.uint16 if half == np.uint8 else np.uint32
    labels = []
    for odd, (one, other) in enumerate(((drawn.first, drawn.second), (drawn.third, drawn.fourth))):
        label = _quiet_one(leading(one), leading(other), thresholds)
        sent = pair * np.uint32(2) + np.uint32(odd) < limit
        labels.append(jnp.where(sent, label, np.uint16(unsifted_label(thresholds.photons.shape[0]))).astype(double))
    return labels[0] | labels[1] << double(8 * np.dtype(half).itemsize)


def _quiet_one(one: Any, other: Any, thresholds: Thresholds) -> UInt[Array, " pair"]:
    """Label of one pulse of each pair, from leading bits."""
    settings, photons = one
    detection, noise = other
    label = jnp.broadcast_to(thresholds.quiet_labels[0], settings.shape)
    exceeds = [thresholds.photons_leading[0, number] for number in range(FEW)]
    busy = noise <= thresholds.noise_leading
    for index in range(thresholds.settings_leading.shape[0]):
        reached = settings >= thresholds.settings_leading[index]
        busy |= settings == thresholds.settings_leading[index]
        label = jnp.where(reached, thresholds.quiet_labels[index + 1], label)
        if index % 3 == 2:
            row = thresholds.photons_leading[index // 3 + 1]
            exceeds = [jnp.where(reached, row[number], before) for number, before in enumerate(exceeds)]
    found = jnp.broadcast_to(thresholds.found_leading[0], settings.shape)
    for number in range(FEW - 1):
        more = photons < exceeds[number]
        busy |= photons == exceeds[number]
        label += more.astype(jnp.uint16)
        found = jnp.where(more, thresholds.found_leading[number + 1], found)
    busy |= (photons <= exceeds[FEW - 1]) | (detection <= found)
    return jnp.where(busy, np.uint16(busy_label(thresholds.photons.shape[0])), label)


def leading(word: Any) -> tuple[Any, Any]:
    """Both halves of a word, the upper one first, uint16."""
    return (word >> np.uint32(16)).astype(jnp.uint16), word.astype(jnp.uint16)


def label_type(intensities: int) -> Any:
    """Type of a label: one byte, but for more than 31 intensities."""
    return np.uint8 if busy_label(intensities) < 256 else np.uint16


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


def long_number(leading: Any, middle: Any, last: Any) -> UInt[Array, " pulse"]:
    """Random number of 63 bits from 16 leading, 32 middle and the upper 15 of 16 last bits."""
    upper = leading.astype(jnp.uint64) << np.uint64(47) | middle.astype(jnp.uint64) << np.uint64(15)
    return upper | (last >> np.uint16(1)).astype(jnp.uint64)


def long_word(upper: Any, lower: Any) -> UInt[Array, " pulse"]:
    """Random number of 63 bits from a word and the upper 31 bits of another."""
    return (upper.astype(jnp.uint64) << np.uint64(31)) | (lower >> np.uint32(1)).astype(jnp.uint64)


def unit(upper: Any, lower: Any) -> Any:
    """Uniform number in [0, 1) on the grid of 2^-53."""
    return ((upper.astype(jnp.uint64) << np.uint64(21)) | (lower >> np.uint32(11)).astype(jnp.uint64)) * 2.0**-53


def rank(passed: Any, width: int, lanes: int) -> UInt[Array, " pulse"]:
    """Number of leading places that are passed, by bisection; `passed(place)` is true up to some place, then false.

    A loop and not a row of steps, because compilers keep what goes into a loop, and would draw the random words that
    the steps compare once more for each step.
    """
    powers = width.bit_length()

    def halve(turn: Any, count: Any) -> Any:
        step = np.uint32(1) << (np.uint32(powers - 1) - turn.astype(jnp.uint32))
        place = count + step - np.uint32(1)
        ahead = passed(jnp.minimum(place, np.uint32(width - 1))) & (place < width)
        return jnp.where(ahead, count + step, count)

    return jax.lax.fori_loop(0, powers, halve, jnp.zeros(lanes, jnp.uint32))


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
    lanes = position.shape[0]
    choice, source, first, dark = _numbers(words, position)
    coins = words(1, position).fourth
    bit, double_bit = coins >> np.uint32(31), coins >> np.uint32(30) & np.uint32(1)

    setting = rank(lambda place: choice >= thresholds.settings[place], thresholds.settings.shape[0], lanes)
    intensity, bases = setting >> np.uint32(2), setting & np.uint32(3)
    alice, bob = bases & np.uint32(1), (bases & np.uint32(1)) ^ (bases >> np.uint32(1))
    width = thresholds.photons.shape[1]
    tails, row = thresholds.photons.ravel(), intensity * np.uint32(width)
    photons = rank(lambda place: source < tails[row + place], width - 1, lanes)

    alike = alice == bob
    found, way = thresholds.found.ravel(), (jnp.where(alike, np.uint32(2), np.uint32(0)) + bit) * np.uint32(width)
    to_1 = jnp.where(
        alike,
        jnp.where(bit == 1, thresholds.to_1[1, 1], thresholds.to_1[1, 0]),
        jnp.where(bit == 1, thresholds.to_1[0, 1], thresholds.to_1[0, 0]),
    )

    def next_photon(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        number, state, search, lowest = carry  # state: four times the photons left to look at, and what was hit
        left, hits = state >> np.uint32(2), state & np.uint32(3)
        skipped = rank(lambda place: search >= found[way + place], width - 1, lanes)
        detected = skipped < left
        drawn = words(number + np.uint32(3), position)
        goes_to_1 = long_word(drawn.first, drawn.second) < to_1
        search = long_word(drawn.third, drawn.fourth)
        hits |= jnp.where(detected, np.uint32(1) << goes_to_1.astype(jnp.uint32), np.uint32(0))
        left = jnp.where(detected, left - skipped - np.uint32(1), np.uint32(0))
        left = jnp.where(search < found[way + jnp.maximum(left, np.uint32(1)) - np.uint32(1)], left, np.uint32(0))
        if levels:
            drawn_levels = words(number + np.uint32(PHOTON_LEVELS), position)
            level = jnp.where(detected, unit(drawn_levels.first, drawn_levels.second), NEVER)
            lowest = (
                jnp.where(goes_to_1, lowest[0], jnp.minimum(lowest[0], level)),
                jnp.where(goes_to_1, jnp.minimum(lowest[1], level), lowest[1]),
            )
        else:
            left = jnp.where(hits == 3, np.uint32(0), left)
        return number + np.uint32(1), left << np.uint32(2) | hits, search, lowest

    nothing: Any = jnp.full(lanes, NEVER) if levels else None
    start = (jnp.uint32(0), photons << np.uint32(2), first, (nothing, nothing))
    _, hits, _, lowest = jax.lax.while_loop(lambda carry: jnp.max(carry[1]) > 3, next_photon, start)

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


def _numbers(words: Words, position: Any) -> tuple[Any, ...]:
    """Numbers of 63 bits that decide on the settings, the photon number, the first detected photon and noise."""
    pair, odd = words(0, position >> np.uint32(1)), position & np.uint32(1) == 1
    emission, reception = words(1, position), words(2, position)
    heads = leading(jnp.where(odd, pair.third, pair.first)) + leading(jnp.where(odd, pair.fourth, pair.second))
    middles = (emission.first, emission.second, reception.first, reception.second)
    lasts = leading(emission.third) + leading(reception.third)
    return tuple(long_number(*parts) for parts in zip(heads, middles, lasts, strict=True))


def _noise(dark: Any, thresholds: Any) -> tuple[Bool[Array, " pulse"], Bool[Array, " pulse"]]:
    """Whether noise fires each detector: both below the first threshold, only 0 up to the second, only 1 up to the third."""
    both = dark < thresholds[0]
    return dark < thresholds[1], both | ((dark >= thresholds[1]) & (dark < thresholds[2]))
