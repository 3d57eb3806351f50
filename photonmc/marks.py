"""Marks of a config: { scan = ... } and { values = ... } make axes, { optimize = ... } makes a setting free."""

from __future__ import annotations

from typing import Any

import numpy as np

from photonmc.errors import Mistake, suggestion
from photonmc.fields import SECTIONS, TAGGED, fields_of, join_path, record_class, shown, split_path_or_none
from photonmc.study import MAX_POINTS, Axis, Free, bounds_out_of_range, out_of_range
from photonmc.units import Whole

MARKS = {"scan": {"scan", "scale", "zip"}, "values": {"values", "zip"}, "optimize": {"optimize", "start"}}
"""Keys that may stand together in a mark, by the key that names it."""
DESCRIPTIVE = ("source.wavelength_nm",)
"""Numbers that no model reads."""
OPTIMIZABLE = ("source", "channel", "receiver", "protocol", "selection")
"""Sections whose numbers may be optimized."""
Json = Any


def take_marks(tree: dict[str, Json], found: list[Mistake], spoiled: set[str]) -> tuple[list[Axis], list[Free]]:
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
        found.append(Mistake(f"{path}.zip", f"must be a name, but is {shown(together)}"))
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
    if field.range is None and field.words is None:
        return None, "cannot be scanned or optimized"
    if field.is_list and not index:
        return None, f"is a list: mark its entries, such as {path}[0]"
    return field._replace(is_list=False), None


def _one_free(mark: dict[str, Json], path: str, field: Any, free: list[Free], found: list[Mistake]) -> float | None:
    bounds, start = mark["optimize"], mark.get("start")
    before = len(found)
    if path.split(".")[0] not in OPTIMIZABLE or path in DESCRIPTIVE or (field is not None and field.base is not float):
        found.append(Mistake(path, f"cannot be optimized; numbers of {', '.join(OPTIMIZABLE)} that change the key can"))
    elif not (isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_number, bounds)) and bounds[0] < bounds[1]):
        found.append(Mistake(path, f"optimize must be [low, high] with low < high, but is {shown(bounds)}"))
    else:
        if start is not None and not (_is_number(start) and bounds[0] <= start <= bounds[1]):
            found.append(Mistake(f"{path}.start", f"must lie in {shown(bounds)}, but is {shown(start)}"))
        found += bounds_out_of_range(path, bounds, field) if field is not None else ()
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
    if isinstance(field.range, Whole):
        ends += [value for value in np.unique(values[values != np.floor(values)])[:10].tolist() if value not in ends]
    for value in ends:
        found += out_of_range(path, value, field)
    if any(not field.range.contains(value) for value in ends):
        return None
    return values.astype(np.int64 if field.base is int else np.float64)


def _listed_values(values: Json, path: str, found: list[Mistake]) -> np.ndarray | None:
    if not isinstance(values, list) or not 2 <= len(values) <= MAX_POINTS:
        found.append(Mistake(path, f"values must be a list of 2 to {MAX_POINTS:.0e} entries, but is {shown(values)}"))
    elif not (
        all(map(_is_number, values)) or all(isinstance(v, str) for v in values) or all(isinstance(v, bool) for v in values)
    ):
        found.append(Mistake(path, f"values must be all numbers, all words or all booleans, but are {shown(values)}"))
    else:
        return np.asarray(values)
    return None


def _spaced_values(mark: dict[str, Json], path: str, found: list[Mistake]) -> np.ndarray | None:
    limits, scale = mark["scan"], mark.get("scale", "linear")
    if not (isinstance(limits, list) and len(limits) == 3 and all(map(_is_number, limits)) and isinstance(limits[2], int)):
        found.append(Mistake(path, f"scan must be [first, last, points], but is {shown(limits)}"))
    elif not 2 <= limits[2] <= MAX_POINTS:
        found.append(Mistake(path, f"a scan must have 2 to {MAX_POINTS:.0e} points, but has {limits[2]:g}"))
    elif scale not in ("linear", "log"):
        found.append(Mistake(f"{path}.scale", f'must be one of "linear", "log", but is {shown(scale)}'))
    elif scale == "log" and not (limits[0] > 0 and limits[1] > 0):
        found.append(Mistake(path, f"a scan on a log scale must run between values above 0, but is {shown(limits)}"))
    else:
        first, last, count = limits
        with np.errstate(all="ignore"):
            spaced = np.linspace(first, last, count) if scale == "linear" else np.geomspace(float(first), float(last), count)
        if np.isfinite(spaced).all():
            return spaced
        found.append(Mistake(path, f"a scan must run between finite numbers, but {shown(limits)} overflows"))
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


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
