"""Room zoo: every way to name a network, every way its weights can be wrong, and the bundled example."""

from __future__ import annotations

import csv
import pickle
import sys
import urllib.error
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import datasets, models

from edgeprune import zoo
from edgeprune.data_files import data_folder
from edgeprune.errors import DataError, InputError, ModelError
from edgeprune.example import digits_net
from edgeprune.records import Preprocess
from edgeprune.zoo import sources

ROOT = Path(__file__).resolve().parents[1]

TINY = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.fc = nn.Linear(2, num_classes)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))

def tiny(num_classes=3):
    torch.manual_seed(0)
    return Tiny(num_classes)

def fixed():
    return tiny(3)

def failing():
    raise KeyError("no such config")

def wrong():
    return 7

def half():
    return tiny().half()

instance = tiny()
"""
State = dict[str, Tensor]


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """The user's own file, without a factory's name."""
    path = tmp_path / "tinynet.py"
    path.write_text(TINY)
    return f"python:{path}"


@pytest.fixture
def state(tiny: str) -> State:
    """A state dict that fits Tiny and is not what its factory starts with."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor
        if name in ("mask", "bn.num_batches_tracked")
        else torch.rand(tensor.shape, generator=generator)
        for name, tensor in zoo.load(f"{tiny}:tiny").module.state_dict().items()
    }


@pytest.fixture
def weights(tmp_path: Path, state: State) -> Path:
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    return path


# --- what load gives ----------------------------------------------------------------------------------


def test_a_loaded_network_is_ready_to_be_traced(tiny: str, weights: Path, state: State) -> None:
    loaded = zoo.load(f"{tiny}:tiny", weights=str(weights))
    assert not any(module.training for module in loaded.module.modules())
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.module.state_dict().items())
    assert loaded.description.endswith(", 33 parameters, weights w.safetensors")


@pytest.mark.parametrize("factory", ["tiny", "half"])
def test_half_precision_becomes_float32(tiny: str, tmp_path: Path, state: State, factory: str) -> None:
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.safetensors")
    loaded = zoo.load(f"{tiny}:{factory}", weights=str(tmp_path / "half.safetensors"))
    found = loaded.module.state_dict()["fc.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found, state["fc.weight"].half().float())


def test_the_digest_follows_the_weights(tiny: str, weights: Path, state: State) -> None:
    first = zoo.load(f"{tiny}:tiny", weights=str(weights)).digest
    assert zoo.load(f"{tiny}:tiny", weights=str(weights)).digest == first
    state["fc.bias"][0] += 1
    save_file(state, weights)
    assert zoo.load(f"{tiny}:tiny", weights=str(weights)).digest != first


# --- python: ------------------------------------------------------------------------------------------


def test_a_module_of_the_working_folder_is_found(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    loaded = zoo.load("python:tinynet:tiny", num_classes=5)
    del sys.modules["tinynet"]
    assert loaded.module.get_parameter("fc.weight").shape == (5, 2)
    assert sys.path == path


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("tinny", "has no 'tinny'; did you mean tiny?"),
        ("failing", "the factory failed: KeyError: 'no such config'"),
        ("wrong", "gives int; return an nn.Module"),
        ("instance", "is Tiny, not a factory"),
    ],
)
def test_a_factory_that_gives_no_network_is_refused(tiny: str, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        zoo.load(f"{tiny}:{factory}")


def test_a_file_that_does_not_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import no_such_package")
    with pytest.raises(ModelError, match="cannot be imported: ModuleNotFoundError"):
        zoo.load(f"python:{tmp_path / 'bad.py'}:net")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet99x", "unknown network; give --model torchvision:NAME"),
        ("keras:resnet", "unknown network; give --model torchvision:NAME"),
        ("python:tests", "names no factory"),
        ("python:missing.py:net", "there is no file missing.py"),
        ("python:no_such_package:net", "cannot be imported"),
        ("missing.pt2", "no such exported program"),
        ("example:cats", "example:cats: unknown; there are example:digits, example:scenes"),
        ("torchvision:resnet81", "did you mean resnet1"),
    ],
)
def test_an_unknown_network_is_refused_in_one_line(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        zoo.load(model)
    assert "\n" not in str(caught.value)


def test_weights_are_not_a_network(weights: Path) -> None:
    with pytest.raises(ModelError, match="files of weights to --weights"):
        zoo.load(str(weights))


def test_a_number_of_classes_needs_a_factory_that_takes_it(tiny: str) -> None:
    with pytest.raises(ModelError, match="the number of classes is fixed"):
        zoo.load(f"{tiny}:fixed", num_classes=4)


# --- weights that fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_wrappers_and_prefixes_come_off(
    tiny: str, tmp_path: Path, state: State, wrapper: str, prefix: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, wrapper: {prefix + name: tensor for name, tensor in state.items()}}, path)
    loaded = zoo.load(f"{tiny}:tiny", weights=str(path))
    assert torch.equal(loaded.module.state_dict()["fc.weight"], state["fc.weight"])


