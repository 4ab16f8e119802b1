"""What a user may write after --model, and how each kind of it becomes an nn.Module."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import fx, nn
from torchvision import models
from torchvision.models import WeightsEnum
from torchvision.transforms._presets import ImageClassification

from edgeprune.data_files import data_folder
from edgeprune.errors import ModelError
from edgeprune.example import SCENE_CLASSES, digits_net, scenes_net, shapes_net
from edgeprune.records import Preprocess
from edgeprune.zoo import programs

FORMS = "torchvision:NAME, python:package.module:factory, example:digits or a .pt2 file"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A network that can be built, and what is known about it before its weights are read."""

    name: str
    """As in messages: what the user wrote, in full."""
    build: Callable[[int | None], nn.Module]
    """Builds the network for a number of classes; None leaves the network's own number."""
    takes_classes: bool = False
    weights: Path | None = None
    """The state dict to read; None: what `build` gives has its weights."""
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def find_source(model: str, weights: str | None) -> Source:
    """Where the network comes from.

    Raises:
        ModelError: no such network.
    """
    if model.endswith(".pt2"):
        return _exported(model, weights)
    kind, colon, name = model.partition(":")
    if not colon and model in models.list_models():
        return _torchvision(model, weights)
    if not colon and Path(model).is_file():
        raise ModelError(f"{model}: not a network; give --model {FORMS}, and files of weights to --weights.")
    if kind not in KINDS:
        raise ModelError(f"{model}: unknown network; give --model {FORMS}.")
    return KINDS[kind](name, weights)


# --- torchvision --------------------------------------------------------------------------------------

CONSTRUCTION: dict[str, dict[str, bool]] = {
    # As torchvision builds them for its own weights; the slow random start would be overwritten.
    "googlenet": {"init_weights": False, "transform_input": True},
    "inception_v3": {"init_weights": False, "transform_input": True},
}


def _torchvision(name: str, weights: str | None) -> Source:
    if name not in models.list_models():
        raise ModelError(
            f"torchvision:{name}: unknown network{_did_you_mean(name, models.list_models()) or '.'}"
        )
    members: dict[str, WeightsEnum] = dict(models.get_model_weights(name).__members__)
    if weights is None:
        raise ModelError(f"torchvision:{name}: has no weights; give --weights FILE or --weights DEFAULT.")
    if weights in members:
        return _downloaded(name, members[weights])
    if re.fullmatch(r"[A-Z][A-Z0-9_]*", weights) and not Path(weights).is_file():
        raise ModelError(
            f"torchvision:{name}: unknown weights {weights}{_did_you_mean(weights, members)}; "
            f"there are {', '.join(members)}."
        )
    default = members.get("DEFAULT")
    return Source(
        name=f"torchvision:{name}",
        build=lambda num_classes: _build_torchvision(name, num_classes),
        takes_classes=True,
        weights=Path(weights),
        preprocess=_preprocess(default) if default else None,
    )


def _build_torchvision(name: str, num_classes: int | None) -> nn.Module:
    arguments: dict[str, object] = {**CONSTRUCTION.get(name, {})}
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        arguments["weights_backbone"] = None  # else it is downloaded
    try:
        network: nn.Module = models.get_model(name, weights=None, **arguments)
    except (TypeError, ValueError) as err:
        raise ModelError(f"torchvision:{name}: cannot be built: {err}") from err
    return network


def _downloaded(name: str, member: WeightsEnum) -> Source:
    def build(_: int | None) -> nn.Module:
        try:
            with redirect_stdout(sys.stderr):  # torch says there what it downloads
                network: nn.Module = models.get_model(name, weights=member, progress=False)
        except (OSError, RuntimeError) as err:
            raise ModelError(
                f"torchvision:{name}: cannot download {member.name} from {member.url} ({err}); "
                "fetch it on a machine with a network and give it as --weights FILE."
            ) from err
        return network

    categories = member.meta.get("categories")
    return Source(
        name=f"torchvision:{name}",
        build=build,
        preprocess=_preprocess(member),
        classes=tuple(categories) if categories else None,
        notes=(f"torchvision's weights {member.name}",),
    )


