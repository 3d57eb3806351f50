"""Asymptotic key with vacuum and weak decoy: Ma, Qi, Zhao, Lo 2005."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax.numpy as jnp

from photonmc.contracts import Counts, record
from photonmc.security.finite_key import EFFICIENCY, ratio
from photonmc.units import binary_entropy, static

if TYPE_CHECKING:
    from photonmc.link import Link
    from photonmc.security.finite_key import Number, Terms


@record
class Ma2005:
    """Key of infinitely long blocks from the strongest intensity, R = q {Q1 [1 - h(e1)] - Q f h(E)}.

    Key from sifted Z of the strongest intensity, so that q is the probability of both choosing Z times that of the
    intensity; e1 from basis X with X's own yield; vacuum measured in each basis; no vacuum credit. Counts are taken as
    if they did not fluctuate.

    References:
        Ma, Qi, Zhao, Lo, Phys. Rev. A 72, 012326 (2005), quant-ph/0503005, Eqs. (1), (33)-(37).
    """

    error_correction_efficiency: EFFICIENCY = 1.16
    """Leaked bits over the Shannon limit, f."""
    analysis: Literal["ma2005"] = static(default="ma2005")

    intensity_count: ClassVar[int] = 3
    sum_rule: ClassVar[bool] = True

    def evaluate(self, counts: Counts, link: Link, protocol: Any, fluctuating: bool = True) -> Terms:
        """Every term of the rate; `secret_key_bits_real` is the rate times the pulses."""
        mu, nu, _ = jnp.asarray(link.source.intensities)
        gain = ratio(counts.detections, counts.sent)
        error_gain = ratio(counts.errors, counts.sent)

        def single_photon_yield(basis: int) -> Number:
            y_0 = gain[basis, 2]
            y_1 = (mu / (mu * nu - nu**2)) * (  # Eq. (34)
                gain[basis, 1] * jnp.exp(nu) - gain[basis, 0] * jnp.exp(mu) * nu**2 / mu**2 - (mu**2 - nu**2) / mu**2 * y_0
            )
            return jnp.clip(y_1, 0.0, 1.0)

        y_z, y_x = single_photon_yield(0), single_photon_yield(1)
        e_1 = ratio(error_gain[1, 1] * jnp.exp(nu) - error_gain[1, 2], y_x * nu, otherwise=0.5)  # Eq. (37)
        e_1 = jnp.clip(e_1, 0.0, 0.5)
        q_1 = y_z * mu * jnp.exp(-mu)
        qber = ratio(error_gain[0, 0], gain[0, 0], otherwise=0.5)
        leak = gain[0, 0] * self.error_correction_efficiency * binary_entropy(jnp.minimum(qber, 0.5))
        bracket = q_1 * (1.0 - binary_entropy(e_1)) - leak  # Eq. (1) without q
        signal = protocol.matching_probabilities()[0] * jnp.asarray(link.source.intensity_probabilities)[0]
        return {
            "secret_key_bits_real": counts.pulses * signal * bracket,
            "asymptotic_rate_signal": 0.5 * bracket,
            "single_photon_yield_z": y_z,
            "single_photon_yield_x": y_x,
            "vacuum_yield_z": gain[0, 2],
            "vacuum_yield_x": gain[1, 2],
            "single_photon_detections_z": counts.sent[0, 0] * q_1,
            "single_photon_detections_x": counts.sent[1, 0] * y_x * mu * jnp.exp(-mu),
            "phase_error_z": e_1,
            "leak_bits": counts.sent[0, 0] * leak,
        }
