"""A build in a folder with an earlier one: what is kept, what is made again, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_builds import SOURCE, Place, measure_nothing, program, settle

import edgeprune
from edgeprune.config import BuildConfig
from edgeprune.runfolder import Journal, RunFolder

STAGES = ("walk", "export-dense", "export-pruned", "accuracy-dense", "accuracy-pruned", "measure", "course")
TESTS = Path(__file__).resolve().parent


@dataclass
class Seen:
    """A watcher that remembers which stages were made."""

    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)

    def stage(self, name: str, *, reused: bool, seconds: float) -> None:
        (self.reused if reused else self.made).append(name)

    def progress(self, name: str, done: int, total: int, detail: str) -> None:
        assert 0 <= done <= total


def made(config: BuildConfig) -> set[str]:
    """Build, and give the stages that were not reused."""
    seen = Seen()
    edgeprune.build(config, watcher=seen)
    assert sorted(seen.made + seen.reused) == sorted(STAGES)
    return set(seen.made)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    measure_nothing(monkeypatch)
    return settle(tmp_path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a place with a finished build."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        measure_nothing(monkeypatch)
        place = settle(tmp_path_factory.mktemp("first"))
        assert made(place.config()) == set(STAGES)
    return place.folder


@pytest.fixture
def built(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy of it: where a folder lies does not matter."""
    measure_nothing(monkeypatch)
    return Place(shutil.copytree(first, tmp_path / "copy"))


# --- what is made again -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """Something that is new, and what depends on it."""

    stages: set[str]
    settings: dict[str, object] = field(default_factory=dict)
    edit: Callable[[Place], object] = lambda place: None


ALL = set(STAGES)
PRUNED = {"walk", "export-pruned", "accuracy-pruned", "measure", "course"}


def edit_weights(place: Place) -> None:
    state = load_file(place.weights)
    state["head.bias"] += 0.01
    save_file(state, place.weights)


def edit_arrays(name: str) -> Callable[[Place], None]:
    def edit(place: Place) -> None:
        arrays = dict(np.load(place.images))
        arrays[name][0] = 255 - arrays[name][0]
        np.savez(place.images, **arrays)

    return edit


def edit_source(old: str, new: str) -> Callable[[Place], object]:
    return lambda place: place.net.write_text(SOURCE.replace(old, new))


CHANGES = {
    "nothing": Change(set()),
    "a budget that the dense network keeps": Change(set(), {"max_macs": "1G"}),
    "the level, and no other units": Change({"walk", "course"}, {"alpha": 0.01}),
    "a limit on parameters": Change(PRUNED, {"max_param_ratio": 0.01}),
    "the widths' step": Change(PRUNED, {"align": 4}),
    "the target": Change(ALL - {"walk", "course"}, {"target": "openvino"}),
    "threads": Change({"accuracy-dense", "accuracy-pruned", "measure"}, {"threads": 2}),
    "simplify": Change(ALL - {"walk", "course"}, {"simplify": False}),
    "processes": Change({"measure"}, {"processes": 3}),
    "the weights": Change(ALL, edit=edit_weights),
    "preprocessing": Change(ALL, {"mean": 0.01}),
    "a calibration image": Change(PRUNED | {"export-dense"}, edit=edit_arrays("train_x")),
    "an evaluation image": Change({"accuracy-dense", "accuracy-pruned"}, edit=edit_arrays("test_x")),
    "the seed": Change(ALL, {"seed": 1}),
    "the forward": Change(ALL, edit=edit_source("x.mean((2, 3))", "x.amax((2, 3))")),
    "a constant of the forward": Change(ALL, edit=edit_source("x.mean((2, 3))", "0.5 * x.mean((2, 3))")),
    "a deployed file": Change(
        {"export-pruned"}, edit=lambda place: append(place.out / "models" / "pruned.onnx")
    ),
    "a saved network": Change(
        {"export-pruned"}, edit=lambda place: append(place.out / "pruned" / "plan.json")
    ),
    "a damaged record": Change({"walk"}, edit=lambda place: append(place.out / "stages" / "walk.json")),
}


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_what_depends_on_a_change_is_made_again_and_nothing_else(built: Place, name: str) -> None:
    change = CHANGES[name]
    change.edit(built)
    # Where a stage made again gives the same bytes, what reads them is kept.
    assert made(built.config(**change.settings)) == change.stages
    assert made(built.config(**change.settings)) == set()


