"""House rules that no linter knows; import-linter checks who may import whom."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "edgeprune").rglob("*.py"))
MAX_LINES = 400
ONE_FILE = {"edgeprune/measure/worker.py": 850}
"""It runs alone on a device: what it needs has to be in it."""
HEAVY = ("torch", "torchvision", "openvino", "onnxruntime", "onnx", "matplotlib", "scipy")

needs_cli = pytest.mark.skipif(find_spec("edgeprune.cli") is None, reason="edgeprune.cli is not there yet")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def calls_print(source: str) -> bool:
    nodes = ast.walk(ast.parse(source))
    return any(
        isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print" for n in nodes
    )


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "cli.py"], ids=name)
def test_only_cli_prints(path: Path) -> None:
    assert not calls_print(path.read_text())


def test_a_print_is_found() -> None:
    assert calls_print("def f():\n    print(1)")
    assert not calls_print('"""print(1)"""')


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_stays_readable(path: Path) -> None:
    most = ONE_FILE.get(name(path), MAX_LINES)
    assert len(path.read_text().splitlines()) <= most, "look whether it is two"


@pytest.mark.parametrize(
    "script",
    [
        "scripts/demo",
        "scripts/test",
        "scripts/matrix",
        "scripts/check",
        "scripts/fix",
        "scripts/docs",
        ".ci/run",
    ],
)
def test_scripts_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_the_readme_begins_with_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    first_block = readme.split("```")[1]
    commands = [
        line.split("#")[0].strip() for line in first_block.splitlines() if line.startswith("scripts/")
    ]
    assert commands == ["scripts/demo", "scripts/test"]


def test_the_tested_versions_satisfy_what_we_ask_for() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        if wanted.name != project["name"]:
            assert wanted.specifier.contains(tested[wanted.name]), text


@needs_cli
@pytest.mark.slow
def test_the_command_line_loads_nothing_heavy() -> None:
    found = run_python("-c", f"import sys, edgeprune.cli; print({{*sys.modules}} & {{*{HEAVY}}})")
    assert found.stdout == "set()\n", found.stderr


@needs_cli
@pytest.mark.slow
def test_help_works() -> None:
    found = run_python("-c", "from edgeprune.cli import main; main()", "--help")
    assert found.returncode == 0, found.stderr
    assert "build" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "room", ["target", "calibration", "runtime", "measure", "gate", "report", "runfolder"]
)
def test_a_room_without_torch_imports_without_torch(room: str) -> None:
    found = run_python("-c", f"import sys; sys.modules['torch'] = None; import edgeprune.{room}")
    assert found.returncode == 0, found.stderr
