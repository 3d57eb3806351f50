"""Command line: thin, and importing nothing heavy before a command needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import App, Parameter

from photonmc import __version__

if TYPE_CHECKING:
    from photonmc.errors import Mistake
    from photonmc.progress import Progress
    from photonmc.results import Result
    from photonmc.study import Study

STOPPED = (129, 130, 143)
"""Exit codes after SIGHUP, Ctrl-C and SIGTERM."""
INTERRUPTED = 130
"""That after Ctrl-C."""
_INTERRUPTED: list[bool] = []
"""Whether Ctrl-C came while nothing was ready to be stopped in order."""
MOST_MISTAKES = 100
"""Mistakes that are printed [count]."""

app = App(
    name="photonmc",
    help="Predict the secret key of a quantum-key-distribution link before anyone builds it.\n\n"
    "CONFIG is a TOML file, or preset:NAME for a ready link (photonmc presets lists them).\n\n"
    "Exit code 0: done; 2: bad input, all mistakes on stderr; 130: stopped by Ctrl-C; 1: failure.",
    version=__version__,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
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
Seed = Annotated[str | None, Parameter(help="Seed, instead of run.seed.")]
Force = Annotated[bool, Parameter(name="--force", help="Replace files that exist.", negative=())]


@app.command
def run(
    config: str,
    *,
    set_: Set = [],  # noqa: B006
    seed: Seed = None,
    sampler: Annotated[
        str | None, Parameter(help="auto, expected, counts, clicks or pulses, instead of run.sampler.")
    ] = None,
    time_tags: Annotated[
        Path | None, Parameter(help="File of every registered click: .parquet or .ptu; further facts in a .json beside it.")
    ] = None,
    record: Annotated[
        Path | None, Parameter(help='CSV of the drawn pass: loss and background over time, for channel.kind = "recorded".')
    ] = None,
    out: Out = [],  # noqa: B006
    force: Force = False,
    json_: Json = False,
) -> int:
    """Sample a link (or take its expectation) and give the key; every scanned point in one call."""
    from photonmc.errors import Mistake
    from photonmc.files import unusable_file
    from photonmc.progress import Progress
    from photonmc.recording import OPTION, record_refusals, save_record
    from photonmc.runner import run_refusals, simulate, total_pulses
    from photonmc.tagging import simulate_tagged, tag_refusals
    from photonmc.timetags import unusable_tags

    def refusals(study: Study) -> Iterator[Mistake]:
        yield from run_refusals(study)
        if time_tags is not None:
            yield from tag_refusals(study)
        if record is not None:
            yield from record_refusals(study)

    def unusable() -> Iterator[Mistake]:
        others = out if record is None else [*out, record]
        if time_tags is not None:
            yield from unusable_tags(time_tags, force, others)
        if record is not None:
            yield from unusable_file(OPTION, record, force)
            written = [str(path) for path in (config, time_tags, *out) if "\0" not in str(path)]
            if "\0" not in str(record) and os.path.realpath(record) in map(os.path.realpath, written):
                yield Mistake(f"{OPTION} {record}", "is another file of this command")

    study = _study(config, [*set_, *_run_overrides(seed, sampler)], out, force, refusals, unusable)
    if record is not None:
        save_record(study, record)
        print(f"wrote {record}, the pass of realization 0 of seed {study.run.seed}", file=sys.stderr)
    progress = Progress(total_pulses(study), sys.stderr)
    if _INTERRUPTED:
        raise KeyboardInterrupt
    with progress.taking_interrupts():
        result = (
            simulate(study, progress=progress) if time_tags is None else simulate_tagged(study, time_tags, force, progress)
        )
    if time_tags is not None:
        print(f"wrote {time_tags}", file=sys.stderr)
    _deliver(result, out, force, json_)
    return _code(progress)


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
    """Key length of counts measured in a laboratory; [channel] and [receiver] of CONFIG are not read."""
    from photonmc.config import read_text
    from photonmc.errors import ConfigError, Mistake
    from photonmc.laboratory import read_counts
    from photonmc.runner import analyze, key_refusals

    read = []

    def refusals(study: Study) -> Iterator[Mistake]:
        yield from (found := list(key_refusals(study)))
        try:
            if not found:
                read.append(read_counts(counts, study))
        except ConfigError as error:
            yield from error.mistakes

    def unreadable() -> Iterator[Mistake]:
        try:
            read_text(counts, "the counts file")
        except ConfigError as error:
            yield from error.mistakes
        if any(os.path.realpath(path) == os.path.realpath(counts) for path in out):
            yield Mistake(f"--out {counts}", "is the file of --counts")

    study = _study(config, set_, out, force, refusals, unreadable, alone="key")
    _deliver(analyze(read[0], study), out, force, json_)


@app.command
def optimize(
    config: str,
    *,
    set_: Set = [],  # noqa: B006
    seed: Seed = None,
    sampler: Annotated[str | None, Parameter(help="auto or expected, instead of run.sampler.")] = None,
    out: Out = [],  # noqa: B006
    force: Force = False,
    json_: Json = False,
) -> int:
    """Tune the settings marked { optimize = [low, high] } for the most secret key per pulse."""
    import photonmc.tuning
    from photonmc.progress import Progress

    overrides = [*set_, *_run_overrides(seed, sampler)]
    study = _study(config, overrides, out, force, photonmc.tuning.optimize_refusals)
    progress = Progress(photonmc.tuning.total_steps(study), sys.stderr, "steps")
    if _INTERRUPTED:
        raise KeyboardInterrupt
    with progress.taking_interrupts():
        result = photonmc.tuning.optimize(study, progress=progress)
    _deliver(result, out, force, json_)
    return _code(progress)


@app.command
def budget(
    config: str,
    *,
    elevation: Annotated[float, Parameter(help="Elevation of the satellite [deg].")],
    set_: Set = [],  # noqa: B006
    samples: Annotated[Path | None, Parameter(help="CSV of the fading at that elevation, block after block.")] = None,
    blocks: Annotated[int | None, Parameter(help="Blocks of --samples, 10000 unless given.")] = None,
    seed: Annotated[int | None, Parameter(help="Seed of --samples, 0 unless given.")] = None,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Link budget of a satellite link at one elevation; reads source, channel, receiver and background of CONFIG."""
    import photonmc.budget as budgets
    from photonmc.errors import Mistake

    def refusals(study: Study) -> Iterable[Mistake]:
        yield from budgets.mark_refusals(study)
        yield from budgets.budget_refusals(study.link, elevation)

    def unusable() -> Iterable[Mistake]:
        yield from budgets.elevation_refusals(elevation)
        yield from budgets.sample_refusals(samples, blocks, seed, force)
        if samples is not None and os.path.realpath(samples) == os.path.realpath(config):
            yield Mistake(f"--samples {samples}", "is read as input")

    link = _study(config, set_, [], False, refusals, unusable, alone="link").link
    if samples is not None:
        budgets.save_samples(
            budgets.fading_samples(link, elevation, 10_000 if blocks is None else blocks, seed or 0), samples
        )
        print(f"wrote {samples}", file=sys.stderr)
    found = budgets.link_budget(link, elevation)
    print(budgets.as_json(found) if json_ else budgets.as_table(found))


