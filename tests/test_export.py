"""Export: the files hold the network they were made from, and failures leave nothing behind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxsim
import openvino
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from edgeprune import channels, export
from edgeprune.errors import ModelError, ParityError, RunFolderError
from edgeprune.export import artifact, params_and_macs, parity, simplify, to_onnx, to_openvino, writing
from edgeprune.pipeline.deploying import exact_outputs
from edgeprune.pipeline.pruning import run
from edgeprune.records import Floats, InputSpec, OnnxOptions

SPEC = InputSpec(shape=(3, 8, 8))


class SmallNet(nn.Module):
    """One of each layer whose multiply-accumulates are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(self.depthwise(torch.relu(self.norm(self.conv(x)))))
        scores: Tensor = self.head(inner.flatten(1))
        return scores


class BranchesOnData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.mean() > 0 else x


class HasNoOnnx(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.qr(x)[0]


class GivesTwo(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet().eval()


def torch_scores(module: nn.Module, image: Tensor) -> Floats:
    with torch.inference_mode():
        return module(image).numpy()


def onnx_scores(path: Path, image: Tensor) -> Floats:
    return onnxruntime.InferenceSession(path).run(["scores"], {"image": image.numpy()})[0]


def openvino_scores(path: Path, image: Tensor) -> Floats:
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(path, "CPU", precise)({"image": image.numpy()})["scores"]


def check_all_stages(module: nn.Module, exported: nn.Module, spec: InputSpec, folder: Path) -> None:
    """Torch, ONNX, simplified ONNX and OpenVINO give the same scores."""
    image = torch.rand(1, *spec.shape, generator=torch.Generator().manual_seed(1))
    expected = torch_scores(module, image)
    path, xml = folder / "net.onnx", folder / "net.xml"
    to_onnx(exported, spec, path)
    parity("torch -> onnx", expected, onnx_scores(path, image), limit=1e-4)
    [note] = simplify(path)
    assert note.startswith("simplified:")
    parity("torch -> simplified", expected, onnx_scores(path, image), limit=1e-4)
    to_openvino(path, xml)
    parity("torch -> openvino", expected, openvino_scores(xml, image), limit=1e-4)
    assert sorted(made.name for made in folder.iterdir()) == ["net.bin", "net.onnx", "net.xml"]


# --- the files hold the network -----------------------------------------------------------------------


@pytest.mark.slow
def test_every_stage_gives_the_same_scores(tmp_path: Path) -> None:
    check_all_stages(small_net(), small_net(), SPEC, tmp_path)


@pytest.mark.slow
def test_an_exported_program_goes_through_too(tmp_path: Path) -> None:
    program = torch.export.export(small_net(), (torch.zeros(1, *SPEC.shape),))
    check_all_stages(small_net(), program.module(), SPEC, tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "squeezenet1_0", "vit_b_16", "shufflenet_v2_x0_5"]
)
def test_torchvision_networks_give_the_same_scores(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = models.get_model(name, weights=None).eval()
    if name == "vit_b_16":
        nn.init.normal_(
            module.heads.head.weight, std=0.1
        )  # zero in a fresh network, and so would be all scores
    check_all_stages(module, module, InputSpec(shape=(3, 224, 224)), tmp_path)


@pytest.fixture(scope="module")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "net.onnx"
    assert to_onnx(small_net(), SPEC, path) == ()
    return path


def test_the_onnx_file_is_static_and_names_no_path(small_onnx: Path) -> None:
    model = onnx.load(small_onnx)
    onnx.checker.check_model(model)
    assert [(value.name, export.shape_of(value)) for value in model.graph.input] == [("image", (1, 3, 8, 8))]
    assert [(value.name, export.shape_of(value)) for value in model.graph.output] == [("scores", (1, 5))]
    assert [entry.version for entry in model.opset_import] == [20]
    assert str(Path(__file__).parent).encode() not in small_onnx.read_bytes()


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes(small_onnx: Path, tmp_path: Path) -> None:
    again = tmp_path / "other.onnx"
    to_onnx(small_net(), SPEC, again)
    assert again.read_bytes() == small_onnx.read_bytes()


@pytest.mark.slow
def test_nothing_is_said_on_the_way(
    small_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "net.onnx"
    copy.write_bytes(small_onnx.read_bytes())
    to_onnx(nn.Flatten().eval(), SPEC, tmp_path / "flat.onnx")
    simplify(copy)
    to_openvino(copy, tmp_path / "net.xml")
    assert capfd.readouterr() == ("", "")


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words"),
    [
        (BranchesOnData(), "data-dependent"),
        (HasNoOnnx(), r"aten\.linalg_qr"),
        (GivesTwo(), "2 outputs"),
        (nn.Conv2d(1, 4, 3), "to have 1 channels, but got 3"),
    ],
)
def test_a_network_that_cannot_be_exported_is_refused_in_one_line(
    module: nn.Module, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=words) as refusal:
        to_onnx(module.eval(), SPEC, tmp_path / "net.onnx")
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_weights_of_a_network_too_large_for_one_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MAX_ONNX_BYTES", 1000)
    monkeypatch.chdir(tmp_path)
    net, image = small_net(), torch.rand(1, *SPEC.shape)
    path = tmp_path / "net.onnx"
    to_onnx(net, SPEC, path)
    assert [part.name for part in export.parts(path)] == ["net.onnx", "net.onnx.data"]
    assert "not simplified" not in "".join(simplify(path))
    parity("torch -> onnx", torch_scores(net, image), onnx_scores(path, image))
    described = artifact(path, root=tmp_path, runtime="onnxruntime", onnx_path=path, params=1, macs=1)
    assert described.size_bytes == sum(part.stat().st_size for part in export.parts(path))
    to_openvino(path, tmp_path / "net.xml")
    parity("torch -> openvino", torch_scores(net, image), openvino_scores(tmp_path / "net.xml", image))


def test_a_folder_that_is_gone_is_named(small_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"gone/net\.xml: cannot be written"):
        to_openvino(small_onnx, tmp_path / "gone" / "net.xml")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), export.staged(path) as place:
        place.write_text("half")
        raise KeyboardInterrupt
    assert [(made.name, made.read_text()) for made in tmp_path.iterdir()] == [("net.onnx", "old")]


def test_openvino_refuses_what_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("no network")
    with pytest.raises(ModelError, match=r"net\.onnx: OpenVINO cannot read it"):
        to_openvino(tmp_path / "net.onnx", tmp_path / "net.xml")


# --- simplify never fails -----------------------------------------------------------------------------


def test_what_cannot_be_simplified_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("no network")
    [note] = simplify(path)
    assert note.startswith("not simplified: ")
    assert path.read_text() == "no network"


def test_a_simplified_network_with_other_scores_is_thrown_away(
    small_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = small_onnx.read_bytes()
    monkeypatch.setattr(onnxsim, "simplify", lambda model, **_: (model, False))
    assert simplify(small_onnx) == ("not simplified: the simplified network gives other scores",)
    assert small_onnx.read_bytes() == before


# --- what was made ------------------------------------------------------------------------------------


def test_params_and_macs_are_those_on_paper(small_onnx: Path) -> None:
    # 4x4 after the stride, 8x8 after the transposed convolution; the batch-norm is folded into `conv`.
    macs = 8 * 16 * 27 + 8 * 16 * 9 + 8 * 16 * 4 * 4 + 256 * 5
    params = (8 * 27 + 8) + (8 * 9 + 8) + (8 * 4 * 4 + 4) + (256 * 5 + 5)
    assert params_and_macs(small_onnx) == (params, macs)


@pytest.mark.parametrize("transposed", [False, True])
def test_macs_of_matrix_products(transposed: bool, tmp_path: Path) -> None:
    first = "[4, 3] a" if transposed else "[3, 4] a"
    graph = f"""
        <ir_version: 10, opset_import: ["" : 20]>
        products (float{first}, float[4, 5] b, float[2, 5, 7] c) => (float[2, 3, 7] e) {{
            d = Gemm <transA = {int(transposed)}> (a, b)
            e = MatMul(d, c)
        }}"""
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "net.onnx")
    assert params_and_macs(tmp_path / "net.onnx") == (0, 3 * 4 * 5 + 2 * 3 * 5 * 7)


def test_an_artifact_counts_both_files_of_openvino(small_onnx: Path, tmp_path: Path) -> None:
    xml = tmp_path / "pruned" / "net.xml"
    xml.parent.mkdir()
    to_openvino(small_onnx, xml)
    made = artifact(
        xml, root=tmp_path, runtime="openvino", onnx_path=small_onnx, params=7, macs=9, notes=("n",)
    )
    both = xml.read_bytes() + xml.with_suffix(".bin").read_bytes()
    assert (made.path, made.size_bytes, made.notes) == ("pruned/net.xml", len(both), ("n",))
    assert made.digest == hashlib.sha256(both).hexdigest()
    assert (made.input_name, made.input_shape, made.params, made.macs) == ("image", (1, 3, 8, 8), 7, 9)


def test_an_onnx_artifact_is_one_file(small_onnx: Path) -> None:
    made = artifact(
        small_onnx, root=small_onnx.parent, runtime="onnxruntime", onnx_path=small_onnx, params=0, macs=0
    )
    assert made.size_bytes == small_onnx.stat().st_size
    assert made.digest == hashlib.sha256(small_onnx.read_bytes()).hexdigest()


# --- parity -------------------------------------------------------------------------------------------

SCORES = np.array([[1.0, -4.0], [2.0, 0.5]], dtype=np.float32)


def test_parity_is_relative_to_the_largest_score() -> None:
    found = parity("pruned: torch -> onnx", SCORES, SCORES + np.float32(0.002), limit=1e-3)
    assert found.error == pytest.approx(0.0005, rel=1e-3)
    assert (found.stage, found.limit, found.images) == ("pruned: torch -> onnx", 1e-3, 2)


def test_a_break_names_the_stage() -> None:
    with pytest.raises(ParityError, match=r"pruned: onnx -> openvino: scores differ by 0\.0025"):
        parity("pruned: onnx -> openvino", SCORES, SCORES + np.float32(0.01))


def test_a_network_that_amplifies_rounding_is_blamed_itself() -> None:
    off = SCORES + np.float32(0.01)
    with pytest.raises(ParityError, match=r"in 32 and 64 bits differ by 0\.0025: check its normalisation"):
        parity("torch -> onnx", SCORES, off, exact=lambda: off)
    with pytest.raises(ParityError, match="report this as a bug"):
        parity("torch -> onnx", SCORES, off, exact=lambda: SCORES)


def test_scores_in_double_precision_leave_the_network_as_it_is() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images = np.ones((3, 3, 2, 2), dtype=np.float32)
    found = exact_outputs(net, images)
    assert found is not None
    assert found.dtype == np.float64
    assert net[1].weight.dtype == torch.float32
    np.testing.assert_allclose(found, run(net, images), rtol=1e-5)


def test_scores_that_are_all_zero_agree_only_with_zeros() -> None:
    zeros = np.zeros_like(SCORES)
    assert parity("torch -> onnx", zeros, zeros).error == 0
    with pytest.raises(ParityError, match="differ"):
        parity("torch -> onnx", zeros, SCORES)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_blamed_on_the_side_that_made_it(bad: float) -> None:
    broken = SCORES.copy()
    broken[1, 0] = bad
    with pytest.raises(ParityError, match="1 of 4 scores before the arrow"):
        parity("torch -> onnx", broken, SCORES)
    with pytest.raises(ParityError, match="1 of 4 scores after the arrow"):
        parity("torch -> onnx", SCORES, broken)


def test_other_shapes_are_no_parity() -> None:
    with pytest.raises(ParityError, match=r"\(2, 2\) became \(1, 2\)"):
        parity("torch -> onnx", SCORES, SCORES[:1])


# --- what the exporter merges or fixes ----------------------------------------------------------------


@pytest.mark.slow
def test_a_free_batch_stays_free(tmp_path: Path) -> None:
    net, path = small_net(), tmp_path / "net.onnx"
    to_onnx(net, SPEC, path, OnnxOptions(batch=None))
    for size in (1, 2, 5):
        images = torch.rand(size, *SPEC.shape)
        parity("torch -> onnx", torch_scores(net, images), onnx_scores(path, images))
    to_onnx(net, SPEC, path)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


@pytest.mark.slow
def test_equal_weights_stay_right_when_the_network_was_cut(tmp_path: Path) -> None:
    """Exporters keep equal tensors once; the cut comes before, where each layer has its own."""
    net = nn.Sequential(*(nn.Conv2d(i, 8, 1) for i in (3, 8, 8, 8)), nn.Flatten(), nn.Linear(512, 4)).eval()
    for module in list(net)[:4]:
        nn.init.zeros_(module.bias)
    net[2].weight.data.copy_(net[1].weight)
    coupling = channels.couple(channels.trace(net, SPEC))
    removed = {group.name: tuple(range(number + 1)) for number, group in enumerate(coupling.groups)}
    smaller, path = channels.cut(coupling, removed), tmp_path / "net.onnx"
    to_onnx(smaller, SPEC, path)
    simplify(path)
    image = torch.rand(1, *SPEC.shape)
    parity("torch -> onnx", torch_scores(smaller, image), onnx_scores(path, image))
