"""Satellite to ground, and ground to satellite: the channel's states over a pass, as quadrature and as a trajectory."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.channel import beams, fading
from photonmc.channel.diffraction import emitted_share, gauss, gaussian_share
from photonmc.channel.selection import Course, course, nodes_above, nodes_above_at
from photonmc.channel.slant_path import SlantPath
from photonmc.channel.trajectories import elevations_to, plan_of, shortest_time_s, transmittances
from photonmc.channel.validity import doubts
from photonmc.contracts import ChannelState, quadrature, record
from photonmc.errors import ConfigError, Mistake
from photonmc.units import probability_from_rate, static, transmittance_from_db

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

    from photonmc.link import Link

TIME_NODES = 24
"""Nodes of the quadrature over half a pass."""
MOST_BLOCKS = 10**7
"""Most blocks of a pass; each takes some hundred bytes."""


class Slow(NamedTuple):
    """What changes slowly along a pass, at one elevation.

    Attributes:
        steady: Transmittance of air and excess loss; of no beam and no receiver.
        distance: Range [m].
        jitter: Standard deviation of the beam's center at the receiver, each axis [m].
        boresight: Constant offset of the beam's center [m].
        rytov: Rytov variance.
        index: Scintillation index behind the aperture.
        coherence_s: 1/e time of the scintillation.
        bends: Rising offsets of the beam between which the collected share is smooth, beyond the last of which it is 0 [m].
    """

    steady: Any
    distance: Any
    jitter: Any
    boresight: Any
    rytov: Any
    index: Any
    coherence_s: Any
    bends: tuple[Any, ...]

    def reach(self) -> Any:
        """Largest pointing offset that matters [m]."""
        return jnp.minimum(self.boresight + fading.FAR_POINTING * self.jitter + 1e-9, self.bends[-1])

    def offsets(self) -> tuple[Any, Any]:
        """Pointing offsets [m] and their weights."""
        return fading.offset_nodes(self.jitter, self.boresight, self.bends)


class _Pass(SlantPath, abc.ABC):
    """Shared by both directions: the pass, its quadrature and its trajectory."""

    fluctuates: ClassVar[bool] = True
    steady_noise: ClassVar[bool] = True
    spherical: ClassVar[bool]
    """Whether the wave that turbulence meets is that of a point on the ground; else it is plane."""

    def slow(self, elevation: Any, wavelength: Any) -> Slow:
        """What changes slowly, at one elevation [rad]."""
        path, distance = self.path(elevation, wavelength), self.orbit().range_m(elevation)
        jitter, bends = self.wandering(elevation, distance, wavelength)
        return Slow(
            steady=self.transmittance(elevation, wavelength) * transmittance_from_db(self.excess_db(elevation)),
            distance=distance,
            jitter=jitter,
            boresight=1e-6 * self.boresight_error_urad * distance,
            rytov=path.rytov_variance(self.spherical),
            index=path.scintillation_index(*self.annulus(), self.spherical),
            coherence_s=self.coherence_s(path, elevation, wavelength),
            bends=bends,
        )

    @abc.abstractmethod
    def wandering(self, elevation: Any, distance: Any, wavelength: Any) -> tuple[Any, tuple[Any, ...]]:
        """`jitter` and `bends` of `Slow`."""

    @abc.abstractmethod
    def shares(self, elevation: Any, distance: Any, offset: Any, wavelength: Any) -> Any:
        """Collected share of a beam whose center is off by an offset at one moment."""

    def still_share(self, elevation: Any, distance: Any, wavelength: Any) -> Any:
        """Collected share of a beam that is perfectly pointed."""
        return self.shares(elevation, distance, jnp.zeros(()), wavelength)

    @abc.abstractmethod
    def spot(self, elevation: Any, distance: Any, wavelength: Any) -> Any:
        """1/e^2 radius of the Gaussian spot whose center is off."""

    def spot_share(self, w: Any, offset: Any) -> Any:
        """Collected share of a Gaussian spot whose center is off; of an elliptic beam on average."""
        if self.fading == "lognegative_weibull":
            return emitted_share(w, *self.annulus()) * beams.weibull_factor(w, offset, self.receiver_aperture_m)
        return gaussian_share(w, offset, *self.annulus())

    def per_spot(self, distance: Any, wavelength: Any) -> Any:
        """Collected share of the pointed beam, per that of the Gaussian spot that stands for it."""
        return 1.0

    def ellipses(self, elevation: Any, slow: Slow, wavelength: Any) -> beams.Ellipses:
        """Law of an elliptic beam, whose mean is that of `shares`."""
        w = self.spot(elevation, slow.distance, wavelength)
        law = beams.ellipses(w, slow.index, slow.jitter, slow.boresight, *self.annulus())
        return law._replace(scale=law.scale * self.per_spot(slow.distance, wavelength))

    # Length

    def duration_s(self) -> Any:
        """Time above the minimum elevation [s]."""
        return 2.0 * self.orbit().time_s(jnp.radians(self.min_elevation_deg))

    def pulses(self, pulse_rate_hz: Any) -> Any:
        """Whole pulses of the pass."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((self, pulse_rate_hz))):
            return jnp.floor(self.duration_s() * pulse_rate_hz)
        with jax.enable_x64(True):  # float64 whatever jax's mode, where it can be
            return np.floor(np.asarray(self.duration_s()) * pulse_rate_hz)

    def _half_s(self, link: Link, pulses: Any) -> Any:
        total = self.pulses(link.source.pulse_rate_hz) if pulses is None else pulses
        return 0.5 * total / link.source.pulse_rate_hz

    def block_lengths(self, link: Link, pulses: int) -> np.ndarray:
        """Blocks no longer than either correlation time, all of one length but the last."""
        elevations = elevations_to(self, float(self._half_s(link, pulses)))
        shortest = float(shortest_time_s(self, elevations, 1e-9 * link.source.wavelength_nm))
        length = max(1, int(shortest * float(link.source.pulse_rate_hz) * (1.0 + 1e-9)))
        whole, rest = divmod(pulses, length)
        if whole > MOST_BLOCKS:
            short = f"must leave at most {MOST_BLOCKS:g} blocks in a run, but {1e3 * shortest:.3g} ms make {whole:.3g}"
            raise ConfigError([Mistake("channel.coherence_time_ms or pointing_correlation_time_ms", short)])
        return np.append(np.full(whole, length, np.int64), np.full(int(rest > 0), rest, np.int64))

    def summary(self, link: Link, pulses: float) -> dict[str, float]:
        """The pass in a few numbers: duration, culmination, least range, loss of the mean transmittance, share kept."""
        with jax.enable_x64(True):
            states, weights = quadrature(dataclasses.replace(link, selection=None), float(pulses))
            kept = 1.0 if link.selection is None else float(quadrature(link, float(pulses))[1].sum())
            receiver = link.receiver.optics_transmittance * link.receiver.efficiencies().mean()
            mean = (states.transmittance * weights).sum() * receiver  # from Alice's exit to a click
            return {
                "duration_s": float(pulses) / float(link.source.pulse_rate_hz),
                "max_elevation_deg": float(self.max_elevation_deg),
                "min_range_km": 1e-3 * float(self.orbit().range_m(jnp.radians(self.max_elevation_deg))),
                "mean_loss_db": -10.0 * float(jnp.log10(mean)),
                "kept_share": min(kept, 1.0),  # but for rounding
            }

    def broken_assumptions(self, link: Link, pulses: Any = None) -> dict[str, Any]:
        """Where in a run the models of the air are doubtful."""
        ends = self.orbit().elevation(jnp.stack([self._half_s(link, pulses), jnp.zeros(())]))
        return doubts(self, ends, 1e-9 * link.source.wavelength_nm)

    # States

    def _state(self, link: Link, transmittance: Any) -> ChannelState:
        noise = jnp.zeros_like(transmittance)
        if link.background is not None:
            counts = link.background.counts_hz(link, self.area_m2())
            noise = noise + probability_from_rate(0.5 * counts, 1e9 * link.gate_s())
        wrong = jnp.sin(jnp.radians(self.polarization_rotation_deg)) ** 2
        return ChannelState(transmittance, noise, jnp.zeros_like(transmittance) + wrong)

    def _scintillation_nodes(self, slow: Slow) -> tuple[Any, Any]:
        if self.fading == "none" or self.fading in beams.BEAM_LAWS:
            return jnp.ones(1), jnp.ones(1)
        if self.fading == "gamma_gamma":
            return fading.gamma_gamma_nodes(slow.rytov)
        return fading.lognormal_nodes(slow.index)

    def nodes_at(self, link: Link, time_s: Any) -> tuple[ChannelState, Float[Array, " node"]]:
        """Quadrature over pointing offsets and scintillation at one time from culmination [s]."""
        wavelength = 1e-9 * link.source.wavelength_nm
        elevation = self.orbit().elevation(time_s)
        slow = self.slow(elevation, wavelength)
        offset, pointing = slow.offsets()
        if self.fading == "elliptic_beam":
            shares, scintillation = self.ellipses(elevation, slow, wavelength).nodes(offset, *self.annulus())
        else:
            intensity, scintillation = self._scintillation_nodes(slow)
            shares = self.shares(elevation, slow.distance, offset, wavelength)[:, None] * intensity
        transmittance = slow.steady * shares
        weights = (pointing[:, None] * scintillation).ravel()
        return self._state(link, jnp.minimum(transmittance, 1.0).ravel()), weights

    def nodes(self, link: Link, pulses: Any = None) -> tuple[ChannelState, Float[Array, " node"]]:
        """Quadrature over half the pass (the other half is its mirror image), pointing offsets and scintillation."""
        half = self._half_s(link, pulses)
        if link.selection is not None:
            transmittance, weights = nodes_above(self, *self._threshold(link, half))
            return self._state(link, transmittance), weights
        times, time_weights = gauss(0.0, half, TIME_NODES)
        states, weights = jax.vmap(lambda time: self.nodes_at(link, time))(times)
        weights = weights * (time_weights / half)[:, None]
        return jax.tree.map(jnp.ravel, states), weights.ravel() / weights.sum()

    def kept_at(self, link: Link, time_s: Any, pulses: Any) -> tuple[ChannelState, Float[Array, " node"]]:
        """`nodes_at` of the blocks that the link's selection keeps in a run; weights sum to the share that is kept then."""
        if link.selection is None:
            return self.nodes_at(link, time_s)
        half = self._half_s(link, pulses)
        transmittance, weights = nodes_above_at(self, *self._threshold(link, half), time_s / half)
        return self._state(link, transmittance), weights

    def _threshold(self, link: Link, half_s: Any) -> tuple[Any, Any, Any, Course]:
        """What `nodes_above` takes: wavelength, half of the run, least transmittance that is kept, course of the pass."""
        wavelength = 1e-9 * link.source.wavelength_nm
        along = course(self, wavelength, half_s)
        return wavelength, half_s, link.selection.threshold_transmittance * along.best(), along

    def best_transmittance(self, link: Link, pulses: Any = None) -> Any:
        """Largest mean transmittance of a run."""
        return _best_mean(self, 1e-9 * link.source.wavelength_nm, self._half_s(link, pulses))

    def draw(self, key: Key[Array, ""], link: Link, lengths: np.ndarray) -> ChannelState:
        """One pass: pointing and scintillation as correlated processes, block after block."""
        transmittance: Any = transmittances(key, plan_of(self, link, lengths), len(lengths))
        states = _dark_state(link)  # but for the transmittance the same in all blocks
        constant = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), lengths.shape), states)
        return dataclasses.replace(constant, transmittance=transmittance)


