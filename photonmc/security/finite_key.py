"""What the finite-key decoy proofs share: settings, tail bounds of counts, phase error, key length, fixed point."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from photonmc.contracts import Counts, record
from photonmc.security.concentration import CONCENTRATIONS
from photonmc.security.phase_error import SAMPLING_BOUNDS
from photonmc.units import Range, binary_entropy, static

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from photonmc.link import Link

    Number = Float[Array, ""]
    Terms = dict[str, Number]

SMALLEST = 1e-300
"""Smallest secrecy or correctness parameter, far from where float64 ends."""
MAX_EPSILON = 0.1
"""Largest secrecy parameter, also of one that grows with the length."""
Epsilon = Annotated[float, Range(SMALLEST, MAX_EPSILON)]
EFFICIENCY = Annotated[float, Range(1.0, 5.0)]


def poisson_mixture(n: int, mu: Float[Array, " intensity"], p: Float[Array, " intensity"]) -> Number:
    """tau_n, the probability that a pulse of unknown intensity holds n photons (0 or 1): sum_k p_k exp(-mu_k) mu_k^n."""
    return (p * jnp.exp(-mu) * mu**n).sum()


def ratio(numerator: Any, denominator: Any, otherwise: float = 0.0) -> Number:
    """Quotient with a value of its own where the denominator is not positive."""
    usable = denominator > 0
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1.0), otherwise)


def leaked_bits(errors: Number, detections: Number, efficiency: Any) -> Number:
    """Bits revealed by error correction, f n h(m/n), over all intensities of the key basis."""
    return efficiency * detections * binary_entropy(jnp.minimum(ratio(errors, detections), 0.5))


@record
class FiniteKey(abc.ABC):
    """Settings of a finite-key proof with decoy states; the subclasses hold the proofs."""

    epsilon_correctness: Annotated[float, Range(SMALLEST, 1.0, open_high=True)]
    """Probability that the two keys differ."""
    epsilon_secrecy: Epsilon | None = None
    """Secrecy parameter of the whole key."""
    epsilon_secrecy_per_bit: Epsilon | None = None
    """Secrecy parameter per bit of key (kappa); times the real length, at least 1, it gives that of the key."""
    error_correction_efficiency: EFFICIENCY = 1.16
    """Leaked bits over the Shannon limit, f."""
    concentration: Literal["hoeffding", "chernoff", "kl"] = static(default="hoeffding")
    """Tail bound of the counts."""
    phase_error_sampling: Literal["fung", "yin_safe", "serfling"] = static(default="fung")
    """Bound from the error rate seen in X to the phase error rate of Z."""
    clamp: bool = static(default=False)
    """Whether each estimate is also kept inside its trivial range."""

    parts: ClassVar[float]
    """Number of equal parts into which the proof splits the secrecy parameter."""
    intensity_count: ClassVar[int]
    """Number of intensities that the proof takes."""
    sum_rule: ClassVar[bool] = False
    """Whether the strongest intensity must exceed the sum of the others."""

    @abc.abstractmethod
    def estimates(
        self, counts: Counts, mu: Any, p: Any, eps: Number, fluctuating: bool
    ) -> tuple[Terms, Number, Number, Number, Number, Number]:
        """Proof-specific bounds: extra terms, then s_Z0, s_Z1, s_X1, v_X1 and the total of the X detections."""

    def bounds(self, observed: Any, total: Number, eps: Number, fluctuating: bool) -> tuple[Any, Any]:
        """Lower and upper bound of the expectation of counts among `total` trials; inside [0, total] with `clamp`."""
        if not fluctuating:
            return observed, observed
        lower, upper = CONCENTRATIONS[self.concentration](observed, total, -jnp.log(eps))
        return (jnp.maximum(lower, 0.0), jnp.minimum(upper, total)) if self.clamp else (lower, upper)

    def evaluate(self, counts: Counts, link: Link, protocol: Any, fluctuating: bool = True) -> Terms:
        """Every term of the proof; `secret_key_bits_real` is the length before it is floored and kept above 0.

        Args:
            counts: Arrays of shape (basis, intensity).
            link: Its source has the intensities and their probabilities.
            protocol: Not read: these proofs condition on the sifted counts.
            fluctuating: False leaves out all statistical fluctuation: no widths, no sampling bound, no epsilon terms.
        """
        mu, p = jnp.asarray(link.source.intensities), jnp.asarray(link.source.intensity_probabilities)
        if self.epsilon_secrecy is not None or not fluctuating:
            eps = 1e-10 if self.epsilon_secrecy is None else self.epsilon_secrecy
            return self._terms(counts, mu, p, jnp.asarray(eps), fluctuating)
        return self._per_bit(counts, mu, p)

    def _terms(self, counts: Counts, mu: Any, p: Any, epsilon_secrecy: Number, fluctuating: bool) -> Terms:
        eps = epsilon_secrecy / self.parts
        extra, s_z0, s_z1, s_x1, v_x1, total_x = self.estimates(counts, mu, p, eps, fluctuating)
        v_x1 = jnp.clip(v_x1, 0.0, total_x)
        seen = ratio(v_x1, s_x1, otherwise=0.5)
        added = SAMPLING_BOUNDS[self.phase_error_sampling](eps, seen, s_x1, s_z1) if fluctuating else jnp.zeros(())
        phase_error = jnp.where(seen < 0.5, jnp.minimum(seen + added, 0.5), 0.5)
        leak = leaked_bits(counts.errors[0].sum(), counts.detections[0].sum(), self.error_correction_efficiency)
        constant = jnp.zeros(())
        if fluctuating:
            constant = 6.0 * jnp.log2(self.parts / epsilon_secrecy) + 1.0 - jnp.log2(self.epsilon_correctness)
        # Lim et al. 2014, Eq. (1); Rusca et al. 2018, Eq. (A25)
        length = s_z0 + s_z1 * (1.0 - binary_entropy(phase_error)) - leak - constant
        return {
            "secret_key_bits_real": length,
            "vacuum_detections_z": s_z0,
            "single_photon_detections_z": s_z1,
            "single_photon_detections_x": s_x1,
            "single_photon_errors_x": v_x1,
            "phase_error_z": phase_error,
            "phase_error_deviation": added,
            "leak_bits": leak,
            "epsilon_cost_bits": constant,
            "epsilon_secrecy": epsilon_secrecy,
            "tau_0": poisson_mixture(0, mu, p),
            "tau_1": poisson_mixture(1, mu, p),
            **extra,
        }

    def _per_bit(self, counts: Counts, mu: Any, p: Any) -> Terms:
        """Length l with eps = kappa max(l, 1), by iteration from 0.1 n_Z; slopes by the implicit function theorem."""
        kappa = jnp.asarray(self.epsilon_secrecy_per_bit)

        def terms_at(length: Number, inputs: Any) -> Terms:
            counts, mu, p, kappa, security = inputs
            epsilon = jnp.minimum(kappa * jnp.maximum(length, 1.0), MAX_EPSILON)
            return security._terms(counts, mu, p, epsilon, True)

        inputs = (counts, mu, p, kappa, self)
        frozen = jax.lax.stop_gradient(inputs)

        def step(carry: tuple[Number, Number, Any]) -> tuple[Number, Number, Any]:
            length, _, count = carry
            return terms_at(length, frozen)["secret_key_bits_real"], length, count + 1

        def moving(carry: tuple[Number, Number, Any]) -> Any:
            new, old, count = carry
            # below one bit the fixed point no longer depends on where it started
            same = jnp.abs(new - old) <= 1e-13 * jnp.abs(new)
            return (count < 200) & ~(same | ((new <= 1.0) & (old <= 1.0)))

        start = 0.1 * frozen[0].detections[0].sum()
        length, _, _ = jax.lax.while_loop(moving, step, (start, start + 1.0, 0))
        _, slope = jax.jvp(lambda x: terms_at(x, frozen)["secret_key_bits_real"], (length,), (jnp.ones_like(length),))
        slope = jnp.minimum(jax.lax.stop_gradient(slope), 0.95)
        length = length + (terms_at(length, inputs)["secret_key_bits_real"] - length) / (1.0 - slope)
        return {**terms_at(length, inputs), "secret_key_bits_real": length}
