"""One walk, several processes: the same trajectory as one process finds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_builds import Place, settle

from edgeprune.pipeline import sharing

ROOT = Path(__file__).parents[1]
ALONE = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK")}


def start(place: Place, size: int, *words: str) -> subprocess.CompletedProcess[str]:
    """`torchrun -m edgeprune`, or without torchrun for one process."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={size}", f"--master-port={free_port()}"]
    command = [sys.executable, *(launcher if size > 1 else []), "-m", "edgeprune", *words]
    env = {**ALONE, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=place.folder, check=False, timeout=300
    )


def walk_flags(flags: list[str]) -> list[str]:
    """Without what `prune` does not know."""
    return [flag for flag in flags if not flag.startswith("--processes")]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def walk_of(out: Path) -> Any:  # JSON
    return json.loads((out / "stages" / "walk.json").read_text())["record"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["c-swap", "c-swap-c"])
def test_two_processes_find_what_one_finds(tmp_path: Path, method: str) -> None:
    place = settle(tmp_path)
    records = []
    for size in (1, 2):
        out = tmp_path / f"out-{size}"
        flags = place.flags(out=out, method=method, align=1)
        words = (
            "prune",
            *walk_flags(flags),
            "--param-ratio=0.4",
        )
        done = start(place, size, *words)
        assert done.returncode == 0, done.stderr
        records.append(walk_of(out))
    one, two = records
    assert one["trajectory"]["steps"], "or nothing was shared"
    assert two == one


@pytest.mark.slow
def test_an_interrupted_walk_goes_on_with_more_processes(tmp_path: Path) -> None:
    place = settle(tmp_path)
    flags = place.flags(method="c-swap", align=1)
    words = ("prune", *walk_flags(flags))
    assert start(place, 1, *words).returncode == 0
    whole = walk_of(place.out)
    (place.out / "stages" / "walk.json").unlink()
    journal = place.out / "stages" / "walk.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) > 4
    journal.write_text("".join(lines[: len(lines) // 2]))
    assert start(place, 2, *words).returncode == 0
    assert walk_of(place.out) == whole


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_all(tmp_path: Path) -> None:
    place = settle(tmp_path)
    flags = place.flags(method="c-swap", alpha=0.3, samples_per_class=1)
    done = start(place, 2, "prune", *walk_flags(flags))
    assert done.returncode != 0
    assert "error: " in done.stderr


def test_one_process_is_no_crew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    crew = sharing.join()
    assert (crew.rank, crew.at_once) == (0, 1)
    assert sharing.agreed(crew, [1, "x"]) == [1, "x"]