@jax.jit
def _dark_state(link: Link) -> ChannelState:
    """State of a link's channel without transmittance."""
    return link.channel._state(link, jnp.zeros(()))


@jax.jit
def _best_mean(channel: _Pass, wavelength: Any, half_s: Any) -> Any:
    return course(channel, wavelength, half_s).best()


@record
class Downlink(_Pass):
    """From the satellite to the ground: turbulence makes the light scintillate, and hardly widens the beam (theory 3.5)."""

    spherical: ClassVar[bool] = False
    kind: Literal["downlink"] = static(default="downlink")

    def wandering(self, elevation: Any, distance: Any, wavelength: Any) -> tuple[Any, tuple[Any, ...]]:
        """`jitter` and `bends` of `Slow`."""
        return 1e-6 * self.pointing_jitter_urad * distance, self.bends(distance, wavelength)

    def shares(self, elevation: Any, distance: Any, offset: Any, wavelength: Any) -> Any:
        """Collected share of a beam whose center is off by an offset."""
        if self.fading not in beams.BEAM_LAWS:
            return self.collected(distance, offset, wavelength)
        spot = self.spot(elevation, distance, wavelength)
        return self.per_spot(distance, wavelength) * self.spot_share(spot, offset)

    def spot(self, elevation: Any, distance: Any, wavelength: Any) -> Any:
        """1/e^2 radius of the spot; of a beam that a telescope cuts, that of the same intensity on the axis."""
        return self.spot_radius(distance, wavelength)

    def per_spot(self, distance: Any, wavelength: Any) -> Any:
        """Collected share of the pointed beam, per that of the Gaussian spot that stands for it, which a telescope cuts."""
        if self.transmitter_aperture_m is None:
            return 1.0
        spot = emitted_share(self.spot_radius(distance, wavelength), *self.annulus())
        return self.collected(distance, jnp.zeros(()), wavelength) / spot


