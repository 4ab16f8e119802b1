"""What users get wrong: exit 1, one line that says what, where and what to do, nothing half written."""

from __future__ import annotations

import pickle
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_builds import SOURCE, Place, measure_nothing, program, settle


@dataclass(frozen=True)
class Mistake:
    """What goes wrong, and what the user reads about it."""

    spoil: Callable[[Place], object]
    wanted: tuple[str, ...]
    flags: Mapping[str, object] = field(default_factory=dict)
    """Settings of the build that differ; {} stands for the place's folder."""


# --- how things go wrong ------------------------------------------------------------------------------


def nothing(place: Place) -> None:
    """The mistake is in the flags."""


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        state = load_file(place.weights)
        change(state)
        save_file(state, place.weights)

    return spoil


def edit_images(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        arrays = dict(np.load(place.images))
        change(arrays)
        np.savez(place.images, **arrays)

    return spoil


def shift_labels_(arrays: dict[str, np.ndarray]) -> None:
    """None is right, and no other order of the classes makes most of them right."""
    labels = arrays["train_y"]
    arrays["train_y"] = (labels + 1 + np.arange(len(labels)) % 2) % 3


def code(text: str) -> Callable[[Place], object]:
    """Another forward, or another factory, after the network's source."""
    return lambda place: place.net.write_text(f"{SOURCE}\n{text}")


def cut_short(place: Place) -> None:
    place.weights.write_bytes(place.weights.read_bytes()[:200])


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, place: Place) -> None:
        self.proof = place.folder / "ran"

    def __reduce__(self) -> tuple[Callable[[Path], object], tuple[Path]]:
        return Path.touch, (self.proof,)


def pickle_with_code(place: Place) -> None:
    (place.folder / "w.pth").write_bytes(pickle.dumps({"stem.weight": Payload(place)}))


def zip_with_code(place: Place) -> None:
    torch.save({"stem.weight": Payload(place)}, place.folder / "w.pth")


def array_with_code(place: Place) -> None:
    images = np.array([Payload(place)] * 150, dtype=object)
    np.savez(place.images, x=images, y=np.load(place.images)["train_y"])


def photos(place: Place, *, broken: bool = False, empty: bool = False) -> None:
    """A folder with one sub-folder for each class."""
    arrays = np.load(place.images)
    for number, (image, label) in enumerate(zip(arrays["train_x"], arrays["train_y"], strict=True)):
        folder = place.folder / "photos" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    if broken:
        for path in (place.folder / "photos" / "class1").glob("*"):
            path.write_bytes(path.read_bytes()[:60])
    if empty:
        (place.folder / "photos" / "class3").mkdir()


FOLDER = {"data": "{}/photos", "color": "gray"}
MAKE = {"model": "python:{}/net.py:make", "weights": None}

