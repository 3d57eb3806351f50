"""Rules between fields: plain functions that read values by path, so that each runs wherever its fields are valid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from photonmc.errors import Mistake
from photonmc.fields import fields_of, join_path, record_class, split_path
from photonmc.pass_rules import PASS_RULES, PASSES, may_have_background, not_monotone_in, pass_of
from photonmc.protocol.count_models import OF_A_PASS, READS
from photonmc.sampling.run import MAX_PULSES
from photonmc.security import ANALYSES
from photonmc.study_axes import Axis, Free
from photonmc.units import Several

WITH_END = ("recorded", *PASSES)
"""Kinds of channels that last for a time of their own."""
Get = Callable[[str], Any]
Bounds = dict[str, Free]


class Unavailable(Exception):
    """A field that a rule reads is missing, invalid or traced: the rule has nothing to say."""


def _intervals(values: Sequence[float], path: str, free: Bounds) -> list[tuple[float, float]]:
    marks = [free.get(f"{path}[{index}]") for index in range(len(values))]
    return [(m.low, m.high) if m else (v, v) for m, v in zip(marks, values, strict=True)]


def intensities_fall(get: Get, free: Bounds) -> Iterator[Mistake]:
    """Intensities fall strictly; where some are optimized, at least one choice within the bounds must."""
    path = "source.intensities"
    values = get(path)
    if not values:
        yield Mistake(path, "must hold one intensity at least, but is empty")
    lowest = -math.inf
    for index, (low, high) in reversed(list(enumerate(_intervals(values, path, free)))):
        if not high > lowest:
            rule = "must fall strictly" if not free else "must be able to fall strictly"
            yield Mistake(path, f"{rule}, but [{index}] = {high:g} is not above [{index + 1}] = {lowest:g}")
        lowest = max(low, lowest)


def probabilities_sum(get: Get, free: Bounds) -> Iterator[Mistake]:
    """One probability per intensity, summing to 1; where some are optimized, the rest must be theirs to share."""
    path = "source.intensity_probabilities"
    values = get(path)
    intervals = _intervals(values, path, free)
    low, high = (math.fsum(side) for side in zip(*intervals, strict=True)) if intervals else (0.0, 0.0)
    if low == high and abs(low - 1.0) > 1e-9:
        yield Mistake(path, f"must sum to 1 within 1e-9, but sum to {low:.12g}")
    elif low != high and not low <= 1.0 <= high:
        yield Mistake(path, f"must be able to sum to 1, but the bounds and fixed values sum to [{low:g}, {high:g}]")
    if len(values) != len(get("source.intensities")):
        yield Mistake(path, f"must be as many as the intensities ({len(get('source.intensities'))}), but are {len(values)}")


def intensities_fit_the_analysis(get: Get, free: Bounds) -> Iterator[Mistake]:
    """Number and order of the intensities that a decoy analysis needs."""
    path = "source.intensities"
    analysis, values = get("security.analysis"), get(path)
    wanted = ANALYSES[analysis].intensity_count
    if len(values) != wanted:
        yield Mistake(path, f"{analysis} takes {wanted} intensities, but there are {len(values)}")
        return
    bounds = _intervals(values, path, free)
    if ANALYSES[analysis].sum_rule:
        weakest = bounds[2][0]
        middle = max(bounds[1][0], weakest)
        if not bounds[0][1] > middle + weakest:
            yield Mistake(path, f"{analysis} needs mu1 > mu2 + mu3, but {bounds[0][1]:g} <= {middle:g} + {weakest:g}")
    if analysis == "ma2005" and bounds[2] != (0.0, 0.0):
        yield Mistake(f"{path}[2]", f"ma2005 needs vacuum as weakest intensity, 0, but it is {bounds[2][1]:g}")
    if analysis == "rusca2018" and not bounds[1][1] > 0.0:
        yield Mistake(f"{path}[1]", f"rusca2018 needs a weaker intensity above 0, but it is {bounds[1][1]:g}")


def dark_counts(get: Get, free: Bounds) -> Iterator[Mistake]:
    """Dark counts are a probability, or a rate with a gate; beside a probability a gate is read for background alone."""
    probability, rate = get("receiver.dark_count_probability"), get("receiver.dark_count_rate_hz")
    gate, window = get("receiver.gate_width_ns"), get("receiver.detection_window_ps")
    either = "give either dark_count_probability, or dark_count_rate_hz with gate_width_ns or detection_window_ps"
    if (probability is None) == (rate is None):
        yield Mistake("receiver.dark_count_probability", f"{either}; there {'is none' if rate is None else 'are both'}")
    elif rate is not None and gate is None and window is None:
        yield Mistake("receiver.gate_width_ns", "is required with dark_count_rate_hz")
    elif rate is None and not may_have_background(get):
        if gate is not None:
            yield Mistake("receiver.gate_width_ns", f"is read with dark_count_rate_hz or background alone, but is {gate:g}")
        still = all(_equal(get(f"receiver.timing_jitter_{name}"), 0.0) for name in ("ps", "tail_ps"))
        if window is not None and still:
            only = "is read with jitter, dark_count_rate_hz or background alone"
            yield Mistake("receiver.detection_window_ps", f"{only}, but is {window:g}")


def gate_fits_the_period(get: Get, free: Bounds) -> Iterator[Mistake]:
    """Gates do not overlap, and there is one."""
    window = get("receiver.detection_window_ps")
    if window is not None and get("receiver.gate_width_ns") is not None:
        yield Mistake("receiver.detection_window_ps", f"is a gate; give it or gate_width_ns, not both, but is {window:g}")
    if window is not None and window * get("source.pulse_rate_hz") > 1e12 * (1.0 + 1e-9):
        period = 1e12 / get("source.pulse_rate_hz")
        yield Mistake("receiver.detection_window_ps", f"must not exceed the pulse period, {period:g} ps, but is {window:g}")
    gate, rate = get("receiver.gate_width_ns"), get("source.pulse_rate_hz")
    if gate is not None and may_have_background(get) and gate * rate > 1e9 * (1.0 + 1e-9):
        yield Mistake("receiver.gate_width_ns", f"must not exceed the pulse period, {1e9 / rate:g} ns, but is {gate:g}")


def one_length(get: Get, free: Bounds) -> Iterator[Mistake]:
    """A run is as long as exactly one of three fields says, or where none does, as its record."""
    names = ("pulses", "duration_s", "block_size_z")
    given = [name for name in names if get(f"run.{name}") is not None]
    if get("channel.kind") in WITH_END:
        if "block_size_z" in given:
            what = "record" if get("channel.kind") == "recorded" else "pass"
            yield Mistake("run.block_size_z", f"cannot be waited for on a {what}, which ends")
        if len(given) > 1:
            yield Mistake("run", f"give at most one of pulses, duration_s, but there {_are(given)}")
    elif len(given) != 1:
        yield Mistake("run", f"give exactly one of {', '.join(names)}, but there {_are(given)}")


def joined_passes(get: Get, free: Bounds) -> Iterator[Mistake]:
    """Passes are joined of a channel that ends, whole ones, and no more pulses than a run may have."""
    passes, path = get("run.joined_passes"), "run.joined_passes"
    if path in free:
        yield Mistake(path, "is a whole number, which cannot be optimized; scan it")
    elif passes > 1 and get("channel.kind") not in WITH_END:
        kinds = ", ".join(f'"{kind}"' for kind in WITH_END)
        yield Mistake(path, f'must be 1 but for channel.kind = {kinds}, but is {passes:g} with "{get("channel.kind")}"')


def duration_in_range(get: Get, free: Bounds) -> Iterator[Mistake]:
    """A duration holds as many pulses as a run may have."""
    duration, rate = get("run.duration_s"), get("source.pulse_rate_hz")
    if duration is not None and not 0.5 <= duration * rate <= MAX_PULSES:
        yield Mistake(
            "run.duration_s", f"must hold [1, 1e+15] pulses, but {duration:g} s at {rate:g} Hz hold {duration * rate:g}"
        )


@not_monotone_in("channel.altitude_km", "channel.latitude_deg", most=100)  # the Earth turns below the satellite
def within_the_record(get: Get, free: Bounds) -> Iterator[Mistake]:
    """A run is not longer than the channel's record, or pass."""
    pulses_of = get("channel")  # pulses that the channel lasts for, by pulse rate
    rate = get("source.pulse_rate_hz")
    what, place = "record", "channel.file"
    if get("channel.kind") in PASSES:
        if not get("channel.min_elevation_deg") < get("channel.max_elevation_deg"):
            return  # there is no pass, which has been said
        what, place = "pass", "channel.altitude_km"
        pulses_of = getattr(pass_of(get), "pulses", None)
    if pulses_of is None:
        return
    longest = float(pulses_of(rate))
    for name, unit in (("pulses", 1.0), ("duration_s", rate)):
        value = get(f"run.{name}")
        if value is not None and round(value * unit) > longest:
            yield Mistake(
                f"run.{name}", f"must not exceed the {what}, which holds {longest / unit:.12g}, but is {value:.12g}"
            )
    if not longest >= 1.0 and math.isfinite(longest):
        yield Mistake(place, f"must hold one pulse at least, but the {what} is shorter than a pulse period")
    given = get("run.pulses"), get("run.duration_s")
    one = next((value * unit for value, unit in zip(given, (1.0, rate), strict=True) if value is not None), longest)
    joined = get("run.joined_passes")
    if longest > MAX_PULSES and math.isfinite(longest) and given == (None, None):
        yield Mistake(place, f"holds {longest:g} pulses, but a run may have {MAX_PULSES:g}; give run.duration_s")
    elif joined > 1 and joined * one > MAX_PULSES:
        few = f"may join {MAX_PULSES:g} pulses at most, but {joined:g} times {one:g} are {joined * one:g}"
        yield Mistake("run.joined_passes", few)


