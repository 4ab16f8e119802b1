"""`edgeprune prune`: a prefix of a finished run's trajectory, and what a run folder remembers for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_cli import edgeprune
from tiny_builds import Place, calibration, settle, trained_net

import edgeprune as package
from edgeprune.pipeline import Build, Silence
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.kept import keep_settings, kept_config
from edgeprune.pipeline.pruning import make_study
from edgeprune.pipeline.trajectory import taken, whole_steps, within
from edgeprune.runfolder import RunFolder

METHODS = ("c-swap-c", "c-swap")


def walked(folder: Path, method: str) -> Place:
    """A place whose walk is done."""
    place = settle(folder)
    config = place.config(method=method, align=2, group_test=3, max_param_ratio=0.6)
    with RunFolder.open(place.out) as opened:
        keep_settings(config, opened.path)
        assert Build(Inputs.load(config), opened, Silence()).pruning.plan.param_ratio > 0.4
    return place


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return walked(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def compensated(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return walked(tmp_path_factory.mktemp("one"), "c-swap-c")


@pytest.mark.slow
def test_a_share_is_cut_out_and_loads_again(run: Place, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (run.out / "stages").iterdir()}
    found = edgeprune("prune", run.out, "--param-ratio", "0.3", "--out", tmp_path / "small", "--json")
    assert found.exit_code == 0, found.stderr
    said = json.loads(found.stdout)
    assert 0.15 < said["param_ratio"] <= 0.3
    assert all(after % 2 == 0 for _, after in said["widths"].values())
    assert said["files"] == [str(tmp_path / "small" / name) for name in FILES]
    smaller = package.load(tmp_path / "small", trained_net())
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in trained_net().parameters())
    images, labels = calibration()
    assert (smaller(images).argmax(1) == labels).float().mean() > 0.8
    program = torch.export.load(tmp_path / "small" / "pruned.pt2").module()
    assert torch.allclose(program(images), smaller(images), atol=1e-4)
    assert {path: path.read_bytes() for path in (run.out / "stages").iterdir()} == before


FILES = ("plan.json", "weights.safetensors", "pruned.pt2")


@pytest.mark.slow
def test_every_prefix_is_a_part_of_the_next_and_the_end_is_the_run_itself(run: Place) -> None:
    config = kept_config(run.out, {})
    with RunFolder.open(run.out) as folder:
        build = Build(Inputs.load(config), folder, Silence())
        study = make_study(build.analysed, build.images, build.options)
        order = taken(build.pruning.trajectory.steps)
        end = build.pruning.plan
    assert within(study, order, 1.0) == {name: units for name, units in end.removed.items() if units}
    assert within(study, order, 0.0) == {}
    sets = []
    for ratio in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        removed = within(study, order, ratio)
        assert study.ledger.param_ratio(removed) <= ratio
        sets.append({(name, unit) for name, units in removed.items() for unit in units})
        assert all((g.units - len(removed.get(g.name, ()))) % 2 == 0 for g in study.groups)
    assert all(small <= large for small, large in pairwise(sets))
    assert sets[-1]
    longer = [n for n in range(len(order) + 1) if whole_steps(study, order[:n]) == within(study, order, 0.3)]
    assert study.ledger.param_ratio(whole_steps(study, order[: longer[-1] + 1])) > 0.3


@pytest.mark.slow
def test_what_is_printed(compensated: Place) -> None:
    found = edgeprune("prune", compensated.out, "--param-ratio", "0.2")
    first, second, *files = found.stdout.splitlines()
    assert first.startswith("param_ratio 0.1")
    assert "mac_ratio 0." in first
    assert "no class is significantly worse than dense at alpha = 0.05 on the calibration images" in second
    assert files == [f"wrote {compensated.out / 'pruned-0.2' / name}" for name in FILES]


WRONG: dict[str, tuple[Callable[[Place], list[object]], str]] = {
    "no run": (lambda run: [run.folder / "gone", "--param-ratio", "0.3"], "no settings.json"),
    "no walk": (
        lambda run: [run.folder / "gone", "--param-ratio", "0.3", "--model", "x"],
        "gone: no finished run; make one with `edgeprune build",
    ),
    "no share": (lambda run: [run.out], "say how much to remove, like --param-ratio 0.3"),
    "wrong share": (lambda run: [run.out, "--param-ratio", "30"], "give a share above 0, at most 1"),
    "other data": (
        lambda run: [run.out, "--param-ratio", "0.3", "--samples-per-class", "20"],
        "the images changed since its walk",
    ),
    "other settings": (
        lambda run: [run.out, "--param-ratio", "0.3", "--alpha", "0.1"],
        "the analysis settings changed since its walk",
    ),
    "too far": (lambda run: [run.out, "--param-ratio", "0.9"], "--max-param-ratio 0.9"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(compensated: Place, case: str) -> None:
    words, wanted = WRONG[case]
    found = edgeprune("prune", *words(compensated))
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (1, "", 1), found.stderr
    assert wanted in found.stderr
    assert not (compensated.folder / "gone").exists()


@pytest.mark.slow
def test_without_a_run_the_network_is_analysed_and_saved(tmp_path: Path) -> None:
    place = settle(tmp_path)
    found = edgeprune("prune", *place.flags(processes=None, align=2), "--param-ratio", "0.3", "--json")
    assert found.exit_code == 0, found.stderr
    said = json.loads(found.stdout)
    assert 0 < said["param_ratio"] <= 0.3
    assert said["files"] == [str(place.out / "pruned" / name) for name in FILES]
    assert kept_config(place.out, {}) == place.config(processes=5, align=2, max_param_ratio=0.3)


# --- what a run remembers -----------------------------------------------------------------------------


def test_settings_come_back_with_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = settle(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = package.make_config(
        {
            "model": "python:net.py:Tiny",
            "weights": "weights.safetensors",
            "data": "images.npz",
            "mean": (0.5,),
            "max_latency": "12ms",
            "host": "someone@board",
            "budgets": {"default": {"latency_p50": "45 ms"}},
            "max_param_ratio": 0.4,
        }
    )
    place.out.mkdir()
    keep_settings(config, place.out)
    monkeypatch.chdir("/")
    kept = kept_config(place.out, {"alpha": 0.1, "seed": None})
    assert kept.model == f"python:{place.net}:Tiny"
    assert (kept.weights, kept.data) == (str(place.weights), str(place.images))
    assert (kept.mean, kept.alpha, kept.seed, kept.max_param_ratio) == ((0.5,), 0.1, 0, 0.4)
    assert (kept.max_latency, kept.out) == (None, place.out)


def test_names_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openvino").mkdir()  # a folder that happens to be called like a target
    keep_settings(package.make_config({"data": "torchvision:MNIST:here"}), tmp_path)
    kept = kept_config(tmp_path, {})
    assert (kept.model, kept.target) == ("example:digits", "openvino")
    assert kept.data == f"torchvision:MNIST:{tmp_path / 'here'}"
    keep_settings(package.make_config({"data": "openvino"}), tmp_path)
    assert kept_config(tmp_path, {}).data == str(tmp_path / "openvino")


def test_help_has_an_example() -> None:
    assert "edgeprune prune edgeprune-out --param-ratio 0.3" in edgeprune("prune", "--help").stdout
