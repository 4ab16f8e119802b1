"""Detection as a task: readers of boxes, the matched score by hand, COCO's metric, a build of an SSD."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from oracle import randomise_
from PIL import Image
from safetensors.torch import save_file
from sample_report import quantized_report
from tiny_builds import measure_nothing

from edgeprune import calibration, channels, export, runtime, surgery, tasks
from edgeprune.config import make_config
from edgeprune.errors import DataError, ModelError
from edgeprune.pipeline import build
from edgeprune.pipeline.forms import aligned
from edgeprune.records import CalibrationSet, InputSpec, Split
from edgeprune.tasks.detection import matched
from edgeprune.zoo import decoding, detecting

pytest.importorskip("pycocotools")

NAMES = ("cat", "dog")
SIZE = (40, 60)
"""Height, width."""


def rows(*found: tuple[float, ...]) -> np.ndarray:
    return np.array(found, dtype=np.float64).reshape(-1, 6)


# --- score and metric ---------------------------------------------------------------------------------

OBJECTS = rows((0, 0, 0, 10, 10, 0), (0, 20, 0, 30, 10, 0), (1, 0, 20, 10, 30, 0), (1, 20, 20, 30, 30, 1))


@pytest.mark.parametrize(
    ("detections", "number", "score"),
    [
        (rows((0, 0.9, 0, 0, 10, 10), (0, 0.8, 20, 0, 30, 10)), 0, (0.9 + 0.8) / 2),
        (rows((0, 0.9, 0, 0, 10, 10)), 0, 0.9 / 2),
        (rows((0, 0.9, 0, 0, 10, 10), (0, 0.5, 0, 0, 10, 10)), 0, 0.9 / 2.5),
        (rows((0, 0.9, 0, 0, 10, 8)), 0, 0.9 * 0.8 / 2),
        (rows((0, 0.9, 0, 0, 10, 4)), 0, 0.0),
        (rows((1, 0.9, 0, 0, 10, 10)), 0, 0.0),
        (rows((1, 0.7, 0, 20, 10, 30), (1, 0.9, 20, 20, 30, 30)), 1, 0.7),
        (rows(), 1, 0.0),
    ],
    ids=["both", "missed", "twice", "loose", "off", "another class", "over an ignored one", "nothing"],
)
def test_the_score_of_a_class_in_an_image(detections: np.ndarray, number: int, score: float) -> None:
    assert matched(detections, OBJECTS, number) == pytest.approx(score)


def perfect(labels: np.ndarray) -> np.ndarray:
    """Detections that are the objects."""
    kept = np.full((len(labels), 100, 6), -1.0)
    kept[:, : labels.shape[1], 0] = labels[:, :, 0]
    kept[:, : labels.shape[1], 1] = np.where(labels[:, :, 0] < 0, -1, 0.9)
    kept[:, : labels.shape[1], 2:] = labels[:, :, 1:5]
    return kept


def labelled(count: int = 12) -> np.ndarray:
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 30, (count, 3, 2))
    sides = generator.uniform(5, 20, (count, 3, 2))
    kinds = generator.integers(0, 2, (count, 3, 1)).astype(float)
    return np.concatenate([kinds, corners, corners + sides, np.zeros((count, 3, 1))], axis=2)


def test_map_of_perfect_and_of_spoilt_detections() -> None:
    labels, task = labelled(), tasks.Detection(2, lambda outputs: [])
    good = perfect(labels)
    assert task.value(good, labels) == pytest.approx(1.0)
    bad = good.copy()
    bad[:6, :, 0] = np.where(bad[:6, :, 0] < 0, -1, 1 - bad[:6, :, 0])  # half of the images: the other class
    found = task.accuracy(bad, labels, 2)
    assert found.metric == "mAP@[.5:.95]"
    assert 0.1 < found.top1.value < 0.7
    assert found.top1.low <= found.top1.value <= found.top1.high
    assert found.others["mAP@.5"] == pytest.approx(found.top1.value)
    assert np.mean([ap for ap in found.per_class if ap is not None]) == pytest.approx(found.top1.value)
    change = task.change(good, bad, labels)
    assert change.drop.value == pytest.approx(1 - found.top1.value)
    assert (change.lost, change.gained) == (6, 0)


def test_drawing_each_image_once_gives_the_metric_itself() -> None:
    labels, task = labelled(), tasks.Detection(2, lambda outputs: [])
    spoilt = perfect(labels)
    spoilt[::2, 0, 2:] += 4
    value = task.value(spoilt, labels)
    draws = np.ones((1, len(labels)), dtype=np.int64)
    assert task.drawn(spoilt, labels, draws) == pytest.approx([value])
    twice = np.zeros((1, len(labels)), dtype=np.int64)
    twice[0, :3] = 2
    again = np.repeat(np.arange(3), 2)
    assert task.drawn(spoilt, labels, twice) == pytest.approx([task.value(spoilt[again], labels[again])])


# --- readers ------------------------------------------------------------------------------------------

BOXES = {0: [("dog", 4.0, 6.0, 20.0, 30.0, False)], 1: [("cat", 0.0, 0.0, 10.0, 10.0, True)], 2: []}


def write_images(folder: Path) -> None:
    (folder / "images").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")


def write_coco(folder: Path) -> Path:
    write_images(folder)
    annotations = [
        {
            "image_id": image,
            "category_id": {"cat": 1, "dog": 3}[name],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": int(crowd),
        }
        for image, boxes in BOXES.items()
        for name, x0, y0, x1, y1, crowd in boxes
    ]
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(6)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": annotations,
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return describe(folder, "boxes.json")


def write_voc(folder: Path) -> Path:
    write_images(folder)
    (folder / "xml").mkdir()
    for number in range(6):
        objects = "".join(
            f"<object><name>{name}</name><difficult>{int(hard)}</difficult><bndbox><xmin>{x0 + 1}</xmin>"
            f"<ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for name, x0, y0, x1, y1, hard in BOXES.get(number, [])
        )
        (folder / "xml" / f"{number}.xml").write_text(f"<annotation>{objects}</annotation>")
    return describe(folder, "xml")


def describe(folder: Path, boxes: str, more: str = "") -> Path:
    place = folder / "data.toml"
    place.write_text(f'[calibration]\nsource = "images"\nboxes = "{boxes}"\n{more}')
    return place


def found(data: CalibrationSet) -> dict[int, list[list[float]]]:
    """Number of each image -> its rows."""
    result = {}
    for split in Split:
        labels = calibration.labels(data, split)
        for sample, own in zip(data.samples[split], labels, strict=True):
            result[int(Path(sample.source).stem)] = own[own[:, 0] >= 0].tolist()
    return result


def test_coco(tmp_path: Path) -> None:
    data = calibration.load(str(write_coco(tmp_path)), kind="boxes")
    assert data.classes == ("cat", "unused 2", "dog"), "networks have outputs for COCO's gaps"
    assert found(data) == {
        **{number: [] for number in range(6)},
        0: [[2, 4, 6, 20, 30, 0]],
        1: [[0, 0, 0, 10, 10, 1]],
    }


def test_voc(tmp_path: Path) -> None:
    data = calibration.load(str(write_voc(tmp_path)), kind="boxes")
    assert data.classes == NAMES
    assert (found(data)[0], found(data)[1]) == ([[1, 4, 6, 20, 30, 0]], [[0, 0, 0, 10, 10, 1]])


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_boxes_go_the_way_of_their_images(tmp_path: Path, degrees: int) -> None:
    """A white box in a black image, found again by its pixels."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
        pixels[6:30, 4:20] = 255
        pixels[0, number] = 1  # no two are the same
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    categories = [{"id": 1, "name": "cat"}]
    annotations = [{"image_id": n, "category_id": 1, "bbox": [4, 6, 16, 24]} for n in range(4)]
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(4)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    how = (
        f'[preprocess]\nresize = [80, 120]\ninterpolation = "nearest"\ncrop = [72, 112]\nrotate = {degrees}\n'
    )
    data = calibration.load(str(describe(tmp_path, "boxes.json", how)), kind="boxes")
    images = calibration.images(data, Split.CALIBRATION)
    for image, ((_, x0, y0, x1, y1, _),) in zip(
        images, calibration.labels(data, Split.CALIBRATION), strict=True
    ):
        at, across = np.nonzero(image[0] > 0.5)
        assert (x0, y0, x1, y1) == (across.min(), at.min(), across.max() + 1, at.max() + 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object>", "no VOC file"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "entities"),
        ("<annotation><object><name>cat</name></object></annotation>", "no VOC file"),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>9</xmin><ymin>1</ymin><xmax>2</xmax>"
            "<ymax>5</ymax></bndbox></object></annotation>",
            "corners",
        ),
    ],
)
def test_broken_voc_files_are_named(tmp_path: Path, text: str, words: str) -> None:
    place = write_voc(tmp_path)
    (tmp_path / "xml" / "3.xml").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        calibration.load(str(place), kind="boxes")
    assert "3.xml" in str(caught.value)


