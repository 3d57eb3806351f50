"""Tail bounds: from an observed count to bounds of its expectation, each side failing with probability eps at most.

All functions take the observed count x, the total number of trials (detections of the basis) and beta = ln(1/eps), and
return (lower, upper). Nothing is kept inside its trivial range here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    Bounds = tuple[Float[Array, "..."], Float[Array, "..."]]


def safe_sqrt(x: Float[Array, ...]) -> Float[Array, ...]:
    """Square root, 0 (with slope 0) where the argument is not positive."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def hoeffding(x: Float[Array, ...], total: Float[Array, ""], beta: Float[Array, ""]) -> Bounds:
    """X -+ sqrt(n beta / 2), n the total over all intensities: the same width for each of them.

    References:
        Lim et al., Phys. Rev. A 89, 022307 (2014), Eq. (A1); Hoeffding, J. Am. Stat. Assoc. 58, 13 (1963).
    """
    width = safe_sqrt(total * beta / 2.0)
    return x - width, x + width


def chernoff(x: Float[Array, ...], total: Float[Array, ""], beta: Float[Array, ""]) -> Bounds:
    """Closed-form Chernoff bounds x - beta/2 - sqrt(2 beta x + beta^2/4) and x + beta + sqrt(2 beta x + beta^2).

    References:
        Yin et al., Sci. Rep. 10, 14312 (2020), arXiv:2002.06530.
    """
    lower = x - beta / 2.0 - safe_sqrt(2.0 * beta * x + beta**2 / 4.0)
    return lower, x + beta + safe_sqrt(2.0 * beta * x + beta**2)


def kl(x: Float[Array, ...], total: Float[Array, ""], beta: Float[Array, ""]) -> Bounds:
    """Both roots E of x ln(x/E) - x + E = beta, the tightest bounds of Poissonian type; at x = 0, 0 and beta.

    Six Newton steps for E = x exp(t): exp(t) - 1 - t = beta/x, to a relative error of 1e-14 for x from 1e-2 to 1e13.

    References:
        Zhang, Zhao, Razavi, Ma, Phys. Rev. A 95, 012333 (2017), arXiv:1611.02524 (with eps/2 on each side there).
    """
    seen = x > 0
    safe_x = jnp.where(seen, x, 1.0)
    d = beta / safe_x

    def root(t: Float[Array, ...]) -> Float[Array, ...]:
        for _ in range(6):
            t = t - (jnp.expm1(t) - t - d) / jnp.expm1(t)
        return safe_x * jnp.exp(t)

    lower, upper = root(-(d + jnp.sqrt(2.0 * d))), root(jnp.minimum(jnp.sqrt(2.0 * d), jnp.log(2.0 + 2.0 * d)))
    return jnp.where(seen, lower, 0.0), jnp.where(seen, upper, beta)


CONCENTRATIONS = {"hoeffding": hoeffding, "chernoff": chernoff, "kl": kl}
"""Tail bounds by their word in `security.concentration`."""
