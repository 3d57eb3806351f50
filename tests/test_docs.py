"""Pages tell the truth: every field is in the nomenclature with its range and unit, and the README's code runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from photonmc import fields, status


def rows_of(kind_heading: str) -> dict[str, list[str]]:
    text = (ROOT / "docs" / "nomenclature.md").read_text()
    section = text[text.index(kind_heading) :].split("\n#", 1)[0]
    return {
        row[1].strip("` "): [cell.strip() for cell in row[1:-1]]
        for row in (line.split("|") for line in section.splitlines() if line.startswith("| `"))
    }


def test_nomenclature():
    kinds = [(f'### `{tag} = "{word}"`', cls) for tag, registry in fields.TAGGED.values() for word, cls in registry.items()]
    for heading, cls in [
        *kinds,
        ("## [background]", fields.Background),
        ("## [selection]", fields.Selection),
        ("## [run]", fields.Run),
    ]:
        rows = rows_of(heading) if cls is not fields.Run else rows_of("### Length and sampling")
        known = fields.fields_of(cls)
        assert set(rows) == set(known), heading
        for name, field in known.items():
            _, _, unit, shown, _, meaning = rows[name]
            assert meaning
            if field.range is not None:
                assert str(field.range) == f"{shown} {unit}".removesuffix(" 1"), name
            elif name not in ("kind", "analysis", "file"):
                assert all(str(word).lower() in shown.lower() for word in field.words), name


def test_status_words_are_explained():
    text = (ROOT / "docs" / "results.md").read_text()
    assert all(f"`{word}`" in text for word in status.WORDS)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.slow
def test_readme_python():
    """In a process of its own, with jax's defaults: what a newcomer copies."""
    code = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    first, *_, slope = done.stdout.splitlines()
    assert "['ok']" in first and float(slope) < 0.0


def test_readme_commands_are_single_lines():
    commands = blocks("sh")
    assert len(commands) == 2 and all(command.count("\n") == 1 for command in commands)


def test_readme_toml_lines_are_marks():
    import tomllib

    for line in blocks("toml")[0].splitlines():
        assert tomllib.loads(line)
