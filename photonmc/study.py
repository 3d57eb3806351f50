"""The study, the record that a TOML file becomes, and its entry points' border: replacing, checking, scanning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from photonmc.contracts import record
from photonmc.errors import ConfigError, Mistake, PrecisionError, suggestion
from photonmc.fields import SECTIONS, TAGGED, fields_of, record_class, shown, split_path
from photonmc.link import Link
from photonmc.rules import broken_rules
from photonmc.sampling import Run
from photonmc.study_axes import Axis, Free
from photonmc.units import Several, static

OF_THE_LINK = ("source", "channel", "receiver", "background", "selection")
"""Sections that describe the link."""
MAX_POINTS = 10_000_000
"""Most points of one scan."""


@record
class Study:
    """A link, a protocol on it, how long it runs, and how its key is proven.

    Attributes:
        link: The topology with its parts.
        protocol: A record of `photonmc.protocol`.
        run: Length of the block and how it is sampled.
        security: A record of `photonmc.security`, or None for counts without a key.
        axes: Scanned values; the records hold those of the first point.
        free: Settings that `optimize` may change; the records hold the starts.
    """

    link: Link
    protocol: Any
    run: Run
    security: Any = None
    axes: tuple[Axis, ...] = static(default=())
    free: tuple[Free, ...] = static(default=())

    def section(self, name: str) -> Any:
        """Record behind a section of the TOML file."""
        return getattr(self.link if name in OF_THE_LINK else self, name)

    def replace(self, values: Mapping[str, Any]) -> Study:
        """Copy with other values at dotted paths, as in TOML; a scan or an optimization of those paths is dropped.

        Args:
            values: New values by path, e.g. `{"channel.length_km": 80.0, "source.intensities[0]": 0.4}`; they may be
                tracers. Ranges are checked when the study is used.

        Raises:
            ConfigError: For a path that does not exist, all such paths at once.
        """
        mistakes: list[Mistake] = []
        study = self
        for path, value in values.items():
            try:
                parts = split_path(path)
                study = study._with(parts, value)
            except (KeyError, IndexError, ValueError) as error:
                mistakes.append(Mistake(path, str(error.args[0])))
        if mistakes:
            raise ConfigError(mistakes)
        axes, free = study.axes, study.free
        for path in values:
            axes = tuple(axis for axis in axes if not any(_same(path, scanned) for scanned in axis.paths))
            free = tuple(mark for mark in free if not _same(path, mark.path))
        return dataclasses.replace(study, axes=axes, free=free)

    def _with(self, parts: tuple[str | int, ...], value: Any) -> Study:
        section, name, index = (*parts, None, None)[:3]
        if section not in SECTIONS or not isinstance(name, str):
            raise KeyError(f"there is no such field{suggestion(str(section), SECTIONS)}")
        old = self.section(str(section))
        known = [] if old is None else list(fields_of(old.__class__))
        if name not in known:
            raise KeyError(f"there is no such field{suggestion(name, known)}")
        if section in TAGGED and name == TAGGED[str(section)][0]:
            raise KeyError("another kind is another record: build it and use dataclasses.replace")
        if isinstance(index, int):
            items = getattr(old, name)
            if not isinstance(items, (list, tuple)):
                raise KeyError("is a single value, no list")
            items = list(items)
            if index >= len(items):
                raise IndexError(f"there are {len(items)} entries")
            items[index] = value
            value = tuple(items)
        new = dataclasses.replace(old, **{name: value})
        if section in OF_THE_LINK:
            return dataclasses.replace(self, link=dataclasses.replace(self.link, **{str(section): new}))
        return dataclasses.replace(self, **{str(section): new})

    def broken_assumptions(self) -> dict[str, Any]:
        """What takes a result out of its validity: a sentence, and whether it applies; for a study of one point."""
        with jax.enable_x64(True):
            return self.link.broken_assumptions(self.run.length_of_channel(self.link))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points along each axis; empty for a study of one point."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def points(self) -> int:
        """Number of points of the scan, 1 without one."""
        return math.prod(self.shape)

    def settings(self, point: int) -> dict[str, Any]:
        """Scanned values by path at a point, numbered in row-major order."""
        indices = np.unravel_index(point, self.shape) if self.axes else ()
        return {p: v for axis, i in zip(self.axes, indices, strict=True) for p, v in axis.at(int(i)).items()}

    def values_of(self, path: str) -> list[Any]:
        """All values that a field takes over the points, in the order of its axis."""
        scanned = (zip(axis.paths, axis.values, strict=True) for axis in self.axes)
        return next((v.tolist() for axis in scanned for p, v in axis if p == path), [value_at(self, path)])

    def at(self, point: int) -> Study:
        """Study of a single point."""
        return dataclasses.replace(self.replace(self.settings(point)), axes=())

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, Study]]:
        """Points that differ in numbers only, stacked: their indices, and a study whose leaves have a leading axis.

        Args:
            size: Largest number of points of a batch.
        """
        indices = np.arange(self.points)
        grids = dict(zip(self.axes, np.unravel_index(indices, self.shape), strict=True)) if self.axes else {}
        numbers: dict[str, tuple[Axis, np.ndarray]] = {}
        label = np.zeros(self.points, dtype=np.int64)
        for axis in grids:
            for path, values in zip(axis.paths, axis.values, strict=True):
                if self._is_number(path):
                    numbers[path] = (axis, values)
                else:  # another word is another program: such points form batches of their own
                    _, codes = np.unique(values, return_inverse=True)
                    label = label * (codes.max() + 1) + codes[grids[axis]]
        for code in np.unique(label):
            group = indices[label == code]
            base = dataclasses.replace(self.replace(self.settings(int(group[0]))), axes=())
            for start in range(0, len(group), size):
                chosen = group[start : start + size]
                stacked = _repeated(base, len(chosen))
                yield chosen, stacked.replace({p: v[grids[axis][chosen]] for p, (axis, v) in numbers.items()})

    def _is_number(self, path: str) -> bool:
        section, name, *_ = split_path(path)
        field = fields_of(self.section(str(section)).__class__)[str(name)]
        return field.base is float


def _repeated(study: Study, times: int) -> Study:
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (times, *np.shape(leaf))), study)


def _same(path: str, other: str) -> bool:
    return path == other or other.startswith(f"{path}[") or path.startswith(f"{other}[")


def value_at(study: Study, path: str) -> Any:
    """Value at a dotted path that exists."""
    section, name, *index = split_path(path)
    value = getattr(study.section(str(section)), str(name))
    return value[index[0]] if index else value


def kernel_study(study: Study) -> Study:
    """Copy without what kernels do not read (marks, seed, sampler), so that those never cause a compilation."""
    run, words = study.run, ("sampler", "generator", "realizations", "seed")
    run = dataclasses.replace(run, **{name: getattr(Run, name) for name in words})
    return dataclasses.replace(study, run=run, axes=(), free=())


def as_sections(study: Study) -> dict[str, dict[str, Any]]:
    """Values by section and field, as in TOML: alternatives not chosen are left out, lists are lists."""
    sections: dict[str, dict[str, Any]] = {}
    for name in SECTIONS:
        held = study.section(name)
        if held is not None and dataclasses.is_dataclass(held):
            values = {f.name: getattr(held, f.name) for f in dataclasses.fields(held) if not f.metadata.get("internal")}
            plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v is not None}
            tag = TAGGED[name][0] if name in TAGGED else None
            sections[name] = {tag: plain.pop(tag), **plain} if tag in plain else plain
    return sections


def marked_sections(study: Study) -> dict[str, dict[str, Any]]:
    """`as_sections` with the marks of scans and optimizations at their places, as in TOML."""
    marks: dict[str, Any] = {}
    for axis in study.axes:
        together = {"zip": axis.name} if len(axis.paths) > 1 else {}
        marks |= {p: {"values": v.tolist(), **together} for p, v in zip(axis.paths, axis.values, strict=True)}
    for mark in study.free:
        start = {} if mark.start is None else {"start": mark.start}
        marks[mark.path] = {"optimize": [mark.low, mark.high], **start}
    sections = as_sections(study)
    for path, marked in marks.items():
        section, name, *index = split_path(path)
        holder: Any = sections[str(section)]
        holder, key = (holder[name], index[0]) if index else (holder, name)
        holder[key] = marked
    return sections


def out_of_range(path: str, value: Any, field: Any) -> Iterator[Mistake]:
    """Mistakes of one concrete value, or of the entries of a list."""
    many = field.range if isinstance(field.range, Several) else None
    if (field.is_list or many) and isinstance(value, (list, tuple)):
        if many and len(value) != (many.entries or max(1, len(value))):
            yield Mistake(
                path, f"must be a number or a list of {many.entries or 'one or more'}, but has {len(value)} entries"
            )
        for index, item in enumerate(value):
            one = field._replace(is_list=False, range=many.one() if many else field.range)
            yield from out_of_range(f"{path}[{index}]", item, one)
    elif field.words is not None:
        if value not in field.words:
            listed = ", ".join(f'"{word}"' if isinstance(word, str) else str(word).lower() for word in field.words)
            yield Mistake(path, f"must be {'one of ' if len(field.words) > 1 else ''}{listed}, but is {shown(value)}")
    elif field.range is not None and isinstance(value, (bool, str, list, tuple)):
        yield Mistake(path, f"must be a number in {field.range}, but is {shown(value)}")
    elif field.range is not None and np.ndim(value) == 0 and not field.range.contains(value):
        number = f"{value:g}" if isinstance(value, int) and abs(value) > 10**15 else repr(value)
        yield Mistake(path, f"must be in {field.range}, but is {number}")


def checked(study: Study) -> Study:
    """The study with plain Python floats for its concrete numbers, every one of them in its range.

    Raises:
        ConfigError: With all mistakes at once.
        PrecisionError: If the study holds tracers while the caller's x64 mode is off.
    """
    require_x64_for_tracers(study)
    mistakes: list[Mistake] = []
    if type(study.link).__name__ != study.protocol.topology:
        mistakes.append(
            Mistake("protocol", f"runs on a {study.protocol.topology}, but the link is a {type(study.link).__name__}")
        )
    study = jax.tree.map(_plain, study)
    sections = as_sections(study)
    invalid: set[str] = set()
    for section, values in sections.items():
        cls = record_class(section, values)
        for name, value in values.items() if cls else ():
            if is_concrete(value):
                found = list(out_of_range(f"{section}.{name}", value, fields_of(cls)[name]))
                invalid |= {mistake.path for mistake in found}
                mistakes += found
    bad_marks = list(_bad_marks(study))
    mistakes += bad_marks
    if study.points > MAX_POINTS:
        mistakes.append(Mistake("", f"a scan may have {MAX_POINTS:g} points, but this one has {study.points:g}"))
    elif not bad_marks:  # rules that read such bounds would only say the same in other words
        length = study.link.channel.pulses if is_concrete(study.link.channel) else None
        mistakes += broken_rules(sections, invalid, study.axes, study.free, length)
    if mistakes:
        raise ConfigError(mistakes)
    return study


def _bad_marks(study: Study) -> Iterator[Mistake]:
    for mark in study.free:
        if not mark.low < mark.high:
            yield Mistake(mark.path, f"bounds must be low < high, but are [{mark.low:g}, {mark.high:g}]")
            continue
        if not mark.low <= mark.first() <= mark.high:
            yield Mistake(f"{mark.path}.start", f"must lie in [{mark.low:g}, {mark.high:g}], but is {mark.first():g}")
        section, name, *_ = split_path(mark.path)
        cls: Any = type(study.section(str(section)))
        field = fields_of(cls)[str(name)]._replace(is_list=False)
        yield from bounds_out_of_range(mark.path, (mark.low, mark.high), field)


def bounds_out_of_range(path: str, bounds: Iterable[float], field: Any) -> Iterator[Mistake]:
    """Mistakes of bounds of a setting; one may stand where the range is open, because no key is found there."""
    closed = field._replace(range=dataclasses.replace(field.range, open_low=False, open_high=False))
    for bound in bounds:
        yield from (Mistake(path, f"bounds {mistake.message}") for mistake in out_of_range(path, bound, closed))


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, (bool, str)) or not is_concrete(leaf) or np.ndim(leaf) > 0:
        return leaf
    return float(leaf)


def is_concrete(tree: Any) -> bool:
    """Whether no leaf is a tracer."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def require_x64_for_tracers(*trees: Any) -> None:
    """Refuse tracers while x64 is off: inside a foreign transformation our own x64 scope would not hold."""
    if not is_concrete(trees) and jnp.result_type(float) != jnp.float64:
        raise PrecisionError("photonmc needs float64: wrap the call in `with jax.enable_x64(True):`")
