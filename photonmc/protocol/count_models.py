"""Count models printed in papers, for comparison with their figures; `count_model = "exact"` is the physics.

Each model gives detections and errors per pulse in one state of the channel, shape (basis, intensity), the probability of
the settings included.
They take `dark_count_probability` as the paper's own symbol, p_dc or P_DC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from photonmc.contracts import ChannelState
    from photonmc.link import Link
    from photonmc.protocol.bb84 import BB84

    PerPulse = tuple[Float[Array, "basis intensity"], Float[Array, "basis intensity"]]


def _common(link: Link, protocol: BB84, state: ChannelState) -> tuple[Float[Array, "basis intensity"], ...]:
    """Probability of the settings of each row, and mean detected photons; the detectors are equal."""
    settings = protocol.matching_probabilities()[:, None] * jnp.asarray(link.source.intensity_probabilities)
    return settings, link.receiver.detected_fractions(state)[0] * jnp.asarray(link.source.intensities)


def lim2014(link: Link, protocol: BB84, state: ChannelState) -> PerPulse:
    """Counts of Lim et al. 2014, Sec. IV, afterpulses charged to the intensity that causes them.

    Departs from the print in e_k, where exp(-eta_ch k) is read as exp(-eta_sys k), which alone reproduces Fig. 1.
    Background joins the dark counts of each detector.

    References:
        Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014), Sec. IV.
    """
    settings, eta_mu = _common(link, protocol, state)
    p_dc = link.receiver.noise_probabilities(state)[0]
    p_ap, e_mis = link.receiver.afterpulse_probability, link.receiver.wrong_fraction(state)
    clicks = -jnp.expm1(-eta_mu) + 2.0 * p_dc * jnp.exp(-eta_mu)  # D_k = 1 - (1 - 2 p_dc) exp(-eta k)
    detections = clicks * (1.0 + p_ap)  # R_k = D_k (1 + p_ap)
    errors = p_dc - e_mis * jnp.expm1(-eta_mu) + p_ap * clicks / 2.0  # e_k, joint probability of click and error
    return settings * detections, settings * errors


def rusca2018(link: Link, protocol: BB84, state: ChannelState) -> PerPulse:
    """Counts of Rusca et al. 2018, App. B, with a non-paralyzable dead time; basis X scales with its probability.

    References:
        Rusca, Boaron, Gruenenfelder, Martin, Zbinden, Appl. Phys. Lett. 112, 171104 (2018), Eqs. (B1)-(B6).
    """
    settings, eta_mu = _common(link, protocol, state)
    p_dc = link.receiver.dark_probability()[0]
    light = -jnp.expm1(-eta_mu)
    detections = settings * (light + p_dc)
    errors = settings * (light * link.receiver.misalignment_error + p_dc / 2.0)
    clicks_z = detections[0].sum()  # S = P_Z sum_i p_i (1 - exp(-mu_i eta) + P_DC)
    live = 1.0 / (1.0 + link.source.pulse_rate_hz * clicks_z * link.receiver.dead_time_ns * 1e-9)  # c_DT
    return live * detections, live * errors


COUNT_MODELS = {"lim2014": lim2014, "rusca2018": rusca2018}
"""Count models by their word in `receiver.count_model`; "exact" is the outcome table of the protocol."""

READS = {"lim2014": frozenset({"afterpulse_probability"}), "rusca2018": frozenset({"dead_time_ns"})}
"""Memory settings of the receiver that each count model reads."""

OF_A_PASS = ("lim2014",)
"""Count models that hold in each state of a channel that changes; a dead time would tie states to each other."""
