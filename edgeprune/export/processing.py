"""The processing of images as ONNX operations, as a build does it with Pillow, for frames of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeprune.errors import ModelError
from edgeprune.records import Preprocess

FRAME, CLASS = "frame", "class"
CUBIC_A = -0.5
"""Pillow's cubic."""
ROUNDED = ("bilinear", "bicubic")
FIRST, LAST = -(2**31), 2**31 - 1


class Steps:
    """Operations in a row, each reading what the one before gives."""

    def __init__(self, last: str) -> None:
        self.model = ModelProto()
        self.last = last

    def add(self, op: str, *constants: NDArray[np.generic] | None, **attributes: Any) -> None:  # Any: of ONNX
        """Append an operation; its constants follow the running value, None is an input left out."""
        number = len(self.model.graph.node)
        names = []
        for position, constant in enumerate(constants):
            name = "" if constant is None else f"processing/{op}{number}/{position}"
            names.append(name)
            if constant is not None:
                self.model.graph.initializer.append(numpy_helper.from_array(constant, name))
        made = f"processing/{op}{number}"
        self.model.graph.node.append(helper.make_node(op, [self.last, *names], [made], made, **attributes))
        self.last = made

    def slice(self, starts: list[int], ends: list[int], steps: list[int]) -> None:
        """Cut height and width."""
        whole = (np.array(values, dtype=np.int64) for values in (starts, ends, [2, 3], steps))
        self.add("Slice", *whole)


def before(network: ModelProto, preprocess: Preprocess, frame: tuple[int, int]) -> ModelProto:
    """Operations from frames, uint8 (1, height, width, channels), to the input of a network.

    Channels are red, green, blue, or one for gray.

    Raises:
        ModelError: The frames do not come out in the size that the network reads.
    """
    [image] = network.graph.input
    wanted = tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim)
    height, width = frame
    channels = 1 if preprocess.color == "gray" else 3
    steps = Steps(FRAME)
    steps.model.graph.input.append(
        helper.make_tensor_value_info(FRAME, TensorProto.UINT8, [1, height, width, channels])
    )
    steps.add("Cast", to=TensorProto.FLOAT)
    steps.add("Transpose", perm=[0, 3, 1, 2])
    height, width = resize(steps, preprocess, height, width)
    height, width = crop(steps, preprocess, height, width)
    height, width = rotate(steps, preprocess, height, width)
    if any(size not in (0, given) for size, given in zip(wanted[2:], (height, width), strict=True)):
        raise ModelError(
            f"frames of {frame[0]}x{frame[1]} come out as {height}x{width}, but the network reads "
            f"{wanted[2]}x{wanted[3]}; give the size of frames that resize and crop bring there."
        )
    normalise(steps, preprocess)
    steps.model.graph.node[-1].output[0] = image.name
    return steps.model


def resize(steps: Steps, preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """Pillow's resize; it averages over the whole area where it makes smaller."""
    if preprocess.resize is None:
        return height, width
    after = resized(height, width, preprocess.resize)
    if after == (height, width):
        return after
    modes = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}
    smooth = preprocess.interpolation in ROUNDED
    options: dict[str, float] = {"antialias": 1, "cubic_coeff_a": CUBIC_A, "exclude_outside": 1}
    steps.add(
        "Resize",
        None,
        None,
        np.array(after, dtype=np.int64),
        axes=[2, 3],
        mode=modes[preprocess.interpolation],
        coordinate_transformation_mode="half_pixel",
        **(options if smooth else {"nearest_mode": "floor"}),
    )
    if smooth:  # as Pillow, which gives whole numbers
        steps.add("Round")
        steps.add("Clip", np.array(0, dtype=np.float32), np.array(255, dtype=np.float32))
    return after


def resized(height: int, width: int, sides: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) after a resize; one number is the shorter side, the other one rounds down."""
    if len(sides) > 1:
        return sides[0], sides[1]
    longer = int(sides[0] * max(height, width) / min(height, width))
    return (sides[0], longer) if height <= width else (longer, sides[0])


def crop(steps: Steps, preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """The middle; frames that are smaller get zeros around them."""
    if preprocess.crop is None or preprocess.crop == (height, width):
        return height, width
    starts, pads = [], [0] * 8
    for axis, (side, size) in enumerate(zip((height, width), preprocess.crop, strict=True)):
        missing = max(0, size - side)
        pads[2 + axis], pads[6 + axis] = missing // 2, missing - missing // 2
        starts.append(round((side - size) / 2) if side >= size else 0)
    if any(pads):
        steps.add("Pad", np.array(pads, dtype=np.int64))
    steps.slice(starts, [a + size for a, size in zip(starts, preprocess.crop, strict=True)], [1, 1])
    return preprocess.crop


def rotate(steps: Steps, preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """Counter-clockwise."""
    turned = preprocess.rotate in (90, 270)
    if turned:
        steps.add("Transpose", perm=[0, 1, 3, 2])
    backwards = {90: [-1, 1], 180: [-1, -1], 270: [1, -1]}.get(preprocess.rotate)
    if backwards:
        starts = [LAST if step < 0 else 0 for step in backwards]
        ends = [FIRST if step < 0 else LAST for step in backwards]
        steps.slice(starts, ends, backwards)
    return (width, height) if turned else (height, width)


def normalise(steps: Steps, preprocess: Preprocess) -> None:
    """(pixel * scale - mean) / std, in the order of the network's channels."""
    if preprocess.color == "bgr":
        steps.add("Gather", np.array([2, 1, 0], dtype=np.int64), axis=1)
    along = (1, -1, 1, 1)
    steps.add("Mul", np.array(preprocess.scale, dtype=np.float32))
    steps.add("Sub", np.array(preprocess.mean, dtype=np.float32).reshape(along))
    steps.add("Div", np.array(preprocess.std, dtype=np.float32).reshape(along))


def end_with_(model: ModelProto, end: str) -> None:
    """Let a network give probabilities, or the number of the best class (int64), in the place of scores."""
    if end == "scores":
        return
    [scores] = model.graph.output
    name = scores.name
    if end == "probabilities":
        made = helper.make_node("Softmax", [name], [end], end, axis=1)
        kind, dims = TensorProto.FLOAT, list(scores.type.tensor_type.shape.dim)
    else:
        made = helper.make_node("ArgMax", [name], [CLASS], CLASS, axis=1, keepdims=0)
        kind, dims = TensorProto.INT64, list(scores.type.tensor_type.shape.dim)
        dims = [dims[0], *dims[2:]]
    model.graph.node.append(made)
    sizes = [dim.dim_param or dim.dim_value for dim in dims]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(made.output[0], kind, sizes))
