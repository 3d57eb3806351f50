"""Keys of points and of their realizations: lengths, spreads, reasons, and what is said of all of them together."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from photonmc.contracts import Counts, Drawn, counts_from_tally
from photonmc.labels import QUANTILES
from photonmc.random import fold_name, host_generator
from photonmc.results import Keys
from photonmc.sampling.counts import draw_tally
from photonmc.security.keyrate import Key, key_of_counts
from photonmc.status import BIT, NO_KEY
from photonmc.study import Study, kernel_study

REDRAWS = 200
"""Multinomial redraws behind the standard error of one realization."""


@jax.jit
def _key_batch(counts: Counts, study: Study) -> Key:
    """Keys of points (first axis) and their realizations (second axis)."""

    def realizations(many: Counts, one: Study) -> Key:
        return jax.vmap(lambda counted: key_of_counts(counted, one.link, one.protocol, one.security))(many)

    return jax.vmap(realizations)(counts, study)


def key_and_error(
    key: Any, drawn: Drawn, kernel: Study, index: int, stop: tuple[int | None, int | None]
) -> tuple[Key, float]:
    """Key of one realization, and the standard deviation of its length over multinomial redraws of the counts.

    Both in one batch, so that there is one kernel to compile.
    """
    rng = host_generator(fold_name(key, "standard_error"))
    counts = counts_from_tally(drawn.pulses, drawn.tally)
    sampled = drawn.pulses[0] > 0
    redrawn = jax.tree.map(lambda array: np.repeat(array, REDRAWS, axis=0), counts)
    if sampled:
        if stop[0] is not None or drawn.stopped:
            stop = int(drawn.pulses[0]), None  # of all joined passes, or until the stop
        silent, right = counts.sent - counts.detections, counts.detections - counts.errors
        table = np.stack([silent, right, counts.errors], axis=-1)[0, :, :, None] / counts.pulses[0]
        redrawn = counts_from_tally(*draw_tally(rng, table, REDRAWS, *stop))
    both = jax.tree.map(lambda first, others: np.concatenate([first, others])[None].astype(np.float64), counts, redrawn)
    one = jax.tree.map(lambda leaf: leaf[index : index + 1], kernel)
    keys = jax.device_get(_key_batch(both, one))
    error = float(np.std(keys.secret_key_bits[0, 1:], ddof=1)) if sampled else np.nan
    return jax.tree.map(lambda array: array[:, :1], keys), error


def keys_of(counts: Counts, batch: Study, standard_error: np.ndarray, key: Key | None = None) -> Keys:
    """Keys of points and realizations, summed up over the realizations; those that a stop left out do not count."""
    real = jax.tree.map(lambda array: array.astype(np.float64), counts)
    key = jax.device_get(_key_batch(real, kernel_study(batch))) if key is None else key
    done = real.pulses > 0
    done = done | ~done.any(axis=1, keepdims=True)
    bits, status = key.secret_key_bits, np.where(done, key.status, 0)
    reasons = np.stack([(status & BIT[word] > 0).sum(axis=1) for word in NO_KEY], axis=1)
    commonest = np.where(reasons.any(axis=1), np.array([BIT[word] for word in NO_KEY])[reasons.argmax(axis=1)], 0)
    sifted = real.detections[:, :, 0].sum(axis=-1)
    with np.errstate(invalid="ignore"):
        per_pulse = np.where(np.isfinite(real.pulses), bits / real.pulses, 0.0)

    def quantiles(values: np.ndarray) -> np.ndarray:
        if done.all():
            return np.quantile(values, QUANTILES, axis=1).T
        return np.stack([np.quantile(row[sampled], QUANTILES) for row, sampled in zip(values, done, strict=True)])

    def mean(values: np.ndarray) -> np.ndarray:
        return np.where(done, values, 0.0).sum(axis=1) / done.sum(axis=1)

    return Keys(
        bits=mean(bits),
        bits_per_pulse=mean(per_pulse),
        standard_error=standard_error,
        fluctuation_free=mean(key.secret_key_bits_fluctuation_free),
        yin_safe=mean(key.secret_key_bits_yin_safe),
        terms={name: mean(values) for name, values in key.terms.items()},
        status=np.bitwise_or.reduce(status, axis=1),
        commonest=commonest,
        bits_quantiles=quantiles(bits),
        sifted_z_quantiles=quantiles(sifted),
        probability_no_key=mean(bits <= 0),
        bits_of_each=np.where(done, bits, np.nan),
    )