def one_epsilon(get: Get, free: Bounds) -> Iterator[Mistake]:
    """A finite-key analysis has one secrecy parameter."""
    if "epsilon_secrecy" in fields_of(ANALYSES[get("security.analysis")]):
        names = ("epsilon_secrecy", "epsilon_secrecy_per_bit")
        given = [name for name in names if get(f"security.{name}") is not None]
        if len(given) != 1:
            yield Mistake("security", f"give exactly one of {', '.join(names)}, but there {_are(given)}")


NEUTRAL = {
    "dead_time_ns": 0.0,
    "recovery_time_ns": 0.0,
    "afterpulse_probability": 0.0,
    "afterpulse_time_ns": None,
    "afterpulse_kind": "exponential",
    "afterpulse_memory": "last",
    "timing_jitter_ps": 0.0,
    "timing_jitter_tail_ps": 0.0,
    "detection_window_ps": None,
    "dead_time_kind": "nonparalyzable",
    "dead_time_policy": "all_live",
}
"""Settings of the receiver that make gates depend on each other, or move time tags, at the values that do neither."""
EVERYTHING = frozenset(NEUTRAL)
WINDOW = ("timing_jitter_ps", "timing_jitter_tail_ps", "detection_window_ps")
"""Of these, those that together say how many photons the detection window loses, which every sampler knows."""


