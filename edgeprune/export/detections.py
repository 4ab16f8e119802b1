"""The post-processing of an SSD as ONNX operations: boxes from anchors, of overlapping ones the surest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeprune.export.writing import save
from edgeprune.records import Decoding

DETECTIONS = "detections"
COLUMNS = 6
LAST = 2**31 - 1


class Graph:
    """Appends operations to a network."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model

    def add(
        self, op: str, *inputs: str | NDArray[Any], **attributes: Any
    ) -> str:  # Any: of ONNX, of any kind
        """Append an operation on values and constants; gives the name of its first output."""
        made = f"detections/{op}{len(self.model.graph.node)}"
        names = []
        for position, value in enumerate(inputs):
            if not isinstance(value, str):
                tensor = numpy_helper.from_array(value, f"{made}/{position}")
                self.model.graph.initializer.append(tensor)
                value = tensor.name  # noqa: PLW2901  # the constant's name stands for it
            names.append(value)
        self.model.graph.node.append(helper.make_node(op, names, [made], made, **attributes))
        return made

    def part(self, value: str, first: int, end: int, axis: int) -> str:
        """Entries from `first` up to `end` along an axis."""
        return self.add("Slice", value, *(np.array([n], dtype=np.int64) for n in (first, end, axis)))


def with_boxes(source: Path, path: Path, decoding: Decoding) -> None:
    """Write a detector that gives its detections: rows of class, score, x0, y0, x1, y1, the surest first.

    Args:
        source: The verified network, one image at a time.
        decoding: How its detector makes boxes of what it gives.
    """
    model = onnx.load(source)
    end_with_boxes_(model, decoding)
    onnx.checker.check_model(model)
    save(model, path)


def end_with_boxes_(model: ModelProto, decoding: Decoding) -> None:
    """Let a detector give detections, shape (any, 6), in the place of its one tensor."""
    [raw] = model.graph.output
    graph = Graph(model)
    boxes = decoded(graph, graph.part(raw.name, 0, 4, 2), decoding)
    shares = graph.add("Softmax", graph.part(raw.name, 4, LAST, 2), axis=2)
    scores = graph.add("Transpose", graph.part(shares, 1, LAST, 2), perm=[0, 2, 1])  # class 0 is no object
    if decoding.candidates < len(decoding.anchors):
        scores = surest_only(graph, scores, decoding.candidates)
    chosen = graph.add(
        "NonMaxSuppression",
        boxes,
        scores,
        np.array([decoding.candidates], dtype=np.int64),
        np.array([decoding.overlap], dtype=np.float32),
        np.array([decoding.score_from], dtype=np.float32),
    )  # rows of image, class, box
    kinds = graph.part(chosen, 1, 2, 1)
    columns = [
        graph.add("Cast", kinds, to=TensorProto.FLOAT),
        graph.add("Unsqueeze", graph.add("GatherND", scores, chosen), np.array([1], dtype=np.int64)),
        graph.add("GatherND", boxes, graph.add("Gather", chosen, np.array([0, 2], dtype=np.int64), axis=1)),
    ]
    rows = graph.add("Concat", *columns, axis=1)
    found = graph.part(graph.add("Shape", rows), 0, 1, 0)
    count = graph.add("Min", found, np.array([decoding.most], dtype=np.int64))
    surest = graph.add("Squeeze", graph.part(rows, 1, 2, 1), np.array([1], dtype=np.int64))
    top = graph.add("TopK", surest, count, axis=0)
    order = f"{top}/order"
    model.graph.node[-1].output.append(order)
    graph.add("Gather", rows, order, axis=0)
    model.graph.node[-1].output[0] = DETECTIONS
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(DETECTIONS, TensorProto.FLOAT, ["detections", COLUMNS])
    )


def surest_only(graph: Graph, scores: str, count: int) -> str:
    """Scores (1, classes, anchors), 0 for all but the surest of each class: they are no candidates."""
    highest = graph.add("TopK", scores, np.array([count], dtype=np.int64), axis=2)
    graph.model.graph.node[-1].output.append(f"{highest}/order")
    least = graph.part(highest, count - 1, count, 2)
    enough = graph.add("GreaterOrEqual", scores, least)
    return graph.add("Where", enough, scores, np.array(0, dtype=np.float32))


def decoded(graph: Graph, offsets: str, decoding: Decoding) -> str:
    """Corners of boxes from their offsets to the anchors, shape (1, anchors, 4), inside the image."""
    anchors = decoding.anchors.astype(np.float32)[None]
    sizes = anchors[..., 2:] - anchors[..., :2]
    centres = anchors[..., :2] + sizes / 2
    weights = np.array(decoding.weights, dtype=np.float32)
    moved = graph.add("Mul", graph.part(offsets, 0, 2, 2), sizes / weights[:2])
    middle = graph.add("Add", moved, centres)
    grown = graph.add("Div", graph.part(offsets, 2, 4, 2), weights[2:])
    grown = graph.add("Exp", graph.add("Min", grown, np.array(decoding.most_growth, dtype=np.float32)))
    half = graph.add("Mul", grown, sizes / 2)
    corners = graph.add("Concat", graph.add("Sub", middle, half), graph.add("Add", middle, half), axis=2)
    height, width = decoding.size
    inside = graph.add("Max", corners, np.array(0, dtype=np.float32))
    return graph.add("Min", inside, np.array([width, height] * 2, dtype=np.float32))
