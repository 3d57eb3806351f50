"""TOML files to studies and back. Every mistake of a file is reported at once, with its path, the rule and the value."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.resources
import json
import math
import operator
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from photonmc.errors import ConfigError, Mistake
from photonmc.fields import SECTIONS, TAGGED, fields_of, join_path, record_class, split_path, suggestion
from photonmc.link import Link
from photonmc.rules import broken_rules
from photonmc.study import MAX_POINTS, Axis, Free, Study, as_sections, out_of_range

MAX_FILE_BYTES = 1 << 20
"""Largest input file that is read [bytes]; a real one has a few thousand."""
MAX_DEPTH = 20
"""Deepest nesting of tables and lists that is read; a real file has 4 levels."""
MARKS = {"scan": {"scan", "scale", "zip"}, "values": {"values", "zip"}, "optimize": {"optimize", "start"}}
"""Keys that may stand together in a mark, by the key that names it."""
DESCRIPTIVE = ("source.wavelength_nm",)
"""Numbers that no model reads."""
OPTIMIZABLE = ("source", "channel", "receiver", "protocol")
"""Sections whose numbers may be optimized."""
Json = Any


def read_text(path: Path, what: str) -> str:
    """Text of a small file.

    Raises:
        ConfigError: If it cannot be read, is too large, or is not UTF-8 text.
    """
    try:
        special = path.exists() and not path.is_file()
    except (OSError, ValueError):
        special = False  # opening it says why
    if special:
        raise ConfigError([Mistake(str(path), f"{what} must be a file, but is a folder or a device")])
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [Mistake(str(path), f"{what} cannot be read: {getattr(error, 'strerror', None) or error}")]
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError([Mistake(str(path), f"{what} must have {MAX_FILE_BYTES} bytes at most, but has more")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError([Mistake(str(path), f"{what} must be UTF-8 text, but is not")]) from None
    if not text.strip():
        raise ConfigError([Mistake(str(path), f"{what} is empty")])
    return text


def preset_names() -> list[str]:
    """Names of the ready links."""
    folder = importlib.resources.files("photonmc.presets")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """TOML text of a ready link.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in preset_names():
        known = ", ".join(preset_names())
        raise ConfigError(
            [Mistake(f"preset:{name}", f"there is no such preset{suggestion(name, preset_names())}; there are {known}")]
        )
    return (importlib.resources.files("photonmc.presets") / f"{name}.toml").read_text(encoding="utf-8")


def preset(name: str) -> Study:
    """Ready link by name, such as "gys".

    Raises:
        ConfigError: If there is none of that name.
    """
    return study_from_tree(parse_toml(preset_text(name), f"preset:{name}"))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Study of a TOML file, or of `preset:NAME`.

    Args:
        path: The file.
        overrides: Further settings as `section.field=value`; the value is TOML, or else a word.

    Raises:
        ConfigError: With all mistakes of file and overrides at once.
    """
    name = str(path)
    try:
        ready = name.startswith("preset:")
        text = preset_text(name.removeprefix("preset:")) if ready else read_text(Path(path), "the config")
        tree = parse_toml(text, name)
    except ConfigError as error:  # mistakes in the overrides are said as well
        raise ConfigError([*error.mistakes, *apply_overrides({}, overrides)]) from None
    mistakes = apply_overrides(tree, overrides)
    return study_from_tree(tree, mistakes)


def parse_toml(text: str, name: str) -> dict[str, Json]:
    """Parsed TOML; a syntax error is a `ConfigError` with the line."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error).split("; use sys.")[0]
        raise ConfigError([Mistake(name, f"not valid TOML: {message}")]) from None


def apply_overrides(tree: dict[str, Json], overrides: Sequence[str]) -> list[Mistake]:
    """Set values of `--set` in a parsed file; mistakes are returned, not raised, so that they join those of the file."""
    mistakes = []
    for override in overrides:
        path, equals, text = override.partition("=")
        path = path.strip()
        try:
            parts = split_path(path)
            if not equals:
                raise ValueError(f"`{override}` must read section.field=value")
            holder: Any = tree
            for part in parts[:-1]:
                holder = holder.setdefault(part, {}) if isinstance(holder, dict) else holder[part]
            if isinstance(parts[-1], int) != isinstance(holder, list):
                raise TypeError
            holder[parts[-1]] = _override_value(text.strip())
        except (TypeError, IndexError, AttributeError):
            mistakes.append(Mistake(f"--set {path}", "there is no such place in the config"))
        except ValueError as error:
            mistakes.append(Mistake("--set", str(error)))
    return mistakes