@pytest.mark.slow
def test_a_version_that_walks_otherwise_walks_again(built: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.pipeline.digests.TRAJECTORIES", 0)
    assert made(built.config()) == {"walk", "course"}


@pytest.mark.slow
def test_a_helper_in_the_networks_file_belongs_to_it(place: Place) -> None:
    calls_helper = SOURCE.replace("x.mean((2, 3))", "squeeze(x)")
    place.net.write_text(f"{calls_helper}\n\ndef squeeze(x):\n    return x.mean((2, 3))\n")
    assert made(place.config()) == ALL
    place.net.write_text(f"{calls_helper}\n\ndef squeeze(x):\n    return x.amax((2, 3))\n")
    assert made(place.config()) == ALL


@pytest.mark.slow
def test_attributes_that_a_factory_sets_belong_to_the_network(place: Place) -> None:
    factory = "\n\ndef make():\n    net = Tiny()\n    net.head.temperature = {}\n    return net\n"
    place.net.write_text(SOURCE + factory.format(1.0))
    config = place.config(model=f"python:{place.net}:make")
    assert made(config) == ALL
    place.net.write_text(SOURCE + factory.format(2.0))
    found = made(config)
    assert found == {"walk", "course", "export-dense", "export-pruned"}, "files come out as they were"


# --- interruptions ------------------------------------------------------------------------------------

DRIVER = f"""
import os, signal, sys
sys.path.insert(0, {str(TESTS)!r})
import torch
torch.set_num_threads(1)
import edgeprune.measure
import edgeprune.pipeline
from edgeprune.cli import main
from tiny_builds import measured

edgeprune.measure.measure = lambda *_, **__: measured()
stop_at, how, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sys.argv[1:] = sys.argv[4:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program started in the background ignores it
moments = 0


def watch(event, arguments):
    # Python's own record of what it does: files opened and moved in the run folder are moments of a build.
    global moments
    if event in ("open", "os.rename", "os.mkdir") and str(arguments[0]).startswith(out):
        moments += 1
        if moments == stop_at:
            os.kill(os.getpid(), how)


sys.addaudithook(watch)
try:
    main()
finally:
    if moments < stop_at:
        print("moments", moments, file=sys.stderr)
"""


def run_until(
    place: Place, moment: int, how: signal.Signals = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """Build in a process of its own, which ends at its nth access to the run folder."""
    stop = [str(moment), str(int(how)), str(place.out)]
    command = [sys.executable, "-c", DRIVER, *stop, "build", *slow_walk(place)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def slow_walk(place: Place) -> list[str]:
    """Flags of a walk with many steps."""
    return place.flags(group_test=1, align=1)


def moments_of(place: Place) -> int:
    """How often an undisturbed build opens or moves a file of its folder."""
    found = run_until(place, 1_000_000)
    assert found.returncode == 0, found.stderr
    return int(found.stderr.split()[-1])


@pytest.mark.heavy
def test_a_build_killed_at_any_moment_is_completed_by_the_next(tmp_path: Path) -> None:
    whole, place = settle(tmp_path / "whole"), settle(tmp_path / "killed")
    count = moments_of(whole)
    assert count > 50
    moments = np.random.default_rng(5).integers(1, count, 10).tolist()
    for moment in moments:
        found = run_until(place, moment)
        if found.returncode == 0:  # little was left to do: from the start again
            assert differing(place, whole) == []
            shutil.rmtree(place.out)
        else:
            assert found.returncode == -signal.SIGKILL, found.stderr
    assert run_until(place, 1_000_000).returncode == 0
    assert differing(place, whole) == []
    assert not list(place.out.rglob(".*tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [12, 45])
def test_a_build_killed_once_is_completed_by_the_next(
    tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_nothing(monkeypatch)
    whole, place = settle(tmp_path / "whole"), settle(tmp_path / "killed")
    assert run_until(place, moment).returncode == -signal.SIGKILL
    assert program("build", *slow_walk(place)).exit_code == 0
    assert program("build", *slow_walk(whole)).exit_code == 0
    assert differing(place, whole) == []


def differing(place: Place, whole: Place) -> list[str]:
    """Parts of the two reports that differ although nothing but time did."""
    one, two = place.lasting(), whole.lasting()
    return [name for name in one.keys() | two.keys() if one.get(name) != two.get(name)]


@pytest.mark.slow
def test_the_walk_goes_on_where_it_was(place: Place) -> None:
    assert run_until(place, 45).returncode == -signal.SIGKILL
    journal = (place.out / "stages" / "walk.jsonl").read_text().splitlines()
    assert len(journal) > 5
    assert program("build", *slow_walk(place)).exit_code == 0
    after = (place.out / "stages" / "walk.jsonl").read_text().splitlines()
    assert after[: len(journal)] == journal
    steps = [json.loads(line) for line in after[1:]]
    assert steps == place.report()["trajectory"]["steps"]


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_can_be_resumed(place: Place) -> None:
    found = run_until(place, 30, signal.SIGINT)
    assert found.returncode == 130
    assert found.stderr.splitlines()[0] == "interrupted; run the same command again to go on where it was"
    assert not (place.out / "report.json").exists()
    assert not list(place.out.rglob(".tmp-*"))
    assert program("build", *slow_walk(place)).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "taken", [lambda: torch.empty(2**50), lambda: np.empty(2**50)], ids=["torch", "numpy"]
)
def test_out_of_memory_ends_in_one_line_and_can_be_resumed(
    place: Place, monkeypatch: pytest.MonkeyPatch, taken: Callable[[], object]
) -> None:
    append, steps = Journal.append, []

    def greedy(journal: Journal[object], entry: object) -> None:
        append(journal, entry)
        steps.append(entry)
        if len(steps) == 5:
            taken()

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", greedy)
        found = program("build", *slow_walk(place))
    assert found.exit_code == 1
    assert found.stderr.startswith("error: out of memory; ")
    assert found.stderr.count("\n") == 1
    journal = (place.out / "stages" / "walk.jsonl").read_text().splitlines()
    assert len(journal) == 1 + 5
    assert program("build", *slow_walk(place)).exit_code == 0
    assert (place.out / "stages" / "walk.jsonl").read_text().splitlines()[: len(journal)] == journal


def test_two_builds_at_once_are_refused_in_one_line(place: Place) -> None:
    with RunFolder.open(place.out):
        found = program("build", *place.flags())
    assert found.exit_code == 1
    assert found.stderr == (
        f"error: {place.out}: process {os.getpid()} is building here; "
        "wait for it or choose another output folder.\n"
    )
