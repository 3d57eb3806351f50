"""Finite key with one decoy intensity: Rusca et al. 2018."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax.numpy as jnp

from photonmc.contracts import Counts, record
from photonmc.security.concentration import safe_sqrt
from photonmc.security.finite_key import FiniteKey, poisson_mixture
from photonmc.units import static

if TYPE_CHECKING:
    from photonmc.security.finite_key import Number, Terms


@record
class Rusca2018(FiniteKey):
    """Composable key length with one decoy; needs mu1 > mu2 > 0.

    As printed, with e^mu/p restored in (A18). With the "chernoff" or "kl" concentration the errors in (A16) take that
    bound, while the deviation of n_B stays Hoeffding's. The weaker intensity bounds the vacuum in (A16).

    References:
        Rusca, Boaron, Gruenenfelder, Martin, Zbinden, Appl. Phys. Lett. 112, 171104 (2018), arXiv:1801.03443,
        Eqs. (A16)-(A25).
    """

    analysis: Literal["rusca2018"] = static(default="rusca2018")

    parts: ClassVar[float] = 19.0
    intensity_count: ClassVar[int] = 2

    def estimates(
        self, counts: Counts, mu: Any, p: Any, eps: Number, fluctuating: bool
    ) -> tuple[Terms, Number, Number, Number, Number, Number]:
        """Vacuum detections of Z, single-photon detections of both bases, single-photon errors of X."""
        tau_0, tau_1 = poisson_mixture(0, mu, p), poisson_mixture(1, mu, p)
        weight = jnp.exp(mu) / p
        mu1, mu2 = mu

        def photons(basis: int) -> tuple[Number, Number, Number]:
            detections, errors = counts.detections[basis], counts.errors[basis]
            total, total_errors = detections.sum(), errors.sum()
            lower, upper = (weight * bound for bound in self.bounds(detections, total, eps, fluctuating))
            _, most_errors = self.bounds(errors, total_errors, eps, fluctuating)
            width = safe_sqrt(total * -jnp.log(eps) / 2.0) if fluctuating else jnp.zeros(())
            s_0_upper = jnp.clip(2.0 * (tau_0 * weight[1] * most_errors[1] + width), 0.0, total)  # Eq. (A16)
            s_0_lower = jnp.clip(tau_0 * (mu1 * lower[1] - mu2 * upper[0]) / (mu1 - mu2), 0.0, total)  # Eq. (A19)
            r = (mu2 / mu1) ** 2
            bracket = lower[1] - r * upper[0] - (1.0 - r) * s_0_upper / tau_0
            s_1 = tau_1 * mu1 * bracket / (mu2 * (mu1 - mu2))  # Eq. (A17)
            return s_0_lower, s_0_upper, jnp.clip(s_1, 0.0, total)

        (s_z0, s_z0_upper, s_z1), (_, s_x0_upper, s_x1) = photons(0), photons(1)
        total_errors = counts.errors[1].sum()
        lower, upper = (weight * bound for bound in self.bounds(counts.errors[1], total_errors, eps, fluctuating))
        v_x1 = tau_1 * (upper[0] - lower[1]) / (mu1 - mu2)  # Eq. (A22)
        if self.clamp:
            v_x1 = jnp.minimum(v_x1, total_errors)
        extra = {"vacuum_detections_z_upper": s_z0_upper, "vacuum_detections_x_upper": s_x0_upper}
        return extra, s_z0, s_z1, s_x1, v_x1, counts.detections[1].sum()
