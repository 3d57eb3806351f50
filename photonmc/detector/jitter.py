"""Timing jitter: a Gaussian part, given by its full width at half maximum, and an exponential delay that adds to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr

if TYPE_CHECKING:
    from jaxtyping import Array, Float

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""Full width at half maximum of a Gaussian, in standard deviations."""
SHORTEST_PS = 1e-6
"""Where a part of the jitter is shorter, it is taken as so long [ps]; 1e-6 of the finest clock changes nothing."""


def share_within(window_ps: Any, jitter_ps: Any, tail_ps: Any) -> Float[Array, " detector"]:
    """Probability that the jitter of each detector stays within half a window before and after the pulse.

    The sum of a Gaussian of standard deviation s and an exponential delay of mean t has the distribution function
    Phi(x/s) - exp(s^2/(2 t^2) - x/t) Phi(x/s - s/t) (exponentially modified Gaussian: Grushka, Anal. Chem. 44, 1733 (1972)).

    Args:
        window_ps: Full width of the window [ps].
        jitter_ps: Full width at half maximum of the Gaussian part [ps], one or one a detector.
        tail_ps: Mean of the exponential delay [ps], one or one a detector.
    """
    sigma = jnp.maximum(jnp.broadcast_to(jnp.asarray(jitter_ps), (2,)) / FWHM_PER_SIGMA, SHORTEST_PS)
    tail = 1.0 * jnp.broadcast_to(jnp.asarray(tail_ps), (2,))
    delayed = tail > SHORTEST_PS
    mean = jnp.where(delayed, tail, 1.0)

    def below(x: Any) -> Any:
        # exp and Phi in one, so that a large exponent beside a small Phi does not overflow
        late = jnp.exp(jnp.minimum(0.5 * (sigma / mean) ** 2 - x / mean + log_ndtr(x / sigma - sigma / mean), 0.0))
        return ndtr(x / sigma) - jnp.where(delayed, late, 0.0)

    half = 0.5 * jnp.asarray(window_ps)
    return jnp.clip(below(half) - below(-half), 0.0, 1.0)
