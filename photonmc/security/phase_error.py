"""Random sampling without replacement: how much larger the error rate of the unseen part can be.

All functions take the failure probability eps, the rate b seen in c events, and the number d of unseen events, and
return what is to be added to b. With few errors the plain Fung formula is not safe; the others are. Where the logarithm
in `fung` or `yin_safe` is not positive (huge samples with a loose eps) their formulas say nothing, and Serfling's stands in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from photonmc.security.concentration import safe_sqrt

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    Number = Float[Array, ""]

YIN_SAFETY = 50.0
"""Factor by which eps is divided for `yin_safe`; with it the bound lay above the exact one in all of 870 cases."""


def fung(eps: Number, b: Number, c: Number, d: Number) -> Number:
    """sqrt{(c+d)(1-b)b / (c d ln 2) log2[(c+d) / (c d (1-b) b eps^2)]}; 0 at b = 0, which is not safe.

    References:
        Fung, Ma, Chau, Phys. Rev. A 81, 012318 (2010); Lim et al. 2014, Eq. (5), with the same meaning of eps.
    """
    usable = (b > 0) & (b < 1) & (c > 0) & (d > 0)
    b, c, d = (jnp.where(usable, value, 0.5) for value in (b, c, d))
    spread = (c + d) / (c * d) * (1.0 - b) * b
    log_term = jnp.log2((c + d) / (c * d * (1.0 - b) * b)) - 2.0 * jnp.log2(eps)
    deviation = jnp.where(log_term > 0, safe_sqrt(spread / math.log(2.0) * log_term), serfling(eps, b, c, d))
    return jnp.where(usable, deviation, 0.0)


def yin_safe(eps: Number, b: Number, c: Number, d: Number) -> Number:
    """Bound of Yin et al. with eps / 50; where no error was seen, b = 1/c stands inside the bound.

    References:
        Yin et al., Sci. Rep. 10, 14312 (2020), arXiv:2002.06530; the factor 50 is ours (see `YIN_SAFETY`).
    """
    usable = (b < 1) & (c > 0) & (d > 0)
    c, d = (jnp.where(usable, value, 2.0) for value in (c, d))
    b = jnp.where(usable & (b > 0), b, jnp.minimum(1.0 / c, 0.5))
    larger, both = jnp.maximum(c, d), c + d
    log_term = jnp.log(both / (2.0 * math.pi * c * d * b * (1.0 - b))) - 2.0 * jnp.log(eps / YIN_SAFETY)
    g = jnp.maximum(both / (c * d) * log_term, 0.0)
    shift = larger * g / both
    root = safe_sqrt(shift**2 + 4.0 * b * (1.0 - b) * g)
    deviation = ((1.0 - 2.0 * b) * shift + root) / (2.0 + 2.0 * larger * shift / both)
    return jnp.where(usable, jnp.where(log_term > 0, deviation, serfling(eps / YIN_SAFETY, b, c, d)), 0.0)


def serfling(eps: Number, b: Number, c: Number, d: Number) -> Number:
    """sqrt{(c+d)(c+1) ln(1/eps) / (2 d c^2)}: always safe, loose when errors are few.

    References:
        Tomamichel, Lim, Gisin, Renner, Nature Communications 3, 634 (2012).
    """
    usable = (c > 0) & (d > 0)
    c, d = (jnp.where(usable, value, 1.0) for value in (c, d))
    return jnp.where(usable, safe_sqrt(-(c + d) * (c + 1.0) * jnp.log(eps) / (2.0 * d * c**2)), 0.0)


SAMPLING_BOUNDS = {"fung": fung, "yin_safe": yin_safe, "serfling": serfling}
"""Bounds by their word in `security.phase_error_sampling`."""
