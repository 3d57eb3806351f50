"""Shared helpers. Tests run with jax's defaults (x64 off), the newcomer's mode; photonmc enters its own scope."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from photonmc.cli import _exit_code

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit it: what one process compiled, the others read
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="photonmc-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

ROOT = Path(__file__).parent.parent
mpmath.mp.dps = 150
Z_LIMIT = 4.9
"""Two-sided normal quantile of a false-alarm rate of 1e-6."""


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the kernels that were kept for this run."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """Published and exact cases by id; the file names each source."""
    cases = json.loads((Path(__file__).parent / "reference" / "bb84.json").read_text())
    return {case["id"]: case for case in cases}


@pytest.fixture
def cli(capsys):
    """Run the command line in process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _exit_code([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def assert_counts_agree(observed: Any, mean: Any, variance: Any) -> None:
    """Normal test of every count with a false-alarm rate of 1e-6 each; needs means of 30 at least, others are skipped."""
    observed, mean, variance = (np.asarray(a, dtype=np.float64) for a in (observed, mean, variance))
    usable = (mean >= 30) & (variance > 0)
    z = np.where(usable, (observed - mean) / np.sqrt(np.where(usable, variance, 1)), 0.0)
    assert np.abs(z).max() < Z_LIMIT, f"z = {np.abs(z).max():.2f}\nobserved {observed}\nexpected {mean}"


def assert_mistakes(cli: Any, config: Path, overrides: Any, messages: Any) -> None:
    """A config with these overrides is refused with these mistakes, all at once and no others."""
    code, out, err = cli("check", config, *(part for override in overrides for part in ("--set", override)))
    assert code == 2 and out == ""
    assert all(message in err for message in messages) and f"{len(messages)} mistake" in err, err
