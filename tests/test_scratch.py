"""Temporary files are gone with their process, also after a kill."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_onnx import save

from edgeprune import scratch
from edgeprune.runfolder import RunFolder

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys, time
from edgeprune.scratch import scratch
with scratch() as place:
    (place / "large.onnx").write_bytes(bytes(1000))
    print(place, flush=True)
    time.sleep(600)
"""
MEASURER = """
import sys
from pathlib import Path
import numpy as np
from edgeprune.measure import measure
network = {"dense": Path(sys.argv[1])}
image = np.zeros((3, 8, 8), np.float32)
measure(network, runtime="onnxruntime", threads=1, image=image, processes=1000, operators=True)
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test's own; gives that of the user in it."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place / f"edgeprune-{os.getuid()}"


def start(program: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_folder_lasts_as_long_as_its_block(own_place: Path) -> None:
    with scratch.scratch() as one, scratch.scratch() as other:
        (one / "file").touch()
        assert one != other
        assert one.stat().st_mode & 0o077 == 0, "nobody else reads it"
        assert {one, other} == {*own_place.iterdir()}
    assert not own_place.exists()


def test_what_a_kill_leaves_is_removed_by_the_next_run_and_nothing_else(
    own_place: Path, tmp_path: Path
) -> None:
    alive, dead = start(HOLDER), start(HOLDER)
    assert alive.stdout is not None
    assert dead.stdout is not None
    kept, left = (Path(process.stdout.readline().strip()) for process in (alive, dead))
    kill(dead)
    assert (left / "large.onnx").exists(), "or there was nothing to remove"
    with RunFolder.open(tmp_path / "run"):
        assert {*own_place.iterdir()} == {kept}
    assert (kept / "large.onnx").exists()
    kill(alive)
    with scratch.scratch() as place:
        assert {*own_place.iterdir()} == {place}


@pytest.mark.slow
def test_a_killed_measurement_leaves_nothing_outside_of_the_folder(own_place: Path, tmp_path: Path) -> None:
    network = save(tmp_path / "network.onnx")
    measuring = start(MEASURER, str(network))
    try:
        while not [*own_place.glob("*/image.npy")]:
            assert measuring.poll() is None, "it came to an end"
            time.sleep(0.02)
    finally:
        kill(measuring)
    assert [path.name for path in own_place.parent.iterdir()] == [own_place.name]
    scratch.sweep()
    assert not own_place.exists()


def test_many_who_come_and_go_keep_what_they_have(own_place: Path) -> None:
    def come_and_go(_: int) -> None:
        for _ in range(30):
            with scratch.scratch() as place:
                (place / "file").touch()
                scratch.sweep()
                assert (place / "file").exists()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert not own_place.exists()


def test_libraries_put_their_files_there() -> None:
    with scratch.scratch() as place:
        with scratch.of_libraries(place), tempfile.TemporaryDirectory(prefix="ort.quant.") as theirs:
            assert Path(theirs).parent == place
        assert Path(tempfile.gettempdir()) != place


def test_a_folder_that_others_may_write_is_not_used(
    own_place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_place.mkdir()
    own_place.chmod(0o777)
    caplog.set_level(logging.WARNING)
    with scratch.scratch() as place:
        assert place.parent == own_place.parent
    assert not place.exists()
    assert "is not ours alone" in caplog.text
    own_place.rmdir()
    elsewhere = own_place.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "precious").mkdir()
    own_place.symlink_to(elsewhere)
    scratch.sweep()
    with scratch.scratch() as place:
        assert place.parent == own_place.parent
    assert (elsewhere / "precious").exists()
    own_place.unlink()


def test_links_in_the_folder_are_not_followed(own_place: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    with scratch.scratch():
        (own_place / "link").symlink_to(precious)
        scratch.sweep()
    assert precious.exists()
    assert (own_place / "link").is_symlink()
