"""The documentation: its commands exist, its examples run, its pages are all reachable."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from edgeprune.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FENCE = re.compile(r"(<!-- run -->\n)?```(bash|python)\n(.*?)```", re.DOTALL)
PROGRAM = "from edgeprune.cli import main; main()"


def blocks(page: Path) -> list[tuple[bool, str, str]]:
    """Whether to run it, language and text of each block."""
    return [(bool(run), kind, text) for run, kind, text in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(page: Path) -> list[list[str]]:
    text = "\n".join(text for _, kind, text in blocks(page) if kind == "bash").replace("\\\n", " ")
    lines = [line.partition("  #")[0] for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("edgeprune ")]


def run_page(page: Path, folder: Path) -> None:
    """Run a page's examples one after the other in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    bin_folder = folder / ".bin"
    bin_folder.mkdir()
    script = bin_folder / "edgeprune"
    script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{PROGRAM}' \"$@\"\n")
    script.chmod(0o755)
    environment["PATH"] = f"{bin_folder}:{environment['PATH']}"
    for run, kind, text in blocks(page):
        if not run:
            continue
        words = ["bash", "-e", "-c", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_and_flag_exists(page: Path) -> None:
    for words in commands(page):
        command = get_command(app)
        while getattr(command, "commands", None) and words and words[0] in command.commands:  # type: ignore[attr-defined]
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert not getattr(command, "commands", None), f"no such command: {words}"
        known = {flag for parameter in command.params for flag in parameter.opts}
        asked = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert asked <= known, f"{command.name}: {asked - known}"


def test_the_pages_of_the_site_are_the_files_there_are() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w-]+\.md)$", text, re.MULTILINE))
    written = {page.name for page in PAGES if not page.with_suffix(".json").is_file()}
    assert named == written | {"performance.md"}


def test_pictures_say_what_they_show() -> None:
    for page in PAGES:
        for words, target in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text(encoding="utf-8")):
            assert words, f"{page.name}: {target}"
            assert (DOCS / target).is_file(), f"{page.name}: {target}"


def test_the_performance_page_shows_what_the_benches_wrote() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from performance_page import assemble
    finally:
        sys.path.pop(0)
    page = assemble(DOCS)
    for result in DOCS.glob("*.json"):
        if result.with_suffix(".md").is_file():
            assert f"[{result.name}]({result.name})" in page
    assert "| **c-swap-c** |" in page


@pytest.mark.heavy
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(run for run, *_ in blocks(page))], ids=lambda page: page.stem
)
def test_the_examples_run(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def test_an_example_that_fails_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```bash\nfalse\ntrue\n```\n")
    (tmp_path / "work").mkdir()
    with pytest.raises(AssertionError, match="false"):
        run_page(page, tmp_path / "work")
