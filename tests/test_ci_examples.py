"""The ready workflows: every command in them is one that the program understands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from edgeprune.cli import app

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "ci"
FILES = sorted(FOLDER.glob("*.yml"))


def commands(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"\bedgeprune (?:build|gate|compare|measure)\b[^|\n]*", text)
    return [shlex.split(line)[1:] for line in lines]


def test_there_is_one_for_each_service():
    assert [path.stem for path in FILES] == ["github-actions", "gitlab-ci"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_flag_exists(path):
    group = get_command(app)
    found = commands(path)
    assert {words[0] for words in found} == {"build", "gate"}
    for name, *words in found:
        command = group.get_command(None, name)  # type: ignore[attr-defined,arg-type]  # a group without context
        known = {flag for parameter in command.params for flag in parameter.opts}
        asked = {word for word in words if word.startswith("-") and "$" not in word}
        assert asked - known == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_web_address(path):
    assert "://" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("code", "goes_on"), [(0, True), (1, False), (3, True), (4, True), (5, False)])
def test_a_build_over_budget_still_reaches_the_gate(code, goes_on):
    line = next(line for line in FILES[0].read_text().splitlines() if "edgeprune build -c" in line)
    command = line.partition("run: ")[2].partition("||")[2]
    done = subprocess.run(["bash", "-e", "-c", f"(exit {code}) || {command}\ntrue"], check=False)
    assert (done.returncode == 0) == goes_on
