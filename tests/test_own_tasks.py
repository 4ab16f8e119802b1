"""A task of the user's own: one function; regression from numbers in an .npz, and several labels an image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_builds import measure_nothing
from torch import nn
from torch.nn import functional

from edgeprune import tasks
from edgeprune.config import make_config
from edgeprune.errors import ConfigError, DataError, ModelError
from edgeprune.pipeline import build

SOURCE = """
import numpy as np
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        return self.head(torch.relu(self.inner(torch.relu(self.stem(x)))).mean((2, 3)))


def closeness(outputs, labels):
    return np.exp(-np.abs(outputs[:, 0] - labels) / 0.1)


closeness.metric = "closeness"
"""


def make_place(folder: Path) -> Path:
    """A network that tells how bright an image is, half of whose second layer is of no use."""
    (folder / "net.py").write_text(SOURCE)
    names: dict[str, type[nn.Module]] = {}
    exec(SOURCE, names)  # noqa: S102 -- the constant above
    generator = np.random.default_rng(0)
    bright = generator.uniform(40, 210, 120)
    images = np.clip(bright[:, None, None] + generator.normal(0, 20, (120, 8, 8)), 0, 255).astype(np.uint8)
    x = torch.from_numpy(images[:, None] / np.float32(255))
    y = torch.from_numpy((bright / 255).astype(np.float32))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = names["Tiny"]()
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(80):
            with torch.no_grad():
                net.head.weight[:, 8:] = 0.0
            optimizer.zero_grad()
            ((net(x)[:, 0] - y) ** 2).mean().backward()
            optimizer.step()
    with torch.no_grad():
        net.head.weight[:, 8:] = 0.0
    save_file(net.state_dict(), folder / "w.safetensors")
    np.savez(folder / "a.npz", x=images, y=y.numpy())
    (folder / "data.toml").write_text('[calibration]\nsource = "a.npz"\nimages = "x"\nlabels = "y"\n')
    return folder


def settings(folder: Path, task: str) -> dict[str, object]:
    """Of a build of what lies in a folder, by a task of its net.py."""
    return {
        "model": f"python:{folder / 'net.py'}:Tiny",
        "weights": str(folder / "w.safetensors"),
        "data": str(folder / "data.toml"),
        "task": f"python:{folder / 'net.py'}:{task}",
        "target": "onnxruntime",
        "align": 1,
        "out": str(folder / "out"),
        "processes": 2,
    }


@pytest.mark.slow
def test_a_regression_is_built_by_its_own_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch)
    place = make_place(tmp_path)
    report = build(make_config(settings(place, "closeness")))
    dense = report.accuracy["dense"]
    assert dense.metric == "closeness"
    assert dense.top1.value > 0.5
    assert report.plan.param_ratio > 0.2, "half of the second layer does nothing"
    assert report.accuracy_change.drop.value < 0.1
    assert "closeness" in (place / "out" / "report.html").read_text()


# --- the examples of docs/tasks.md ---------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tasks.md"
NETWORK = """
import numpy as np
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head(torch.relu(self.inner(torch.relu(self.stem(x)))).flatten(1))
"""


def example(name: str) -> str:
    """A function as the page shows it."""
    (found,) = re.findall(rf"^def {name}\(.*?(?=^```|^\w)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return found


def bright_places(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark images with bright corners, and which of three corners are bright, shape (N, 3)."""
    generator = np.random.default_rng(1)
    shown = generator.random((count, 3)) < 0.5
    images = generator.normal(60, 20, (count, 8, 8))
    for place, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        images[shown[:, place], row : row + 4, column : column + 4] += 110
    return np.clip(images, 0, 255).astype(np.uint8), shown.astype(np.float32)


