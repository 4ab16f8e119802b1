"""edgeprune.toml + flags -> BuildConfig. Every flag of `build` has a twin of the same name in the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from edgeprune import budgets
from edgeprune.errors import ConfigError
from edgeprune.quantities import count, quantity
from edgeprune.records import Basis, Budget, Figure, Limit
from edgeprune.untrusted import read_toml

FILE = "edgeprune.toml"
EXAMPLE = "example:digits"
EXAMPLES = "example:"
"""What the names of bundled networks begin with; they bring their own images."""
OF_TASK = {"classification": EXAMPLE, "segmentation": "example:scenes", "detection": "example:shapes"}
"""The bundled example of each task."""


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _shape(text: object) -> object:
    """`1x3x224x224` -> (1, 3, 224, 224), `?` for a free size."""
    if not isinstance(text, str):
        return text
    sizes = [None if part == "?" else int(part) if part.isdigit() else 0 for part in text.lower().split("x")]
    free = [size is None for size in sizes]
    if len(sizes) != 4 or 0 in sizes or sizes[0] not in (1, None) or free[1] or free[2] != free[3]:  # noqa: PLR2004 - N, C, H, W
        raise ValueError(
            "write batch x channels x height x width, like 1x3x224x224; the batch is 1 or ?, height and "
            "width are both numbers or both ?"
        )
    return tuple(sizes)


def _frame(text: object) -> object:
    """`480x640` -> (480, 640)."""
    if isinstance(text, str):
        parts = text.lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):  # noqa: PLR2004
            raise ValueError("write height x width in pixels, like 480x640")
        return tuple(map(int, parts))
    return text


def _listed(value: object) -> object:
    """One number is a list of one, as in the description of a data set."""
    return (value,) if isinstance(value, int | float) else value


Milliseconds = Annotated[float | None, BeforeValidator(lambda text: quantity("time", text)), Field(gt=0)]
Bytes = Annotated[int | None, BeforeValidator(lambda text: _whole(quantity("size", text))), Field(gt=0)]
Count = Annotated[
    float | None, BeforeValidator(lambda text: None if text is None else count(text)), Field(gt=0)
]
Sides = Annotated[tuple[int, ...] | None, BeforeValidator(_listed)]
Factors = Annotated[tuple[float, ...] | None, BeforeValidator(_listed)]


WALKS = ("c-swap-c", "c-swap")
"""Methods that walk: C-SWAP, compensated or as published; the others rank all units at once."""
METHODS = (
    *WALKS,
    *("magnitude-l1", "magnitude-l2", "bn-scale", "random", "activation", "variance", "gradient", "taylor"),
    *("integrated-gradients", "lrp", "i-lrp", "class-aware", "budget-aware"),
)
"""What decides which channels go: C-SWAP and its rivals."""
OWN_METHOD = "python:"


def _known_method(name: str) -> str:
    if name in METHODS or name.startswith(OWN_METHOD):
        return name
    near = difflib.get_close_matches(name, METHODS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(METHODS)}, python:file.py:function"
    raise ValueError(f"no such method; {hint}")


TASKS = ("classification", "segmentation", "detection")
"""What a network is for."""


def _known_task(name: str) -> str:
    if name in TASKS or name.startswith(OWN_METHOD):
        return name
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}, python:file.py:function"
    raise ValueError(f"no such task; {hint}")


def _known_device(name: str) -> str:
    if re.fullmatch(r"cpu|auto|cuda(:\d+)?", name):
        return name
    raise ValueError("no such device; write cpu, cuda, cuda:N or auto")


class BuildConfig(BaseModel):
    """What `edgeprune build` does; defaults build the bundled example for this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = EXAMPLE
    weights: str | None = None
    data: str | None = None
    """None: the data of the bundled example."""
    task: Annotated[str, AfterValidator(_known_task)] = "classification"
    target: str = "openvino"
    out: Path = Path("edgeprune-out")

    method: Annotated[str, AfterValidator(_known_method)] = "c-swap-c"
    compensate: Literal["none", "mean", "linear", "affine"] | None = None
    """None: affine for c-swap-c, else none."""
    refit: bool = True
    """With affine: sequential least squares at the end."""
    bn_reestimate: bool = False
    allocation: Literal["global", "uniform"] = "global"
    """Of a criterion: one order over all layers, or the same share of every group."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test: Literal["welch", "paired"] = "welch"
    combine: Literal["any-class", "pooled"] = "any-class"
    reference: Literal["dense", "current"] = "dense"
    """Of c-swap: what an intervention is compared with."""
    order: Literal["magnitude", "random"] = "magnitude"
    """Of c-swap: of units within a layer."""
    price: Literal["auto", "units", "params", "macs", "both"] = "auto"
    """Of c-swap-c: what the damage of a unit is divided by for the order of removal; auto: params where a
    share of them is to go, else units."""
    group_test: Annotated[int, Field(ge=1)] = 64
    early_exit: bool = True
    device: Annotated[str, AfterValidator(_known_device)] = "cpu"
    """Where the analysis runs."""
    batch_interventions: Annotated[int, Field(ge=1)] | None = None
    """Of c-swap, evaluated in one run; None: 1 on a CPU, as many as fit on a GPU."""
    memory_limit: Bytes = None
    """Of the analysis; None: half of what the machine has."""
    samples_per_class: Annotated[int, Field(ge=1)] | None = None
    align: Annotated[int, Field(ge=1)] | None = None
    """None: the target's own step."""
    seed: int = 0

    head_width: bool = False
    """Attention heads are cut in width instead of whole."""
    rules: str | None = None
    """file.py with RULES, or python:module:NAME: coupling rules of the user's own; runs that code."""
    coupling_time: Annotated[Milliseconds, PlainSerializer(lambda ms: None if ms is None else f"{ms}ms")] = (
        None
    )
    coupling_memory: Annotated[Bytes, PlainSerializer(lambda size: None if size is None else f"{size}B")] = (
        None
    )
    """None: 600 s, 800 MB. What lies beyond stays as it is, and the report says so."""

    max_param_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    max_accuracy_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of accuracy."""
    max_latency: Milliseconds = None
    speedup: Annotated[float, Field(gt=1)] | None = None
    """How many times as fast as the dense network."""
    max_memory: Bytes = None
    max_size: Bytes = None
    max_macs: Count = None
    """Multiply-adds of one inference."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """None: the target's own."""
    processes: Annotated[int, Field(ge=2)] = 5
    host: str | None = None
    """user@device[:port]; None: the target's own, empty: this machine."""
    setup: bool = False
    """Install a missing runtime on the device."""
    undecided: Literal["fail", "warn", "pass"] = "fail"
    budgets: dict[str, dict[str, object]] = {}
    """[budgets.default] and [budgets.TARGET]."""
    simplify: bool = True
    opset: Annotated[int, Field(ge=18, le=25)] = 20
    input_shape: Annotated[tuple[int | None, ...] | None, BeforeValidator(_shape)] = None
    """Batch, channels, height, width; None for a free one."""
    fp16: bool = False
    """Store the weights of the pruned network in 16 bits."""
    external_weights: bool = False
    """Weights of ONNX files in a file beside."""
    forms: tuple[Literal["ort", "optimized", "compiled", "boxes"], ...] = ()
    """Other forms of the deployed network; `boxes` gives an SSD's detections."""
    frame: Annotated[tuple[int, int] | None, BeforeValidator(_frame)] = None
    """Height and width of camera frames: also write a network with the processing of images inside."""
    frame_output: Literal["scores", "probabilities", "class"] = "probabilities"
    int8: bool = False
    """Quantize to 8 bits what is deployed."""
    int8_tool: Literal["nncf", "onnxruntime"] | None = None
    """None: NNCF for OpenVINO, ONNX Runtime's own for ONNX Runtime."""
    int8_images: Annotated[int, Field(ge=1)] = 300
    """Calibration images that the ranges come from, at most."""

    color: Literal["rgb", "bgr", "gray"] | None = None
    resize: Sides = None
    crop: Sides = None
    rotate: Literal[0, 90, 180, 270] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    scale: float | None = None
    mean: Factors = None
    std: Factors = None

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.fp16 and self.int8:
            raise ValueError("--fp16 and --int8 exclude each other: 8 bits are smaller; choose one")
        return self

    @property
    def budget(self) -> Budget:
        drop = self.max_accuracy_drop
        return Budget(
            max_latency_ms=self.max_latency,
            max_memory_bytes=self.max_memory,
            max_size_bytes=self.max_size,
            max_accuracy_drop=None if drop is None else drop / 100,
            limits=(*self._flag_limits, *budgets.read(self.budgets, target=Path(self.target).stem)),
        )

    @property
    def _flag_limits(self) -> tuple[Limit, ...]:
        found = []
        if self.speedup is not None:
            found.append(Limit(figure=Figure.LATENCY_P50, basis=Basis.DENSE, value=1 / self.speedup))
        if self.max_macs is not None:
            found.append(Limit(figure=Figure.MACS, value=self.max_macs))
        return tuple(found)

    @property
    def preprocess(self) -> dict[str, object]:
        """The preprocessing fields that the user set."""
        names = ("color", "resize", "crop", "rotate", "interpolation", "scale", "mean", "std")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def make_config(flags: Mapping[str, object], *, file: Path | None = None) -> BuildConfig:
    """The configuration from a file (or none) and the flags that were given, which win.

    Raises:
        ConfigError: unknown keys (with the nearest known one), wrong values, a file that is not TOML.
    """
    settings = _read(file) if file is not None else {}
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return BuildConfig.model_validate(_of_example({**settings, **given}))
    except ValidationError as err:
        raise ConfigError(_complaint(err, file, given)) from err


