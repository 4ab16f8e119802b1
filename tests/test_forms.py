"""What can be deployed of a verified file: sizes, opsets, metadata, 16 bits, processing inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image
from test_int8 import run_alone
from tiny_builds import calibration, measure_nothing, settle, trained_net
from torch import Tensor, nn

import edgeprune
from edgeprune import export, runtime
from edgeprune.calibration.pixels import preprocess_image
from edgeprune.config import make_config
from edgeprune.errors import ConfigError, ModelError
from edgeprune.records import Floats, InputSpec, OnnxOptions, Preprocess

SPEC = InputSpec(shape=(3, 24, 32))


class Net(nn.Module):
    """Reads any size; its weights are large enough to be stored in 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 24, 3, padding=1, stride=2), nn.Conv2d(24, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.relu(self.inner(torch.relu(self.stem(x)))).mean((2, 3)))
        return scores


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def scores(path: Path, images: Floats) -> Floats:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: Floats = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def openvino_scores(path: Path, images: Floats) -> Floats:
    found: Floats = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)[0]
    return found


def exact(module: nn.Module, images: Floats) -> Floats:
    with torch.inference_mode():
        found: Floats = module(torch.from_numpy(images)).numpy()
    return found


def test_batch_and_size_stay_free_where_asked(tmp_path):
    path = tmp_path / "free.onnx"
    module = net()
    export.to_onnx(module, SPEC, path, OnnxOptions(batch=None, free_size=True))
    export.simplify(path)
    export.to_openvino(path, path.with_suffix(".xml"))
    assert export.shape_of(onnx.load(path).graph.input[0]) == (0, 3, 0, 0)
    for shape in ((1, 3, 24, 32), (2, 3, 40, 24)):
        images = np.random.default_rng(0).random(shape, dtype=np.float32)
        for found in (scores(path, images), openvino_scores(path.with_suffix(".xml"), images)):
            export.parity("torch -> free", exact(module, images), found)
    fixed = tmp_path / "fixed.onnx"
    export.to_onnx(module, SPEC, fixed)
    assert export.params_and_macs(path, SPEC) == export.params_and_macs(fixed)
    assert export.params_and_macs(fixed)[1] > 0


def test_a_network_that_cannot_have_a_free_size_says_so(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 5)).eval()
    with pytest.raises(ModelError, match=r"reads 24x32 images and no 56x64 ones .*--input-shape") as caught:
        export.to_onnx(module, SPEC, tmp_path / "net.onnx", OnnxOptions(free_size=True))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opset", [18, 21])
def test_the_opset_is_the_one_asked_for(opset, tmp_path):
    path = tmp_path / "net.onnx"
    assert export.to_onnx(net(), SPEC, path, OnnxOptions(opset=opset)) == ()
    assert onnx.load(path).opset_import[0].version == opset


def test_a_file_says_what_it_is(tmp_path):
    path = tmp_path / "net.onnx"
    preprocess = Preprocess(crop=(24, 32), mean=(0.5,))
    description = export.describe(("a", "ö"), preprocess, {"model": "net", "edgeprune": "0.1.0"})
    export.to_onnx(net(), SPEC, path, OnnxOptions(description=description))
    export.simplify(path)
    found = export.read_description(path)
    assert found["labels"] == ["a", "ö"]
    assert found["preprocess"]["crop"] == [24, 32]
    assert found["provenance"] == {"edgeprune": "0.1.0", "model": "net"}
    export.to_openvino(path, path.with_suffix(".xml"))
    ir = openvino.Core().read_model(path.with_suffix(".xml"))
    assert ir.get_rt_info(["edgeprune", "labels"]).astype(str) == '["a", "ö"]'
    assert str(tmp_path) not in path.read_bytes().decode("latin1")


def test_16_bits_halve_the_file_and_hardly_move_the_scores(tmp_path):
    path, module = tmp_path / "net.onnx", net()
    images = np.random.default_rng(0).random((1, *SPEC.shape), dtype=np.float32)
    export.to_onnx(module, SPEC, path)
    before = path.stat().st_size
    [note] = export.to_fp16(path)
    assert "16 bits" in note
    assert path.stat().st_size < 0.7 * before
    moved = export.parity("32 bits -> 16 bits", exact(module, images), scores(path, images), limit=1e-2)
    assert moved.error > 0
    export.to_openvino(path, path.with_suffix(".xml"), fp16=True)
    export.parity("", exact(module, images), openvino_scores(path.with_suffix(".xml"), images), limit=1e-2)


def test_weights_beyond_16_bits_stay_in_32(tmp_path):
    path, module = tmp_path / "net.onnx", net()
    with torch.no_grad():
        module.stem.weight[0, 0, 0, 0] = 1e6
    with torch.no_grad():
        module.inner.weight[0, 0, 0, 0] = 1e6
    export.to_onnx(module, SPEC, path)
    before = path.read_bytes()
    assert "stay in 32 bits" in export.to_fp16(path)[0]
    assert path.read_bytes() == before


@pytest.mark.parametrize(("suffix", "for_this_cpu"), [(".ort", False), (".onnx", True)])
def test_onnx_runtimes_own_forms_give_the_same(suffix, for_this_cpu, tmp_path):
    path, made, module = tmp_path / "net.onnx", tmp_path / f"made{suffix}", net()
    images = np.random.default_rng(0).random((1, *SPEC.shape), dtype=np.float32)
    export.to_onnx(module, SPEC, path)
    export.to_ort(path, made, for_this_cpu=for_this_cpu)
    export.parity("onnx -> own form", exact(module, images), scores(made, images))


