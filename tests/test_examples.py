"""The bundled examples of segmentation and detection: what is rendered, and what their networks find."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune import calibration, tasks, zoo
from edgeprune.example import SCENE_CLASSES, draw_scenes, write_shapes
from edgeprune.example.scenes import WIDE_SIDE, box_labels
from edgeprune.records import InputSpec, Preprocess, Split

MOST_BYTES = 3_000_000
CLASSES = len(SCENE_CLASSES) - 1


@pytest.mark.parametrize("side", [64, WIDE_SIDE])
def test_the_same_seed_gives_the_same_scenes(side: int) -> None:
    one, again, other = (draw_scenes(seed, 4, side=side) for seed in (5, 5, 6))
    assert (one.images == again.images).all()
    assert one.boxes == again.boxes
    assert (one.images != other.images).any()
    assert one.images.shape == (4, side, side, 3)


def test_a_box_holds_what_is_shown_of_its_shape() -> None:
    scenes = draw_scenes(5, 30, side=WIDE_SIDE)
    for mask, boxes in zip(scenes.masks, scenes.boxes, strict=True):
        covered = np.zeros_like(mask, dtype=np.bool_)
        for kind, x0, y0, x1, y1 in boxes:
            inside = (slice(int(y0), int(y1)), slice(int(x0), int(x1)))
            assert (mask[inside] == kind).any()
            covered[inside] = True
        assert (mask[~covered] == 0).all(), "every shape has a box"
    rows = box_labels(scenes.boxes)
    assert [(own[:, 0] >= 0).sum() for own in rows] == [len(boxes) for boxes in scenes.boxes]
    assert rows[:, :, 0].max() == CLASSES - 1


def test_the_shapes_are_read_as_boxes(tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes.npz")
    source = Path(__file__).resolve().parents[1] / "calibration" / "shapes" / "run.toml"
    place = tmp_path / "shapes.toml"
    place.write_bytes(source.read_bytes())
    data = calibration.load(str(place), kind="boxes")
    assert data.classes == SCENE_CLASSES[1:]
    sizes = {split: len(samples) for split, samples in data.samples.items()}
    assert sizes == {Split.CALIBRATION: 128, Split.VALIDATION: 32, Split.EVALUATION: 200}


@pytest.mark.slow
def test_the_bundled_detector_finds_shapes() -> None:
    pytest.importorskip("pycocotools")
    loaded = zoo.load("example:shapes")
    weights = Path(__file__).resolve().parents[1] / "calibration" / "shapes" / "shapes_net.safetensors"
    assert weights.stat().st_size < MOST_BYTES
    core, finish = zoo.detecting(loaded.module, InputSpec(shape=(3, WIDE_SIDE, WIDE_SIDE)))
    scenes = draw_scenes(9, 60, side=WIDE_SIDE)  # neither trained on nor part of the example
    with torch.inference_mode():
        images = scenes.images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        outputs = core(torch.from_numpy(images)).numpy()
    task, labels = tasks.Detection(CLASSES, finish), box_labels(scenes.boxes)
    found = task.accuracy(task.kept(outputs, labels), labels, CLASSES)
    assert found.top1.value > 0.6
    assert found.others["mAP@.5"] > 0.85


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"), np.int64)


def test_boxes_are_drawn_where_they_are() -> None:
    """A black image of 48 pixels is enlarged five times; the box is as wide as it should be."""
    inputs, how = np.zeros((3, 48, 48), np.float32), Preprocess(scale=1.0)
    rows = np.array([[1, 0.9, 8, 20, 40, 44]])
    blank = decode(calibration.boxed(inputs, how, rows[:0], ("cat", "dog")))
    shown = decode(calibration.boxed(inputs, how, rows, ("cat", "dog")))
    assert blank.shape == shown.shape == (240, 240, 3)
    at, across = np.nonzero(np.abs(shown - blank).max(axis=2) > 90)
    assert (across.min(), at.max()) == (pytest.approx(8 * 5, abs=2), pytest.approx(44 * 5, abs=2))
    assert across.max() == pytest.approx(40 * 5, abs=2)
    assert at.min() == pytest.approx(20 * 5 - 12, abs=3), "its name stands above"
    assert np.abs(shown - blank)[120:200, 60:180].max() < 60, "what is inside stays visible"
