"""Phase-randomized weak coherent pulses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import jax.numpy as jnp
import numpy as np

from photonmc.contracts import record
from photonmc.units import Range, static

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@record
class WeakCoherent:
    """Laser pulses of random phase: photon numbers are Poissonian, P(n|mu) = exp(-mu) mu^n / n!.

    References:
        Lo, Ma, Chen, Phys. Rev. Lett. 94, 230504 (2005).
    """

    pulse_rate_hz: Annotated[float, Range(1.0, 1e13, "Hz")]
    """Pulses sent per second [Hz]."""
    intensities: tuple[Annotated[float, Range(0.0, 100.0, "photons/pulse")], ...]
    """Mean photon numbers at Alice's exit [photons/pulse], strictly falling."""
    intensity_probabilities: tuple[Annotated[float, Range(0.0, 1.0, open_low=True)], ...]
    """Probability of each intensity; they sum to 1."""
    wavelength_nm: Annotated[float, Range(100.0, 20000.0, "nm")] = 1550.0
    """Vacuum wavelength [nm]; descriptive where no model reads it."""
    kind: Literal["weak_coherent"] = static(default="weak_coherent")

    def light_patterns(
        self, intensity: Float[Array, " cell"], to_0: Float[Array, " cell"], to_1: Float[Array, " cell"]
    ) -> Float[Array, "cell hidden pattern"]:
        """Photon number (0, 1, 2, 3 and more) jointly with which detectors the light fires (none, 0, 1, both).

        Every entry is a sum of positive terms, so that none loses digits or turns negative, however rare it is; only
        the class of three and more photons is a difference, clipped at 0 where it drowns in rounding. Poissonian light
        falls on the detectors independently: detector d stays dark with probability exp(-mu t_d).
        """
        mu, none = intensity, jnp.zeros_like(to_0)
        lost = 1.0 - to_0 - to_1
        vacuum = jnp.stack([none + 1.0, none, none, none], axis=-1)
        one = jnp.stack([lost, to_0, to_1, none], axis=-1)
        two = jnp.stack([lost**2, to_0 * (to_0 + 2.0 * lost), to_1 * (to_1 + 2.0 * lost), 2.0 * to_0 * to_1], axis=-1)
        fires_0, fires_1 = -jnp.expm1(-mu * to_0), -jnp.expm1(-mu * to_1)
        total = jnp.stack(
            [
                jnp.exp(-mu * (to_0 + to_1)),
                fires_0 * jnp.exp(-mu * to_1),
                fires_1 * jnp.exp(-mu * to_0),
                fires_0 * fires_1,
            ],
            axis=-1,
        )
        mu = mu[..., None]
        classes = [jnp.exp(-mu) * vacuum, mu * jnp.exp(-mu) * one, 0.5 * mu**2 * jnp.exp(-mu) * two]
        return jnp.stack([*classes, jnp.maximum(total - sum(classes), 0.0)], axis=-2)

    def photon_number_tails(self) -> np.ndarray:
        """P(n > j | mu) of each intensity, shape (intensity, j), summed from the small end; concrete values only."""
        rows = []
        for mu in np.asarray(self.intensities, dtype=np.float64):
            terms = [np.exp(-mu)]
            while terms[-1] > 1e-25 or len(terms) <= mu:
                terms.append(terms[-1] * mu / len(terms))
            rows.append(np.cumsum(terms[:0:-1])[::-1])
        width = max(1, *(row.size for row in rows))
        return np.stack([np.pad(row, (0, width - row.size)) for row in rows])