def test_broken_coco_files_are_named(tmp_path: Path) -> None:
    place = write_coco(tmp_path)
    for text in ("{", "[]", '{"images": [], "categories": [], "annotations": [{}]}'):
        (tmp_path / "boxes.json").write_text(text)
        with pytest.raises(DataError, match=r"boxes\.json"):
            calibration.load(str(place), kind="boxes")


# --- detectors ----------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.out_channels = [32, 32]
        self.a, self.b = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.c = nn.Conv2d(32, 32, 3, 2, 1)

    def forward(self, x):
        first = torch.relu(self.b(torch.relu(self.a(x))))
        return {"0": first, "1": torch.relu(self.c(first))}


def make():
    anchors = DefaultBoxGenerator([[2], [2]], scales=[0.3, 0.6, 0.9])
    return SSD(Backbone(), anchors, (32, 32), 3, score_thresh=0.01)
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("runtime_name", ["onnxruntime", "openvino"])
@pytest.mark.slow
def test_boxes_inside_the_file_are_those_of_the_detector(tmp_path: Path, runtime_name: str) -> None:
    names: dict[str, object] = {}
    exec(SOURCE, names)  # noqa: S102 -- the constant above
    torch.manual_seed(1)
    detector, spec = names["make"]().eval(), InputSpec(shape=(3, 32, 32))
    core, finish = detecting(detector, spec)
    export.to_onnx(core, spec, tmp_path / "net.onnx")
    made = tmp_path / "boxes.onnx"
    export.with_boxes(tmp_path / "net.onnx", made, decoding(detector, spec))
    path = made if runtime_name == "onnxruntime" else tmp_path / "boxes.xml"
    if path != made:
        export.to_openvino(made, path)
    predict = runtime.load(path, runtime=runtime_name, threads=1)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = finish(core(images).numpy())
    assert sum(map(len, expected)) > 20
    for image, rows in zip(images.numpy(), expected, strict=True):
        found = predict(image[None])
        assert found[:, 0].tolist() == rows[:, 0].tolist()
        np.testing.assert_allclose(found, rows, atol=1e-3)


