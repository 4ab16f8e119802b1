"""A user's own network, weights and images in a folder, so small that a whole build takes a few seconds.

The network is trained for a few steps on three patterns; then half of the channels of its second layer are
made useless, so that a walk has something to find.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sample_report import measurement
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner, Result

from edgeprune.cli import app
from edgeprune.cli.app import Settings
from edgeprune.config import BuildConfig, make_config
from edgeprune.records import Latency, Measurement, Profile

CLASSES, SIZE = 3, 8
SOURCE = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.inner(x))
        return self.head(x.mean((2, 3)))
"""
NO_PROFILE = Profile(latency_ms=1.0, operators=())
TIMINGS = ("measurement", "provenance", "verdict", "target")
"""What of a report differs from one run to the next: times, and what is said about them."""


@dataclass(frozen=True)
class Place:
    """A working folder with net.py, weights.safetensors and images.npz."""

    folder: Path

    @property
    def net(self) -> Path:
        return self.folder / "net.py"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def images(self) -> Path:
        return self.folder / "images.npz"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def settings(self, **changes: object) -> dict[str, object]:
        """What a build here is told; a change to None leaves a setting out."""
        settings: dict[str, object] = {
            "model": f"python:{self.net}:Tiny",
            "weights": str(self.weights),
            "data": str(self.images),
            "target": "onnxruntime",
            "out": str(self.out),
            "processes": 2,
            "align": 8,
            **changes,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def config(self, **changes: object) -> BuildConfig:
        return make_config(self.settings(**changes))

    def flags(self, **changes: object) -> list[str]:
        """The command line of a build here."""
        settings = self.settings(**changes)
        return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]

    def report(self) -> dict[str, Any]:  # Any: JSON
        """report.json."""
        found: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        return found

    def lasting(self) -> dict[str, Any]:  # Any: JSON
        """What of report.json is the same for the same inputs."""
        return {name: value for name, value in self.report().items() if name not in TIMINGS}


def settle(folder: Path) -> Place:
    """Put the network, its weights and its images into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder)
    state, arrays = trained()
    place.net.write_text(SOURCE)
    save_file(dict(state), place.weights)
    np.savez(place.images, **arrays)
    return place


def make_net() -> nn.Module:
    """The network of `SOURCE`, without weights."""
    names: dict[str, Any] = {}  # Any: what the source defines
    exec(SOURCE, names)  # noqa: S102 -- the constant above
    net: nn.Module = names["Tiny"]()
    return net


@cache
def trained() -> tuple[dict[str, Tensor], dict[str, NDArray[Any]]]:  # Any: images and labels
    """Weights, and arrays of images to calibrate with and to judge by."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(60, 190, (CLASSES, SIZE, SIZE))

    def draw(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        labels = np.arange(count) % CLASSES
        noisy = patterns[labels] + generator.normal(0, 30, (count, SIZE, SIZE))
        return np.clip(noisy, 0, 255).astype(np.uint8), labels

    (images, labels), (train_x, train_y), (test_x, test_y) = draw(300), draw(150), draw(60)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make_net()
        train_(net, as_input(images), torch.from_numpy(labels))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state["head.weight"][:, 8:] = 0.0
    return state, {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def train_(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Train for a few steps; the second half of `inner` stays useless."""
    assert isinstance(net.head, nn.Linear)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        with torch.no_grad():
            net.head.weight[:, 8:] = 0.0
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    net.eval()


def trained_net() -> nn.Module:
    """The network with its weights."""
    net = make_net()
    net.load_state_dict(trained()[0])
    return net.eval()


def calibration() -> tuple[Tensor, Tensor]:
    """Images and labels as the network reads them."""
    _, arrays = trained()
    return as_input(arrays["train_x"]), torch.from_numpy(arrays["train_y"])


def as_input(images: NDArray[np.uint8]) -> Tensor:
    """What a build makes of gray arrays: (N, 1, H, W) in [0, 1]."""
    return torch.from_numpy(images[:, None] / np.float32(255))


def measured(*, pruned_ms: float = 4.6, quality: Any = "good") -> Measurement:  # Any: a Literal
    """A measurement that nobody took."""
    found = measurement()
    latency: Latency = found.latency["pruned"]
    interval = replace(latency.p50_ms, value=pruned_ms, low=0.98 * pruned_ms, high=1.02 * pruned_ms)
    return replace(
        found,
        latency={"dense": found.latency["dense"], "pruned": replace(latency, p50_ms=interval)},
        quality=quality,
    )


def measure_nothing(monkeypatch: pytest.MonkeyPatch, found: Measurement | None = None) -> None:
    """Builds find these figures at once."""
    monkeypatch.setattr("edgeprune.measure.measure", lambda *_, **__: found or measured())
    monkeypatch.setattr("edgeprune.measure.profile", lambda files, **_: [NO_PROFILE] * len(files))


def program(*words: object) -> Result:
    """Run the command line; global flags and levels of logging stay inside."""
    logger = logging.getLogger("edgeprune")
    level = logger.level
    try:
        return CliRunner().invoke(app, [str(word) for word in words])
    finally:
        logger.setLevel(level)
        Settings.debug = Settings.quiet = False