MISTAKES = {
    # weights
    "missing weights": Mistake(
        nothing, ("gone.pth", "no such weights file; check the path"), {"weights": "{}/gone.pth"}
    ),
    "weights cut short": Mistake(
        cut_short, ("weights.safetensors", "not a readable safetensors file", "copy it again")
    ),
    "weights that are text": Mistake(
        lambda place: (place.folder / "w.pth").write_text("hello"),
        ("w.pth", "copy it again"),
        {"weights": "{}/w.pth"},
    ),
    "empty weights": Mistake(
        lambda place: (place.folder / "w.pth").touch(), ("w.pth", "copy it again"), {"weights": "{}/w.pth"}
    ),
    "weights that are a folder": Mistake(nothing, ("no such weights file",), {"weights": "{}"}),
    "pickle with code": Mistake(pickle_with_code, ("w.pth", "refused", "save"), {"weights": "{}/w.pth"}),
    "torch file with code": Mistake(zip_with_code, ("w.pth", "refused", "save"), {"weights": "{}/w.pth"}),
    "weights of another architecture": Mistake(
        edit_weights(lambda state: state.update(extra=state.pop("inner.bias"))),
        ("does not fit", "1 of 10 entries missing: inner.bias", "1 unexpected: extra"),
    ),
    "weights of another width": Mistake(
        edit_weights(lambda state: state.update({"inner.bias": torch.zeros(5)})),
        ("inner.bias is (5,) in the file, (16,) in the network",),
    ),
    "NaN weights": Mistake(
        edit_weights(lambda state: state["inner.weight"].fill_(torch.nan)),
        ("inner.weight holds 2304 values that are NaN or infinite", "export the weights again"),
    ),
    "no network for DEFAULT": Mistake(
        nothing,
        ("cannot download", "give it as --weights FILE"),
        {"model": "torchvision:squeezenet1_1", "weights": "DEFAULT"},
    ),
    "torchvision without weights": Mistake(
        nothing, ("give --weights FILE",), {"model": "torchvision:resnet18", "weights": None}
    ),
    # network
    "unknown model": Mistake(nothing, ("unknown network", "give --model"), {"model": "yolo9"}),
    "a torchvision name mistyped": Mistake(
        nothing, ("did you mean resnet18?",), {"model": "torchvision:resnett18"}
    ),
    "a factory mistyped": Mistake(
        nothing, ("has no 'Tinny'; did you mean Tiny?",), {"model": "python:{}/net.py:Tinny"}
    ),
    "a source file mistyped": Mistake(
        nothing, ("there is no file", "check the path"), {"model": "python:{}/nut.py:Tiny"}
    ),
    "source that does not compile": Mistake(code("def ("), ("net.py", "cannot be imported: SyntaxError")),
    "source that fails": Mistake(
        code("raise RuntimeError('two\\nlines')"), ("cannot be imported: RuntimeError: two",)
    ),
    "a factory that fails": Mistake(
        code("def make():\n    raise KeyError('no\\nluck')"), ("the factory failed: KeyError",), MAKE
    ),
    "a factory that exits": Mistake(
        code("def make():\n    raise SystemExit(7)"), ("the factory failed",), MAKE
    ),
    "a factory of something else": Mistake(
        code("def make():\n    return 3"), ("gives int; return an nn.Module",), MAKE
    ),
    "a buffer of NaN": Mistake(
        code("def make():\n    net = Tiny()\n    net.norm.running_mean[0] = float('nan')\n    return net"),
        ("norm.running_mean holds 1 values that are NaN",),
        MAKE,
    ),
    "NaN outputs": Mistake(
        code(
            "class Nan(Tiny):\n    def forward(self, x):\n"
            "        return super().forward(x) * (0 * x.sum() / 0)"
        ),
        (
            "gives NaN or Inf for 120 of 120 calibration images, first in the network's forward (div)",
            "check the weights and the preprocessing",
        ),
        {"model": "python:{}/net.py:Nan"},
    ),
    "a layer that overflows": Mistake(
        edit_weights(lambda state: state["inner.weight"].fill_(1e38)),
        ("NaN or Inf", "first in inner (conv2d); check the weights"),
    ),
    "two outputs": Mistake(
        code("class Two(Tiny):\n    def forward(self, x):\n        return super().forward(x), x"),
        ("gives tuple, not one tensor of class scores; wrap it",),
        {"model": "python:{}/net.py:Two"},
    ),
    "a map of scores": Mistake(
        code(
            "class Map(Tiny):\n    def forward(self, x):\n"
            "        return torch.relu(self.inner(self.norm(self.stem(x))))"
        ),
        ("outputs of shape (16, 4, 4) per image, not one score per class",),
        {"model": "python:{}/net.py:Map"},
    ),
    "control flow that depends on the data": Mistake(
        code(
            "class Branch(Tiny):\n    def forward(self, x):\n"
            "        return super().forward(x) if x.sum() > 0 else super().forward(-x)"
        ),
        ("cannot trace it", "remove control flow that depends on the data"),
        {"model": "python:{}/net.py:Branch"},
    ),
    "a forward that fails": Mistake(
        code("class Fails(Tiny):\n    def forward(self, x):\n        raise OSError('no\\ncamera')"),
        ("Fails", "no"),
        {"model": "python:{}/net.py:Fails"},
    ),
    "nothing prunable": Mistake(
        code("def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))"),
        ("no channel can be removed", "the network's output (3 channels)"),
        MAKE,
    ),
    "a program that is none": Mistake(
        lambda place: (place.folder / "net.pt2").write_bytes(b"PK no"),
        ("net.pt2", "not a readable exported program"),
        {"model": "{}/net.pt2", "weights": None},
    ),
    # images
    "no data": Mistake(nothing, ("no data; give --data FOLDER",), {"data": None}),
    "missing data": Mistake(nothing, ("no such file or folder; check the path",), {"data": "{}/gone"}),
    "images that do not decode": Mistake(
        lambda place: photos(place, broken=True), ("photos/class1/", ".png"), FOLDER
    ),
    "an empty class": Mistake(
        lambda place: photos(place, empty=True),
        ("photos/class3: class folder without images", "add images"),
        FOLDER,
    ),
    "a folder without images": Mistake(
        lambda place: (place.folder / "photos").mkdir(), ("photos: holds no images", "sub-folder"), FOLDER
    ),
    "colour for a gray network": Mistake(
        nothing, ("refuses an input of shape (3, 8, 8)", "check resize, crop and color"), {"color": "rgb"}
    ),
    "labels beyond the outputs": Mistake(
        edit_images(lambda arrays: arrays["train_y"].__iadd__(2)),
        ("out of range: the network has 3 outputs",),
    ),
    "labels below 0": Mistake(
        edit_images(lambda arrays: arrays["train_y"].__isub__(1)), ("label -1", "out of range")
    ),
    "counts that differ": Mistake(
        lambda place: np.savez(place.images, x=np.zeros((150, 8, 8), np.uint8), y=np.zeros(9, np.int64)),
        ("images.npz", "150", "9"),
    ),
    "an array with code": Mistake(array_with_code, ("images.npz",)),
    "an archive that is none": Mistake(
        lambda place: place.images.write_bytes(b"PK\x03\x04"), ("images.npz",)
    ),
    "a description that is not TOML": Mistake(
        lambda place: (place.folder / "d.toml").write_text("[calibration\n"),
        ("d.toml", "TOML"),
        {"data": "{}/d.toml"},
    ),
    "labels of another network": Mistake(
        edit_images(lambda arrays: arrays.update(train_y=(arrays["train_y"] + 1) % 3)),
        (
            'it was trained with another order; set classes = ["1", "2", "0"]',
            "in the description of the data",
        ),
    ),
    "labels that belong to nothing": Mistake(
        edit_images(shift_labels_),
        ("of 120 calibration images right", "check preprocessing and labels"),
    ),
    # target and folder
    "unknown target": Mistake(
        nothing, ("unknown target `openvno`; did you mean `openvino`?",), {"target": "openvno"}
    ),
    "a target that is not TOML": Mistake(
        lambda place: (place.folder / "t.toml").write_text("runtime = "),
        ("t.toml", "not a TOML file"),
        {"target": "{}/t.toml"},
    ),
    "a file in the way": Mistake(
        lambda place: place.out.touch(), ("out: cannot be written", "choose another output folder")
    ),
    "a file above": Mistake(
        lambda place: (place.folder / "above").touch(),
        ("cannot be written", "in the way"),
        {"out": "{}/above/out"},
    ),
    "a folder with other things": Mistake(
        lambda place: (place.out.mkdir(), (place.out / "thesis.tex").touch()),
        ("not a run folder of edgeprune",),
    ),
    "settings that are not TOML": Mistake(
        lambda place: (place.folder / "s.toml").write_text("alpha = "),
        ("s.toml: not valid TOML",),
        {"config": "{}/s.toml"},
    ),
}


