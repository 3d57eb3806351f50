"""Types, keys and ranges of a config file, by pydantic on the very records that kernels use; and its JSON Schema."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from photonmc.channel import Background, Selection
from photonmc.errors import Mistake, suggestion
from photonmc.fields import SECTIONS, TAGGED, UNTAGGED, fields_of, join_path, record_class, shown
from photonmc.marks import OPTIMIZABLE
from photonmc.sampling import Run

Json = Any


@functools.cache
def _file_record() -> type:
    """Dataclass of a whole file, with the kinds that the registries know."""
    from pydantic import Field

    def union(section: str) -> Any:
        tag, registry = TAGGED[section]
        members = tuple(registry.values())
        hint = functools.reduce(operator.or_, members)
        return Annotated[hint, Field(discriminator=tag)] if len(members) > 1 else members[0]

    fields: list[Any] = [(name, union(name)) for name in ("source", "channel", "receiver", "protocol")]
    fields += [("run", Run), ("security", union("security") | None, dataclasses.field(default=None))]
    fields += [("background", Background | None, dataclasses.field(default=None))]
    fields += [("selection", Selection | None, dataclasses.field(default=None))]
    fields += [("schema", Literal[1], dataclasses.field(default=1))]
    file = dataclasses.make_dataclass("StudyFile", fields, frozen=True)
    file.__pydantic_config__ = {"extra": "forbid", "strict": True, "allow_inf_nan": False, "title": "photonmc study"}  # type: ignore[attr-defined]
    return file


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_file_record())


def validate(tree: dict[str, Json], found: list[Mistake], spoiled: set[str]) -> Any:
    """Records of a file, or None with all mistakes of types, keys and ranges added."""
    from pydantic import ValidationError

    known_bad = {mistake.path for mistake in found} | spoiled
    for section, (tag, registry) in TAGGED.items():
        values = tree.get(section)
        if isinstance(values, dict) and tag not in values and section != "receiver":
            words = ", ".join(f'"{word}"' for word in registry)
            found.append(Mistake(f"{section}.{tag}", f"is required; one of {words}"))
            known_bad.add(f"{section}.{tag}")
    try:
        return _adapter().validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        for item in error.errors(include_url=False):
            mistake = _translated(item, tree)
            if item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
                continue  # an entry was wrong, which is said of the entry
            if mistake.path not in known_bad and mistake.path.split(".")[0] + "." + _tag_of(mistake.path) not in known_bad:
                found.append(mistake)
    except (ValueError, RecursionError):
        found.append(Mistake("", "the file is nested too deeply"))
    return None


def _tag_of(path: str) -> str:
    """Name of the field that tells the kind, if the path is that of its whole section (a missing tag is said once)."""
    return TAGGED[path][0] if path in TAGGED else "\0"


def _translated(item: Mapping[str, Any], tree: dict[str, Json]) -> Mistake:
    """Our words for a pydantic error; tags of unions are no part of the path."""
    location = list(item["loc"])
    if len(location) > 1 and location[0] in TAGGED and isinstance(tree.get(location[0]), dict):
        tag, registry = TAGGED[location[0]]
        if len(registry) > 1 and location[1] == tree[location[0]].get(tag):
            del location[1]
        if len(location) > 2 and location[2] in ("number", "list"):
            del location[2]  # which of the two shapes a value of detectors or traps has
    path, kind, value = join_path(tuple(location)), item["type"], item.get("input")
    context = item.get("ctx", {})
    if kind == "missing":
        return Mistake(path, "is required")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        siblings = _siblings(location, tree)
        if len(location) == 2 and (other := _kinds_that_take(*location)):
            tag = TAGGED[location[0]][0]
            return Mistake(path, f'is not taken by {tag} = "{tree[location[0]].get(tag)}", but by {other}')
        return Mistake(path, f"unknown key{suggestion(str(location[-1]), siblings)}, with the value {shown(value)}")
    if kind == "union_tag_invalid":
        tag, registry = TAGGED[location[0]]
        words = ", ".join(f'"{word}"' for word in registry)
        word = tree[location[0]].get(tag)
        word = word if isinstance(word, str) else ""
        return Mistake(
            f"{path}.{tag}",
            f"must be one of {words}{suggestion(word, registry)}, but is {shown(tree[location[0]].get(tag))}",
        )
    if kind == "union_tag_not_found":
        return Mistake(f"{path}.{TAGGED[location[0]][0]}", "is required")
    if kind == "literal_error":
        return Mistake(path, f"must be {_one_of(context['expected'])}, but is {shown(value)}".replace("'", '"'))
    if "object" in item["msg"] or kind == "dataclass_type":
        return Mistake(path, f"must be a table, but is {shown(value)}")
    rule = {
        "range": f"must be in {context.get('range')}",
        "float_type": "must be a number",
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "bool_type": "must be true or false",
        "tuple_type": "must be a list",
        "string_type": "must be text",
        "too_short": f"must have {context.get('min_length')} entries at least",
        "too_long": f"must have {context.get('max_length')} entries at most",
        "finite_number": "must be a finite number",
    }.get(kind, item["msg"])
    return Mistake(path, f"{rule}, but is {shown(value)}")


def _kinds_that_take(section: str, name: str) -> str:
    """Other kinds of a section that have a field."""
    registry = TAGGED[section][1] if section in TAGGED else {}
    return ", ".join(f'"{word}"' for word, cls in registry.items() if name in fields_of(cls))


def _one_of(expected: str) -> str:
    return f"one of {expected}" if " or " in expected or "," in expected else expected


def _siblings(location: list[Any], tree: dict[str, Json]) -> list[str]:
    if len(location) == 1:
        return ["schema", *SECTIONS]
    cls = record_class(location[0], tree[location[0]])
    return list(fields_of(cls)) if cls else []


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a config file; every number may also be scanned or optimized, every word scanned."""
    schema = _adapter().json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    number, word = {"type": "number"}, {"type": ["number", "string", "boolean"]}
    zip_name = {"zip": {"type": "string"}}
    scan = {"scan": {"type": "array", "prefixItems": [number, number, {"type": "integer"}], "minItems": 3, "maxItems": 3}}
    schema["$defs"]["Scan"] = _closed({**scan, "scale": {"enum": ["linear", "log"]}, **zip_name}, "scan")
    schema["$defs"]["Values"] = _closed({"values": {"type": "array", "items": word, "minItems": 2}, **zip_name}, "values")
    bounds = {"optimize": {"type": "array", "items": number, "minItems": 2, "maxItems": 2}, "start": number}
    schema["$defs"]["Optimize"] = _closed(bounds, "optimize")
    for section, (tag, registry) in {**TAGGED, **{name: ("", {name: cls}) for name, cls in UNTAGGED.items()}}.items():
        for cls in registry.values():
            definition = schema["$defs"][cls.__name__]
            if section != "receiver" and tag:
                file = ["file"] if "file" in definition["properties"] else []
                definition["required"] = [tag, *definition.get("required", []), *file]
            for name in [name for name in definition["properties"] if name not in fields_of(cls)]:
                del definition["properties"][name]
            for name, entry in definition["properties"].items():
                if name != tag and (fields_of(cls)[name].range or fields_of(cls)[name].words):
                    definition["properties"][name] = _with_marks(entry, section in OPTIMIZABLE)
    return schema


def _closed(properties: dict[str, Any], required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [required], "additionalProperties": False}


def _with_marks(entry: dict[str, Any], optimizable: bool) -> dict[str, Any]:
    if entry.get("type") == "array":
        return {**entry, "items": _with_marks(entry["items"], optimizable)}
    if "anyOf" in entry:
        entry["anyOf"] = [_with_marks(c, optimizable) if c.get("type") == "array" else c for c in entry["anyOf"]]
    kinds = ["Scan", "Values", "Optimize"] if optimizable else ["Scan", "Values"]
    outer: dict[str, Any] = {key: entry.pop(key) for key in ("default", "title") if key in entry}
    choices = entry.get("anyOf", [entry])
    return {
        **outer,
        "anyOf": [c for c in choices if c != {"type": "null"}] + [{"$ref": f"#/$defs/{kind}"} for kind in kinds],
    }