@app.command
def check(
    config: str,
    *,
    set_: Set = [],  # noqa: B006
    resolved: Annotated[bool, Parameter(help="Print the whole file with every default written out.", negative=())] = False,
) -> None:
    """Validate a config without running it."""
    study = _study(config, set_, [], False)
    if resolved:
        from photonmc.config import resolved_toml

        print(resolved_toml(study), end="")
    else:
        print(f"{config}: valid, {_plural(study.points, 'point')}, {_plural(len(study.free), 'optimized setting')}")


@app.command
def schema() -> None:
    """Print the JSON Schema of a config file."""
    from photonmc.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command
def presets() -> None:
    """List the ready links."""
    from photonmc.config import preset_names, preset_text

    for name in preset_names():
        print(f"preset:{name:<14} {preset_text(name).splitlines()[0].lstrip('# ')}")


def _code(progress: Progress) -> int:
    return 128 + progress.stop_signal if progress.stopped else 0


def _run_overrides(seed: str | None, sampler: str | None) -> list[str]:
    pairs = (("seed", seed), ("sampler", sampler))
    return [f"run.{name}={value}" for name, value in pairs if value is not None]


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _nothing(*_: Study) -> Iterable[Mistake]:
    return ()


def _study(
    config: str,
    overrides: list[str],
    out: list[Path],
    force: bool,
    refusals: Callable[[Study], Iterable[Mistake]] = _nothing,
    more: Callable[[], Iterable[Mistake]] = _nothing,
    alone: str | None = None,
) -> Study:
    """Study of a command; mistakes of config, options and command stand in one list, and outputs are tried before any work.

    Args:
        config: The file, or preset:NAME.
        overrides: Settings of --set and its kin.
        out: Files to write.
        force: Whether existing ones are replaced.
        refusals: Why the command cannot use a valid study.
        more: Further mistakes, whether the study is valid or not.
        alone: "key" where counts are given, so that channel and receiver do not matter; "link" where these alone do.
    """
    from photonmc.config import load_config
    from photonmc.errors import ConfigError, Mistake
    from photonmc.results import unusable_output

    mistakes: list[Mistake] = []
    study, realizations = None, 1
    try:
        study = load_config(config, overrides, alone)
        realizations = max(study.values_of("run.realizations"))
        mistakes += refusals(study)
    except ConfigError as error:
        mistakes += error.mistakes
    mistakes += more()
    record = getattr(study.link.channel, "file", "") if study is not None else ""
    inputs = [Path(config), *([Path(config).parent / record] if record else [])]
    read = [os.path.realpath(path) for path in inputs]
    names = [os.path.realpath(path) for path in out if "\0" not in str(path)]
    for path in out:
        mistakes += unusable_output(path, force, realizations)
        if "\0" not in str(path) and os.path.realpath(path) in read:
            mistakes.append(Mistake(f"--out {path}", "is read as input"))
        elif "\0" not in str(path) and names.count(os.path.realpath(path)) > 1:
            mistakes.append(Mistake(f"--out {path}", "is given more than once"))
    if mistakes or study is None:
        raise ConfigError(mistakes)
    return study