def _of_example(settings: Mapping[str, object]) -> dict[str, object]:
    """A task alone stands for its bundled example, and a bundled example for its task."""
    found = dict(settings)
    if "model" not in found:
        found["model"] = OF_TASK.get(str(found.get("task", "classification")), EXAMPLE)
    of_example = {model: task for task, model in OF_TASK.items()}
    if found["model"] in of_example:
        found.setdefault("task", of_example[str(found["model"])])
    return found


def _read(file: Path) -> dict[str, object]:
    try:
        settings = read_toml(file)
    except OSError as err:
        raise ConfigError(f"{file}: cannot be read ({err.strerror}); check the path.") from err
    except ValueError as err:
        raise ConfigError(f"{file}: not valid TOML: {err}.") from err
    return {name: _beside(file, name, value) for name, value in settings.items()}


def _beside(file: Path, name: str, value: object) -> object:
    """Paths in the file are relative to it; names (imagenet, DEFAULT, openvino) stay names."""
    paths = ("model", "task", "weights", "data", "target", "out", "rules")
    if not isinstance(value, str) or name not in paths:
        return value
    if name in ("model", "task", "rules") and (found := re.fullmatch(r"(python:)(.+\.py)(:.+)", value)):
        return f"{found[1]}{file.parent / found[2]}{found[3]}"
    if name == "task":
        return value
    place = file.parent / value
    is_path = place.is_file() if name in ("model", "target", "rules") else place.exists()
    return str(place) if name == "out" or is_path else value


def _complaint(err: ValidationError, file: Path | None, flags: Mapping[str, object]) -> str:
    first = err.errors()[0]
    if not first["loc"]:
        return f"{first['msg'].removeprefix('Value error, ')}."
    name = str(first["loc"][0])
    where = f"--{name.replace('_', '-')}" if name in flags else f"{file}: {name}"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, BuildConfig.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else "see edgeprune build --help."
        return f"{where}: no such setting; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "literal_error":
        message = _choices(first["ctx"]["expected"], str(first["input"]))
    return f"{where} = {first['input']!r}: {message}{'' if message.endswith('?') else '.'}"


def _choices(expected: str, given: str) -> str:
    """`'none', 'mean' or 'affine'` and what was given -> the nearest, and all of them."""
    known = re.findall(r"'([^']*)'", expected)
    near = difflib.get_close_matches(given, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}It is one of {', '.join(known) or expected}"