def _override_value(text: str) -> Json:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def study_from_tree(tree: dict[str, Json], mistakes: Sequence[Mistake] = ()) -> Study:
    """Study of a parsed TOML file.

    Raises:
        ConfigError: With all mistakes at once, those given included.
    """
    if _depth(tree) > MAX_DEPTH:
        raise ConfigError([*mistakes, Mistake("", f"tables and lists may be nested {MAX_DEPTH} deep, but here are deeper")])
    found = list(mistakes)
    found += _unusable_values(tree)
    if type(tree.get("schema", 1)) is not int:
        found.append(Mistake("schema", f"must be 1, but is {_shown(tree['schema'])}"))
    spoiled: set[str] = set()
    axes, free = _take_marks(tree, found, spoiled)
    parsed = _validate(tree, found, spoiled)
    invalid = {mistake.path for mistake in found} | spoiled
    if math.prod(len(axis) for axis in axes) > MAX_POINTS:
        count = math.prod(len(axis) for axis in axes)
        found.append(Mistake("", f"a scan may have {MAX_POINTS:.0e} points in all, but the axes multiply to {count:.3g}"))
    else:
        found += broken_rules(tree, invalid, axes, free)
    if found or parsed is None:
        raise ConfigError(found)
    study = Study(Link(parsed.source, parsed.channel, parsed.receiver), parsed.protocol, parsed.run, parsed.security)
    return dataclasses.replace(study, axes=tuple(axes), free=tuple(free))


def _depth(tree: Json) -> int:
    """Levels of nesting, found without recursion."""
    depth, level = 0, [tree]
    while level and depth <= MAX_DEPTH:
        holders = [value for value in level if isinstance(value, (dict, list))]
        level = [inner for holder in holders for inner in (holder.values() if isinstance(holder, dict) else holder)]
        depth += 1
    return depth


