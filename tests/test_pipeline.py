"""From a network and images to a report, and the Python API for notebooks."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_builds import Place, as_input, calibration, make_net, measure_nothing, measured, settle, trained_net
from torch import Tensor, nn
from torch.nn import functional

import edgeprune
from edgeprune import PrunedModel, PruneOptions, report, runtime
from edgeprune.channels import masked
from edgeprune.copying import copied
from edgeprune.errors import (
    DataError,
    EdgepruneError,
    InputError,
    ModelError,
    NothingToPrune,
    TargetUnreachable,
)
from edgeprune.pipeline.options import Images, Labelled
from edgeprune.pipeline.pruning import analyse, make_study
from edgeprune.records import InputSpec, Outcome, Split

PLAIN = PruneOptions(method="c-swap")
USELESS = tuple(range(8, 16))
"""Units of `inner.weight` that nothing reads."""


@pytest.fixture(scope="module")
def pruned() -> PrunedModel:
    return edgeprune.prune(trained_net(), calibration(), options=PLAIN)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    measure_nothing(monkeypatch)
    return settle(tmp_path)


def hard_coded() -> nn.Module:
    """A network whose forward spells out a width, so that its class cannot be kept."""

    class HardCoded(type(make_net())):  # type: ignore[misc]  # made by exec
        def forward(self, x: Tensor) -> Tensor:
            features = torch.relu(self.inner(torch.relu(self.norm(self.stem(x)))))
            return self.head(features.mean((2, 3)).view(len(x), 16))

    return like(trained_net(), HardCoded())


def one_by_one() -> nn.Module:
    """A network that takes one image at a time."""

    class OneByOne(type(make_net())):  # type: ignore[misc]  # made by exec
        def forward(self, x: Tensor) -> Tensor:
            assert len(x) == 1
            return super().forward(x)

    return like(trained_net(), OneByOne())


def like(net: nn.Module, other: nn.Module) -> nn.Module:
    other.load_state_dict(net.state_dict())
    return other.eval()


# --- build --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_build_gives_the_report_that_it_writes(place: Place, target: str) -> None:
    found = edgeprune.build(place.config(target=target, max_latency="5 ms"))
    assert report.read(place.out / "report.json") == found
    jsonschema.validate(place.report(), report.schema())
    assert {path.name for path in place.out.glob("report.*")} == {"report.json", "report.html", "report.md"}
    assert set(USELESS) <= set(found.plan.removed["inner.weight"])
    assert found.splits == {"calibration": 120, "validation": 30, "evaluation": 60}
    assert {parity.stage.partition(":")[0] for parity in found.parity} == {"dense", "pruned"}
    assert found.verdict.outcome is Outcome.FITS
    assert not list(place.out.rglob(".tmp-*"))


@pytest.mark.slow
def test_accuracy_is_that_of_the_deployed_file_on_all_evaluation_images(place: Place) -> None:
    found = edgeprune.build(place.config())
    arrays = np.load(place.images)
    predict = runtime.load(place.out / found.artifacts["pruned"].path, runtime="onnxruntime", threads=1)
    predictions = predict(as_input(arrays["test_x"]).numpy()).argmax(axis=1)
    assert found.accuracy["pruned"].top1.value == (predictions == arrays["test_y"]).mean()
    assert found.accuracy["pruned"].images == len(arrays["test_y"])


@pytest.mark.slow
def test_the_pruned_files_agree_with_each_other(place: Place) -> None:
    found = edgeprune.build(place.config())
    images = as_input(np.load(place.images)["test_x"])
    module = edgeprune.load(place.out / "pruned", make_net())
    program = torch.export.load(place.out / "pruned" / "pruned.pt2").module()
    predict = runtime.load(place.out / found.artifacts["pruned"].path, runtime="onnxruntime", threads=1)
    assert torch.allclose(module(images), program(images), atol=1e-5)
    assert module(images).detach().numpy() == pytest.approx(predict(images.numpy()), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, None], ids=["batch 1", "any batch"])
def test_an_exported_program_builds_and_its_result_builds_again(place: Place, batch: int | None) -> None:
    path = place.folder / "net.pt2"
    shapes = None if batch else ({0: torch.export.Dim.DYNAMIC},)
    images = torch.zeros(batch or 2, 1, 8, 8)
    torch.export.save(torch.export.export(trained_net(), (images,), dynamic_shapes=shapes), path)
    first = edgeprune.build(place.config(model=str(path), weights=None))
    again = edgeprune.build(
        place.config(
            model=str(place.out / "pruned" / "pruned.pt2"), weights=None, out=str(place.folder / "out2")
        )
    )
    assert set(USELESS) <= set(first.plan.removed["inner.weight"])
    assert again.artifacts["dense"].params == first.artifacts["pruned"].params


@pytest.mark.slow
@pytest.mark.parametrize("make", [hard_coded, one_by_one])
def test_networks_with_a_mind_of_their_own_build(
    place: Place, monkeypatch: pytest.MonkeyPatch, make: Callable[[], nn.Module]
) -> None:
    monkeypatch.setitem(sys.modules, "own_nets", SimpleNamespace(make=make))  # type: ignore[arg-type]
    found = edgeprune.build(place.config(model="python:own_nets:make", weights=None))
    assert set(USELESS) <= set(found.plan.removed["inner.weight"])


def test_a_limit_on_accuracy_needs_validation_images(place: Place) -> None:
    description = place.folder / "no_validation.toml"
    description.write_text(f'[calibration]\nsource = "{place.images}"\nvalidation_share = 0\n')
    with pytest.raises(DataError, match="needs validation images"):
        edgeprune.build(place.config(data=str(description), max_accuracy_drop=1))


def test_a_missing_runtime_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TargetUnreachable, match="onnxruntime"):
        edgeprune.build(place.config())


# --- prune --------------------------------------------------------------------------------------------


def test_prune_finds_what_nothing_reads(pruned: PrunedModel) -> None:
    assert pruned.pruning.plan.removed == {"inner.weight": USELESS}
    assert pruned.own_class
    assert type(pruned.module).__name__ == "Tiny"
    assert not pruned.module.training
    weights = {name: tuple(tensor.shape) for name, tensor in pruned.module.named_parameters()}
    assert weights["inner.weight"] == (8, 16, 3, 3)
    assert weights["head.weight"] == (3, 8)


@pytest.mark.slow
def test_a_notebook_shows_what_prune_gives(pruned: PrunedModel) -> None:
    shown = pruned._repr_html_()
    assert "PrunedModel: Tiny" in shown
    assert f"{sum(parameter.numel() for parameter in pruned.module.parameters()):,} parameters" in shown
    assert "<td>16</td><td>8</td>" in shown


def test_prune_leaves_the_model_as_it_was() -> None:
    net = trained_net().train()
    before = copy.deepcopy(net.state_dict())
    edgeprune.prune(net, calibration())
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_cutting_out_is_masking(pruned: PrunedModel) -> None:
    images, _ = calibration()
    coupling = analyse(trained_net(), InputSpec(shape=(1, 8, 8))).coupling
    expected = masked(coupling, pruned.pruning.plan.removed)(images)
    assert torch.allclose(pruned.module(images), expected, atol=1e-5)


def test_arrays_and_tensors_prune_alike(pruned: PrunedModel) -> None:
    images, labels = calibration()
    found = edgeprune.prune(
        trained_net(), (images.double().requires_grad_().detach().numpy(), labels.numpy()), options=PLAIN
    )
    assert found.pruning == pruned.pruning


def test_class_names_stand_in_the_log() -> None:
    found = edgeprune.prune(trained_net(), calibration(), class_names=("ant", "bee", "cow"))
    assert found.pruning.trajectory.class_names == ("ant", "bee", "cow", "all classes together")


@pytest.mark.parametrize("limit", [0.1, 0.3, 0.5])
def test_no_more_parameters_go_than_allowed(limit: float) -> None:
    options = PruneOptions(alpha=1e-9, align=1, max_param_ratio=limit)
    found = edgeprune.prune(trained_net(), calibration(), options=options)
    dense, left = (sum(p.numel() for p in net.parameters()) for net in (make_net(), found.module))
    assert 0 < 1 - left / dense <= limit


@pytest.mark.slow
def test_accuracy_on_the_validation_images_falls_no_more_than_allowed() -> None:
    images, labels = calibration()
    known, held_out = (images[:60], labels[:60]), (images[60:], labels[60:])
    options = PruneOptions(alpha=1e-12, align=1)
    strict = replace(options, max_accuracy_drop=0.02)
    free = edgeprune.prune(trained_net(), known, options=options)
    found = edgeprune.prune(trained_net(), known, validation=held_out, options=strict)
    dense, far, near = (share_right(net, held_out) for net in (trained_net(), free.module, found.module))
    assert dense - near <= 0.02 < dense - far
    assert 0 < found.pruning.plan.param_ratio < free.pruning.plan.param_ratio


def share_right(net: nn.Module, pair: tuple[Tensor, Tensor]) -> float:
    return float((net(pair[0]).argmax(1) == pair[1]).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("make", [trained_net, hard_coded, one_by_one])
def test_a_pruned_model_is_a_model_like_any_other(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    images, labels = calibration()
    found = edgeprune.prune(make(), (images, labels))
    assert found.own_class is (make is not hard_coded)
    assert bool(found.reason) is not found.own_class
    twin = copied(found.module)
    assert torch.equal(twin(images[:1]), found.module(images[:1]))
    fine_tune_(twin, images[:1], labels[:1])
    assert not torch.equal(twin(images[:1]), found.module(images[:1]))
    again = edgeprune.prune(found.module, (images, labels), options=PruneOptions(alpha=1e-6, align=1))
    assert 0 < again.pruning.plan.param_ratio < 1
    found.save(tmp_path / "saved")
    loaded = edgeprune.load(tmp_path / "saved", make())
    assert torch.equal(loaded(images[:1]), found.module(images[:1]))


def fine_tune_(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One step on all weights."""
    weights = list(net.parameters())
    assert weights
    assert all(weight.requires_grad for weight in weights)
    functional.cross_entropy(net(images), labels).backward()
    torch.optim.SGD(weights, 0.1).step()


