"""`edgeprune init`: what it writes is what `build` reads."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_builds import Place, measure_nothing, program, settle

from edgeprune import calibration
from edgeprune.cli.initializing import beside, duration, plain
from edgeprune.config import BuildConfig, make_config
from edgeprune.pipeline.tasking import guess_task

SMALL = "nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return settle(tmp_path_factory.mktemp("init"))


@pytest.fixture(scope="module")
def written(place: Place) -> Path:
    file = place.folder / "edgeprune.toml"
    done = program(
        "init", f"--model=python:{place.net}:Tiny", f"--weights={place.weights}", f"--data={place.images}",
        "--target=onnxruntime", f"--out={file}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"next: edgeprune build -c {file}" in done.output
    assert "walk: about" in done.output
    return file


@pytest.mark.slow
def test_the_file_means_what_was_asked_for(place: Place, written: Path) -> None:
    found = make_config({}, file=written)
    assert Path(found.model.removeprefix("python:").removesuffix(":Tiny")).resolve() == place.net.resolve()
    assert Path(str(found.data)).resolve() == place.images.resolve()
    assert found.target == "onnxruntime"
    assert found.out == written.parent / "edgeprune-out"


@pytest.mark.slow
def test_no_path_in_it_is_tied_to_where_it_lies(written: Path) -> None:
    settings = tomllib.loads(written.read_text())
    assert settings["model"] == "python:net.py:Tiny"
    assert (settings["weights"], settings["data"]) == ("weights.safetensors", "images.npz")


@pytest.mark.slow
def test_build_accepts_it(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch)
    done = program("build", "-c", written, "--max-latency", "1s")
    assert done.exit_code == 0, done.output
    assert (written.parent / "edgeprune-out" / "report.json").is_file()


@pytest.mark.slow
def test_what_is_commented_out_could_be_used(written: Path) -> None:
    lines = written.read_text().splitlines()
    settings = [line.removeprefix("# ") for line in lines if line.startswith("# ") and " = " in line]
    assert len(settings) > 10
    for line in settings:
        found = tomllib.loads(line)
        assert set(found) <= {*BuildConfig.model_fields, "latency_p50", "accuracy_top1"}, line
        if not set(found) & {"latency_p50", "accuracy_top1"}:
            make_config(found)


@pytest.mark.slow
def test_the_budgets_shown_are_budgets(written: Path) -> None:
    text = written.read_text()
    tables = text[text.index("# [budgets.default]") :].replace("# ", "")
    assert len(make_config(tomllib.loads(tables)).budget.limits) == 2


@pytest.mark.slow
def test_a_file_that_is_there_stays(written: Path) -> None:
    before = written.read_text()
    done = program("init", "--out", written)
    assert done.exit_code == 1
    assert "--force" in done.output
    assert written.read_text() == before


@pytest.mark.slow
def test_json_says_what_was_seen(place: Place, tmp_path: Path) -> None:
    flags = place.flags(out=tmp_path / "x.toml", processes=None, align=None)
    done = program("init", *flags, "--json")
    assert done.exit_code == 0, done.output
    seen = json.loads(done.stdout)
    assert seen["images"] == {"calibration": 120, "validation": 30, "evaluation": 60}
    assert seen["units"] == 32
    assert seen["metric"] == "top-1"
    assert 0.9 < seen["dense"] <= 1
    assert 0 < seen["walk"]["least_seconds"] <= seen["walk"]["most_seconds"]


def test_what_build_would_refuse_init_refuses() -> None:
    done = program("init", "--model", "torchvision:resnet18", "--out", "/nowhere/at/all.toml")
    assert done.exit_code == 1
    assert "give --weights FILE" in done.output


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (59, "59 s"), (200, "3 min"), (9_000, "2.5 h")])
def test_an_estimate_is_not_more_exact_than_it_is(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_names_stay_names(tmp_path: Path) -> None:
    assert beside("model", "torchvision:resnet18", tmp_path) == "torchvision:resnet18"
    assert beside("weights", "DEFAULT", tmp_path) == "DEFAULT"
    assert beside("data", "imagenet", tmp_path) == "imagenet"
    assert plain("a\nb\x00c") == "a b c"


# --- other tasks --------------------------------------------------------------------------------------


def beside_images(folder: Path, kind: str, count: int = 6) -> Path:
    """A folder of some images and, beside them, their masks or boxes."""
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    if kind == "masks":
        (folder / "masks").mkdir()
        for number in range(count):
            mask = np.full((8, 8), 255, dtype=np.uint8)
            mask[:4] = number % 3
            Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    elif kind == "voc":
        (folder / "Annotations").mkdir()
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox>"
        for number in range(count):
            text = f"<annotation><object><name>cat</name>{box}</object></annotation>"
            (folder / "Annotations" / f"{number}.xml").write_text(text)
    elif kind == "coco":
        content = {
            "images": [{"id": number, "file_name": f"{number}.png"} for number in range(count)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"image_id": n, "category_id": 1, "bbox": [0, 0, 4, 5]} for n in range(count)],
        }
        (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("kind", "labels", "classes"),
    [
        ("masks", "masks", ("class 0", "class 1", "class 2")),
        ("voc", "boxes", ("cat",)),
        ("coco", "boxes", ("cat",)),
    ],
)
def test_a_folder_of_answers_is_described(
    tmp_path: Path, kind: str, labels: str, classes: tuple[str, ...]
) -> None:
    text = calibration.describe_folder(beside_images(tmp_path / "set", kind))
    assert text is not None
    place = tmp_path / "data.toml"
    place.write_text(text)
    assert calibration.guess_kind(str(place), ()) == labels
    data = calibration.load(str(place), kind=labels)
    assert data.classes == classes
    assert sum(map(len, data.samples.values())) == 6


def test_a_folder_of_classes_is_none(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    assert calibration.describe_folder(tmp_path) is None
    assert calibration.guess_kind(str(tmp_path), ()) == "classes"


def test_the_task_is_found(tmp_path: Path) -> None:
    images, masks = np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", x=images, masks=masks, boxes=np.zeros((4, 2, 6)), y=np.zeros(4, np.int64))
    for labels, task in {"masks": "segmentation", "boxes": "detection", "y": "classification"}.items():
        place = tmp_path / f"{labels}.toml"
        place.write_text(f'[calibration]\nsource = "a.npz"\nimages = "x"\nlabels = "{labels}"\n')
        assert guess_task(make_config({"data": str(place), "model": "python:net.py:make"})) == task
    for model, task in {
        "torchvision:ssdlite320_mobilenet_v3_large": "detection",
        "torchvision:lraspp_mobilenet_v3_large": "segmentation",
        "torchvision:resnet18": "classification",
    }.items():
        assert guess_task(make_config({"model": model})) == task


@pytest.mark.slow
def test_init_of_a_folder_with_masks_writes_what_build_reads(tmp_path: Path) -> None:
    folder = beside_images(tmp_path / "set", "masks", 80)
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef make():\n    return " + SMALL + "\n")
    out = tmp_path / "edgeprune.toml"
    done = program("init", f"--model=python:{tmp_path / 'net.py'}:make", "--data", folder, "--out", out)
    assert done.exit_code == 0, done.output
    assert "data.toml" in done.output
    found = make_config({}, file=out)
    assert found.task == "segmentation"
    assert Path(str(found.data)) == tmp_path / "data.toml"
    again = program("init", f"--model=python:{tmp_path / 'net.py'}:make", "--data", folder, f"--out={out}2")
    assert again.exit_code == 1
    assert "data.toml: is there already" in again.output