@record
class Uplink(_Pass):
    """From the ground to the satellite: turbulence at the beginning of the way widens the beam and makes it wander.

    The spot that a long exposure sees is split into wander, which adds to the pointing jitter, and the short-term spot
    (theory (31), (32)); a beam that a telescope cuts is taken as the Gaussian beam of the same intensity on the axis.
    """

    spherical: ClassVar[bool] = True
    kind: Literal["uplink"] = static(default="uplink")

    def spots(self, elevation: Any, wavelength: Any) -> tuple[Any, Any, Any]:
        """1/e^2 radii of the long-term and of the short-term spot, and the wander of each axis [m]."""
        distance = self.orbit().range_m(elevation)
        still = self.spot_radius(distance, wavelength)
        whole = self.transmitter_aperture_m is None and self.beam_waist_m is not None
        waist: Any = self.beam_waist_m if whole else wavelength * distance / (math.pi * still)
        coherence = self.path(elevation, wavelength).fried_parameter(spherical=True)
        long = still * (1.0 + (2.0 * math.sqrt(2.0) * waist / coherence) ** (5.0 / 3.0)) ** 0.6
        radial = 0.344 * (distance * wavelength / (2.0 * waist)) ** 2 * (2.0 * waist / coherence) ** (5.0 / 3.0)
        return long, jnp.sqrt(jnp.maximum(long**2 - 2.0 * radial, still**2 * 1e-6)), jnp.sqrt(0.5 * radial)

    def wandering(self, elevation: Any, distance: Any, wavelength: Any) -> tuple[Any, tuple[Any, ...]]:
        """`jitter` and `bends` of `Slow`."""
        _, short, wander = self.spots(elevation, wavelength)
        return jnp.hypot(1e-6 * self.pointing_jitter_urad * distance, wander), self.gaussian_bends(short)

    def shares(self, elevation: Any, distance: Any, offset: Any, wavelength: Any) -> Any:
        """Collected share of the short-term spot whose center is off by an offset."""
        return self.spot_share(self.spot(elevation, distance, wavelength), offset)

    def spot(self, elevation: Any, distance: Any, wavelength: Any) -> Any:
        """1/e^2 radius of the short-term spot."""
        return self.spots(elevation, wavelength)[1]

    def still_share(self, elevation: Any, distance: Any, wavelength: Any) -> Any:
        """Collected share of the long-term spot, in which wander is part of the spot."""
        long, _, _ = self.spots(elevation, wavelength)
        return gaussian_share(long, jnp.zeros(()), *self.annulus())
