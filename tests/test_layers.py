"""Import direction, what the numeric half needs, what help must not import, and names of the face."""

from __future__ import annotations

import subprocess
import sys

import photonmc as pm


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_imports_run_one_way():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        capture_output=True,
        text=True,
        check=False,
        cwd=__import__("conftest").ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_numeric_half_imports_jax_numpy_optax_chex_alone():
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "cyclopts", "xarray", "h5netcdf", "h5py", "matplotlib", "jaxtyping", "pandas"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import photonmc as pm
link = pm.Link(pm.WeakCoherent(1e9, (0.5, 0.1, 0.0), (0.7, 0.2, 0.1)), pm.Fiber(50.0, 0.2), pm.ActiveBasis(0.25, 0.01, 6e-7))
study = pm.Study(link, pm.BB84(0.9), pm.Run(pulses=1e10), pm.Lim2014(epsilon_correctness=1e-15, epsilon_secrecy=1e-9))
counts = pm.expected_counts(study)
print(int(pm.key_length(counts, study).secret_key_bits))
result = pm.simulate(study)
print(result)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 2e7


def test_help_and_version_do_not_import_jax():
    for option in ("--help", "--version", "run --help"):
        arguments = option.split()
        done = run_python(
            f"import sys; sys.argv=['photonmc', *{arguments!r}]\n"
            "from photonmc.cli import main\n"
            "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
            "heavy = {'jax', 'pydantic', 'xarray', 'matplotlib', 'numpy'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        assert done.returncode == 0, done.stderr


def test_face():
    for _ in range(2):  # a submodule of the same name would replace a function on its first import
        for name in pm.__all__:
            value = getattr(pm, name)
            assert isinstance(value, str) or callable(value), name
    assert set(pm.__all__) == set(dir(pm))
    done = run_python("import sys, photonmc; assert 'jax' not in sys.modules; photonmc.Study; print(photonmc.nonsense)")
    assert "has no attribute 'nonsense'" in done.stderr


def test_import_leaves_x64_alone():
    done = run_python(
        "import photonmc as pm, jax.numpy as jnp; pm.expected_counts(pm.preset('gys')); print(jnp.zeros(1).dtype)"
    )
    assert done.stdout.split() == ["float32"], done.stderr
