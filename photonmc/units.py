"""Unit conversions, and the ranges that stand on the fields of the records."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed interval of one numeric field, with its unit; written as `Annotated[float, Range(0, 1)]`.

    NaN and infinities lie outside of every range. The configuration reads the same object through pydantic, which is
    imported only then, so that the records need nothing but jax.
    """

    low: float
    high: float
    unit: str = ""
    open_low: bool = False
    open_high: bool = False

    def contains(self, value: float) -> bool:
        """Whether a number lies in the interval; never for NaN."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return bool(above and below)

    def __str__(self) -> str:
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        unit = f" {self.unit}" if self.unit else ""
        return f"{left}{self.low:g}, {self.high:g}{right}{unit}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if not self.contains(value):
                raise PydanticCustomError("range", "must be in {range}", {"range": str(self)})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        low = "exclusiveMinimum" if self.open_low else "minimum"
        high = "exclusiveMaximum" if self.open_high else "maximum"
        return {**handler(schema), low: self.low, high: self.high} | ({"unit": self.unit} if self.unit else {})


@dataclasses.dataclass(frozen=True)
class Whole(Range):
    """Interval of a number that has no fraction."""

    def contains(self, value: float) -> bool:
        """Whether a number lies in the interval and is whole; never for NaN."""
        return super().contains(value) and value == math.floor(value)

    def __str__(self) -> str:
        return f"{super().__str__()}, whole numbers alone"

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return super().__get_pydantic_json_schema__(schema, handler) | {"multipleOf": 1}


@dataclasses.dataclass(frozen=True)
class Several(Range):
    """Interval of a value that may also be a list, one entry per detector (`entries=2`) or per trap (any number)."""

    entries: int | None = None

    def one(self) -> Range:
        """Interval of a single entry."""
        return Range(self.low, self.high, self.unit, self.open_low, self.open_high)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        number = self.one().__get_pydantic_core_schema__(source, lambda _: core_schema.float_schema(strict=True))
        listed = core_schema.tuple_schema(
            [number], variadic_item_index=0, min_length=self.entries or 1, max_length=self.entries
        )
        choices = {"number": number, "list": listed}
        return core_schema.tagged_union_schema(choices, lambda value: "list" if isinstance(value, list) else "number")

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        number = self.one().__get_pydantic_json_schema__({"type": "number"}, dict)
        listed = {"type": "array", "items": number, "minItems": self.entries or 1}
        return {"anyOf": [number, listed | ({"maxItems": self.entries} if self.entries else {})]}


def static(*, default: Any) -> Any:
    """Field of a record that is part of its type under `jit` (words, switches), not a traced leaf."""
    return dataclasses.field(default=default, metadata={"static": True})


def transmittance_from_db(loss_db: ArrayLike) -> jnp.ndarray:
    """Power transmittance 10^(-loss/10) of a loss [dB]."""
    return jnp.exp(-jnp.asarray(loss_db) * (math.log(10.0) / 10.0))


def probability_from_rate(rate_hz: ArrayLike, gate_ns: ArrayLike) -> jnp.ndarray:
    """Probability of at least one event of a Poisson process of a rate [Hz] within a gate [ns]: 1 - exp(-rate gate)."""
    return -jnp.expm1(-jnp.asarray(rate_hz) * jnp.asarray(gate_ns) * 1e-9)


def binary_entropy(x: ArrayLike) -> jnp.ndarray:
    """Binary entropy h(x) [bit], with h(0) = h(1) = 0 and finite slopes everywhere (double where)."""
    x = jnp.asarray(x)
    inside = (x > 0) & (x < 1)
    safe = jnp.where(inside, x, 0.5)
    return jnp.where(inside, -(safe * jnp.log2(safe) + (1 - safe) * jnp.log1p(-safe) / math.log(2.0)), 0.0)


def plob_bound(transmittance: ArrayLike) -> jnp.ndarray:
    """Repeaterless secret-key capacity -log2(1 - eta) [bit per pulse] of a lossy channel.

    References:
        Pirandola, Laurenza, Ottaviani, Banchi, Nature Communications 8, 15043 (2017), Eq. (19).
    """
    return -jnp.log1p(-jnp.asarray(transmittance)) / math.log(2.0)