@pytest.mark.parametrize("runtime_name", ["onnxruntime", "openvino"])
@pytest.mark.slow
def test_boxes_of_ssdlite_are_found_among_many(tmp_path: Path, runtime_name: str) -> None:
    """Its post-processing alone, 3,234 anchors and 90 classes, behind outputs that are drawn."""
    from torchvision import models

    detector = models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    spec = InputSpec(shape=(3, 320, 320))
    _, finish = detecting(detector, spec)
    how = decoding(detector, spec)
    assert how is not None
    shape = (1, len(how.anchors), 4 + 91)
    generator = np.random.default_rng(0)
    outputs = generator.normal(0, 1, shape).astype(np.float32)
    outputs[..., 4:] *= 3.0
    whole = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("in", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["in"], ["out"])], "g", whole[:1], whole[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "raw.onnx")
    export.with_boxes(tmp_path / "raw.onnx", tmp_path / "boxes.onnx", how)
    export.to_openvino(tmp_path / "boxes.onnx", tmp_path / "boxes.xml")
    path = tmp_path / ("boxes.onnx" if runtime_name == "onnxruntime" else "boxes.xml")
    found = runtime.load(path, runtime=runtime_name, threads=1)(outputs)
    (rows,) = finish(outputs)
    assert len(found) == len(rows) == 300
    error = np.abs(aligned(rows, found) - rows).max()
    assert error < 1e-2, "in pixels of 320"


