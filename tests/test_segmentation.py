"""Segmentation: masks to class numbers, IoU by hand, several classes an image in the causal test, a build."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from tiny_builds import measure_nothing, program
from torch import nn
from torch.nn import functional

from edgeprune import calibration, tasks
from edgeprune.causal import Examiner, make_judge, make_shards, welch_z
from edgeprune.config import make_config
from edgeprune.errors import DataError, InputError, ModelError
from edgeprune.pipeline import build
from edgeprune.pipeline.sweeping import sweep
from edgeprune.records import IGNORED, Finding, Scored, Split
from edgeprune.tasks.segmentation import iou, mean_iou, sampled

NAMES = ("ground", "disk", "bar")


def logits(answer: np.ndarray, outputs: int) -> np.ndarray:
    """Outputs whose highest score is this answer, shape (outputs, H, W)."""
    return (np.arange(outputs)[:, None, None] == answer).astype(np.float32)


# --- the metric ---------------------------------------------------------------------------------------


def test_counts_and_iou_by_hand() -> None:
    truth = np.array([[0, 0, 1], [1, 1, IGNORED]], dtype=np.int16)
    answer = np.array([[0, 1, 1], [1, 2, 0]])
    task = tasks.Segmentation(3)
    kept = task.kept(logits(answer, 3)[None], truth[None])
    assert kept[0].tolist() == [[1, 2, 1], [2, 3, 3], [0, 0, 1]]
    assert iou(kept[0]) == pytest.approx([1 / 2, 2 / 4, 0.0])
    assert task.value(kept, truth[None]) == pytest.approx(0.5), "a class that nobody labelled has no say"
    scored = task.scored(kept, truth[None])
    assert (scored.images.tolist(), scored.classes.tolist()) == ([0, 0], [0, 1])
    assert scored.scores == pytest.approx([0.5, 0.5])


def test_an_output_without_a_class_is_a_wrong_answer() -> None:
    truth = np.zeros((1, 2, 2), dtype=np.int16)
    kept = tasks.Segmentation(1).kept(logits(np.array([[0, 1], [1, 0]]), 2)[None], truth)
    assert mean_iou(kept[0]) == pytest.approx(0.5)


def test_masks_are_sampled_at_the_size_of_the_outputs() -> None:
    mask = np.repeat(np.repeat(np.arange(6).reshape(2, 3), 4, axis=0), 4, axis=1)
    assert sampled(mask, (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert sampled(mask, mask.shape) is mask


def test_accuracy_and_its_change() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, (12, 8, 8)).astype(np.int16)
    worse = np.where(generator.random(truth.shape) < 0.3, 0, truth)
    task = tasks.Segmentation(3)
    good, bad = (
        task.kept(np.stack([logits(answer, 3) for answer in answers]), truth) for answers in (truth, worse)
    )
    found = task.accuracy(bad, task.truth(truth), 3)
    assert (found.metric, found.images, found.predictions) == ("mIoU", 12, ())
    assert found.top1.low < found.top1.value < found.top1.high
    assert found.top1.value == pytest.approx(np.mean(found.per_class))
    change = task.change(good, bad, task.truth(truth))
    assert change.drop.value == pytest.approx(1 - found.top1.value)
    assert (change.lost, change.gained) == (12, 0)
    assert change.p_value < 0.001
    same = task.change(bad, bad, task.truth(truth))
    assert (same.drop.value, same.lost, same.p_value) == (0.0, 0, 1.0)


@pytest.mark.parametrize(
    ("shape", "labels", "error"),
    [((1, 3), 0, ModelError), ((1, 2, 4, 4), 0, DataError), ((1, 3, 4, 4), 3, DataError)],
)
def test_outputs_that_cannot_be_maps_of_these_classes(
    shape: tuple[int, ...], labels: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        tasks.Segmentation(3).check(np.zeros(shape, np.float32), np.full((1, 4, 4), labels), NAMES)


# --- the causal test with several classes an image ----------------------------------------------------


@st.composite
def scenes(draw: st.DrawFn) -> Scored:
    """Scores of images that show one to three classes each, some of them not got right."""
    shown = [sorted(draw(st.sets(st.integers(0, 2), min_size=1))) for _ in range(draw(st.integers(30, 50)))]
    shown[0] = [0, 1]  # at least one has several
    images = np.array([image for image, classes in enumerate(shown) for _ in classes])
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    scores = generator.uniform(0.2, 0.9, len(images)) * (generator.random(len(images)) > 0.1)
    classes = np.array([k for classes in shown for k in classes])
    return Scored(
        images=images, classes=classes, scores=scores, right=scores > 0, profiles=np.eye(3)[classes] + 0.1
    )


@given(scenes(), st.booleans(), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_an_examination_by_shards_is_that_of_whole_classes(scored: Scored, pooled: bool, seed: int) -> None:
    judge, choice = make_judge(scored, NAMES, alpha=0.05, pooled=pooled)
    shards = make_shards(judge)
    assert sum(shard.images.stop - shard.images.start for shard in shards) == len(choice.images)
    assert [s.scores.start for s in shards[1:]] == [s.scores.stop for s in shards[:-1]]
    inside = np.isin(scored.images, choice.images)
    assert np.array_equal(scored.scores[inside][choice.scores], judge.dense)
    assert np.array_equal(choice.images[judge.images], scored.images[scored.right])
    generator = np.random.default_rng(seed)
    changed = judge.dense - generator.uniform(-0.05, 0.3) * (scored.classes[scored.right] == 1)
    outcome = Examiner(judge, shards, early_exit=False).examine(lambda shard: changed[shard.scores])
    z = [welch_z(changed[places], judge.dense[places]) for _, places in judge.members]
    assert outcome.finding is judge.finding(np.array(z))
    assert outcome.worst_z == min(z)
    assert outcome.evaluated == len(choice.images)
    early = Examiner(judge, shards).examine(lambda shard: changed[shard.scores])
    assert (early.finding is Finding.CRITICAL) == (outcome.finding is Finding.CRITICAL) or pooled


def test_a_lost_pool_ends_an_examination_before_any_class_is_known() -> None:
    images = np.repeat(np.arange(40), 2)
    classes = np.tile([0, 1], 40)
    scores = np.random.default_rng(0).uniform(0.7, 0.9, 80)
    scored = Scored(
        images=images, classes=classes, scores=scores, right=scores > 0, profiles=np.eye(2)[classes]
    )
    judge, _ = make_judge(scored, NAMES, alpha=0.05, pooled=True)
    outcome = Examiner(judge, make_shards(judge)).examine(lambda shard: judge.dense[shard.scores] * 0.1)
    assert outcome.finding is Finding.CRITICAL
    assert outcome.evaluated < 40
    assert np.isfinite(outcome.worst_z)


# --- masks --------------------------------------------------------------------------------------------

COLORS = [[10, 20, 30], [200, 0, 0], [0, 0, 250]]


def write_masked(folder: Path, kind: str, *, count: int = 6, value: int = 255) -> tuple[Path, np.ndarray]:
    """Images and masks in folders, and their description; gives it and the masks as class numbers."""
    generator = np.random.default_rng(1)
    truth = np.repeat(np.repeat(generator.integers(0, 3, (count, 3, 4)), 4, axis=1), 4, axis=2)
    truth[:, 0, 0] = IGNORED
    (folder / "images" / "deep").mkdir(parents=True)
    (folder / "masks" / "deep").mkdir(parents=True)
    for number, mask in enumerate(truth):
        colors = np.array([*COLORS, [9, 9, 9]], dtype=np.uint8)[mask]
        Image.fromarray(colors).save(folder / "images" / "deep" / f"{number}.png")
        coded = Image.fromarray(np.where(mask < 0, value, mask).astype(np.uint8))
        if kind == "palette":
            coded = coded.convert("P") if coded.mode == "P" else Image.fromarray(np.asarray(coded), mode="P")
            coded.putpalette(list(range(256)) * 3)
        if kind == "colors":
            coded = Image.fromarray(colors)
        coded.save(folder / "masks" / "deep" / f"{number}.png")
    text = f"classes = {json.dumps(NAMES)}\n"
    text += f"colors = {COLORS}\n" if kind == "colors" else ""
    text += '[calibration]\nsource = "images"\nmasks = "masks"\n'
    place = folder / "data.toml"
    place.write_text(text)
    return place, truth


def mask_of(data: calibration.CalibrationSet, truth: np.ndarray) -> None:
    for split in Split:
        for sample, mask in zip(data.samples[split], calibration.labels(data, split), strict=True):
            assert np.array_equal(mask, truth[int(Path(sample.source).stem)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["numbers", "palette", "colors"])
def test_masks_of_files(tmp_path: Path, kind: str) -> None:
    place, truth = write_masked(tmp_path, kind)
    data = calibration.load(str(place), kind="masks")
    assert data.kind == "masks"
    mask_of(data, truth)
    images, labels = next(calibration.batches(data, Split.EVALUATION, size=2))
    assert (images.shape, labels.shape, labels.dtype) == ((2, 3, 12, 16), (2, 12, 16), np.int16)


def test_masks_go_the_way_of_their_images(tmp_path: Path) -> None:
    place, _ = write_masked(tmp_path, "numbers")
    place.write_text(
        place.read_text()
        + '[preprocess]\nresize = [24, 32]\ninterpolation = "nearest"\n'
        + "crop = [40, 20]\nrotate = 90\nscale = 1.0\n"
    )
    data = calibration.load(str(place), kind="masks")
    images, masks = (get(data, Split.CALIBRATION) for get in (calibration.images, calibration.labels))
    assert masks.shape == (len(images), 20, 40)
    table = np.array([*COLORS, [9, 9, 9]])
    for image, mask in zip(images.transpose(0, 2, 3, 1), masks, strict=True):
        inside = (image > 0).any(axis=2) | (image == table[0]).all(axis=2)
        assert np.array_equal(image[inside], table[mask[inside]])
        assert (mask[~inside] == IGNORED).all(), "what a crop adds counts for nothing"


def test_an_npz_of_masks(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    masks = generator.integers(0, 3, (8, 6, 6))
    images = generator.integers(0, 255, (8, 6, 6, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=images, y=masks, classes=np.array(NAMES))
    place = tmp_path / "data.toml"
    place.write_text('[calibration]\nsource = "a.npz"\nimages = "x"\nlabels = "y"\n')
    data = calibration.load(str(place), kind="masks")
    assert data.classes == NAMES
    found = calibration.labels(data, Split.EVALUATION)
    numbers = [int(sample.source.rpartition("::")[2]) for sample in data.samples[Split.EVALUATION]]
    assert np.array_equal(found, masks[numbers])


def test_another_mask_is_another_digest(tmp_path: Path) -> None:
    place, truth = write_masked(tmp_path, "numbers")
    before = calibration.load(str(place), kind="masks").digest
    Image.fromarray(np.zeros(truth[0].shape, np.uint8)).save(tmp_path / "masks" / "deep" / "0.png")
    assert calibration.load(str(place), kind="masks").digest != before


def broken(place: Path, what: str) -> None:
    folder = place.parent / "masks" / "deep"
    if what == "missing":
        (folder / "2.png").unlink()
    elif what == "size":
        for file in folder.glob("*.png"):
            Image.fromarray(np.zeros((3, 3), np.uint8)).save(file)
    elif what == "number":
        for file in folder.glob("*.png"):
            Image.fromarray(np.full((12, 16), 7, np.uint8)).save(file)
    elif what == "colours":
        for file in folder.glob("*.png"):
            Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(file)
    else:
        place.write_text(place.read_text().partition("\n")[2])


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "has no mask"),
        ("size", "(3, 3)"),
        ("number", "a pixel is 7"),
        ("colours", "`colors`"),
        ("classes", "names of the classes"),
    ],
)
def test_broken_masks_are_named(tmp_path: Path, what: str, words: str) -> None:
    place, _ = write_masked(tmp_path, "numbers")
    broken(place, what)
    with pytest.raises(DataError, match=words.replace("(", r"\(").replace(")", r"\)")):
        calibration.labels(calibration.load(str(place), kind="masks"), Split.CALIBRATION)


# --- a build ------------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        return self.head(torch.relu(self.inner(torch.relu(self.norm(self.stem(x))))))
"""


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with a patch of each of two kinds, or of one."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, 12, 12), dtype=np.uint8)
    for mask in masks:
        for kind in generator.permutation([1, 2])[: generator.integers(1, 3)]:
            row, column = generator.integers(0, 8, 2)
            mask[row : row + 5, column : column + 5] = kind
    colors = np.array([[90, 90, 90], [150, 90, 60], [60, 90, 150]])[masks]
    return np.clip(colors + generator.normal(0, 25, colors.shape), 0, 255).astype(np.uint8), masks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that segments patches, half of whose second layer is of no use, and its images."""
    folder = tmp_path_factory.mktemp("segmentation")
    (folder / "net.py").write_text(SOURCE)
    names: dict[str, type[nn.Module]] = {}
    exec(SOURCE, names)  # noqa: S102 -- the constant above
    images, masks = draw(120, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = names["Tiny"]()
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(60):
            with torch.no_grad():
                net.head.weight[:, 8:] = 0.0
            optimizer.zero_grad()
            functional.cross_entropy(net(x), torch.from_numpy(masks.astype(np.int64))).backward()
            optimizer.step()
    with torch.no_grad():
        net.head.weight[:, 8:] = 0.0
    save_file(net.state_dict(), folder / "w.safetensors")
    (train_x, train_y), (test_x, test_y) = draw(50, 1), draw(30, 2)
    np.savez(folder / "a.npz", train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    (folder / "data.toml").write_text(
        f"classes = {json.dumps(NAMES)}\n"
        '[calibration]\nsource = "a.npz"\nimages = "train_x"\nlabels = "train_y"\n'
        '[evaluation]\nsource = "a.npz"\nimages = "test_x"\nlabels = "test_y"\n'
    )
    return folder


def asked(place: Path, **changes: object) -> dict[str, object]:
    return {
        "model": f"python:{place / 'net.py'}:Tiny",
        "weights": str(place / "w.safetensors"),
        "data": str(place / "data.toml"),
        "task": "segmentation",
        "align": 8,
        "target": "onnxruntime",
        "out": str(place / "out"),
        "processes": 2,
        **changes,
    }


@pytest.mark.slow
def test_a_build_ends_with_miou_and_iou_per_class(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch)
    report = build(make_config(asked(place)))
    dense, pruned = (report.accuracy[name] for name in ("dense", "pruned"))
    assert dense.metric == "mIoU"
    assert dense.top1.value > 0.6
    assert report.plan.param_ratio > 0.2, "half of the second layer does nothing"
    assert report.accuracy_change.drop.value == pytest.approx(dense.top1.value - pruned.top1.value)
    assert report.accuracy_change.drop.value < 0.05
    assert len(dense.per_class) == len(NAMES)
    assert set(report.trajectory.class_names) >= set(NAMES)
    page = (place / "out" / "report.html").read_text()
    assert "mIoU" in page
    assert "Top-1" not in page
    again = build(make_config(asked(place)))
    assert again.accuracy == report.accuracy
    shown = json.loads((place / "out" / "report.json").read_text())
    assert shown["accuracy"]["dense"]["metric"] == "mIoU"


@pytest.mark.slow
def test_explain_per_class_after_a_build(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch)
    build(make_config(asked(place)))
    found = program("explain", place / "out", "--per-class", "--json", "--out", place / "pictures")
    assert found.exit_code == 0, found.output
    assert "disk" in found.output


@pytest.mark.slow
@pytest.mark.parametrize("method", ["c-swap", "taylor+affine", "variance+affine"])
def test_a_sweep_gives_curves_of_miou(place: Path, method: str) -> None:
    config = make_config(asked(place, out=str(place / f"sweep-{method}")))
    (curve,) = sweep(config, [method], [0.2, 0.4])
    assert curve.metric == "mIoU"
    assert curve.dense_accuracy > 0.6
    assert curve.points[0].accuracy > 0.5
    assert curve.sauce.low <= curve.sauce.value <= curve.sauce.high


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lrp", "class-aware", "integrated-gradients"])
def test_criteria_that_need_one_class_an_image_say_so(place: Path, method: str) -> None:
    with pytest.raises(InputError, match="one class"):
        sweep(make_config(asked(place, out=str(place / f"no-{method}"))), [method], [0.2])