def detector_memory(get: Get, free: Bounds) -> Iterator[Mistake]:
    """Settings that the count model, or the sampler asked for by name, does not represent stand at their neutral value."""
    model, sampler = get("receiver.count_model"), get("run.sampler")
    values = {name: get(f"receiver.{name}") for name in NEUTRAL}
    if model == "exact" and values["detection_window_ps"] is not None:
        values |= {name: NEUTRAL[name] for name in WINDOW}  # jitter and window change how many photons count
    if model != "exact":
        read, why = READS[model], f"count_model {model} does not read it"
    elif sampler == "expected":
        read, why = frozenset(), 'sampler "expected" has no detector memory; "clicks" and "pulses" have'
    elif sampler == "counts":
        renews = _one_dead_time_for_both(values) and get("channel.kind") not in WITH_END
        read = frozenset({"dead_time_ns", "dead_time_policy"}) if renews else frozenset()
        why = (
            'sampler "counts" knows no detector memory but a non-paralyzable dead time, one for both detectors, under the '
            'policy "blank_all" behind a constant channel; "clicks" and "pulses" know all'
        )
    else:
        read, why = EVERYTHING, ""
    for name, plain in NEUTRAL.items():
        value = values[name]
        if name not in read and not _equal(value, plain):
            only = "must be left out" if plain is None else f"must be {_toml(plain)}"
            yield Mistake(f"receiver.{name}", f"{only} ({why}), but is {_toml(value)}")