# --- how they end -------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    measure_nothing(monkeypatch)
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return settle(tmp_path)


def refused(place: Place, flags: Mapping[str, object], capfd: pytest.CaptureFixture[str]) -> str:
    """Build where it cannot work; give the line that says why."""
    placed = {k: v.replace("{}", str(place.folder)) if isinstance(v, str) else v for k, v in flags.items()}
    found = program("build", *place.flags(**placed))
    assert isinstance(found.exception, SystemExit), repr(found.exception)
    assert (found.exit_code, found.stdout) == (1, "")
    lines = [
        line for line in found.stderr.splitlines() if " done in " not in line and "Downloading" not in line
    ]
    assert len(lines) == 1, found.stderr
    assert capfd.readouterr() == ("", "")
    assert not (place.out / "report.json").exists()
    assert not [path for path in place.folder.rglob("*") if path.name.startswith(".tmp-")]
    return lines[0]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(place: Place, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    mistake = MISTAKES[name]
    mistake.spoil(place)
    line = refused(place, mistake.flags, capfd)
    assert line.startswith("error: ")
    for words in mistake.wanted:
        assert words in line
    assert not (place.folder / "ran").exists(), "a file that was only to be read has run code"


@pytest.mark.slow
@pytest.mark.parametrize("most_bytes", [0, 2_000, 5_000, 25_000])
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_full_disk_is_one_line_and_the_next_build_goes_on(
    place: Place, most_bytes: int, target: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with files_no_larger_than(most_bytes):
        line = refused(place, {"target": target}, capfd)
    assert line.startswith("error: ")
    assert str(place.out) in line
    found = program("build", *place.flags(target=target))
    assert found.exit_code == 0, found.stderr


@contextmanager
def files_no_larger_than(most_bytes: int) -> Iterator[None]:
    """Writing beyond fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_folder_without_permission_is_one_line(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    locked = place.folder / "locked"
    locked.mkdir(mode=0o500)
    try:
        (locked / "probe").touch()
    except PermissionError:
        line = refused(place, {"out": str(locked / "out")}, capfd)
        assert "you may not write there; choose another output folder" in line
    else:
        pytest.skip("this user may write everywhere")
