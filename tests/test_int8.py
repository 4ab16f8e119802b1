"""8 bits: the files run with the runtime alone, keep what was asked for, and say what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sample_report import quantized_report
from tiny_builds import Place, calibration, measure_nothing, program, settle, trained_net

import edgeprune
from edgeprune import quantize
from edgeprune.errors import InputError
from edgeprune.export import to_onnx, to_openvino
from edgeprune.pipeline.quantizing import adds_in_16_bits
from edgeprune.quantize.fallback import scores
from edgeprune.quantize.layers import to_float
from edgeprune.records import Floats, InputSpec, Report

OPEN = """
import sys
sys.modules["torch"] = None
import numpy as np
path, images, out = sys.argv[1:]
x = np.load(images)
if path.endswith((".xml", ".blob")):
    import openvino
    core, exact = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    if path.endswith(".xml"):
        run = core.compile_model(path, "CPU", exact)
    else:
        run = core.import_model(open(path, "rb").read(), "CPU", exact)
    found = [run(one[None])[0] for one in x]
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = [session.run(None, {session.get_inputs()[0].name: one[None]})[0] for one in x]
np.save(out, np.concatenate(found))
assert not any(name.startswith(("torch", "edgeprune", "nncf")) and sys.modules[name] for name in sys.modules)
"""


def run_alone(path: Path, images: Floats, folder: Path) -> Floats:
    """What a file gives in a fresh process that has the runtime and NumPy, and cannot import torch."""
    np.save(folder / "images.npy", images)
    command = [
        sys.executable,
        "-I",
        "-c",
        OPEN,
        str(path),
        str(folder / "images.npy"),
        str(folder / "out.npy"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    found: Floats = np.load(folder / "out.npy")
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Floats]:
    """A verified file, and images."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    images = calibration()[0].numpy()
    to_onnx(trained_net(), InputSpec(shape=images.shape[1:]), path)
    return path, images


def built(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> tuple[Place, Report]:
    measured = quantized_report().measurement
    measure_nothing(monkeypatch, replace(measured, quality="good", noise=()))
    place = settle(folder)
    return place, edgeprune.build(place.config(int8=True, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_file_of_a_build_runs_alone_with_the_parity_stated(target, tmp_path, monkeypatch):
    place, report = built(tmp_path, monkeypatch, target=target)
    assert list(report.artifacts) == ["dense", "pruned", "int8", "pruned+int8"]
    assert report.deployed == "pruned+int8"
    images = calibration()[0].numpy()[:8]
    stated = {line.stage: line for line in report.parity}
    with torch.inference_mode():
        dense = trained_net()(torch.from_numpy(images)).numpy()
    found = {
        name: run_alone(place.out / artifact.path, images, tmp_path)
        for name, artifact in report.artifacts.items()
    }
    np.testing.assert_allclose(found["dense"], dense, atol=1e-3 * np.abs(dense).max())
    for name, source in {"int8": "dense", "pruned+int8": "pruned"}.items():
        line = stated[f"{name}: float32 -> int8"]
        error = np.abs(found[name] - found[source]).max() / np.abs(found[source]).max()
        assert 0 < line.error < 0.2
        assert error < 0.2
        assert report.quantized[name].layers == 3
        assert report.artifacts[name].macs == report.artifacts[source].macs
    for path in (place.out / "models").glob("*.onnx"):
        assert np.isfinite(run_alone(path, images, tmp_path)).all()


@pytest.mark.slow
def test_one_limit_holds_for_pruning_and_8_bits_together(tmp_path, monkeypatch):
    place, report = built(tmp_path, monkeypatch, max_accuracy_drop=2.0)
    how = report.quantized["pruned+int8"]
    assert how.limit == 0.02
    assert how.drop is not None
    assert how.drop <= how.limit
    assert set(report.accuracy_changes["pruned+int8"]) == {"dense", "pruned", "int8"}
    assert report.accuracy_change == report.accuracy_changes["pruned+int8"]["dense"]
    walk = json.loads((place.out / "stages" / "walk.json").read_text())
    evaluated = json.loads((place.out / "stages" / "export-int8.json").read_text())["inputs"]
    assert walk["inputs"]["settings"]
    assert "data" in evaluated


def test_without_nncf_one_line_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError) as caught:
        quantize.quantize_ir(*tiny)
    assert 'pip install "edgeprune[int8]"' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_without_nncf_a_build_ends_with_that_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    place = settle(tmp_path)
    found = program("build", *place.flags(target="openvino"), "--int8")
    assert found.exit_code == 1
    assert 'pip install "edgeprune[int8]"' in found.output.replace("\n", " ")


def test_layers_go_back_until_the_drop_is_within(tiny):
    """The drop is made up: the head costs 3 points, everything else nothing."""
    path, images = tiny
    source = onnx.load(path)
    model = quantize.quantize_onnx(path, images[:20], reduce_range=False)
    names = [layer.name for layer in quantize.quantized_layers(model)]
    assert len(names) == 3

    def drop(trial: onnx.ModelProto) -> float:
        return 0.03 if "head.weight" in {layer.name for layer in quantize.quantized_layers(trial)} else 0.0

    demand = quantize.Demand(drop=drop, limit=0.01, ranking=images[:8])
    found = quantize.restore(model, source, demand)
    assert "head.weight" in found.layers
    assert (found.drop, found.first_drop) == (0.0, 0.03)
    left = {layer.name for layer in quantize.quantized_layers(found.model)}
    assert left == set(names) - set(found.layers)
    unlimited = quantize.restore(model, source, replace(demand, limit=None))
    assert (unlimited.layers, unlimited.drop) == ((), 0.03)
    hopeless = quantize.restore(model, source, replace(demand, drop=lambda _: 1.0))
    assert (hopeless.layers, hopeless.drop) == ((), 1.0)


def test_a_network_with_all_layers_back_is_nearly_exact(tiny):
    path, images = tiny
    source = onnx.load(path)
    model = quantize.quantize_onnx(path, images[:20], reduce_range=False)
    exact = scores(source, images[:20])

    def error(trial: onnx.ModelProto) -> float:
        return float(np.abs(scores(trial, images[:20]) - exact).mean() / np.abs(exact).mean())

    back = to_float(model, source, {layer.name for layer in quantize.quantized_layers(model)})
    assert error(back) < error(model) < 0.1
    assert not quantize.quantized_layers(back)
    onnx.checker.check_model(back)


def test_biases_take_back_what_rounding_shifts(tiny, monkeypatch):
    path, images = tiny
    exact = scores(onnx.load(path), images)

    def shift() -> float:
        made = quantize.quantize_onnx(path, images, reduce_range=True)
        return float(np.abs((scores(made, images) - exact).mean(axis=0)).sum())

    corrected = shift()
    monkeypatch.setattr("edgeprune.quantize.static.correct_biases", lambda *_: None)
    assert corrected < shift()


def test_a_qdq_file_runs_on_openvino_too(tiny, tmp_path):
    path, images = tiny
    made = tmp_path / "int8.onnx"
    onnx.save(quantize.quantize_onnx(path, images[:20], reduce_range=False), made)
    to_openvino(made, made.with_suffix(".xml"))
    ours, theirs = (run_alone(each, images[:8], tmp_path) for each in (made, made.with_suffix(".xml")))
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(ours).max()


@pytest.mark.parametrize(
    ("features", "expected"),
    [("avx avx2 fma", True), ("avx2 avx512f avx512_vnni", False), ("avx2 avx_vnni", False), ("asimd", False)],
)
def test_weights_have_7_bits_where_8_could_overflow(features, expected):
    assert adds_in_16_bits({"features": features}) is expected