def test_a_prefix_that_the_network_has_stays(tmp_path: Path) -> None:
    path = tmp_path / "wrapped.py"
    path.write_text(f"{TINY}\ndef wrapped():\n    return nn.ModuleDict({{'model': nn.Linear(2, 2)}})\n")
    save_file(
        {"module.model.weight": torch.eye(2), "module.model.bias": torch.ones(2)}, tmp_path / "w.safetensors"
    )
    loaded = zoo.load(f"python:{path}:wrapped", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(loaded.module.state_dict()["model.weight"], torch.eye(2))


def test_old_files_without_batch_counters_fit(tiny: str, weights: Path, state: State) -> None:
    del state["bn.num_batches_tracked"]
    save_file(state, weights)
    assert zoo.load(f"{tiny}:tiny", weights=str(weights)).module


def test_the_head_takes_its_classes_from_the_weights(tiny: str, weights: Path, state: State) -> None:
    save_file(state | {"fc.weight": torch.ones(8, 2), "fc.bias": torch.ones(8)}, weights)
    loaded = zoo.load(f"{tiny}:tiny", weights=str(weights))
    assert loaded.module.get_parameter("fc.weight").shape == (8, 2)
    assert any("8 classes" in note for note in loaded.notes)
    with pytest.raises(ModelError, match=r"fc.weight is \(8, 2\) in the file, \(3, 2\) in the network"):
        zoo.load(f"{tiny}:fixed", weights=str(weights))
    with pytest.raises(ModelError, match="does not fit"):
        zoo.load(f"{tiny}:tiny", weights=str(weights), num_classes=4)


# --- weights that do not ------------------------------------------------------------------------------


def test_a_state_dict_that_does_not_fit_names_what_differs(tiny: str, weights: Path, state: State) -> None:
    del state["conv.bias"]
    save_file(state | {"extra": torch.ones(1), "bn.weight": torch.ones(5)}, weights)
    with pytest.raises(ModelError) as caught:
        zoo.load(f"{tiny}:tiny", weights=str(weights))
    message = str(caught.value)
    assert "1 of 10 entries missing: conv.bias" in message
    assert "1 unexpected: extra" in message
    assert "1 of another shape: bn.weight is (5,) in the file, (2,) in the network" in message


@pytest.mark.parametrize(
    ("name", "value"), [("fc.weight", "nan"), ("bn.running_var", "inf"), ("fc.bias", "-inf")]
)
def test_values_that_are_not_finite_are_refused_by_name(
    tiny: str, weights: Path, state: State, name: str, value: str
) -> None:
    state[name].view(-1)[0] = float(value)
    save_file(state, weights)
    with pytest.raises(ModelError, match=f"{name} holds 1 values that are NaN or infinite"):
        zoo.load(f"{tiny}:tiny", weights=str(weights))


class Trap:
    """Pickles that would leave a file behind if they were loaded with their code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap, protocol=2))]
)
def test_a_pickle_with_code_is_refused_and_does_not_run(
    tiny: str, tmp_path: Path, save: Callable[[object, Path], None]
) -> None:
    path, sprung = tmp_path / "trap.pt", tmp_path / "sprung"
    save({"fc.weight": Trap(sprung)}, path)
    with pytest.raises(ModelError, match="loading it could run code; save"):
        zoo.load(f"{tiny}:tiny", weights=str(path))
    assert not sprung.exists()


def test_a_pickled_network_is_refused(tiny: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="refused: it is no plain state dict"):
        zoo.load(f"{tiny}:tiny", weights=str(tmp_path / "whole.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_refused(
    tiny: str, tmp_path: Path, state: State, suffix: str, share: float
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match="not a readable"):
        zoo.load(f"{tiny}:tiny", weights=str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"fc.weight": 3.0}, "entry 'fc.weight' is of type float, not a tensor"),
        (OrderedDict(model=OrderedDict(lr=0.1)), "entry 'lr' is of type float"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(
    tiny: str, tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=message):
        zoo.load(f"{tiny}:tiny", weights=str(tmp_path / "other.pt"))


def test_missing_weights_are_refused(tiny: str) -> None:
    with pytest.raises(ModelError, match="no such weights file"):
        zoo.load(f"{tiny}:tiny", weights="missing.pt")


# --- torchvision --------------------------------------------------------------------------------------


def test_a_torchvision_file_brings_its_own_preprocess(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.safetensors"
    save_file(models.squeezenet1_1(num_classes=7).state_dict(), path)
    loaded = zoo.load("squeezenet1_1", weights=str(path))
    assert loaded.preprocess == Preprocess(
        resize=(256,), crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    assert loaded.module.get_parameter("classifier.1.weight").shape[0] == 7


@pytest.mark.parametrize("name", [name for name in models.list_models(module=models)])
def test_every_classifier_has_a_preprocess(name: str) -> None:
    default = models.get_model_weights(name).DEFAULT
    preprocess = sources._preprocess(default)
    assert preprocess is not None
    assert preprocess.interpolation == default.transforms().interpolation.value


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(ModelError, match="give --weights FILE or --weights DEFAULT"):
        zoo.load("torchvision:resnet18")


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(ModelError, match="did you mean IMAGENET1K_V1"):
        zoo.load("torchvision:resnet18", weights="IMAGENET1K_V9")


def test_downloaded_weights_bring_preprocess_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    state = models.squeezenet1_1().state_dict()
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_args, **_options: state)
    loaded = zoo.load("torchvision:squeezenet1_1", weights="DEFAULT")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.module.state_dict().items())
    assert loaded.classes is not None
    assert loaded.classes[:2] == ("tench", "goldfish")
    assert loaded.preprocess is not None
    with pytest.raises(ModelError, match="the number of classes is fixed"):
        zoo.load("torchvision:squeezenet1_1", weights="DEFAULT", num_classes=5)


def test_without_a_network_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_options: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(ModelError, match=r"cannot download IMAGENET1K_V1 .* give it as --weights FILE"):
        zoo.load("torchvision:squeezenet1_1", weights="DEFAULT")


# --- exported programs --------------------------------------------------------------------------------


def export(module: nn.Module, path: Path) -> Path:
    torch.export.save(torch.export.export(module, (torch.zeros(1, 1, 8, 8),)), path)
    return path


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_an_exported_program_computes_the_same(tmp_path: Path) -> None:
    network = small_net().eval()
    loaded = zoo.load(str(export(network, tmp_path / "net.pt2")))
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.module(images), network(images))
    assert not loaded.module.eval().training


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(1), nn.Dropout()])
def test_a_program_exported_in_training_mode_is_refused(tmp_path: Path, layer: nn.Module) -> None:
    path = export(nn.Sequential(layer).train(), tmp_path / "train.pt2")
    with pytest.raises(ModelError, match="exported in training mode"):
        zoo.load(str(path))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_program_is_refused(tmp_path: Path, share: float) -> None:
    path = export(small_net().eval(), tmp_path / "net.pt2")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match="not a readable exported program"):
        zoo.load(str(path))


# --- the bundled example ------------------------------------------------------------------------------


def digits(name: str) -> NDArray[np.uint8]:
    with np.load(data_folder("calibration") / "digits" / "digits.npz", allow_pickle=False) as arrays:
        array: NDArray[np.uint8] = arrays[name]
    return array


def test_no_digit_is_in_two_parts() -> None:
    images = np.concatenate([digits("train_x"), digits("calibration_x"), digits("test_x")])
    assert images.shape == (1797, 32, 32)
    assert len(np.unique(images, axis=0)) == len(images)


def test_the_example_is_right_on_held_out_digits() -> None:
    loaded = zoo.load("example:digits")
    inputs = torch.from_numpy(digits("test_x")[:200]).float()[:, None] / 255
    right = accuracy(loaded.module, (inputs - 0.5) / 0.5, digits("test_y")[:200])
    assert right >= 0.97
    assert loaded.preprocess == Preprocess(color="gray", resize=(32, 32), mean=(0.5,), std=(0.5,))


def test_the_example_stays_small() -> None:
    weights = data_folder("calibration") / "digits" / "digits_net.safetensors"
    assert weights.stat().st_size < 3_000_000
    assert set(load_file(weights)) == set(digits_net().state_dict())


def test_shipped_data_are_found_in_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "edgeprune"
    monkeypatch.setattr("edgeprune.data_files.PACKAGE", package)
    with pytest.raises(InputError, match="install edgeprune again"):
        data_folder("targets")
    (package / "_data" / "targets").mkdir(parents=True)
    assert data_folder("targets") == package / "_data" / "targets"


# --- torchvision data sets ----------------------------------------------------------------------------


def write_mnist(root: Path) -> None:
    """MNIST's four files with six and four images; image i is filled with its own number."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 4)):
        images = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).tobytes()
        header = [0x0803, count, 28, 28]
        (folder / f"{part}-images-idx3-ubyte").write_bytes(np.array(header, dtype=">i4").tobytes() + images)
        labels = np.arange(count, dtype=np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            np.array([0x0801, count], ">i4").tobytes() + labels
        )


