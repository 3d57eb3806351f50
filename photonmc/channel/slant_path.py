"""What a downlink and an uplink share: a satellite that passes over a ground station, its telescope, the air between."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax.numpy as jnp

from photonmc.channel import diffraction, geometry, turbulence
from photonmc.channel.atmosphere import airmass, tabulated_transmittance
from photonmc.units import Range, static

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Degrees = Annotated[float, Range(0.0, 90.0, "deg")]
Diameter = Annotated[float, Range(1e-9, 100.0, "m")]
Obscuration = Annotated[float, Range(0.0, 100.0, "m")]
Microradians = Annotated[float, Range(0.0, 1e5, "urad")]
Decibels = Annotated[float, Range(0.0, 1000.0, "dB")]
SPECKLE_HEIGHT_M = 1e4
"""Height of the turbulence that moves the speckles [m]."""
Time = Annotated[float, Range(0.0, 1e6, "ms", open_low=True)]


@dataclasses.dataclass(frozen=True)
class SlantPath:
    """A satellite on a circular orbit passes over a ground station.

    The beam is given by its divergence and what that means, or by the telescope that it leaves and the beam's waist there.
    """

    altitude_km: Annotated[float, Range(100.0, 100_000.0, "km")]
    """Height of the orbit above a sphere of 6371 km [km]."""
    max_elevation_deg: Degrees
    """Elevation at culmination [deg]."""
    receiver_aperture_m: Diameter
    """Diameter of the receiving telescope [m]."""
    min_elevation_deg: Degrees = 10.0
    """Elevation at which the link begins and ends [deg]."""
    inclination_deg: Annotated[float, Range(0.0, 180.0, "deg")] | None = None
    """Inclination of the orbit [deg], read with earth_rotation."""
    latitude_deg: Annotated[float, Range(-90.0, 90.0, "deg")] | None = None
    """Latitude of the station [deg], read with earth_rotation."""
    station_altitude_m: Annotated[float, Range(0.0, 9000.0, "m")] = 0.0
    """Height of the station above the sea [m]."""
    divergence_urad: Annotated[float, Range(0.01, 1e5, "urad")] | None = None
    """Divergence of the beam [urad], in the sense of divergence_kind."""
    transmitter_aperture_m: Diameter | None = None
    """Diameter of the transmitting telescope [m]."""
    transmitter_obscuration_m: Obscuration = 0.0
    """Diameter of what obscures it [m]."""
    beam_waist_m: Annotated[float, Range(1e-6, 100.0, "m")] | None = None
    """1/e^2 radius of the beam at the transmitting telescope [m]."""
    receiver_obscuration_m: Obscuration = 0.0
    """Diameter of what obscures the receiving telescope [m]."""
    pointing_jitter_urad: Microradians = 0.0
    """Pointing error of the transmitter, r.m.s. of each axis [urad]."""
    boresight_error_urad: Microradians = 0.0
    """Constant pointing error of the transmitter [urad]."""
    zenith_transmittance: Annotated[float, Range(0.0, 1.0, open_low=True)] = 0.8
    """Transmittance of the atmosphere at zenith; on a slant path to the power of the airmass."""
    excess_loss_db: Decibels = 0.0
    """Further loss [dB]."""
    excess_loss_per_airmass_db: Decibels = 0.0
    """Further loss for each airmass [dB]."""
    cn2_ground: Annotated[float, Range(0.0, 1e-8, "m^(-2/3)")] = 1.7e-14
    """Strength of turbulence at the ground, A of the Hufnagel-Valley profile [m^(-2/3)]."""
    wind_rms_m_s: Annotated[float, Range(0.0, 200.0, "m/s")] = 21.0
    """Wind of the Hufnagel-Valley profile, r.m.s. from 5 to 20 km [m/s]."""
    cn2_profile_m: tuple[Annotated[float, Range(0.0, 100_000.0, "m")], ...] | None = None
    """Heights above the sea [m], rising, of a profile of turbulence that stands for the Hufnagel-Valley profile."""
    cn2_profile: tuple[Annotated[float, Range(0.0, 1e-8, "m^(-2/3)")], ...] | None = None
    """Strength of turbulence at these heights [m^(-2/3)], log-linear between them (linear next to a 0), 0 outside."""
    wind_ground_m_s: Annotated[float, Range(0.0, 200.0, "m/s")] = 5.0
    """Wind at the ground, in Bufton's profile [m/s]."""
    slew_rad_s: Annotated[float, Range(0.0, 1.0, "rad/s")] | None = None
    """Angular rate of the line of sight [rad/s]; without it, that of the pass."""
    coherence_time_ms: Time | None = None
    """1/e time of the scintillation's underlying Gaussian process [ms]; without it, that of the moving speckles."""
    pointing_correlation_time_ms: Time | None = None
    """1/e time of the pointing error [ms]; without it, the coherence time."""
    polarization_rotation_deg: Annotated[float, Range(0.0, 45.0, "deg")] = 0.0
    """Angle by which the bases of both ends are turned against each other [deg]; errs with sin^2."""
    fading: Literal["lognormal", "none", "gamma_gamma", "lognegative_weibull", "elliptic_beam"] = static(default="lognormal")
    """Law of the scintillation, with pointing beside it; the last two are laws of a wandering beam, and take pointing in."""
    earth_rotation: bool = static(default=False)
    """Whether the station turns with the Earth."""
    divergence_kind: Literal["half_1e2", "full_1e2", "fwhm", "tophat_full"] | None = static(default=None)
    """What divergence_urad is: half or full angle at 1/e^2, full width at half maximum, or diameter of a uniform disc."""
    atmosphere: Literal["zenith", "table"] = static(default="zenith")
    """Extinction by zenith_transmittance, or by the table of the tabulated wavelength."""

    # Geometry

    def orbit(self, culmination: Any = None) -> geometry.Orbit:
        """The pass, or one that culminates elsewhere [rad]."""
        altitude = 1e3 * self.altitude_km
        rate = geometry.orbital_rate(altitude)
        if self.earth_rotation:
            assert self.inclination_deg is not None and self.latitude_deg is not None
            angles = jnp.radians(self.inclination_deg), jnp.radians(self.latitude_deg)
            rate = geometry.rate_over_ground(altitude, *angles)
        top = jnp.radians(self.max_elevation_deg) if culmination is None else culmination
        return geometry.Orbit(altitude, top, jnp.asarray(self.station_altitude_m), rate)

    # Beam

    def spot_radius(self, distance: Any, wavelength: Any) -> Any:
        """1/e^2 radius of a Gaussian beam at the receiver; that of equal intensity on the axis where a telescope cuts it."""
        if self.divergence_urad is not None:
            assert self.divergence_kind is not None
            return 1e-6 * self.divergence_urad * diffraction.HALF_ANGLE[self.divergence_kind] * distance
        if self.transmitter_aperture_m is not None:
            telescope = self.beam_waist_m, self.transmitter_aperture_m, self.transmitter_obscuration_m
            density = diffraction.far_field(jnp.zeros(()), wavelength, *telescope) / distance**2
            return jnp.sqrt(2.0 / (math.pi * density))
        return diffraction.gaussian_radius(self.beam_waist_m, wavelength, distance)

    def collected(self, distance: Any, offset: Any, wavelength: Any) -> Float[Array, ...]:
        """Share of the light at Alice's exit that the receiving telescope collects, off the beam's axis by an offset [m]."""
        annulus = self.annulus()
        if self.divergence_kind == "tophat_full":
            assert self.divergence_urad is not None
            return diffraction.disc_share(1e-6 * self.divergence_urad * distance, offset, *annulus)
        if self.transmitter_aperture_m is None:
            return diffraction.gaussian_share(self.spot_radius(distance, wavelength), offset, *annulus)
        telescope = self.beam_waist_m, self.transmitter_aperture_m, self.transmitter_obscuration_m
        return diffraction.far_field_share(distance, offset, *annulus, wavelength, *telescope)

    def gaussian_bends(self, w: Any) -> tuple[Any, ...]:
        """`bends` of a Gaussian spot: beyond four radii from the telescope's edge lie 1e-14 of it."""
        return (0.5 * self.receiver_aperture_m + 4.0 * w,)

    def bends(self, distance: Any, wavelength: Any) -> tuple[Any, ...]:
        """Rising offsets between which the collected share is smooth, and beyond the last of which there is none [m]."""
        if self.divergence_kind == "tophat_full":
            assert self.divergence_urad is not None
            spot = 1e-6 * self.divergence_urad * distance
            outer, inner = self.receiver_aperture_m, self.receiver_obscuration_m
            touching = jnp.stack([0.5 * jnp.abs(spot + edge) for edge in (-outer, -inner, inner, outer)])
            return tuple(jnp.sort(touching))
        around = self.gaussian_bends(self.spot_radius(distance, wavelength))
        return around if self.transmitter_aperture_m is None else (*around, math.inf)  # rings reach further

    # Atmosphere

    def transmittance(self, elevation: Any, wavelength: Any) -> Any:
        """Transmittance of the atmosphere."""
        if self.atmosphere == "table":
            return tabulated_transmittance(elevation, 1e9 * wavelength)
        return self.zenith_transmittance ** airmass(elevation)

    def excess_db(self, elevation: Any) -> Any:
        """Further loss [dB]."""
        return self.excess_loss_db + self.excess_loss_per_airmass_db * airmass(elevation)

    def path(self, elevation: Any, wavelength: Any) -> turbulence.Path:
        """Turbulence on the way to the satellite."""
        station = self.station_altitude_m
        if self.cn2_profile_m is not None:
            above, weights, strength = turbulence.tabulated(self.cn2_profile_m, self.cn2_profile, station)
        else:
            above, weights = turbulence.heights_above()
            strength = turbulence.hufnagel_valley(above + station, station, self.cn2_ground, self.wind_rms_m_s)
        sea = above + station
        secant = 1.0 / jnp.sin(jnp.maximum(elevation, 1e-3))
        wind = turbulence.bufton(sea, self.wind_ground_m_s) + self.slew(elevation) * above * secant
        top = 1e3 * self.altitude_km - station
        return turbulence.Path(turbulence.Layers(jnp.asarray(above), strength * weights, wind), secant, wavelength, top)

    def slew(self, elevation: Any) -> Any:
        """Angular rate of the line of sight [rad/s]; above the culmination, that of a pass that culminates there."""
        if self.slew_rad_s is not None:
            return jnp.asarray(self.slew_rad_s)
        return self.orbit(jnp.maximum(jnp.radians(self.max_elevation_deg), elevation)).slew(elevation)

    def coherence_s(self, path: turbulence.Path, elevation: Any, wavelength: Any) -> Any:
        """1/e time of the scintillation: what moves past is as large as the aperture or a speckle (theory 3.4)."""
        if self.coherence_time_ms is not None:
            return 1e-3 * jnp.asarray(self.coherence_time_ms)
        speckle = jnp.sqrt(wavelength * SPECKLE_HEIGHT_M * path.secant)
        speed = jnp.maximum(self.slew(elevation) * SPECKLE_HEIGHT_M * path.secant, 1e-3)
        return jnp.maximum(self.receiver_aperture_m, speckle) / speed

    def annulus(self) -> tuple[Any, Any]:
        """Diameters of the receiving telescope and of what obscures it [m]."""
        return self.receiver_aperture_m, self.receiver_obscuration_m

    def area_m2(self) -> Any:
        """Area of the receiving telescope."""
        return 0.25 * math.pi * (self.receiver_aperture_m**2 - self.receiver_obscuration_m**2)
