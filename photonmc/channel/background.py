"""Section [background]: the sky that a telescope sees beside the signal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax.numpy as jnp

from photonmc.channel import sky
from photonmc.contracts import record
from photonmc.units import Range, static

if TYPE_CHECKING:
    from photonmc.link import Link

DEFAULT_RADIANCE = 1.5e-5
"""Radiance where neither it nor a sky is given [W m^-2 sr^-1 um^-1]: a moonless night, as papers on links take it."""


@record
class Background:
    """Light of the sky within the field of view and the filter of the receiving telescope."""

    radiance_w_m2_sr_um: Annotated[float, Range(0.0, 1e6, "W m^-2 sr^-1 um^-1")] | None = None
    """Spectral radiance of the sky [W m^-2 sr^-1 um^-1]; or a sky by name."""
    field_of_view_urad: Annotated[float, Range(0.0, 1e6, "urad", open_low=True)] = 100.0
    """Field of view, full angle [urad]."""
    filter_bandwidth_nm: Annotated[float, Range(0.0, 1e3, "nm", open_low=True)] = 1.0
    """Width of the spectral filter [nm]."""
    sky: (
        Literal["night_itu", "night_link_papers", "half_moon", "full_moon", "overcast_day", "clear_day", "bright_day"] | None
    ) = static(default=None)
    """Sky by name, instead of its radiance."""

    def radiance(self, wavelength_nm: Any) -> Any:
        """Spectral radiance [W m^-2 sr^-1 um^-1]."""
        if self.sky is not None:
            return sky.radiance_of(self.sky, wavelength_nm)
        return jnp.asarray(DEFAULT_RADIANCE if self.radiance_w_m2_sr_um is None else self.radiance_w_m2_sr_um)

    def counts_hz(self, link: Link, area_m2: Any) -> Any:
        """Background that the two detectors count together [Hz], behind a telescope of an area."""
        wavelength = link.source.wavelength_nm
        photons = sky.counts_hz(
            self.radiance(wavelength),
            1e-6 * self.field_of_view_urad,
            area_m2,
            1e-3 * self.filter_bandwidth_nm,
            1e-9 * wavelength,
        )
        # light of the sky comes at any time: jitter moves as much of it into the detection window as out of it
        return photons * link.receiver.optics_transmittance * jnp.mean(jnp.asarray(link.receiver.efficiency))
