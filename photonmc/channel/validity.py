"""Where the models of the air are doubtful."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from photonmc.channel.selection import LIGHTS

FLAT = "below 10 degrees of elevation flat layers and straight rays are doubtful"
"""Why results at low elevations are doubtful."""
STRONG = "the scintillation index of weak turbulence exceeds 1 behind this aperture"
"""Why results of laws of weak turbulence are doubtful."""
CUT = "scintillation lifts the transmittance above 1, where it is cut off"
"""Why results with little loss are doubtful."""
NARROW = "the beam is so much narrower than the telescope that its edges fall between the nodes of the pointing error"
"""Why results of beams narrower than telescopes make them are doubtful."""
LEAST_SPOT, LEAST_ELLIPSE = 0.06, 0.25
"""1/e^2 radius of a spot, and of an elliptic one, in radii of the telescope, from which on means are right to 2e-5."""
FAR = "no orbit of this inclination culminates so high over this latitude"
"""Why results of an orbit that does not come near are doubtful."""
LEAST_SURE_DEG = 10.0
"""Elevation from which on the air may be taken for flat layers [deg]."""
WEAK = ("lognormal", "elliptic_beam")
"""Laws whose width is the index of weak turbulence, which holds up to 1: Andrews, Phillips, Laser Beam Propagation, 2005."""
SCINTILLATING = ("lognormal", "gamma_gamma")
"""Laws of a factor that multiplies the transmittance."""
LEAST_CUT = 1e-12
"""Share of the light's law above a transmittance of 1 that is worth a word (theory 3.3)."""


def doubts(channel: Any, elevations: Any, wavelength: Any) -> dict[str, Any]:
    """Sentences that say which model is doubtful, and whether it is at one of some elevations.

    Args:
        channel: A `Downlink` or an `Uplink`.
        elevations: The lowest and the highest of a run, or a single one [rad].
        wavelength: Of the light [m].
    """
    slow = jax.lax.map(lambda elevation: channel.slow(elevation, wavelength), elevations)
    found = {FLAT: (jnp.degrees(elevations) < LEAST_SURE_DEG - 1e-6).any()}
    if channel.divergence_kind != "tophat_full":
        spots = jax.vmap(lambda at, far: channel.spot(at, far, wavelength))(elevations, slow.distance)
        elliptic = channel.fading == "elliptic_beam"
        narrow = spots < (LEAST_ELLIPSE if elliptic else LEAST_SPOT) * 0.5 * channel.receiver_aperture_m
        found[NARROW] = (narrow & (elliptic | (slow.jitter > 0.0))).any()
    if channel.earth_rotation:
        north = jnp.radians(jnp.minimum(channel.inclination_deg, 180.0 - channel.inclination_deg))
        beyond = jnp.radians(jnp.abs(channel.latitude_deg)) - north
        found[FAR] = beyond > channel.orbit().earth_angle(channel.orbit().culmination) + 1e-9
    if channel.fading in WEAK:
        found[STRONG] = (slow.index > 1.0).any()
    if channel.fading in SCINTILLATING:

        def above(one: Any, elevation: Any) -> Any:
            most = one.steady * channel.shares(elevation, one.distance, jnp.zeros(()), wavelength)
            return LIGHTS[channel.fading](one).above(-jnp.log(most))[1].sum()

        found[CUT] = (jax.vmap(above)(slow, elevations) > LEAST_CUT).any()
    return found