def test_other_detectors_keep_their_step_in_python() -> None:
    assert decoding(torch.nn.Linear(1, 1), InputSpec(shape=(3, 8, 8))) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_build_of_an_ssd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights; labels are what the network detects, so that there is something to lose."""
    measure_nothing(monkeypatch, replace(quantized_report().measurement, quality="good", noise=()))
    (tmp_path / "net.py").write_text(SOURCE)
    names: dict[str, object] = {}
    exec(SOURCE, names)  # noqa: S102 -- the constant above
    torch.manual_seed(0)
    detector = names["make"]().eval()
    save_file(detector.state_dict(), tmp_path / "w.safetensors")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3)).astype(np.uint8)
    core, finish = detecting(detector, InputSpec(shape=(3, 32, 32)))
    with torch.no_grad():
        outputs = core(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)).numpy()
    boxes = np.full((60, 4, 6), -1.0)
    for place, detections in zip(boxes, finish(outputs), strict=True):
        own = detections[:4]
        place[: len(own), 0], place[: len(own), 1:5], place[: len(own), 5] = own[:, 0], own[:, 2:6], 0
    np.savez(tmp_path / "a.npz", x=pixels, y=boxes, classes=np.array(NAMES))
    (tmp_path / "data.toml").write_text('[calibration]\nsource = "a.npz"\nimages = "x"\nlabels = "y"\n')
    report = build(
        make_config(
            {
                "model": f"python:{tmp_path / 'net.py'}:make",
                "weights": str(tmp_path / "w.safetensors"),
                "data": str(tmp_path / "data.toml"),
                "task": "detection",
                "target": "openvino",
                "method": "variance",
                "compensate": "affine",
                "max_param_ratio": 0.5,
                "align": 4,
                "out": str(tmp_path / "out"),
                "processes": 2,
                "int8": True,
                "int8_tool": "onnxruntime",
                "forms": ["boxes"],
                "frame": "32x32",
            }
        )
    )
    dense, pruned = (report.accuracy[name] for name in ("dense", "pruned"))
    assert 0 < report.accuracy["pruned+int8"].top1.value < dense.top1.value
    assert {"boxes", "frame"} <= set(report.forms)
    (shown, *_) = report.pictured
    assert shown.names == ("input", "labelled", "dense", "pruned+int8")
    assert len(set(shown.pictures)) > 2, "boxes are drawn"
    assert dense.metric == "mAP@[.5:.95]"
    assert dense.top1.value > pruned.top1.value
    assert report.plan.param_ratio > 0.1
    assert all(parity.error <= parity.limit for parity in report.parity)
    assert "mAP" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "ssdlite320_mobilenet_v3_large",
        "retinanet_resnet50_fpn",
        "fcos_resnet50_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
    ],
)
@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_post_processing_behind_one_tensor_is_the_detectors_own(name: str) -> None:
    from torchvision import models

    torch.manual_seed(0)
    detector = models.get_model(name, weights=None, weights_backbone=None).eval()
    size = 320 if name.startswith("ssd") else 128
    core, finish = detecting(detector, InputSpec(shape=(3, size, size)))
    detector.transform.image_mean, detector.transform.image_std = [0.0] * 3, [1.0] * 3
    detector.transform.min_size, detector.transform.max_size = (size,), size
    image = torch.rand(3, size, size)
    with torch.no_grad():
        (expected,) = detector([image])
        (given,) = finish(core(image[None]).numpy())
    assert len(given) == len(expected["boxes"])
    assert given[:, 0] == pytest.approx(expected["labels"].numpy() - 1)
    assert given[:, 1] == pytest.approx(expected["scores"].numpy(), abs=1e-5)
    assert given[:, 2:] == pytest.approx(expected["boxes"].numpy(), abs=1e-2)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_ssdlite_is_cut_and_deployed_with_parity(tmp_path: Path) -> None:
    """SSDLite320-MobileNetV3 with random weights: prune -> ONNX -> OpenVINO."""
    from torchvision import models

    detector = models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    randomise_(detector)  # as it is made, its scores are all the same
    spec = InputSpec(shape=(3, 320, 320))
    core, _ = detecting(detector, spec)
    coupling = channels.couple(channels.trace(core, spec))
    removed = {g.name: tuple(range(g.units * 3 // 10)) for g in coupling.groups if g.units > 3}
    graph, kept = channels.cut(coupling, removed, {}), channels.kept_indices(coupling, removed)
    smaller = surgery.operate(core, kept, graph, spec, batch=None).module
    before, after = (sum(p.numel() for p in m.parameters()) for m in (core, smaller))
    assert after < 0.7 * before
    images = torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        masked = channels.masked(coupling, removed)(images).numpy()
        expected = smaller(images).numpy()
    stages = [export.parity("masked -> cut", masked, expected, limit=1e-4)]
    export.to_onnx(smaller, spec, tmp_path / "net.onnx")
    export.simplify(tmp_path / "net.onnx")
    export.to_openvino(tmp_path / "net.onnx", tmp_path / "net.xml")
    for name, file in (("onnxruntime", "net.onnx"), ("openvino", "net.xml")):
        outputs = runtime.load(tmp_path / file, runtime=name, threads=1)(images.numpy())
        stages.append(export.parity(f"torch -> {name}", expected, outputs))
    print(f"{before:,} -> {after:,} parameters")  # seen with -s: figures for docs and notes
    for line in stages:
        print(f"{line.stage}: {line.error:.1e}")


def test_masks_and_keypoints_are_refused_in_one_line() -> None:
    from torchvision import models

    detector = models.get_model("maskrcnn_resnet50_fpn", weights=None, weights_backbone=None).eval()
    with pytest.raises(ModelError, match="masks and keypoints are not") as caught:
        detecting(detector, InputSpec(shape=(3, 64, 64)))
    assert "\n" not in str(caught.value)


def test_a_network_without_boxes_is_refused() -> None:
    with pytest.raises(ModelError, match="detections"):
        detecting(torch.nn.Linear(1, 1), InputSpec(shape=(3, 8, 8)))
