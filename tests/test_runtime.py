"""Both runtimes give the same figures, and say what is wrong with a file or an image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx

from edgeprune import runtime
from edgeprune.errors import InputError, ModelError, TargetUnreachable
from edgeprune.runtime.layout import count

BOTH = pytest.mark.parametrize("name", ["openvino", "onnxruntime"])


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, *tiny_onnx.IMAGE_SHAPE)).astype(np.float32)


@BOTH
@pytest.mark.parametrize("batch", [1, "n"])
def test_gives_one_row_of_outputs_per_image(name, batch, images, tmp_path):
    predict = runtime.load(tiny_onnx.save(tmp_path / "net.onnx", batch=batch), runtime=name, threads=1)
    np.testing.assert_allclose(predict(images), tiny_onnx.expected(images), rtol=1e-4, atol=1e-6)


def test_openvino_compiles_a_dynamic_batch_as_one_image(tmp_path, monkeypatch):
    shapes = tiny_onnx.watch_openvino(monkeypatch)
    runtime.load(tiny_onnx.save(tmp_path / "net.onnx", batch="n"), runtime="openvino", threads=1)
    assert shapes == ["[1,3,8,8]"]


@BOTH
def test_an_earlier_result_survives_the_next_call(name, images, tmp_path):
    predict = runtime.load(tiny_onnx.save(tmp_path / "net.onnx"), runtime=name, threads=1)
    first = predict(images)
    predict(images * 2)
    np.testing.assert_allclose(first, tiny_onnx.expected(images), rtol=1e-4, atol=1e-6)


@BOTH
def test_images_of_other_kinds_are_converted(name, images, tmp_path):
    predict = runtime.load(tiny_onnx.save(tmp_path / "net.onnx"), runtime=name, threads=1)
    turned = np.asfortranarray(images[:, :, ::-1].astype(np.float64))
    assert predict(turned).dtype == np.float32
    np.testing.assert_allclose(predict(turned), tiny_onnx.expected(images), rtol=1e-4, atol=1e-6)


@BOTH
def test_a_wrong_image_size_is_named(name, images, tmp_path):
    predict = runtime.load(tiny_onnx.save(tmp_path / "net.onnx"), runtime=name, threads=1)
    with pytest.raises(ModelError, match=r"net\.onnx: the network reads 3x8x8 images, but got 3x4x8"):
        predict(images[:, :, :4])


@BOTH
def test_a_file_that_does_not_open_is_named_on_one_line(name, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(ModelError, match=rf"broken\.onnx: {name} cannot open it") as caught:
        runtime.load(broken, runtime=name, threads=1)
    assert "\n" not in str(caught.value)


@BOTH
def test_two_inputs_are_refused(name, tmp_path):
    with pytest.raises(ModelError, match="has 2 inputs"):
        runtime.load(tiny_onnx.save_two_inputs(tmp_path / "two.onnx"), runtime=name, threads=1)


def test_an_error_while_running_is_wrapped(images, tmp_path, monkeypatch):
    import onnxruntime

    def fail(*_: object) -> None:
        raise ValueError("out of\nmemory")

    predict = runtime.load(tiny_onnx.save(tmp_path / "net.onnx"), runtime="onnxruntime", threads=1)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fail)
    with pytest.raises(ModelError, match=r"cannot run it \(out of memory\)"):
        predict(images)


def test_a_missing_file_and_an_unknown_runtime_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        runtime.load(tmp_path / "none.onnx", runtime="openvino", threads=1)
    with pytest.raises(InputError, match="did you mean `openvino`"):
        runtime.load(tmp_path / "none.onnx", runtime="openvno", threads=1)
    with pytest.raises(InputError, match="choose one of onnxruntime, openvino"):
        runtime.versions("tensorrt")


@BOTH
def test_a_missing_runtime_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TargetUnreachable, match=f"run: pip install {name}") as caught:
        runtime.load(tiny_onnx.save(tmp_path / "net.onnx"), runtime=name, threads=1)
    assert caught.value.exit_code == 5


@BOTH
def test_versions_name_the_runtime_and_numpy(name):
    versions = runtime.versions(name)
    assert set(versions) == {name, "numpy"}
    assert all(version[0].isdigit() for version in versions.values())


@BOTH
def test_threads_reach_the_settings(name):
    assert 3 in runtime.settings(name, 3).values()


def test_openvino_really_computes_in_float32_with_the_threads_asked_for(tmp_path):
    import openvino as ov

    model = ov.Core().compile_model(
        str(tiny_onnx.save(tmp_path / "net.onnx")), "CPU", runtime.settings("openvino", 2)
    )
    assert model.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
    assert model.get_property("INFERENCE_NUM_THREADS") == 2
    assert model.get_property("NUM_STREAMS") == 1


def test_importing_the_room_loads_neither_runtime():
    heavy = {"openvino", "onnxruntime", "torch", "scipy"}
    code = f"import sys, edgeprune.runtime, edgeprune.measure; print({heavy} & set(sys.modules))"
    root = Path(__file__).parent.parent
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


# --- layout -------------------------------------------------------------------------------------------


def test_an_odd_width_leaves_the_blocked_layout(tmp_path):
    from edgeprune.measure.stairs import write_network

    good, odd = (runtime.layout(write_network(tmp_path / f"w{width}.onnx", width)) for width in (56, 61))
    assert good.convolutions == odd.convolutions == 6
    assert good.unblocked == 0
    if good.blocked_layout:
        assert odd.unblocked > 0
        assert odd.reorders > good.reorders


def test_without_blocks_nothing_is_unblocked():
    nodes = [("", "Conv"), ("com.microsoft", "FusedConv"), ("com.microsoft.nchwc", "Conv"), ("", "Relu")]
    found = count([*nodes, ("com.microsoft.nchwc", "ReorderInput")], machine="x86_64")
    assert (found.convolutions, found.unblocked, found.reorders, found.blocked_layout) == (3, 2, 1, True)
    arm = count(nodes, machine="aarch64")
    assert (arm.convolutions, arm.unblocked, arm.blocked_layout) == (3, 0, False)


def test_a_layout_of_what_is_no_network_is_refused(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot open it"):
        runtime.layout(tmp_path / "net.onnx")
