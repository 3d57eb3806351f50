"""Command line: thin, and importing nothing heavy before a command needs it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import App, Parameter

from photonmc import __version__

if TYPE_CHECKING:
    from photonmc.errors import Mistake
    from photonmc.results import Result
    from photonmc.study import Study

app = App(
    name="photonmc",
    help="Predict the secret key of a quantum-key-distribution link before anyone builds it.\n\n"
    "CONFIG is a TOML file, or preset:NAME for a ready link (photonmc presets lists them).\n\n"
    "Exit code 0: done; 2: bad input, all mistakes on stderr; 1: failure.",
    version=__version__,
    version_flags=["--version"],
)

Set = Annotated[
    list[str],
    Parameter(
        name="--set",
        help="Another value for a field, as section.field=value; repeatable.",
        negative=(),
        consume_multiple=False,
    ),
]
Out = Annotated[
    list[Path],
    Parameter(
        name="--out",
        help="File to write: .json .csv .nc (netCDF) .png; repeatable.",
        negative=(),
        consume_multiple=False,
    ),
]
Json = Annotated[bool, Parameter(name="--json", help="Print exactly one JSON object on stdout.", negative=())]
Force = Annotated[bool, Parameter(name="--force", help="Replace files of --out that exist.", negative=())]


@app.command
def run(
    config: str,
    *,
    set_: Set = [],  # noqa: B006
    seed: Annotated[str | None, Parameter(help="Seed, instead of run.seed.")] = None,
    sampler: Annotated[str | None, Parameter(help="auto, expected, counts or pulses, instead of run.sampler.")] = None,
    out: Out = [],  # noqa: B006
    force: Force = False,
    json_: Json = False,
) -> None:
    """Sample a link (or take its expectation) and give the key; every scanned point in one call."""
    overrides = [*set_, *_run_overrides(seed, sampler)]
    study = _study(config, overrides, out, force)
    from photonmc.runner import simulate

    _deliver(simulate(study), out, force, json_)


@app.command
def key(
    config: str,
    *,
    counts: Annotated[Path, Parameter(help="CSV: basis,intensity,detections,errors and optionally sent.")],
    set_: Set = [],  # noqa: B006
    out: Out = [],  # noqa: B006
    force: Force = False,
    json_: Json = False,
) -> None:
    """Key length of counts measured in a laboratory."""
    study = _study(config, set_, out, force, measured=True)
    from photonmc.laboratory import read_counts
    from photonmc.runner import analyze

    _deliver(analyze(read_counts(counts, study), study), out, force, json_)


@app.command
def optimize(
    config: str,
    *,
    set_: Set = [],  # noqa: B006
    seed: Annotated[str | None, Parameter(help="Seed, instead of run.seed.")] = None,
    sampler: Annotated[str | None, Parameter(help="auto or expected, instead of run.sampler.")] = None,
    out: Out = [],  # noqa: B006
    force: Force = False,
    json_: Json = False,
) -> None:
    """Tune the settings marked { optimize = [low, high] } for the most secret key per pulse."""
    study = _study(config, [*set_, *_run_overrides(seed, sampler)], out, force)
    import photonmc.tuning

    _deliver(photonmc.tuning.optimize(study), out, force, json_)


@app.command
def check(
    config: str,
    *,
    set_: Set = [],  # noqa: B006
    resolved: Annotated[
        bool, Parameter(help="Print the whole file with every default written out.", negative=())
    ] = False,
) -> None:
    """Validate a config without running it."""
    study = _study(config, set_, [], False)
    if resolved:
        from photonmc.config import resolved_toml

        print(resolved_toml(study), end="")
    else:
        print(f"{config}: valid, {study.points} point{'s' * (study.points > 1)}, {len(study.free)} optimized settings")


@app.command
def schema() -> None:
    """Print the JSON Schema of a config file."""
    from photonmc.config import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command
def presets() -> None:
    """List the ready links."""
    from photonmc.config import preset_names, preset_text

    for name in preset_names():
        print(f"preset:{name:<12} {preset_text(name).splitlines()[0].lstrip('# ')}")


def _run_overrides(seed: str | None, sampler: str | None) -> list[str]:
    pairs = (("seed", seed), ("sampler", sampler))
    return [f"run.{name}={value}" for name, value in pairs if value is not None]


def _study(config: str, overrides: list[str], out: list[Path], force: bool, measured: bool = False) -> Study:
    """Study of a command, with the mistakes of config and options in one list; outputs are looked at before any work."""
    from photonmc.config import load_config
    from photonmc.errors import ConfigError, Mistake
    from photonmc.results import unusable_output

    mistakes: list[Mistake] = []
    study = None
    try:
        study = load_config(config, overrides)
    except ConfigError as error:
        mistakes += error.mistakes
    realizations = 1 if study is None or measured else study.run.realizations
    names = [str(path.absolute()) for path in out]
    for path in out:
        mistakes += unusable_output(path, force, realizations)
        if names.count(str(path.absolute())) > 1:
            mistakes.append(Mistake(f"--out {path}", "is given more than once"))
    if study is not None and measured:
        mistakes += (Mistake(axis.name, "is scanned, but measured counts belong to one point") for axis in study.axes)
        mistakes += (
            Mistake(mark.path, "is marked for `optimize`; measured counts need a value") for mark in study.free
        )
        if study.security is None:
            mistakes.append(Mistake("security", "is required: it says how counts become a key"))
    if mistakes or study is None:
        raise ConfigError(mistakes)
    return study


def _deliver(result: Result, out: list[Path], force: bool, as_json: bool) -> None:
    for path in out:
        result.save(path, force)
        print(f"wrote {path}", file=sys.stderr)
    print(result.to_json() if as_json else result)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(_exit_code(sys.argv[1:] if arguments is None else arguments))


def _exit_code(arguments: list[str]) -> int:
    from photonmc.errors import ConfigError

    try:
        app(arguments or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        print(f"photonmc: {error}", file=sys.stderr)
        return 2
    except ConfigError as error:
        count = len(error.mistakes)
        print(f"photonmc: {count} mistake{'s' * (count > 1)} in the input", file=sys.stderr)
        for mistake in error.mistakes:
            print(f"  {mistake}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("photonmc: interrupted, nothing was written", file=sys.stderr)
        return 130
    except (OSError, MemoryError) as error:
        print(f"photonmc: failed: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0
