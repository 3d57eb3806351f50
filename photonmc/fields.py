"""Sections and fields of a study as a TOML file names them: which record a `kind` stands for, ranges, dotted paths."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from photonmc.channel import CHANNELS, Background, Selection
from photonmc.detector import RECEIVERS
from photonmc.protocol import PROTOCOLS
from photonmc.sampling import Run
from photonmc.security import ANALYSES
from photonmc.source import SOURCES
from photonmc.units import Range, Several

TAGGED: dict[str, tuple[str, Mapping[str, type]]] = {
    "source": ("kind", SOURCES),
    "channel": ("kind", CHANNELS),
    "receiver": ("kind", RECEIVERS),
    "protocol": ("kind", PROTOCOLS),
    "security": ("analysis", ANALYSES),
}
"""Sections that come in kinds: the field that names the kind, and the registry."""
UNTAGGED: dict[str, type] = {"background": Background, "selection": Selection, "run": Run}
"""Sections of one kind."""
SECTIONS = (*TAGGED, *UNTAGGED)
"""All sections of a TOML file."""


class Field(typing.NamedTuple):
    """One field of a record: its default (`dataclasses.MISSING` where it is required) and what it accepts."""

    default: Any
    range: Range | None
    words: tuple[Any, ...] | None
    base: type
    is_list: bool


def _describe(hint: Any) -> tuple[Range | None, tuple[Any, ...] | None, type, bool]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = next((extra for extra in arguments[1:] if isinstance(extra, Range)), None)
        return limits, None, float if isinstance(limits, Several) else arguments[0], False
    if origin is typing.Literal:
        return None, arguments, str, False
    if origin is tuple:
        limits, words, base, _ = _describe(arguments[0])
        return limits, words, base, True
    if origin in (typing.Union, types.UnionType):
        return _describe(next(argument for argument in arguments if argument is not type(None)))
    return None, (True, False) if hint is bool else None, hint, False


@functools.cache
def fields_of(cls: Any) -> dict[str, Field]:
    """Fields of a record that a file may set, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    shown = (field for field in dataclasses.fields(cls) if not field.metadata.get("internal"))
    return {field.name: Field(field.default, *_describe(hints[field.name])) for field in shown}


def record_class(section: str, values: dict[str, Any]) -> type | None:
    """Record that a section of a TOML file stands for, None where its kind is missing or not known."""
    if section in UNTAGGED:
        return UNTAGGED[section]
    tag, registry = TAGGED[section]
    default = "active_basis" if section == "receiver" else None
    word = values.get(tag, default)
    return registry.get(word) if isinstance(word, str) else None


def split_path(path: str) -> tuple[str | int, ...]:
    """Parts of a dotted path: "source.intensities[0]" gives ("source", "intensities", 0); raises `ValueError`."""
    parts: list[str | int] = []
    for piece in path.split("."):
        match = re.fullmatch(r"([A-Za-z_]\w*)((?:\[\d{1,4}\])*)", piece)
        if match is None:
            raise ValueError(f"`{path}` is not a path such as channel.length_km or source.intensities[0]")
        parts += [match[1], *(int(index) for index in re.findall(r"\d+", match[2]))]
    return tuple(parts)


def join_path(parts: tuple[str | int, ...]) -> str:
    """Dotted path of its parts."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".")


def split_path_or_none(path: str) -> tuple[str | int, ...] | None:
    """Parts of a path, None where a key of the file is no plain name."""
    try:
        return split_path(path)
    except ValueError:
        return None


def shown(value: Any) -> str:
    """A value of a config as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