def train_example(folder: Path, name: str, labels: np.ndarray, images: np.ndarray) -> dict[str, object]:
    """Settings of a build of a network that was trained for an example's score."""
    (folder / "net.py").write_text(f"{NETWORK}\n\n{example(name)}")
    names: dict[str, type[nn.Module]] = {}
    exec(NETWORK, names)  # noqa: S102 -- the constant above
    x, y = torch.from_numpy(images[:, None] / np.float32(255)), torch.from_numpy(labels)
    loss = functional.binary_cross_entropy_with_logits if name == "decisions" else functional.mse_loss
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = names["Tiny"]()
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(80):
            with torch.no_grad():
                net.inner.weight[8:] = net.inner.bias[8:] = 0.0  # half of the second layer is of no use
            optimizer.zero_grad()
            loss(net(x), y).backward()
            optimizer.step()
    with torch.no_grad():
        net.inner.weight[8:] = net.inner.bias[8:] = 0.0
    save_file(net.state_dict(), folder / "w.safetensors")
    np.savez(folder / "a.npz", x=images, y=labels)
    (folder / "data.toml").write_text(
        'classes = ["a", "b", "c"]\n[calibration]\nsource = "a.npz"\nimages = "x"\nlabels = "y"\n'
    )
    return settings(folder, name)


@pytest.mark.slow
def test_several_labels_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch)
    images, shown = bright_places(240)
    report = build(make_config(train_example(tmp_path, "decisions", shown, images)))
    dense, pruned = (report.accuracy[name] for name in ("dense", "pruned"))
    assert len(dense.per_class) == 3
    assert min(value for value in dense.per_class if value is not None) > 0.7
    assert report.plan.param_ratio > 0.2
    assert pruned.top1.value > dense.top1.value - 0.1


@pytest.mark.slow
def test_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are the embeddings of another network: here a turn of what is shown."""
    measure_nothing(monkeypatch)
    images, shown = bright_places(240)
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    report = build(make_config(train_example(tmp_path, "similarity", (2 * shown - 1) @ turn, images)))
    dense, pruned = (report.accuracy[name] for name in ("dense", "pruned"))
    assert dense.top1.value > 0.9
    assert report.plan.param_ratio > 0.2
    assert pruned.top1.value > dense.top1.value - 0.05


def test_several_classes_with_gaps() -> None:
    scores = np.array([[0.5, np.nan], [1.0, 0.2], [np.nan, 0.4]])
    task = tasks.Own(lambda outputs, labels: scores[: len(outputs)], "python:x.py:f")
    outputs = np.zeros((3, 1), np.float32)
    kept = task.kept(outputs, np.zeros(3))
    scored = task.scored(kept, np.zeros(3))
    assert list(zip(scored.images, scored.classes, scored.scores, strict=True)) == [
        (0, 0, 0.5),
        (1, 0, 1.0),
        (1, 1, 0.2),
        (2, 1, 0.4),
    ]
    assert task.value(kept, np.zeros((3, 0))) == pytest.approx((0.75 + 0.3) / 2)
    found = task.accuracy(kept, np.zeros((3, 0)), 2)
    assert found.per_class == pytest.approx((0.75, 0.3))
    assert found.per_image == pytest.approx((0.5, 0.6, 0.4))
    with pytest.raises(DataError, match="class names"):
        task.check(outputs, np.zeros(3), ("one",))


@pytest.mark.parametrize(
    ("given", "words"),
    [(np.array([2.0, 0.1]), "0 to 1"), (np.zeros((1, 2)), r"\(N,\)"), (None, "2 images|TypeError")],
)
def test_scores_that_are_none_are_named(given: object, words: str) -> None:
    task = tasks.Own(lambda outputs, labels: given, "python:x.py:f")
    with pytest.raises(ModelError, match=words):
        task.kept(np.zeros((2, 1), np.float32), np.zeros(2))


def test_an_error_of_the_function_is_named() -> None:
    task = tasks.Own(lambda outputs, labels: outputs[5], "python:x.py:f")
    with pytest.raises(ModelError, match=r"x\.py:f: IndexError"):
        task.kept(np.zeros((2, 1), np.float32), np.zeros(2))


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(ConfigError, match="segmentation"):
        make_config({"task": "segmentaton"})
