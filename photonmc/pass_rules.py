"""Rules between the fields of a link to or from a satellite, and of the background that it sees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from photonmc.channel import CHANNELS
from photonmc.channel.atmosphere import LEAST_TABLE_DEG, TABLE, TABLE_WITHIN_NM, tabulated_wavelength
from photonmc.channel.beams import BEAM_LAWS
from photonmc.channel.downlink import MOST_BLOCKS
from photonmc.channel.selection import LIGHTS
from photonmc.channel.sky import DAY_WAVELENGTHS_NM, DAYS
from photonmc.errors import Mistake
from photonmc.fields import fields_of

PASSES = ("downlink", "uplink")
"""Kinds of channels to and from a satellite."""
SELECTABLE = (*PASSES, "recorded")
"""Kinds of channels whose blocks can be selected."""
WIDEST_OBSCURATION = 6.0
"""Diameter of an obscuration in waists of the beam, of which it lets 2e-8 pass."""
Get = Callable[[str], Any]
Rule = Callable[[Get, Any], Iterator[Mistake]]


def not_monotone_in(*paths: str, most: int | None = None) -> Callable[[Rule], Rule]:
    """Mark a rule whose limit the ends of a scanned axis do not speak for: what lies between is tried as well.

    Args:
        paths: Fields in which the limit is not monotone.
        most: Values of an axis that are tried, evenly along it, where the limit is smooth; None for all of them.
    """

    def mark(rule: Rule) -> Rule:
        rule.not_monotone_in = dict.fromkeys(paths, most)  # type: ignore[attr-defined]
        return rule

    return mark


def _on_a_pass(get: Get) -> bool:
    return get("channel.kind") in PASSES


def may_have_background(get: Get) -> bool:
    """Whether the channel brings background light, or its record may."""
    return get("channel.kind") == "recorded" or (_on_a_pass(get) and get("?background"))


def pass_of(get: Get) -> Any:
    """Record of a pass, None where its orbit or its turbulence is not known."""
    if any(tabulated_turbulence(get, None)):
        return None
    cls = CHANNELS[get("channel.kind")]
    channel: Any = cls(**{name: get(f"channel.{name}") for name in fields_of(cls)})
    known = channel.inclination_deg is not None and channel.latitude_deg is not None
    return None if channel.earth_rotation and not known else channel


def elevations(get: Get, free: Any) -> Iterator[Mistake]:
    """A pass culminates above the elevation at which it begins."""
    if _on_a_pass(get):
        low, high = get("channel.min_elevation_deg"), get("channel.max_elevation_deg")
        if not low < high:
            yield Mistake("channel.max_elevation_deg", f"must be above min_elevation_deg, {low:g}, but is {high:g}")


def one_beam(get: Get, free: Any) -> Iterator[Mistake]:
    """A beam is given by a divergence and what it means, or by its waist, and the telescope that cuts it."""
    if not _on_a_pass(get):
        return
    divergence, kind = get("channel.divergence_urad"), get("channel.divergence_kind")
    waist, aperture = get("channel.beam_waist_m"), get("channel.transmitter_aperture_m")
    if (divergence is None) == (waist is None):
        count = "there is neither" if waist is None else "there are both"
        yield Mistake(
            "channel.divergence_urad", f"give either divergence_urad with divergence_kind, or beam_waist_m; {count}"
        )
    if divergence is not None and kind is None:
        kinds = '"half_1e2", "full_1e2", "fwhm" or "tophat_full"'
        yield Mistake("channel.divergence_kind", f"is required with divergence_urad: {kinds}")
    if divergence is None and kind is not None:
        yield Mistake("channel.divergence_kind", f'is read with divergence_urad alone, but is "{kind}"')
    if aperture is not None and waist is None:
        beside = "does not stand beside divergence_urad" if divergence is not None else "needs beam_waist_m"
        yield Mistake("channel.transmitter_aperture_m", f"{beside}, but is {aperture:g}")
    law = get("channel.fading")
    if kind == "tophat_full" and (get("channel.kind") == "uplink" or law in BEAM_LAWS):
        what = "an uplink" if get("channel.kind") == "uplink" else f'fading = "{law}"'
        yield Mistake("channel.divergence_kind", f'must be that of a Gaussian beam for {what}, but is "tophat_full"')


def obscurations(get: Get, free: Any) -> Iterator[Mistake]:
    """What obscures a telescope is smaller than the telescope, and leaves some of the beam."""
    if not _on_a_pass(get):
        return
    for side in ("receiver", "transmitter"):
        aperture, obscuration = get(f"channel.{side}_aperture_m"), get(f"channel.{side}_obscuration_m")
        if aperture is None and obscuration > 0.0:
            yield Mistake(f"channel.{side}_obscuration_m", f"is read with {side}_aperture_m alone, but is {obscuration:g}")
        elif aperture is not None and not obscuration < aperture:
            yield Mistake(
                f"channel.{side}_obscuration_m", f"must be below {side}_aperture_m, {aperture:g}, but is {obscuration:g}"
            )
    waist, obscuration = get("channel.beam_waist_m"), get("channel.transmitter_obscuration_m")
    if waist is not None and obscuration > WIDEST_OBSCURATION * waist:
        widest = f"must be at most {WIDEST_OBSCURATION:g} times beam_waist_m, {waist:g}, to let light pass"
        yield Mistake("channel.transmitter_obscuration_m", f"{widest}, but is {obscuration:g}")


def rotation(get: Get, free: Any) -> Iterator[Mistake]:
    """How the Earth turns below an orbit depends on the inclination and the latitude."""
    if not _on_a_pass(get):
        return
    for name in ("inclination_deg", "latitude_deg"):
        value, turns = get(f"channel.{name}"), get("channel.earth_rotation")
        if turns and value is None:
            yield Mistake(f"channel.{name}", "is required with earth_rotation")
        elif not turns and value is not None:
            yield Mistake(f"channel.{name}", f"is read with earth_rotation = true alone, but is {value:g}")


@not_monotone_in("source.wavelength_nm")
def tabulated_air(get: Get, free: Any) -> Iterator[Mistake]:
    """The table of extinction has a few wavelengths and ends at 5 degrees."""
    if not (_on_a_pass(get) and get("channel.atmosphere") == "table"):
        return
    wavelength, low, zenith = (
        get(path) for path in ("source.wavelength_nm", "channel.min_elevation_deg", "channel.zenith_transmittance")
    )
    if tabulated_wavelength(wavelength) is None:
        known = ", ".join(f"{one:g}" for one in sorted(TABLE))
        yield Mistake(
            "source.wavelength_nm",
            f'must be within {TABLE_WITHIN_NM:g} nm of {known} for atmosphere = "table", but is {wavelength:g}',
        )
    if low < LEAST_TABLE_DEG:
        yield Mistake(
            "channel.min_elevation_deg", f'must be {LEAST_TABLE_DEG:g} at least for atmosphere = "table", but is {low:g}'
        )
    if zenith != 0.8:
        yield Mistake("channel.zenith_transmittance", f'must be left out with atmosphere = "table", but is {zenith:g}')


def tabulated_turbulence(get: Get, free: Any) -> Iterator[Mistake]:
    """A profile of turbulence has two columns of rising heights, reaches above the station and stands for another one."""
    if not _on_a_pass(get):
        return
    heights, strengths = get("channel.cn2_profile_m"), get("channel.cn2_profile")
    for name, given, other in (("cn2_profile_m", heights, strengths), ("cn2_profile", strengths, heights)):
        if given is None and other is not None:
            yield Mistake(f"channel.{name}", f"is required with {'cn2_profile' if other is strengths else 'cn2_profile_m'}")
    if heights is None or strengths is None:
        return
    if len(strengths) != len(heights):
        yield Mistake("channel.cn2_profile", f"must be as many as cn2_profile_m ({len(heights)}), but are {len(strengths)}")
    if len(heights) < 2:
        yield Mistake("channel.cn2_profile_m", f"must have 2 entries at least, but has {len(heights)}")
    for index, (low, high) in enumerate(itertools.pairwise(heights)):
        if not low < high:
            yield Mistake(
                "channel.cn2_profile_m", f"must rise, but [{index + 1}] = {high:g} is not above [{index}] = {low:g}"
            )
    station = get("channel.station_altitude_m")
    pairs = zip(heights[1:], strengths, strengths[1:], strict=False)
    if not any(top > station and max(around) > 0.0 for top, *around in pairs):
        yield Mistake("channel.cn2_profile", f"must be above 0 somewhere above station_altitude_m, {station:g}")
    for name in ("cn2_ground", "wind_rms_m_s"):
        value = get(f"channel.{name}")
        if value != fields_of(CHANNELS["downlink"])[name].default:
            yield Mistake(f"channel.{name}", f"must be left out with cn2_profile, but is {value:g}")


@not_monotone_in("channel.station_altitude_m", "channel.cn2_profile_m", most=100)
def gamma_gamma_takes_a_point(get: Get, free: Any) -> Iterator[Mistake]:
    """The gamma-gamma law is that of a point: of a telescope that is smaller than what turbulence leaves coherent."""
    if not (_on_a_pass(get) and get("channel.fading") == "gamma_gamma" and get("?source.wavelength_nm")):
        return
    channel, wavelength = pass_of(get), get("source.wavelength_nm")
    if channel is None:
        return
    with jax.enable_x64(True):
        path = channel.path(jnp.radians(channel.min_elevation_deg), 1e-9 * wavelength)
        largest = float(path.fried_parameter(channel.spherical))
    if not channel.receiver_aperture_m < largest:
        limit = f"the Fried parameter at min_elevation_deg, {largest:.4g} m"
        message = f'must be below {limit}, for fading = "gamma_gamma", but is {channel.receiver_aperture_m:g}'
        yield Mistake("channel.receiver_aperture_m", message)


def given_wavelength(get: Get, free: Any) -> Iterator[Mistake]:
    """Optics need a wavelength that somebody chose."""
    if _on_a_pass(get) and not get("?source.wavelength_nm"):
        yield Mistake("source.wavelength_nm", f'is required with channel.kind = "{get("channel.kind")}"')


def background_has_a_telescope(get: Get, free: Any) -> Iterator[Mistake]:
    """Background is seen by the telescope of a pass; its radiance is given by number or by name."""
    if not get("?background"):
        return
    if not _on_a_pass(get):
        yield Mistake("background", f'is read by "downlink" and "uplink" alone, but channel.kind = "{get("channel.kind")}"')
    name, radiance, wavelength = get("background.sky"), get("background.radiance_w_m2_sr_um"), get("source.wavelength_nm")
    if name is not None and radiance is not None:
        yield Mistake("background.sky", f'give either it or radiance_w_m2_sr_um, not both, but is "{name}"')
    low, high = DAY_WAVELENGTHS_NM[0], DAY_WAVELENGTHS_NM[-1]
    if name in DAYS and not low <= wavelength <= high:
        yield Mistake("source.wavelength_nm", f'must be in [{low:g}, {high:g}] nm for sky = "{name}", but is {wavelength:g}')


def selection_has_blocks(get: Get, free: Any) -> Iterator[Mistake]:
    """Blocks are chosen among those of a channel that changes."""
    if get("?selection") and get("channel.kind") not in SELECTABLE:
        kinds = '"downlink", "uplink" and "recorded"'
        yield Mistake("selection", f'is read by {kinds} alone, but channel.kind = "{get("channel.kind")}"')
    if get("?selection") and _on_a_pass(get) and get("channel.fading") not in LIGHTS:
        laws = ", ".join(f'"{law}"' for law in LIGHTS)
        yield Mistake("selection", f'takes channel.fading = {laws}, but it is "{get("channel.fading")}"')


def blocks_fit(get: Get, free: Any) -> Iterator[Mistake]:
    """A pass is sampled in blocks of the shorter correlation time, of which memory holds so many."""
    if not _on_a_pass(get) or free or get("run.sampler") == "expected" or get("receiver.count_model") != "exact":
        return
    paths = [f"channel.{name}_time_ms" for name in ("coherence", "pointing_correlation")]
    given = [(get(path), path) for path in paths if get(path) is not None]
    if not given:
        return
    shortest, path = min(given)
    rate, pulses, duration = get("source.pulse_rate_hz"), get("run.pulses"), get("run.duration_s")
    if pulses is None and duration is None:
        channel = pass_of(get)
        pulses = 0.0 if channel is None else float(channel.pulses(rate))
    elif pulses is None:
        pulses = duration * rate
    blocks = pulses // max(1, int(1e-3 * shortest * rate * (1.0 + 1e-9)))  # as `block_lengths` of the channel has it
    if MOST_BLOCKS < blocks < math.inf:
        short = f"must leave at most {MOST_BLOCKS:g} blocks in a run, but {shortest:.3g} ms make {blocks:.3g}"
        yield Mistake(path, short)


PASS_RULES = (
    elevations,
    one_beam,
    obscurations,
    rotation,
    tabulated_air,
    tabulated_turbulence,
    gamma_gamma_takes_a_point,
    given_wavelength,
    background_has_a_telescope,
    selection_has_blocks,
    blocks_fit,
)