def wrong_pairs() -> dict[str, tuple[Callable[[Tensor, Tensor], tuple[object, object]], str]]:
    return {
        "counts differ": (lambda x, y: (x, y[:5]), r"images \(150, 1, 8, 8\) and labels \(5,\)"),
        "one hot": (lambda x, y: (x, functional.one_hot(y)), r"labels \(150, 3\): give"),
        "no images": (lambda x, y: (x[:0], y[:0]), r"images \(0, 1, 8, 8\)"),
        "one image": (lambda x, y: (x[0], y[0]), r"images \(1, 8, 8\) and labels \(\)"),
        "pixels": (lambda x, y: ((255 * x).byte(), y), "images are uint8; give floats"),
        "labels from -1": (lambda x, y: (x, y - 1), "labels are int64 from -1; give whole numbers from 0"),
        "float labels": (lambda x, y: (x, y.float()), "labels are float32"),
        "label 4 of 3": (lambda x, y: (x, y + 2), "label 4 .* out of range: the network has 3 outputs"),
        "other labels": (lambda x, y: (x, (y + 1) % 3), 'set classes = \\["1", "2", "0"\\]'),
        "no labels": (
            lambda x, y: (x, (y + 1 + torch.arange(len(y)) % 2) % 3),
            "gets [0-9] of 150 calibration images right",
        ),
        "few": (lambda x, y: (x[:6], y[:6]), "gets . of 6 calibration images right"),
    }


