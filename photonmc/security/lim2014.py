"""Finite key with two decoy intensities: Lim et al. 2014, with bases renamed (their X is our key basis Z)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax.numpy as jnp

from photonmc.contracts import Counts, record
from photonmc.security.finite_key import FiniteKey, poisson_mixture
from photonmc.units import static

if TYPE_CHECKING:
    from photonmc.security.finite_key import Number, Terms


@record
class Lim2014(FiniteKey):
    """Composable key length against coherent attacks; needs mu1 > mu2 + mu3 and mu2 > mu3 >= 0.

    As printed, or with `clamp` each observed count plus or minus its width kept inside [0, total] and the single-photon
    errors below the errors observed: true statements too, hence as secure.

    References:
        Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014), arXiv:1311.7129, Eqs. (1)-(5).
    """

    analysis: Literal["lim2014"] = static(default="lim2014")

    parts: ClassVar[float] = 21.0
    intensity_count: ClassVar[int] = 3
    sum_rule: ClassVar[bool] = True

    def estimates(
        self, counts: Counts, mu: Any, p: Any, eps: Number, fluctuating: bool
    ) -> tuple[Terms, Number, Number, Number, Number, Number]:
        """Vacuum and single-photon detections of both bases, single-photon errors of X."""
        tau_0, tau_1 = poisson_mixture(0, mu, p), poisson_mixture(1, mu, p)
        weight = jnp.exp(mu) / p
        mu1, mu2, mu3 = mu

        def photons(basis: int) -> tuple[Number, Number]:
            total = counts.detections[basis].sum()
            lower, upper = (weight * bound for bound in self.bounds(counts.detections[basis], total, eps, fluctuating))
            s_0 = jnp.clip(tau_0 * (mu2 * lower[2] - mu3 * upper[1]) / (mu2 - mu3), 0.0, total)  # Eq. (2)
            bracket = lower[1] - upper[2] - (mu2**2 - mu3**2) / mu1**2 * (upper[0] - s_0 / tau_0)
            s_1 = tau_1 * mu1 * bracket / ((mu2 - mu3) * (mu1 - mu2 - mu3))  # Eq. (3)
            return s_0, jnp.clip(s_1, 0.0, total)

        (s_z0, s_z1), (s_x0, s_x1) = photons(0), photons(1)
        total_errors = counts.errors[1].sum()
        lower, upper = (weight * bound for bound in self.bounds(counts.errors[1], total_errors, eps, fluctuating))
        v_x1 = tau_1 * (upper[1] - lower[2]) / (mu2 - mu3)  # Eq. (4)
        total_x = counts.detections[1].sum()
        if self.clamp:
            v_x1 = jnp.minimum(v_x1, total_errors)
        return {"vacuum_detections_x": s_x0}, s_z0, s_z1, s_x1, v_x1, total_x
