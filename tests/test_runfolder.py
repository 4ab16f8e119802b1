"""The run folder: what is reused, what is made again, and what a kill leaves behind."""

from __future__ import annotations

import errno
import json
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune import runfolder
from edgeprune.errors import RunFolderError
from edgeprune.records import CalibrationSet, Finding, Measurement, Parity, PruningPlan, Step, Trajectory
from edgeprune.runfolder import RunFolder

PARITY = Parity(stage="pruned: torch -> onnx", error=2e-6, limit=1e-3, images=3)
STEP = Step(
    group="conv.weight",
    units=(0, 3),
    finding=Finding.NEUTRAL,
    removed=True,
    effect=-0.25,
    worst_z=-1.5,
    worst_class=2,
    evaluated=7,
)


@contextmanager
def temporary_run() -> Iterator[RunFolder]:
    """A run folder of its own for each example that hypothesis makes."""
    with tempfile.TemporaryDirectory() as folder, RunFolder.open(Path(folder, "run")) as run:
        yield run


def never() -> NoReturn:
    raise AssertionError("the stage was made again")


def make_parity(run: RunFolder, inputs: dict[str, str], make: Callable[[], Parity] = lambda: PARITY) -> bool:
    record, reused = run.reuse_or_make("parity", Parity, inputs, make)
    assert record == PARITY
    return reused


# --- stages -------------------------------------------------------------------------------------------


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run") as run:
        assert not make_parity(run, {"weights": "a"})
        made = run.seconds
    with RunFolder.open(tmp_path / "run") as run:
        assert make_parity(run, {"weights": "a"}, never)
        assert run.seconds == made


@pytest.mark.parametrize("inputs", [{"weights": "b"}, {}, {"weights": "a", "data": "c"}])
def test_other_inputs_make_the_stage_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, inputs: dict[str, str]
) -> None:
    caplog.set_level(logging.INFO)
    with RunFolder.open(tmp_path) as run:
        make_parity(run, {"weights": "a"})
        assert not make_parity(run, inputs)
    assert "parity: made again: changed:" in caplog.text


def test_another_version_makes_the_stage_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.open(tmp_path) as run:
        make_parity(run, {})
        monkeypatch.setattr(runfolder, "our_version", lambda: "99.0")
        assert not make_parity(run, {})


