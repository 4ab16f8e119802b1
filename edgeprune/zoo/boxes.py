"""A detector as one tensor and the post-processing behind it: what is traced, cut and deployed, and what not.

Boxes come out of a search whose length depends on the data, which neither traces nor runs everywhere. So the
deployed file ends at one tensor of shape (N, anchors, 4 + scores), and the detector's own post-processing
follows as a step in Python, the dense and the pruned network's alike. Of two stages, the second belongs to
that step: the file gives features and what the first one found, end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from edgeprune.errors import ModelError
from edgeprune.records import Decoding, Floats, InputSpec
from edgeprune.zoo.detection import ONE_STAGE, TWO_STAGES, DetectorCore, features_of

Finish = Callable[[Floats], Sequence[NDArray[np.floating[Any]]]]
"""Outputs of some images -> detections of each: rows (class, score, x0, y0, x1, y1), pixels of the input.
torchvision's class 1 is class 0 here: its class 0 stands for no object."""

MORE_THAN_BOXES = (detection.MaskRCNN, detection.KeypointRCNN)
PARTS = ("bbox_regression", "cls_logits", "bbox_ctrness")


class OneTensor(nn.Module):
    """The core of a one-stage detector, its outputs side by side: (N, anchors, 4 + scores)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.core = DetectorCore(detector)

    def forward(self, images: Tensor) -> Tensor:
        given = self.core(images)
        return torch.cat([given[part] for part in PARTS if part in given], dim=2)


class FirstStage(nn.Module):
    """Backbone, neck and proposals of a two-stage detector: features, objectness and deltas, (N, values)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        whole: Any = detector  # Any: nn.Module types no attributes
        self.backbone, self.head = whole.backbone, whole.rpn.head

    def forward(self, images: Tensor) -> Tensor:
        features = list(features_of(self, images).values())
        objectness, deltas = self.head(features)
        return torch.cat([value.flatten(1) for value in (*features, *objectness, *deltas)], dim=1)


class Given(nn.Module):
    """Stands in for the head of a first stage, and gives what is known already."""

    def __init__(self, known: tuple[list[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.known = known

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return self.known


def detecting(module: nn.Module, spec: InputSpec) -> tuple[nn.Module, Finish]:
    """What is traced of a detector, and its post-processing.

    Args:
        module: One of torchvision's one-stage detectors, its Faster R-CNN, or any network with a method
            `detections(outputs)`, which gives for each image rows of class, score, x0, y0, x1, y1.
        spec: Its input.

    Raises:
        ModelError: it is neither.
    """
    if isinstance(module, ONE_STAGE):
        return OneTensor(module).eval(), _finish(module, spec)
    if isinstance(module, detection.FasterRCNN) and not isinstance(module, MORE_THAN_BOXES):
        return FirstStage(module).eval(), _second_stage(module, spec)
    if isinstance(module, TWO_STAGES):
        raise ModelError(
            f"{type(module).__name__}: boxes are judged, masks and keypoints are not; give a detector "
            f"without them ({', '.join(kind.__name__ for kind in (*ONE_STAGE, detection.FasterRCNN))})."
        )
    own = getattr(module, "detections", None)
    if callable(own):
        return module, own
    raise ModelError(
        f"{type(module).__name__}: task = detection needs a detector of torchvision's "
        f"({', '.join(kind.__name__ for kind in (*ONE_STAGE, detection.FasterRCNN))}), or a method "
        "`detections(outputs)`."
    )


def has_second_stage(traced: nn.Module) -> bool:
    """Whether what `detecting` gave to trace is only the first stage of two."""
    return isinstance(traced, FirstStage)


def decoding(module: nn.Module, spec: InputSpec) -> Decoding | None:
    """How a detector makes boxes of its one tensor, where that fits in a file (SSD, SSDLite); else None."""
    if not isinstance(module, detection.ssd.SSD):
        return None
    detector: Any = module  # Any: nn.Module types no attributes
    return Decoding(
        anchors=_anchors(detector, spec)[0].double().numpy(),
        weights=tuple(map(float, detector.box_coder.weights)),
        most_growth=float(detector.box_coder.bbox_xform_clip),
        size=spec.shape[1:],
        score_from=float(detector.score_thresh),
        overlap=float(detector.nms_thresh),
        candidates=int(detector.topk_candidates),
        most=int(detector.detections_per_img),
    )


def _anchors(detector: Any, spec: InputSpec) -> tuple[Tensor, list[int]]:  # Any: the same
    """Anchors of an image, and the pixels of each level of features."""
    with torch.inference_mode():
        image = torch.zeros(1, *spec.shape)
        features = list(features_of(detector, image).values())
        anchors: Tensor = detector.anchor_generator(ImageList(image, [spec.shape[1:]]), features)[0]
    return anchors, [level.shape[2] * level.shape[3] for level in features]


def _finish(detector: Any, spec: InputSpec) -> Finish:  # Any: nn.Module types no attributes
    anchors, sizes = _anchors(detector, spec)

    def finish(outputs: Floats) -> list[NDArray[np.floating[Any]]]:
        count = len(outputs)
        given = _parts(torch.from_numpy(outputs), detector)
        each: list[Any] = [anchors] * count
        if not isinstance(detector, detection.ssd.SSD):
            per_level = [size * len(anchors) // sum(sizes) for size in sizes]
            given = {name: list(value.split(per_level, dim=1)) for name, value in given.items()}
            each = [list(torch.split(anchors, per_level))] * count
        with torch.inference_mode():
            found = detector.postprocess_detections(given, each, [spec.shape[1:]] * count)
        return _rows(found)

    return finish


def _second_stage(detector: Any, spec: InputSpec) -> Finish:  # Any: as above
    """Proposals and regions by the detector's own code, from what the first stage gave."""
    with torch.inference_mode():
        features = features_of(detector, torch.zeros(1, *spec.shape))
        known = detector.rpn.head(list(features.values()))
    shapes = [value.shape[1:] for value in (*features.values(), *known[0], *known[1])]
    sizes = [shape.numel() for shape in shapes]

    def finish(outputs: Floats) -> list[NDArray[np.floating[Any]]]:
        count = len(outputs)
        parts = torch.split(torch.from_numpy(outputs), sizes, dim=1)
        values = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        levels = dict(zip(features, values, strict=False))
        half = len(levels) + len(known[0])
        first = copy(detector.rpn)
        first._modules = {**first._modules, "head": Given((values[len(levels) : half], values[half:]))}
        images = ImageList(torch.zeros(1).expand(count, *spec.shape), [spec.shape[1:]] * count)
        with torch.inference_mode():
            proposals, _ = first(images, levels)
            found, _ = detector.roi_heads(levels, proposals, images.image_sizes)
        return _rows(found)

    return finish


def _rows(found: Sequence[dict[str, Tensor]]) -> list[NDArray[np.floating[Any]]]:
    return [
        torch.cat([(x["labels"] - 1)[:, None], x["scores"][:, None], x["boxes"]], dim=1).double().numpy()
        for x in found
    ]


def _parts(outputs: Tensor, detector: Any) -> dict[str, Any]:
    widths = [4, outputs.shape[2] - 4]
    if isinstance(detector, detection.FCOS):
        widths = [4, outputs.shape[2] - 5, 1]
    return dict(zip(PARTS, torch.split(outputs, widths, dim=2), strict=False))
