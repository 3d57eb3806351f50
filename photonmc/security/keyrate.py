"""Counts to key bits: the length of a proof, floored, with the reason where there is none."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from photonmc.contracts import Counts, record
from photonmc.security.finite_key import ratio
from photonmc.status import BIT

if TYPE_CHECKING:
    from photonmc.link import Link

FEW_ERRORS = 1000.0
"""Errors in X below which the plain Fung bound is not known to be safe [count]."""


@record
class Key:
    """Key of one block.

    Attributes:
        secret_key_bits: Floored length of the proof, 0 where there is none [bit].
        secret_key_bits_fluctuation_free: Length of the same counts had they not fluctuated [bit]; 0 if negative.
        secret_key_bits_yin_safe: Length with the safe sampling bound where `status` says that Fung's is not [bit].
        terms: Every intermediate term of the proof.
        status: Mask of `photonmc.status` bits.
    """

    secret_key_bits: Any
    secret_key_bits_fluctuation_free: Any
    secret_key_bits_yin_safe: Any
    terms: dict[str, Any]
    status: Any


def _finite(terms: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Terms with 0 for what is not a number, and whether all were numbers; without a length there is no key."""
    defined = jnp.all(jnp.stack([jnp.isfinite(term) for term in terms.values()]))
    return {name: jnp.where(jnp.isfinite(term), term, 0.0) for name, term in terms.items()}, defined


def whole_bits(terms: dict[str, Any]) -> Any:
    """Floored length, never below 0."""
    return jnp.maximum(jnp.floor(terms["secret_key_bits_real"]), 0.0)


def key_of_counts(counts: Counts, link: Link, protocol: Any, security: Any) -> Key:
    """Key of one block; pure, float64, differentiable but for the floor.

    The reason why there is no key comes from counts and settings alone. If the same counts give a key without
    statistical fluctuation, the block is too small; else, if no single photons are left, multi-photon pulses are to
    blame; else dark counts, where the error gain extrapolated to zero intensity is more than half of the signal's;
    else errors.
    """
    terms, defined = _finite(security.evaluate(counts, link, protocol))
    ideal, _ = _finite(security.evaluate(counts, link, protocol, fluctuating=False))
    # formulas of means can leave the range of probabilities, and tiny intensities that of float64
    possible = jnp.all(counts.detections <= counts.sent * (1 + 1e-9)) & jnp.all(
        counts.errors <= counts.detections * (1 + 1e-9)
    )
    bits = whole_bits(terms)
    unsafe, safe_bits = jnp.zeros((), bool), bits
    if getattr(security, "phase_error_sampling", None) == "fung":
        unsafe = counts.errors[1].sum() < FEW_ERRORS
        safe = dataclasses.replace(security, phase_error_sampling="yin_safe")
        safe_bits = whole_bits(_finite(safe.evaluate(counts, link, protocol))[0])

    mu = jnp.asarray(link.source.intensities)
    error_gain = ratio(counts.errors[0], counts.sent[0])
    strong, weak = error_gain[0], error_gain[-1]
    at_zero = (mu[0] * weak - mu[-1] * strong) / (mu[0] - mu[-1])
    no_single_photons = (ideal["single_photon_detections_z"] <= 0) | (ideal["single_photon_detections_x"] <= 0)
    reason = jnp.select(
        [whole_bits(ideal) > 0, no_single_photons, at_zero > strong / 2.0],
        [BIT["no_key_block_size"], BIT["no_key_multiphoton"], BIT["no_key_dark_counts"]],
        BIT["no_key_errors"],
    )
    status = jnp.where(bits > 0, BIT["ok"], reason) | jnp.where(unsafe, BIT["sampling_bound_unsafe"], 0)
    status |= jnp.where(defined & possible, 0, BIT["outside_validity"])
    return Key(bits, whole_bits(ideal), safe_bits, terms, status)