@pytest.mark.parametrize("damage", [lambda path: path.write_text("other"), Path.unlink])
def test_a_changed_or_missing_file_makes_the_stage_again(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    model = tmp_path / "model.onnx"

    def make() -> Parity:
        model.write_text("network")
        return PARITY

    def stage(run: RunFolder) -> bool:
        return run.reuse_or_make("export", Parity, {}, make, files=lambda _: ["model.onnx"])[1]

    with RunFolder.open(tmp_path / ".") as run:
        assert not stage(run)
        assert stage(run)
        damage(model)
        assert not stage(run)
        assert stage(run)


def test_a_stage_that_raises_writes_nothing(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        with pytest.raises(KeyboardInterrupt):
            run.reuse_or_make("parity", Parity, {}, interrupt)
        assert list((tmp_path / "stages").iterdir()) == []
        assert not make_parity(run, {})


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def test_a_truncated_record_is_made_again_wherever_it_was_cut(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        make_parity(run, {"weights": "a"})
        place = tmp_path / "stages" / "parity.json"
        whole = place.read_bytes()
        for length in range(len(whole)):
            place.write_bytes(whole[:length])
            with pytest.raises(KeyboardInterrupt):
                make_parity(run, {"weights": "a"}, interrupt)
        place.write_bytes(whole)
        assert make_parity(run, {"weights": "a"}, never)


def test_the_stage_file_says_where_the_record_comes_from(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        make_parity(run, {"weights": "a"})
    content = json.loads((tmp_path / "stages" / "parity.json").read_text())
    assert set(content) == {"stage", "edgeprune", "inputs", "files", "made_utc", "seconds", "record"}
    assert content["inputs"] == {"weights": "a"}
    assert content["record"]["error"] == PARITY.error


@settings(max_examples=25, deadline=None)
@given(
    record=st.one_of(
        st.from_type(kind) for kind in (CalibrationSet, Measurement, Parity, PruningPlan, Trajectory)
    )
)
def test_records_come_back_as_they_went(record: object) -> None:
    with temporary_run() as run:
        made, _ = run.reuse_or_make("stage", type(record), {}, lambda: record)
        again, reused = run.reuse_or_make("stage", type(record), {}, never)
    assert reused
    # By text, because NaN differs from itself.
    assert repr(made) == repr(record)
    assert repr(again) == repr(record)


# --- journal ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.from_type(Step), max_size=4), inputs=st.dictionaries(st.text(), st.text(), max_size=2)
)
def test_a_journal_comes_back(steps: list[Step], inputs: dict[str, str]) -> None:
    with temporary_run() as run:
        journal = run.journal("walk", Step, inputs)
        for step in steps:
            journal.append(step)
        again = run.journal("walk", Step, dict(reversed(inputs.items())))
        assert repr(again.read()) == repr(journal.read()) == repr(tuple(steps))


def test_a_journal_goes_on_wherever_it_was_cut(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        journal = run.journal("walk", int, {})
        for number in (11, 22):
            journal.append(number)
        place = tmp_path / "stages" / "walk.jsonl"
        whole = place.read_bytes()
        for length in range(len(whole) + 1):
            place.write_bytes(whole[:length])
            journal = run.journal("walk", int, {})
            left = (11, 22)[: max(0, whole[:length].count(b"\n") - 1)]
            assert journal.read() == left
            journal.append(33)
            assert run.journal("walk", int, {}).read() == (*left, 33)


def test_a_damaged_line_ends_the_journal(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        journal = run.journal("walk", Step, {})
        for _ in range(3):
            journal.append(STEP)
        place = tmp_path / "stages" / "walk.jsonl"
        lines = place.read_bytes().splitlines(keepends=True)
        place.write_bytes(b"".join([*lines[:2], b"{}\n", *lines[3:]]))
        journal = run.journal("walk", Step, {})
        assert journal.read() == (STEP,)
        journal.append(STEP)
        assert run.journal("walk", Step, {}).read() == (STEP, STEP)


def test_other_inputs_begin_the_journal_again(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        run.journal("walk", Step, {"weights": "a"}).append(STEP)
        assert run.journal("walk", Step, {"weights": "b"}).read() == ()
        assert run.journal("walk", Step, {"weights": "a"}).read() == ()


# --- opening ------------------------------------------------------------------------------------------


def test_leftovers_are_removed_on_opening(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        make_parity(run, {})
    (tmp_path / ".tmp-half").mkdir()
    (tmp_path / ".tmp-half" / "model.onnx").write_text("half")
    (tmp_path / "stages" / ".tmp-parity.json").write_text("half")
    with RunFolder.open(tmp_path) as run:
        assert make_parity(run, {}, never)
    assert [path for path in tmp_path.rglob("*") if ".tmp-" in str(path.relative_to(tmp_path))] == []


def test_a_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunFolderError, match="not a run folder of edgeprune"):
        RunFolder.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file.*in the way; choose another"):
        RunFolder.open(tmp_path / name)


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "cannot be written")],
)
def test_a_refused_write_leaves_the_earlier_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(_: int) -> NoReturn:
        raise OSError(code, "refused")

    with RunFolder.open(tmp_path) as run:
        make_parity(run, {"weights": "a"})
        with monkeypatch.context() as patch:
            patch.setattr(runfolder.os, "fsync", refuse)
            with pytest.raises(RunFolderError, match=words):
                make_parity(run, {"weights": "b"})
        assert make_parity(run, {"weights": "a"}, never)
        assert [path.name for path in (tmp_path / "stages").iterdir()] == ["parity.json"]


def test_a_holder_that_has_just_begun_has_no_number_yet(tmp_path):
    with RunFolder.open(tmp_path):
        (tmp_path / ".lock").write_text("")
        with (
            pytest.raises(RunFolderError, match="another process is building here"),
            RunFolder.open(tmp_path),
        ):
            pass


def test_two_builds_do_not_share_a_folder(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path), pytest.raises(RunFolderError, match=r"process \d+ is building here"):
        RunFolder.open(tmp_path)
    RunFolder.open(tmp_path).close()


HOLD = """
import pathlib, sys
from edgeprune.runfolder import RunFolder
RunFolder.open(pathlib.Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_killed_build_lets_go_of_the_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(RunFolderError, match=f"process {holder.pid} is building here"):
            RunFolder.open(tmp_path)
        holder.send_signal(signal.SIGKILL)
    RunFolder.open(tmp_path).close()