@pytest.mark.parametrize("case", wrong_pairs())
def test_images_and_labels_that_do_not_go_together_are_refused(case: str) -> None:
    spoil, message = wrong_pairs()[case]
    with pytest.raises(DataError, match=message):
        edgeprune.prune(trained_net(), spoil(*calibration()))  # type: ignore[arg-type]  # wrong on purpose


def test_too_few_class_names_are_refused() -> None:
    with pytest.raises(DataError, match="label 2 has no name: there are 2 class names"):
        edgeprune.prune(trained_net(), calibration(), class_names=["ant", "bee"])


def test_outputs_that_are_nan_are_refused() -> None:
    images, labels = calibration()
    with pytest.raises(ModelError, match="NaN or Inf for 150 of 150 calibration images"):
        edgeprune.prune(trained_net(), (images * float("nan"), labels))


def test_a_network_with_nothing_to_prune_says_why() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(
        NothingToPrune, match=r"no channel can be removed: .*the network's output \(3 channels\)"
    ):
        edgeprune.prune(net, calibration())


# --- save and load ------------------------------------------------------------------------------------


@pytest.fixture
def saved(pruned: PrunedModel, tmp_path: Path) -> Path:
    pruned.save(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_network_comes_back(pruned: PrunedModel, saved: Path) -> None:
    images, _ = calibration()
    fresh = make_net()
    assert torch.equal(edgeprune.load(str(saved), fresh)(images), pruned.module(images))
    assert fresh.inner.out_channels == 16


def test_the_exported_program_needs_no_class_and_takes_any_batch(pruned: PrunedModel, saved: Path) -> None:
    images, _ = calibration()
    module = torch.export.load(saved / "pruned.pt2").module()
    for count in (1, 2, 7):
        assert torch.allclose(module(images[:count]), pruned.module(images[:count]), atol=1e-5)


def wider() -> nn.Module:
    net = make_net()
    net.stem, net.norm = nn.Conv2d(1, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20)
    net.inner = nn.Conv2d(20, 16, 3, stride=2, padding=1)
    return net


def narrower() -> nn.Module:
    net = make_net()
    net.inner, net.head = nn.Conv2d(16, 8, 3, stride=2, padding=1), nn.Linear(8, 3)
    return net


def other() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))


@pytest.mark.parametrize("make", [wider, narrower, other])
def test_a_plan_for_another_network_is_refused(saved: Path, make: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError, match="made for another network"):
        edgeprune.load(saved, make())