def _deliver(result: Result, out: list[Path], force: bool, as_json: bool) -> None:
    for path in out:
        result.save(path, force)
        print(f"wrote {path}", file=sys.stderr)
    print(result.to_json() if as_json else result)


def _keep_compiled_kernels() -> None:
    """Let jax keep what it compiles from one command to the next, unless the environment says where or forbids it."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or str(Path.home() / ".cache")
    folder = Path(home) / "photonmc" / "jax"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError:
            writable = False
        if writable:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _interrupt(*_: object) -> None:
    _INTERRUPTED.append(True)  # should a callback of the garbage collector swallow the exception
    if len(_INTERRUPTED) > 1:
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    _keep_compiled_kernels()
    for name in ("SIGTERM", "SIGHUP"):  # so that files half written are removed
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        code = _exit_code(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except Exception:
        if not _INTERRUPTED:
            raise
        print("photonmc: interrupted", file=sys.stderr)  # in the middle of an import, which fails in its own way
        code = INTERRUPTED
    if code in STOPPED:  # jax may still compute on threads of its own, which crash a shutdown in order
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _printable(text: str) -> str:
    """One line of a message: control characters escaped, and no longer than a screen."""
    plain = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return plain if len(plain) <= 500 else f"{plain[:497]}..."


def _exit_code(arguments: list[str]) -> int:
    from photonmc.errors import ConfigError

    try:
        code = app(arguments or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        print(f"photonmc: {error}", file=sys.stderr)
        return 2
    except ConfigError as error:
        count = len(error.mistakes)
        print(f"photonmc: {count} mistake{'s' * (count > 1)} in the input", file=sys.stderr)
        for mistake in error.mistakes[:MOST_MISTAKES]:
            print(f"  {_printable(str(mistake))}", file=sys.stderr)
        if count > MOST_MISTAKES:
            print(f"  ... and {count - MOST_MISTAKES} more", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("photonmc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (OSError, MemoryError) as error:
        print(f"photonmc: failed: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0
