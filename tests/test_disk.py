"""Room on disk: announced, checked before the work begins, and never more than was announced."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_builds import program, settle

import edgeprune
from edgeprune import disk
from edgeprune.disk import check_room, file_bytes
from edgeprune.errors import RunFolderError
from edgeprune.pipeline import room

WIDE = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.inner, self.head = nn.Linear(1024, 512), nn.Linear(512, num_classes)

    def forward(self, x):
        return self.head(torch.relu(self.inner(torch.relu(self.stem(x)).flatten(1))))
"""


def free(some_bytes: int) -> Callable[[Path], SimpleNamespace]:
    return lambda folder: SimpleNamespace(free=some_bytes)


def test_folders_on_one_disk_share_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", free(5_000_000))
    check_room({one: 3e6, other: 2e6})
    said = rf"{one} and {other}: up to 6 MB will be written there, and 5 MB are free; free some space"
    with pytest.raises(RunFolderError, match=said):
        check_room({one: 3e6, other: 3e6})


def test_a_build_without_room_ends_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = settle(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", free(1_000_000))
    found = program("build", *place.flags())
    assert found.exit_code == 1
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"error: {place.out}")
    assert "1 MB are free" in line
    assert not list(place.out.glob("models/*"))


@pytest.mark.parametrize(
    "asked",
    [{"target": "openvino", "int8": True}, {"target": "onnxruntime", "int8": True, "forms": ["optimized"]}],
    ids=["openvino", "onnxruntime"],
)
def test_a_build_writes_no_more_than_it_announced(
    asked: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose weights outweigh the rest, almost all of them kept."""
    place, temporary = settle(tmp_path / "here"), tmp_path / "temporary"
    place.net.write_text(WIDE)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(room, "IN_ANY_CASE", 5e5)
    monkeypatch.setattr(disk, "check_room", check := Announced())
    peaks = dict.fromkeys((place.out, temporary), 0)
    over = threading.Event()

    def weigh() -> None:
        while not over.wait(0.002):
            peaks.update({folder: max(peak, weight(folder)) for folder, peak in peaks.items()})

    with ThreadPoolExecutor() as pool:
        weighing = pool.submit(weigh)
        try:
            edgeprune.build(place.config(weights=None, method="magnitude-l2", max_param_ratio=0.05, **asked))
        finally:
            over.set()
        weighing.result()
    assert check.needs.keys() == peaks.keys()
    for folder, peak in peaks.items():
        assert 0 < peak <= check.needs[folder], f"{peak} bytes in {folder}"
    assert not list(temporary.iterdir())


@dataclass
class Announced:
    """What a build says that it needs."""

    needs: dict[Path, float] = field(default_factory=dict)

    def __call__(self, needs: Mapping[Path, float]) -> None:
        self.needs = dict(needs)


def weight(folder: Path) -> int:
    with contextlib.suppress(OSError):  # a file went while we looked
        return file_bytes(folder)
    return 0