def edit_plan(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    change(plan)
    (folder / "plan.json").write_text(json.dumps(plan))


def rename_weight(folder: Path) -> None:
    weights = load_file(folder / "weights.safetensors")
    save_file(
        {name.replace("head", "tail"): tensor for name, tensor in weights.items()},
        folder / "weights.safetensors",
    )


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no plan": lambda folder: (folder / "plan.json").unlink(),
    "half a plan": lambda folder: (folder / "plan.json").write_text('{"format": "edgepr'),
    "a plan that is a list": lambda folder: (folder / "plan.json").write_text("[]"),
    "not text": lambda folder: (folder / "plan.json").write_bytes(b"\xff\x00"),
    "another format": lambda folder: edit_plan(folder, lambda plan: plan.update(format="x/2")),
    "units that are words": lambda folder: edit_plan(
        folder, lambda plan: plan.update(plan={"removed": {"inner.weight": ["a"]}})
    ),
    "units out of range": lambda folder: edit_plan(
        folder, lambda plan: plan.update(plan={"removed": {"inner.weight": [99]}})
    ),
    "all units": lambda folder: edit_plan(
        folder, lambda plan: plan.update(plan={"removed": {"inner.weight": list(range(16))}})
    ),
    "an input of two numbers": lambda folder: edit_plan(folder, lambda plan: plan.update(input_shape=[1, 8])),
    "no weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "half the weights": lambda folder: (folder / "weights.safetensors").write_bytes(
        (folder / "weights.safetensors").read_bytes()[:-50]
    ),
    "other weights": rename_weight,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(saved: Path, damage: str) -> None:
    DAMAGE[damage](saved)
    with pytest.raises(InputError) as caught:
        edgeprune.load(saved, make_net())
    assert str(saved) in str(caught.value)


def test_load_runs_nothing_from_the_files(saved: Path, tmp_path: Path) -> None:
    payload = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()"
    (saved / "weights.safetensors").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    (saved / "plan.json").write_text(payload)
    with pytest.raises(EdgepruneError):
        edgeprune.load(saved, make_net())
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_cannot_be_written_is_named(pruned: PrunedModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgepruneError, match=r"file/saved: cannot be written"):
        pruned.save(tmp_path / "file" / "saved")


# --- the public names ---------------------------------------------------------------------------------


def test_the_public_names_are_there() -> None:
    assert all(hasattr(edgeprune, name) for name in edgeprune.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'prone'"):
        edgeprune.prone  # noqa: B018


def test_calibration_images_are_not_evaluation_images(place: Place) -> None:
    from edgeprune import calibration as room

    data = room.load(str(place.images))
    digests = [{sample.digest for sample in data.samples[split]} for split in Split]
    assert sum(map(len, digests)) == len(set.union(*digests))


@pytest.mark.slow
def test_a_build_without_a_watcher_is_silent(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    edgeprune.build(place.config())
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_over_budget_is_a_result(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch, measured(pruned_ms=6.0))
    assert edgeprune.build(place.config(max_latency="5ms")).verdict.outcome is Outcome.OVER


def test_images_that_no_fit_has_seen_have_a_say() -> None:
    images, labels = (part.numpy() for part in calibration())
    known = Labelled(images=images[:60], labels=labels[:60])
    held_out = Labelled(images=images[60:], labels=labels[60:])
    analysed = analyse(trained_net(), InputSpec(shape=(1, 8, 8)))
    seen = Images(calibration=known, names=["a", "b", "c"], validation=held_out)
    study = make_study(analysed, seen, PruneOptions())
    dense = study.program.dense
    worse = {**dense, "head.weight": 0.2 * dense["head.weight"]}
    assert study.holds_elsewhere(dense)
    assert not study.holds_elsewhere(worse)
    unseen = make_study(analysed, replace(seen, validation=None), PruneOptions())
    assert unseen.holds_elsewhere(worse)


def test_a_network_no_better_than_a_guess_is_told() -> None:
    images, labels = calibration()
    constant = trained_net()
    with torch.no_grad():
        constant.head.weight.mul_(1e-3)
        constant.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    found = edgeprune.prune(constant, (images, labels), options=PLAIN)
    count = int((labels == 0).sum())
    assert found.pruning.notes[0].startswith(
        f"the dense network gets {count} of {len(labels)} calibration images right, no more than"
    )
    good = edgeprune.prune(trained_net(), (images, labels), options=PLAIN)
    assert not any("no more than" in note for note in good.pruning.notes)
    one_class = labels == 0
    alone = edgeprune.prune(trained_net(), (images[one_class], labels[one_class]), options=PLAIN)
    told = [note for note in alone.pruning.notes if "no more than" in note]
    assert not told, "one class tells nothing"