PROCESSES = {
    "sizes equal": (Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)), (24, 32)),
    "shorter side, crop": (Preprocess(resize=(36,), crop=(24, 32)), (75, 61)),
    "larger, cubic, blue first": (
        Preprocess(color="bgr", resize=(24, 32), interpolation="bicubic", scale=1.0, mean=(110.0,)),
        (17, 19),
    ),
    "nearest": (Preprocess(resize=(24, 32), interpolation="nearest"), (48, 96)),
    "upside down": (Preprocess(crop=(24, 32), rotate=180), (27, 35)),
    "on its side": (Preprocess(rotate=90), (32, 24)),
    "on its other side": (Preprocess(rotate=270), (32, 24)),
    "padded": (Preprocess(crop=(24, 32)), (21, 27)),
}


@pytest.mark.parametrize(("preprocess", "frame"), PROCESSES.values(), ids=PROCESSES)
def test_the_processing_inside_equals_ours(preprocess, frame, tmp_path):
    path, made, module = tmp_path / "net.onnx", tmp_path / "app.onnx", net()
    export.to_onnx(module, SPEC, path)
    export.with_processing(path, made, preprocess, frame=frame, end="scores")
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(frame[::-1], Image.Resampling.BICUBIC)
    expected = exact(module, preprocess_image(picture, preprocess)[None])
    frames = np.asarray(picture)[None]
    export.parity("ours -> inside", expected, scores(made, frames), limit=0.02)
    export.to_openvino(made, made.with_suffix(".xml"))
    export.parity("ours -> openvino", expected, openvino_scores(made.with_suffix(".xml"), frames), limit=0.02)


def test_a_gray_frame_has_one_channel_and_the_end_can_be_a_class(tmp_path):
    path, images = tmp_path / "net.onnx", calibration()[0].numpy()[:4]
    export.to_onnx(trained_net(), InputSpec(shape=images.shape[1:]), path)
    pixels = np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    gray, frame = Preprocess(color="gray"), images.shape[2:]
    wanted = exact(trained_net(), images)
    for end in ("class", "probabilities"):
        made = tmp_path / f"{end}.onnx"
        export.with_processing(path, made, gray, frame=frame, end=end)
        found = np.concatenate([scores(made, one[None]) for one in pixels])
        if end == "class":
            assert found.tolist() == wanted.argmax(axis=1).tolist()
        else:
            shares = np.exp(wanted) / np.exp(wanted).sum(axis=1, keepdims=True)
            np.testing.assert_allclose(found, shares, atol=1e-4)


def test_maps_of_scores_end_in_a_class_for_each_pixel(tmp_path):
    module = nn.Conv2d(3, 4, 3, padding=1).eval()
    export.to_onnx(module, SPEC, tmp_path / "net.onnx")
    export.with_processing(
        tmp_path / "net.onnx", tmp_path / "app.onnx", Preprocess(), frame=(24, 32), end="class"
    )
    frames = np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), dtype=np.uint8)
    expected = exact(module, (frames / np.float32(255)).transpose(0, 3, 1, 2)).argmax(axis=1)
    found = scores(tmp_path / "app.onnx", frames)
    assert found.shape == (1, 24, 32)
    assert (found == expected).mean() > 0.999
    declared = onnx.load(tmp_path / "app.onnx").graph.output[0]
    assert export.shape_of(declared) == (1, 24, 32)


def test_frames_that_come_out_in_another_size_are_refused(tmp_path):
    path = tmp_path / "net.onnx"
    export.to_onnx(net(), SPEC, path)
    with pytest.raises(ModelError, match="come out as 20x20, but the network reads 24x32"):
        export.with_processing(path, tmp_path / "app.onnx", Preprocess(), frame=(20, 20), end="scores")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_build_writes_the_forms_that_were_asked_for(target, tmp_path, monkeypatch):
    measure_nothing(monkeypatch)
    place = settle(tmp_path)
    settings = {"target": target, "input_shape": "?x1x8x8", "opset": 19, "fp16": True, "frame": "8x8"}
    config = place.config(**settings, forms=("ort", "optimized", "compiled"), frame_output="class")
    report = edgeprune.build(config)
    assert set(report.forms) == {"ort", "optimized", "compiled", "frame"}
    network = place.out / "models" / "pruned.onnx"
    assert onnx.load(network).opset_import[0].version == 19
    assert export.shape_of(onnx.load(network).graph.input[0]) == (0, 1, 8, 8)
    assert export.read_description(network)["provenance"]["target"] == target
    assert export.read_description(network)["preprocess"]["color"] == "gray"
    stages = {line.stage: line for line in report.parity}
    assert stages["pruned: ours -> processing inside"].error < 0.05
    images = calibration()[0].numpy()[:4]
    expected = runtime.load(place.out / report.artifacts["pruned"].path, runtime=target, threads=1)(images)
    for name in ("ort", "optimized", "compiled"):
        found = run_alone(place.out / report.forms[name].path, images, tmp_path)
        np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())
    pixels = np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    classes = run_alone(place.out / report.forms["frame"].path, pixels, tmp_path)
    assert classes.tolist() == expected.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_shape": "1x3x?x24"}, "height and width are both numbers or both"),
        ({"input_shape": "4x3x24x24"}, "the batch is 1 or"),
        ({"frame": "480"}, "like 480x640"),
        ({"fp16": True, "int8": True}, "exclude each other"),
        ({"opset": 7}, "--opset = 7"),
    ],
)
def test_settings_that_cannot_be_say_so_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_config(settings)
    assert "\n" not in str(caught.value)


def test_an_input_shape_that_the_data_do_not_give_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--input-shape 1x3x8x8: the images are 1x8x8"):
        edgeprune.build(settle(tmp_path).config(input_shape="1x3x8x8"))
