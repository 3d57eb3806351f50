"""TOML files to studies and back. Every mistake of a file is reported at once, with its path, the rule and the value."""

from __future__ import annotations

import copy
import datetime
import importlib.resources
import json
import math
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from photonmc.errors import ConfigError, Mistake, suggestion
from photonmc.fields import join_path, record_class, shown, split_path
from photonmc.link import Link
from photonmc.marks import take_marks
from photonmc.rules import broken_rules
from photonmc.schema import validate
from photonmc.study import MAX_POINTS, Study, marked_sections

MAX_FILE_BYTES = 1 << 20
"""Largest input file that is read [bytes]; a real one has a few thousand."""
LEFT_ALONE: dict[str, dict[str, Any]] = {
    "key": {
        "channel": {"kind": "fixed_loss", "loss_db": 0.0},
        "receiver": {"efficiency": 1.0, "misalignment_error": 0.0, "dark_count_probability": 0.0},
        "background": {},
        "selection": {},
    },
    "link": {
        "protocol": {"kind": "bb84", "basis_probability_z": 0.5},
        "security": {},
        "selection": {},
        "run": {"pulses": 1.0},
    },
}
"""What stands for the sections that a command does not need; an empty one is left out."""
MAX_DEPTH = 20
"""Deepest nesting of tables and lists that is read; a real file has 4 levels."""
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


def load_config(path: str | Path, overrides: Sequence[str] = (), alone: str | None = None) -> Study:
    """Study of a TOML file, or of `preset:NAME`.

    Args:
        path: The file.
        overrides: Further settings as `section.field=value`; the value is TOML, or else a word.
        alone: "key" for counts that were measured: channel, receiver, background and selection are left alone, whatever they
            say or lack; "link" for what reads source, channel, receiver and background alone.

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
    folder = Path() if ready else Path(path).parent
    for section, values in copy.deepcopy(LEFT_ALONE.get(alone or "", {})).items():
        tree.pop(section, None)
        if values:
            tree[section] = values
    return study_from_tree(tree, mistakes, folder)


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


def study_from_tree(tree: dict[str, Json], mistakes: Sequence[Mistake] = (), folder: Path = Path()) -> Study:
    """Study of a parsed TOML file.

    Args:
        tree: The parsed file.
        mistakes: What is known to be wrong with it already.
        folder: Where files that it names are looked for.

    Raises:
        ConfigError: With all mistakes at once, those given included.
    """
    if _depth(tree) > MAX_DEPTH:
        raise ConfigError([*mistakes, Mistake("", f"tables and lists may be nested {MAX_DEPTH} deep, but here are deeper")])
    found = list(mistakes)
    found += _unusable_values(tree)
    if type(tree.get("schema", 1)) is not int:
        found.append(Mistake("schema", f"must be 1, but is {shown(tree['schema'])}"))
    spoiled: set[str] = set()
    axes, free = take_marks(tree, found, spoiled)
    parsed = validate(tree, found, spoiled)
    channel = _with_its_file(tree, folder, found) if parsed is None else _loaded(parsed.channel, folder, found)
    invalid = {mistake.path for mistake in found} | spoiled
    if (count := math.prod(len(axis) for axis in axes)) > MAX_POINTS:
        found.append(Mistake("", f"a scan may have {MAX_POINTS:.0e} points in all, but the axes multiply to {count:.3g}"))
    else:
        found += broken_rules(tree, invalid, axes, free, getattr(channel, "pulses", None))
    if found or parsed is None:
        raise ConfigError(found)
    link = Link(parsed.source, channel, parsed.receiver, parsed.background, parsed.selection)
    return Study(link, parsed.protocol, parsed.run, parsed.security, axes=tuple(axes), free=tuple(free))


def _loaded(channel: Any, folder: Path, found: list[Mistake]) -> Any:
    """A channel with its file read; None, and the mistakes of the file, where that cannot be."""
    try:
        return channel.loaded(folder) if hasattr(channel, "loaded") else channel
    except ConfigError as error:
        found += error.mistakes
        return None


def _with_its_file(tree: dict[str, Json], folder: Path, found: list[Mistake]) -> Any:
    """Channel of a file with mistakes elsewhere, so that those of its record are told as well."""
    values = tree.get("channel")
    if not isinstance(values, dict) or not isinstance(values.get("file"), str):
        return None
    cls = record_class("channel", values)
    if cls is None or not hasattr(cls, "loaded"):
        return None
    return _loaded(cls(file=values["file"]), folder, found)


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


def resolved_toml(study: Study) -> str:
    """The whole study as TOML, every default written out, so that it loads to the same study."""
    lines = ["schema = 1"]
    for section, fields in marked_sections(study).items():
        lines += ["", f"[{section}]"]
        lines += [f"{name} = {_toml(value)}" for name, value in fields.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, (bool, str)):
        return json.dumps(value)
    return repr(value)