def test_a_torchvision_data_set_becomes_arrays(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    out = zoo.torchvision_data("MNIST", tmp_path, tmp_path / "out" / "mnist.npz")
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["train_x"].shape == (6, 28, 28)
        assert arrays["train_x"].dtype == np.uint8
        assert arrays["test_x"][3, 0, 0] == 3
        assert arrays["train_y"].tolist() == [0, 1, 2, 3, 4, 5]
        assert arrays["classes"][7] == "7 - seven"
    assert [path.name for path in out.parent.iterdir()] == ["mnist.npz"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CIFAR11", "did you mean CIFAR10?"),
        ("CIFAR10", "cannot read CIFAR10: Dataset not found"),
        ("FakeData", "has no train and test part"),
    ],
)
def test_a_data_set_that_cannot_be_read_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        zoo.torchvision_data(name, tmp_path, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_images_of_several_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def photos(root: Path, *, train: bool) -> list[tuple[Image.Image, int]]:
        return [(Image.new("RGB", (8, 8 + index)), 0) for index in range(2)]

    monkeypatch.setattr(datasets, "CIFAR10", photos)
    with pytest.raises(DataError, match="2 different sizes"):
        zoo.torchvision_data("CIFAR10", tmp_path, tmp_path / "out.npz")


# --- real networks on real images ---------------------------------------------------------------------


def accuracy(module: nn.Module, inputs: Tensor, labels: NDArray[np.integer]) -> float:
    with torch.inference_mode():
        predictions = torch.cat([module(batch).argmax(1) for batch in torch.split(inputs, 50)])
    return float(np.mean(predictions.numpy() == labels))


def normalized(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """From (N, H, W, 3) in 0..1 to network inputs (N, 3, H, W)."""
    return ((images - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


IMAGENET_MEAN = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        pytest.param("resnet20", IMAGENET_MEAN, 0.914, marks=pytest.mark.slow),
        pytest.param("resnet56", IMAGENET_MEAN, 0.933, marks=pytest.mark.heavy),
        pytest.param("densenet", CIFAR_MEAN, 0.899, marks=pytest.mark.heavy),
        pytest.param("vit", CIFAR_MEAN, 0.736, marks=pytest.mark.slow),
    ],
)
def test_cifar_networks_reach_their_reference_accuracy(
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    scale: tuple[tuple[float, ...], tuple[float, ...]],
    expected: float,
) -> None:
    monkeypatch.chdir(ROOT)
    path = shared / "models" / f"cifar10_{name}.pt"
    loaded = zoo.load(f"python:tests.nets:cifar_{name}", weights=str(path))
    with np.load(shared / "cifar10" / "cifar10.npz") as arrays:
        images, labels = arrays["test_x"], arrays["test_y"]
    inputs = normalized(torch.from_numpy(images).float() / 255, *scale)
    # All 4,000 images: on 600 of them chance alone moves the transformer by 2 points.
    assert accuracy(loaded.module, inputs, labels) == pytest.approx(expected, abs=0.01)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "scale", "turns", "expected"),
    [("mobilenet_v2", HALF, 2, 0.798), ("squeezenet1_0", IMAGENET_MEAN, 0, 0.718)],
)
def test_imagenet_networks_reach_their_reference_accuracy(
    shared: Path, name: str, scale: tuple[tuple[float, ...], tuple[float, ...]], turns: int, expected: float
) -> None:
    loaded = zoo.load(f"torchvision:{name}", weights=str(shared / "models" / f"imagenet_{name}.pt"))
    with (shared / "imagenet" / "val.csv").open() as file:
        rows = list(csv.reader(file))[::5]
    pixels = [np.asarray(Image.open(shared / "imagenet" / path).convert("RGB")) for path, _ in rows]
    cropped = [np.rot90(image[2:226, 2:226], turns) for image in pixels]
    inputs = normalized(torch.from_numpy(np.stack(cropped)).float() / 255, *scale)
    # 200 images: two standard errors of the reference are 6 points.
    right = accuracy(loaded.module, inputs, np.array([int(label) for _, label in rows]))
    assert right == pytest.approx(expected, abs=0.06)