def _unusable_values(tree: Json, path: tuple[str | int, ...] = ()) -> Iterator[Mistake]:
    """Replace what JSON cannot carry (dates, NaN, infinities, huge integers) by None and report it."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        here = (*path, key)
        if isinstance(value, (dict, list)):
            yield from _unusable_values(value, here)
        elif isinstance(value, (datetime.date, datetime.time)):
            tree[key] = None
            yield Mistake(join_path(here), f"must be a number or a word, but is the date or time {value.isoformat()}")
        elif isinstance(value, float) and not math.isfinite(value):
            tree[key] = None
            yield Mistake(join_path(here), f"must be a finite number, but is {value}")
        elif isinstance(value, int) and abs(value) >= 2**63:
            tree[key] = float(value) if abs(value) < 10**300 else None
            if tree[key] is None:
                yield Mistake(join_path(here), f"must be a number below 1e300, but has {len(str(abs(value)))} digits")


# Marks: { scan = ... }, { values = ... }, { optimize = ... } -----------------------------------------------------------


def _take_marks(tree: dict[str, Json], found: list[Mistake], spoiled: set[str]) -> tuple[list[Axis], list[Free]]:
    """Replace each mark by its first value and return the axes and the free settings.

    A mark that cannot be used leaves None at its place, and its path in `spoiled`, so that nothing else is said of it.
    """
    scans: list[tuple[str, str | None, np.ndarray]] = []
    free: list[Free] = []

    def visit(holder: Any, key: Any, path: tuple[str | int, ...]) -> None:
        value = holder[key]
        if isinstance(value, dict) and len(path) > 1 and any(name in value for name in MARKS):
            holder[key] = _one_mark(value, join_path(path), tree, scans, free, found)
            if holder[key] is None:
                spoiled.add(join_path(path))
        elif isinstance(value, (dict, list)):
            for inner in list(value if isinstance(value, dict) else range(len(value))):
                visit(value, inner, (*path, inner))

    for section in list(tree):
        visit(tree, section, (section,))
    return _join_zipped(scans, found), free


def _one_mark(
    mark: dict[str, Json], path: str, tree: dict[str, Json], scans: list[Any], free: list[Free], found: list[Mistake]
) -> Json:
    """First value of a mark, which is entered among the scans or the free settings; None where it cannot be used."""
    kind = next(name for name in MARKS if name in mark)
    before = len(found)
    if any(mistake.path.startswith(f"{path}.") for mistake in found):
        return None  # a date or NaN in it has been reported
    field, why_not = _field_of_mark(tree, path)
    if why_not:
        found.append(Mistake(path, why_not))
        return None
    unknown = [name for name in mark if name not in MARKS[kind]]
    found += (Mistake(f"{path}.{name}", f"unknown key beside {kind}{suggestion(name, MARKS[kind])}") for name in unknown)
    if kind == "optimize":
        return _one_free(mark, path, field, free, found) if len(found) == before else None
    together = mark.get("zip")
    if together is not None and not isinstance(together, str):
        found.append(Mistake(f"{path}.zip", f"must be a name, but is {_shown(together)}"))
    if field is not None and field.words is not None and kind == "scan":
        found.append(Mistake(path, "takes words, which are listed by { values = [...] } instead of scan"))
        return None
    values = _listed_values(mark["values"], path, found) if kind == "values" else _spaced_values(mark, path, found)
    if len(found) > before or values is None:
        return None
    if field is not None:
        values = _fitting(values, field, path, found)
    if len(found) > before or values is None:
        return None
    scans.append((path, together, values))
    return values[0].item()


def _field_of_mark(tree: dict[str, Json], path: str) -> tuple[Any, str | None]:
    """Field that a mark stands for, None where its kind is not known; and why no mark may stand there."""
    parts = split_path_or_none(path)
    section, name, *index = parts or ("", "")
    values = tree.get(str(section))
    if section not in SECTIONS or not isinstance(values, dict):
        return None, None  # the section itself is reported
    if section in TAGGED and name == TAGGED[str(section)][0]:
        return None, "cannot be scanned or optimized: another kind has other fields"
    cls = record_class(str(section), values)
    if cls is None:
        return None, None
    field = fields_of(cls).get(str(name))
    if field is None:
        return None, f"unknown key{suggestion(str(name), fields_of(cls))}"
    if field.is_list and not index:
        return None, f"is a list: mark its entries, such as {path}[0]"
    return field._replace(is_list=False), None


def _one_free(mark: dict[str, Json], path: str, field: Any, free: list[Free], found: list[Mistake]) -> float | None:
    bounds, start = mark["optimize"], mark.get("start")
    before = len(found)
    if path.split(".")[0] not in OPTIMIZABLE or path in DESCRIPTIVE or (field is not None and field.base is not float):
        found.append(Mistake(path, f"cannot be optimized; numbers of {', '.join(OPTIMIZABLE)} that change the key can"))
    elif not (isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_number, bounds)) and bounds[0] < bounds[1]):
        found.append(Mistake(path, f"optimize must be [low, high] with low < high, but is {_shown(bounds)}"))
    else:
        if start is not None and not (_is_number(start) and bounds[0] <= start <= bounds[1]):
            found.append(Mistake(f"{path}.start", f"must lie in {_shown(bounds)}, but is {_shown(start)}"))
        for bound in bounds if field is not None else ():
            # a bound may stand where the range is open: the search stays inside
            closed = dataclasses.replace(field.range, open_low=False, open_high=False)
            found += (Mistake(path, f"bounds {m.message}") for m in out_of_range(path, bound, field._replace(range=closed)))
    if len(found) > before:
        return None
    free.append(Free(path, float(bounds[0]), float(bounds[1]), None if start is None else float(start)))
    return free[-1].first()


def _fitting(values: np.ndarray, field: Any, path: str, found: list[Mistake]) -> np.ndarray | None:
    """Scanned values as the field takes them, all in its range."""
    numeric = values.dtype.kind in "iuf"
    if field.range is None or not numeric:
        # words, or what is none: each kind of value once
        for value in list(dict.fromkeys(values.tolist()))[:10]:
            found += out_of_range(path, value, field)
        return values
    # ranges are intervals: the smallest and the largest value speak for all of them
    ends = [value.item() for value in dict.fromkeys([values.min(), values.max()])]
    if field.base is int:
        if np.any(values != np.floor(values)):
            found.append(Mistake(path, "must be scanned in whole numbers, but some values are not whole"))
            return None
        ends = [int(value) for value in ends]
    for value in ends:
        found += out_of_range(path, value, field)
    if any(not field.range.contains(value) for value in ends):
        return None
    return values.astype(np.int64 if field.base is int else np.float64)


def _listed_values(values: Json, path: str, found: list[Mistake]) -> np.ndarray | None:
    if not isinstance(values, list) or not 2 <= len(values) <= MAX_POINTS:
        found.append(Mistake(path, f"values must be a list of 2 to {MAX_POINTS:.0e} entries, but is {_shown(values)}"))
    elif not (
        all(map(_is_number, values)) or all(isinstance(v, str) for v in values) or all(isinstance(v, bool) for v in values)
    ):
        found.append(Mistake(path, f"values must be all numbers, all words or all booleans, but are {_shown(values)}"))
    else:
        return np.asarray(values)
    return None


def _spaced_values(mark: dict[str, Json], path: str, found: list[Mistake]) -> np.ndarray | None:
    limits, scale = mark["scan"], mark.get("scale", "linear")
    if not (isinstance(limits, list) and len(limits) == 3 and all(map(_is_number, limits)) and isinstance(limits[2], int)):
        found.append(Mistake(path, f"scan must be [first, last, points], but is {_shown(limits)}"))
    elif not 2 <= limits[2] <= MAX_POINTS:
        found.append(Mistake(path, f"a scan must have 2 to {MAX_POINTS:.0e} points, but has {limits[2]:g}"))
    elif scale not in ("linear", "log"):
        found.append(Mistake(f"{path}.scale", f'must be one of "linear", "log", but is {_shown(scale)}'))
    elif scale == "log" and not (limits[0] > 0 and limits[1] > 0):
        found.append(Mistake(path, f"a scan on a log scale must run between values above 0, but is {_shown(limits)}"))
    else:
        first, last, count = limits
        with np.errstate(all="ignore"):
            spaced = np.linspace(first, last, count) if scale == "linear" else np.geomspace(float(first), float(last), count)
        if np.isfinite(spaced).all():
            return spaced
        found.append(Mistake(path, f"a scan must run between finite numbers, but {_shown(limits)} overflows"))
    return None


def _join_zipped(scans: list[tuple[str, str | None, np.ndarray]], found: list[Mistake]) -> list[Axis]:
    groups: dict[str, list[tuple[str, np.ndarray]]] = {}
    for path, name, values in scans:
        groups.setdefault(path if name is None else f"zip {name}", []).append((path, values))
    axes = []
    for key, members in groups.items():
        lengths = [len(values) for _, values in members]
        if len(set(lengths)) > 1:
            listed = ", ".join(f"{path} has {length}" for (path, _), length in zip(members, lengths, strict=True))
            found.append(Mistake(members[-1][0], f"axes of one zip must be of one length, but {listed}"))
        else:
            paths, values = zip(*members, strict=True)
            axes.append(Axis(key.removeprefix("zip "), paths, values))
    return axes


def split_path_or_none(path: str) -> tuple[str | int, ...] | None:
    """Parts of a path, None where a key of the file is no plain name."""
    try:
        return split_path(path)
    except ValueError:
        return None


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Json) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Types, keys and ranges, by pydantic on the records ---------------------------------------------------------------------


@functools.cache
def _file_record() -> type:
    """Dataclass of a whole file, with the kinds that the registries know."""
    from pydantic import Field

    def union(section: str) -> Any:
        tag, registry = TAGGED[section]
        members = tuple(registry.values())
        hint = functools.reduce(operator.or_, members)
        return Annotated[hint, Field(discriminator=tag)] if len(members) > 1 else members[0]

    fields: list[Any] = [("schema", Literal[1])]
    fields += [(name, union(name)) for name in ("source", "channel", "receiver", "protocol")]
    fields += [("run", _run_record()), ("security", union("security") | None, dataclasses.field(default=None))]
    file = dataclasses.make_dataclass("StudyFile", fields, frozen=True)
    file.__pydantic_config__ = {"extra": "forbid", "strict": True, "allow_inf_nan": False, "title": "photonmc study"}  # type: ignore[attr-defined]
    return file


def _run_record() -> type:
    from photonmc.sampling import Run

    return Run


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_file_record())


def _validate(tree: dict[str, Json], found: list[Mistake], spoiled: set[str]) -> Any:
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
    path, kind, value = join_path(tuple(location)), item["type"], item.get("input")
    context = item.get("ctx", {})
    if kind == "missing":
        return Mistake(path, "is required")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        siblings = _siblings(location, tree)
        if len(location) == 2 and (other := _kinds_that_take(*location)):
            tag = TAGGED[location[0]][0]
            return Mistake(path, f'is not taken by {tag} = "{tree[location[0]].get(tag)}", but by {other}')
        return Mistake(path, f"unknown key{suggestion(str(location[-1]), siblings)}, with the value {_shown(value)}")
    if kind == "union_tag_invalid":
        tag, registry = TAGGED[location[0]]
        words = ", ".join(f'"{word}"' for word in registry)
        word = tree[location[0]].get(tag)
        word = word if isinstance(word, str) else ""
        return Mistake(
            f"{path}.{tag}",
            f"must be one of {words}{suggestion(word, registry)}, but is {_shown(tree[location[0]].get(tag))}",
        )
    if kind == "union_tag_not_found":
        return Mistake(f"{path}.{TAGGED[location[0]][0]}", "is required")
    if kind == "literal_error":
        return Mistake(path, f"must be {_one_of(context['expected'])}, but is {_shown(value)}".replace("'", '"'))
    if "object" in item["msg"] or kind == "dataclass_type":
        return Mistake(path, f"must be a table, but is {_shown(value)}")
    rule = {
        "range": f"must be in {context.get('range')}",
        "float_type": "must be a number",
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "bool_type": "must be true or false",
        "tuple_type": "must be a list",
        "finite_number": "must be a finite number",
    }.get(kind, item["msg"])
    return Mistake(path, f"{rule}, but is {_shown(value)}")


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


# Back to TOML and JSON Schema -------------------------------------------------------------------------------------------


def resolved_toml(study: Study) -> str:
    """The whole study as TOML, every default written out, so that it loads to the same study."""
    marks: dict[str, str] = {}
    for axis in study.axes:
        for path, values in zip(axis.paths, axis.values, strict=True):
            together = f", zip = {json.dumps(axis.name)}" if len(axis.paths) > 1 else ""
            marks[path] = f"{{ values = {_toml(values.tolist(), '', {})}{together} }}"
    for mark in study.free:
        start = "" if mark.start is None else f", start = {mark.start!r}"
        marks[mark.path] = f"{{ optimize = [{mark.low!r}, {mark.high!r}]{start} }}"
    lines = ["schema = 1"]
    for section, fields in as_sections(study).items():
        lines += ["", f"[{section}]"]
        lines += [f"{name} = {_toml(value, f'{section}.{name}', marks)}" for name, value in fields.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any, path: str, marks: Mapping[str, str]) -> str:
    if path in marks:
        return marks[path]
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item, f"{path}[{index}]", marks) for index, item in enumerate(value)) + "]"
    if isinstance(value, (bool, str)):
        return json.dumps(value)
    return repr(value)


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
    for section, (tag, registry) in {**TAGGED, "run": ("", {"run": _run_record()})}.items():
        for cls in registry.values():
            definition = schema["$defs"][cls.__name__]
            if section != "receiver" and tag:
                definition["required"] = [tag, *definition.get("required", [])]
            for name, entry in definition["properties"].items():
                if name != tag:
                    definition["properties"][name] = _with_marks(entry, section in OPTIMIZABLE)
    return schema


def _closed(properties: dict[str, Any], required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [required], "additionalProperties": False}


def _with_marks(entry: dict[str, Any], optimizable: bool) -> dict[str, Any]:
    if entry.get("type") == "array":
        return {**entry, "items": _with_marks(entry["items"], optimizable)}
    kinds = ["Scan", "Values", "Optimize"] if optimizable else ["Scan", "Values"]
    outer: dict[str, Any] = {key: entry.pop(key) for key in ("default", "title") if key in entry}
    choices = entry.get("anyOf", [entry])
    return {
        **outer,
        "anyOf": [c for c in choices if c != {"type": "null"}] + [{"$ref": f"#/$defs/{kind}"} for kind in kinds],
    }