def _equal(value: Any, plain: Any) -> bool:
    return all(item == plain for item in value) if isinstance(value, (list, tuple)) else value == plain


def _one_dead_time_for_both(values: dict[str, Any]) -> bool:
    """Whether every click blanks both detectors for one time; see `photonmc.detector.memory.Memory.renews`."""
    dead = values["dead_time_ns"]
    same = not isinstance(dead, (list, tuple)) or len(set(dead)) == 1
    return bool(same and values["dead_time_policy"] == "blank_all")


def traps(get: Get, free: Bounds) -> Iterator[Mistake]:
    """Afterpulses have lifetimes: one a trap, or the two edges of a band."""
    if get("receiver.count_model") != "exact":
        return
    p, time = get("receiver.afterpulse_probability"), get("receiver.afterpulse_time_ns")
    path = "receiver.afterpulse_time_ns"
    several = len(p) if isinstance(p, (list, tuple)) else 1
    if time is None:
        if not _equal(p, 0.0):
            yield Mistake(path, f"is required with afterpulse_probability = {_toml(p)}")
        return
    if get("receiver.afterpulse_kind") == "band":
        if several != 1:
            yield Mistake("receiver.afterpulse_probability", f"must be one number for a band, but has {several} entries")
        if not isinstance(time, (list, tuple)) or len(time) != 2 or not time[0] < time[1]:
            yield Mistake(path, f"must be [shortest, longest], rising, for a band, but is {_toml(time)}")
    else:
        lifetimes = len(time) if isinstance(time, (list, tuple)) else 1
        if lifetimes != several:
            rule = "must have as many entries as afterpulse_probability"
            yield Mistake(path, f"{rule} ({several}), one a trap, but has {lifetimes}")


def paper_models_take_plain_links(get: Get, free: Bounds) -> Iterator[Mistake]:
    """A paper's count model knows equal detectors, and one with a dead time a constant channel."""
    model = get("receiver.count_model")
    if model == "exact":
        return
    for name, field in fields_of(record_class("receiver", {})).items():
        value = get(f"receiver.{name}") if isinstance(field.range, Several) else None
        if isinstance(value, (list, tuple)) and name not in NEUTRAL:
            yield Mistake(f"receiver.{name}", f"must be one number (count_model {model} has equal detectors), but is a list")
    for name in READS[model]:
        if isinstance(get(f"receiver.{name}"), (list, tuple)):
            yield Mistake(f"receiver.{name}", f"must be one number with count_model {model}, but is a list")
    if get("channel.kind") in WITH_END and model not in OF_A_PASS:
        what = "record" if get("channel.kind") == "recorded" else "pass"
        yield Mistake("channel.kind", f"must not be a {what} with count_model {model}, which knows a constant channel alone")


def paper_models_are_expected_only(get: Get, free: Bounds) -> Iterator[Mistake]:
    """A paper's count model is a formula for means; nothing can be sampled from it."""
    model, sampler = get("receiver.count_model"), get("run.sampler")
    if model != "exact" and sampler not in ("auto", "expected"):
        yield Mistake(
            "run.sampler", f'must be "expected" or "auto" with receiver.count_model = "{model}", but is "{sampler}"'
        )


RULES = (
    intensities_fall,
    probabilities_sum,
    intensities_fit_the_analysis,
    dark_counts,
    one_length,
    joined_passes,
    duration_in_range,
    gate_fits_the_period,
    within_the_record,
    one_epsilon,
    detector_memory,
    traps,
    paper_models_take_plain_links,
    paper_models_are_expected_only,
    *PASS_RULES,
)