def _preprocess(member: WeightsEnum) -> Preprocess | None:
    """The transforms that belong to the weights; None for what is no image classification."""
    preset = member.transforms()
    interpolation = getattr(getattr(preset, "interpolation", None), "value", None)
    if not isinstance(preset, ImageClassification) or interpolation not in ("nearest", "bilinear", "bicubic"):
        return None
    height, width = (*preset.crop_size, *preset.crop_size)[:2]
    return Preprocess(
        resize=tuple(preset.resize_size),
        interpolation=interpolation,
        crop=(height, width),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


# --- the user's own code ------------------------------------------------------------------------------


def _python(name: str, weights: str | None) -> Source:
    place, _, attribute = name.rpartition(":")
    if not place:
        raise ModelError(f"python:{name}: names no factory; write python:package.module:factory.")
    factory = _find_factory(place, attribute)

    def build(num_classes: int | None) -> nn.Module:
        arguments = {} if num_classes is None else {"num_classes": num_classes}
        with _importable(place):
            try:
                network = factory(**arguments)
            except (Exception, SystemExit) as err:  # the user's code may raise anything
                raise ModelError(f"python:{name}: the factory failed: {_describe(err)}") from err
        if not isinstance(network, nn.Module):
            raise ModelError(f"python:{name}: gives {type(network).__name__}; return an nn.Module.")
        return network

    return Source(
        name=f"python:{name}",
        build=build,
        takes_classes=_takes_classes(factory),
        weights=Path(weights) if weights else None,
    )


def task_of(model: str) -> str | None:
    """The task of one of torchvision's networks by its name; None for the user's own."""
    name = model.removeprefix("torchvision:")
    kinds = {"detection": models.detection, "segmentation": models.segmentation}
    return next((task for task, kind in kinds.items() if name in models.list_models(kind)), None)


def find_function(name: str) -> Callable[..., object]:
    """What `python:package.module:function` or `python:file.py:function` names: runs the user's code.

    Raises:
        ModelError: there is no such function.
    """
    place, colon, attribute = name.removeprefix("python:").rpartition(":")
    if not colon:
        raise ModelError(f"{name}: names no function; write python:file.py:function.")
    return _find_factory(place, attribute)


def find_object(name: str) -> object:
    """What `python:package.module:name` or `python:file.py:name` names: runs the user's code.

    Raises:
        ModelError: there is nothing of that name.
    """
    place, colon, attribute = name.removeprefix("python:").rpartition(":")
    if not colon:
        raise ModelError(f"{name}: names nothing; write python:file.py:NAME.")
    return _find(place, attribute)


def _find_factory(place: str, attribute: str) -> Callable[..., object]:
    factory = _find(place, attribute)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ModelError(
            f"python:{place}:{attribute}: is {type(factory).__name__}, not a factory; "
            "name a function or class."
        )
    return factory


def _find(place: str, attribute: str) -> object:
    if place.endswith(".py") and not Path(place).is_file():
        raise ModelError(f"python:{place}:{attribute}: there is no file {place}; check the path.")
    with _importable(place):
        try:
            module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        except (Exception, SystemExit) as err:  # the user's code may raise anything
            raise ModelError(f"python:{place}: cannot be imported: {_describe(err)}") from err
    found: object = getattr(module, attribute, None)
    if found is None:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ModelError(f"python:{place}: has no {attribute!r}{_did_you_mean(attribute, names) or '.'}")
    return found


def _takes_classes(factory: Callable[..., object]) -> bool:
    try:
        return "num_classes" in inspect.signature(factory).parameters
    except ValueError:  # written in C, without a signature
        return False


@contextmanager
def _importable(place: str) -> Iterator[None]:
    """Import as the user's own interpreter would: from the working folder, or from the file's folder."""
    folder = str(Path(place).resolve().parent if place.endswith(".py") else Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while it runs
    spec.loader.exec_module(module)
    return module


# --- exported programs and the example ----------------------------------------------------------------


def _exported(model: str, weights: str | None) -> Source:
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{model}: no such exported program; check the path.")
    return Source(
        name=model,
        build=lambda _: _load_exported(path),
        weights=Path(weights) if weights else None,
    )


def _load_exported(path: Path) -> nn.Module:
    """The program's graph as a module."""
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path}: not a readable exported program, or cut short; copy it again.")
    module = programs.load(path)
    assert isinstance(module, fx.GraphModule)
    if any(_is_training(node) for node in module.graph.nodes):
        raise ModelError(f"{path}: was exported in training mode; call .eval() before torch.export.export.")
    # torch.export puts methods that refuse over train() and eval(); a graph without modes can take both.
    del module.train, module.eval
    return module


def _is_training(node: fx.Node) -> bool:
    """Whether a BatchNorm or dropout in the graph behaves as during training."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    names = [argument.name for argument in node.target._schema.arguments]
    arguments = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return arguments.get("training") is True or arguments.get("train") is True


def _example(name: str, weights: str | None) -> Source:
    if name not in EXAMPLES:
        raise ModelError(f"example:{name}: unknown; there are {', '.join(f'example:{x}' for x in EXAMPLES)}.")
    example = EXAMPLES[name]
    trained = data_folder("calibration") / name / f"{name}_net.safetensors"
    return Source(
        name=f"example:{name}",
        build=lambda num_classes: example.make(num_classes or len(example.classes)),
        takes_classes=True,
        weights=Path(weights) if weights else trained,
        preprocess=example.preprocess,
        classes=example.classes,
    )


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _describe(err: BaseException) -> str:
    lines = str(err).strip().splitlines()
    return f"{type(err).__name__}: {lines[0]}" if lines else type(err).__name__


@dataclass(frozen=True, slots=True)
class Example:
    """A network that ships with edgeprune."""

    make: Callable[[int], nn.Module]
    preprocess: Preprocess
    classes: tuple[str, ...]


EXAMPLES = {
    "digits": Example(
        digits_net, Preprocess(color="gray", resize=(32, 32), mean=(0.5,), std=(0.5,)), tuple("0123456789")
    ),
    "scenes": Example(scenes_net, Preprocess(mean=(0.5,), std=(0.5,)), SCENE_CLASSES),
    "shapes": Example(shapes_net, Preprocess(mean=(0.5,), std=(0.5,)), SCENE_CLASSES[1:]),
}
KINDS: dict[str, Callable[[str, str | None], Source]] = {
    "torchvision": _torchvision,
    "python": _python,
    "example": _example,
}
