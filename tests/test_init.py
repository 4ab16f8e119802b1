"""`edgeprune init`: what it writes is what `build` reads."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from tiny_builds import Place, measure_nothing, program, settle

from edgeprune.cli.initializing import beside, duration, plain
from edgeprune.config import BuildConfig, make_config


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
