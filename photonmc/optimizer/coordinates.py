"""Unconstrained coordinates of the optimized settings: every point of the search space is a feasible study.

Each free setting is low + (high - low) f with a fraction f in [0, 1], f the sigmoid of a coordinate. Bounds follow the
settings that were placed before: intensities from the weakest up, so that they fall strictly (and mu1 > mu2 + mu3 where
the analysis needs it); probabilities one after another, each leaving enough and not too much for the rest, the last one
taking what is left. A coordinate beyond `EDGE` stands on its bound exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from photonmc.security import ANALYSES
from photonmc.study import Study
from photonmc.study_axes import Free

if TYPE_CHECKING:
    from jaxtyping import Array, Float

EDGE = 40.0
"""Coordinate at which a setting reaches its bound."""
INNER = 18.0
"""Largest coordinate of the gradient search, where slopes are still felt."""
_LISTS = ("source.intensities", "source.intensity_probabilities")


def _place(low: Any, high: Any, u: Any) -> Any:
    fraction = jnp.where(u >= EDGE, 1.0, jnp.where(u <= -EDGE, 0.0, jax.nn.sigmoid(u)))
    return jnp.where(fraction >= 1.0, high, low + (high - low) * fraction)


def _locate(low: Any, high: Any, value: Any) -> Any:
    """Inverse of `_place`; a value on a bound or beyond is pulled inside."""
    width = high - low
    fraction = jnp.where(width > 0, (value - low) / jnp.where(width > 0, width, 1.0), 0.5)
    fraction = jnp.clip(fraction, 1e-4, 1.0 - 1e-4)
    return jnp.log(fraction) - jnp.log1p(-fraction)


class Coordinates:
    """Map between coordinates and studies, for given free settings.

    One walk over the settings serves both directions: `values` places settings from coordinates, `start` reads
    coordinates off the starts.
    """

    def __init__(self, free: tuple[Free, ...], analysis: str, intensities: int) -> None:
        self.free = free
        self.sum_rule = ANALYSES[analysis].sum_rule
        self.marks = {mark.path: mark for mark in free}
        self.intensities = intensities
        shares = [mark for mark in free if mark.path.startswith(_LISTS[1])]
        self.size = len(free) - bool(shares)  # the last probability takes what is left

    def values(self, u: Float[Array, " coordinate"], study: Study) -> Study:
        """Study at given coordinates."""
        _, placed = self._walk(study, list(u), None)
        return study.replace(placed)

    def start(self, study: Study) -> Float[Array, " coordinate"]:
        """Coordinates of the marked starts, pulled inside of the bounds."""
        starts = {mark.path: jnp.asarray(mark.first()) for mark in self.free}
        used, _ = self._walk(study, None, starts)
        return jnp.stack(used) if used else jnp.zeros(0)  # a single free probability takes what is left

    def _walk(self, study: Study, u: list[Any] | None, starts: dict[str, Any] | None) -> tuple[list[Any], dict[str, Any]]:
        used: list[Any] = []
        placed: dict[str, Any] = {}

        def put(path: str, low: Any, high: Any) -> Any:
            coordinate = u[len(used)] if u is not None else _locate(low, high, starts[path] if starts else None)
            used.append(coordinate)
            placed[path] = _place(low, high, coordinate)
            return placed[path]

        self._put_intensities(study, put)
        self._put_probabilities(study, put, placed, starts)
        for mark in self.free:
            if not mark.path.startswith(_LISTS):
                put(mark.path, mark.low, mark.high)
        return used, placed

    def _put_intensities(self, study: Study, put: Any) -> None:
        marks = [self.marks.get(f"{_LISTS[0]}[{index}]") for index in range(self.intensities)]
        if not any(marks):
            return
        fixed = study.link.source.intensities
        low = [mark.low if mark else fixed[index] for index, mark in enumerate(marks)]
        high = [mark.high if mark else fixed[index] for index, mark in enumerate(marks)]
        chosen: dict[int, Any] = {}
        for index in reversed(range(self.intensities)):
            mark = marks[index]
            if mark is None:
                chosen[index] = fixed[index]
                continue
            least, most = low[index], high[index]
            for weaker in chosen.values():
                least = jnp.maximum(least, weaker)
            for stronger in high[:index]:
                most = jnp.minimum(most, stronger)
            if self.sum_rule and index == 0:
                least = jnp.maximum(least, chosen[1] + chosen[2])
            if self.sum_rule and index == 1:
                most = jnp.minimum(most, high[0] - chosen[2])
            if self.sum_rule and index == 2:
                most = jnp.minimum(most, jnp.minimum(high[0] - low[1], 0.5 * high[0]))
            chosen[index] = put(mark.path, least, jnp.maximum(most, least))

    def _put_probabilities(self, study: Study, put: Any, placed: dict[str, Any], starts: dict[str, Any] | None) -> None:
        fixed = study.link.source.intensity_probabilities
        marks = [(i, m) for i in range(len(fixed)) if (m := self.marks.get(f"{_LISTS[1]}[{i}]"))]
        if not marks:
            return
        left = 1.0 - sum(fixed[i] for i in range(len(fixed)) if f"{_LISTS[1]}[{i}]" not in self.marks)
        if starts is not None:
            total = sum(mark.first() for _, mark in marks)
            starts |= {mark.path: left * mark.first() / total for _, mark in marks}
        for position, (_, mark) in enumerate(marks):
            later = [other for _, other in marks[position + 1 :]]
            if not later:
                placed[mark.path] = left
                break
            least = jnp.maximum(mark.low, left - sum(other.high for other in later))
            most = jnp.minimum(mark.high, left - sum(other.low for other in later))
            left = left - put(mark.path, least, jnp.maximum(most, least))

    def feasible(self, study: Study) -> Any:
        """Whether strict orders hold, which a setting on its bound can break."""
        mu = jnp.stack([jnp.asarray(value) for value in study.link.source.intensities])
        p = jnp.stack([jnp.asarray(value) for value in study.link.source.intensity_probabilities])
        good = jnp.all(mu[:-1] > mu[1:]) & jnp.all(p > 0) & (mu[0] > 0)
        if self.sum_rule:
            good &= mu[0] > mu[1] + mu[2]
        else:
            good &= mu[-1] > 0
        pz = [study.protocol.basis_probability_z, study.protocol.basis_probability_z_bob]
        for value in (value for value in pz if value is not None):
            good &= (value > 0) & (value < 1)
        return good