def _are(given: list[str]) -> str:
    return "is none" if not given else f"are {' and '.join(given)}"


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def broken_rules(
    sections: dict[str, Any],
    invalid: set[str],
    axes: Sequence[Axis] = (),
    free: Sequence[Free] = (),
    channel_pulses: Callable[[float], float] | None = None,
) -> Iterator[Mistake]:
    """Mistakes between fields, at every point of a scan.

    A rule is evaluated at each combination of the ends of the axes that it reads, and of no others: a scan of a million
    lengths does not make the intensities be checked a million times. It is evaluated between the ends as well where it
    says that it is not monotone (`photonmc.pass_rules.not_monotone_in`). Optimized numbers are tried at both bounds.

    Args:
        sections: Values by section and field, as in TOML.
        invalid: Paths that are known to be wrong; rules that read them are passed over.
        axes: Scanned values, which replace those of `sections`.
        free: Optimized settings.
        channel_pulses: Pulses that the channel lasts for, by pulse rate; None where that is not known.
    """
    bounds = {mark.path: mark for mark in free}
    optimized = [Axis(m.path, (m.path,), (np.array([m.low, m.high]),)) for m in free if "[" not in m.path]
    for rule in RULES:
        tried = [*(_tried(axis, getattr(rule, "not_monotone_in", {})) for axis in axes), *optimized]
        used: tuple[Axis, ...] = ()
        while True:
            reads: set[str] = set()
            found: list[Mistake] = []
            for indices in itertools.product(*(range(len(axis)) for axis in used)):
                values = {p: v for axis, i in zip(used, indices, strict=True) for p, v in axis.at(i).items()}
                getter = _getter(sections, invalid, values, reads, channel_pulses)
                try:
                    found += rule(getter, bounds)
                except Unavailable:
                    continue
                if len(found) > 20:
                    break
            more = tuple(axis for axis in tried if axis not in used and any(_touches(axis, read) for read in reads))
            if not more:
                break
            used += more
        yield from found[:20]


def _tried(axis: Axis, not_monotone: dict[str, int | None]) -> Axis:
    """What of an axis a rule is tried at: where its limit is monotone, the ends speak for all numbers of one field."""
    if len(axis.paths) > 1 or axis.values[0].dtype.kind not in "iuf":
        return axis
    values = np.unique(axis.values[0])
    most = next((most for path, most in not_monotone.items() if _touches(axis, path)), 2)
    if most is not None and most < values.size:
        values = values[np.linspace(0, values.size - 1, most).round().astype(np.int64)]
    return Axis(axis.name, axis.paths, (values,))


def _touches(axis: Axis, path: str) -> bool:
    return any(scanned == path or scanned.startswith(f"{path}[") for scanned in axis.paths)


def _getter(
    sections: dict[str, Any], invalid: set[str], values: dict[str, Any], reads: set[str], channel_pulses: Any
) -> Get:
    def get(path: str) -> Any:
        if path == "channel":
            return channel_pulses
        if path.startswith("?"):  # whether a section, or a field of one, is given
            section, _, name = path[1:].partition(".")
            if path[1:] in invalid:
                raise Unavailable  # it may be given, but what it is has been refused
            held = sections.get(section)
            return isinstance(held, dict) and (not name or held.get(name) is not None)
        reads.add(path)
        section, name = path.split(".")
        if any(bad in (path, section) or bad.startswith(f"{path}[") for bad in invalid):
            raise Unavailable
        given = sections.get(section)
        if not isinstance(given, dict):
            raise Unavailable
        cls = record_class(section, given)
        if cls is None or name not in (known := fields_of(cls)):
            raise Unavailable
        value = values.get(path, given.get(name, known[name].default))
        if isinstance(value, (list, tuple)):
            value = [values.get(join_path((*split_path(path), index)), item) for index, item in enumerate(value)]
        for item in value if isinstance(value, list) else [value]:
            if not (item is None or isinstance(item, (bool, int, float, str))):
                raise Unavailable
        return value

    return get
