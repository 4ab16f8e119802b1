"""The worker on another architecture: an aarch64 Python under qemu-user, reached as a device over SSH.

`scripts/aarch64` makes that Python. It is far slower than a board: what is tested is that the worker does its
work there and gives the same outputs, never a time.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sshd
import tiny_onnx
from sshd import Server
from test_ssh import target

from edgeprune import measure as room
from edgeprune.errors import TargetUnreachable

ROOT = Path(os.environ.get("EDGEPRUNE_AARCH64", Path(__file__).resolve().parents[1] / ".aarch64"))
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def python() -> str:
    found = ROOT / "python3-aarch64"
    if not found.is_file():
        pytest.skip(f"no aarch64 Python in {ROOT}: scripts/aarch64 makes one")
    done = subprocess.run([found, "-c", ""], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the aarch64 Python does not run here: {done.stderr[-200:]}")
    return str(found)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="es-") as folder:
        yield from sshd.start(Path(folder))


def test_an_aarch64_device_measures_and_predicts(server, python, tmp_path):
    net = tiny_onnx.save(tmp_path / "net.onnx")
    images = np.random.default_rng(2).normal(size=(3, *tiny_onnx.IMAGE_SHAPE)).astype(np.float32)
    with room.place(target(server, python=python, arch="aarch64")) as place:
        found = place.measure(
            {"dense": net, "pruned": net}, image=images[0], processes=1, min_runs=5, max_seconds=0.5
        )
        predict = place.predictor(net)
        assert predict is not None
        outputs = predict(images)
    assert found.machine["kernel"].endswith("aarch64")
    assert "asimd" in found.machine["features"]
    assert found.latency["pruned"].runs >= 5
    assert found.memory["dense"].peak_bytes > 0
    np.testing.assert_allclose(outputs, tiny_onnx.expected(images), rtol=1e-4, atol=1e-6)
    assert server.left() == []


def test_a_target_for_another_architecture_is_refused(server, python):
    with (
        pytest.raises(TargetUnreachable, match="device is aarch64, but the target is for x86_64"),
        room.place(target(server, python=python, arch="x86_64")),
    ):
        pass
    assert server.left() == []
