"""Detectors of torchvision: the part with fixed shapes, which traces, and the rest, which does not.

A core is what is traced, coupled and cut; `detector_of` gives the detector back, post-processing and all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import detection
from torchvision.ops import MultiScaleRoIAlign

from edgeprune.errors import ModelError
from edgeprune.records import InputSpec

ONE_STAGE = (detection.FCOS, detection.RetinaNet, detection.ssd.SSD)
TWO_STAGES = (detection.generalized_rcnn.GeneralizedRCNN,)


class DetectorCore(nn.Module):
    """Backbone, neck and heads of a detector on images of one size; the detector stays inside, whole.

    Which regions a second stage looks at depends on the data. For the channels it does not matter: a region
    has the channels of the features it is taken from, each sampled by itself. So the heads of a second stage
    get whole feature maps here, every level resized to the size of a region and all of them added up.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> dict[str, Any]:  # Any: what the heads give: tensors, lists, dicts
        detector: Any = self.detector  # Any: nn.Module types no attributes
        features = features_of(detector, images)
        if isinstance(detector, ONE_STAGE):
            return dict(detector.head(list(features.values())))
        objectness, boxes = detector.rpn.head(list(features.values()))
        return {"objectness": objectness, "proposals": boxes, **_regions(detector.roi_heads, features)}


def is_detector(module: nn.Module) -> bool:
    """Whether a module is a detector that `core_of` can take apart."""
    return isinstance(module, (*ONE_STAGE, *TWO_STAGES))


def core_of(detector: nn.Module) -> DetectorCore:
    """The part of a detector that traces; it shares the detector's weights.

    Raises:
        ModelError: it is none of torchvision's detectors.
    """
    if not is_detector(detector):
        known = ", ".join(kind.__name__ for kind in (*ONE_STAGE, *TWO_STAGES))
        raise ModelError(f"{type(detector).__name__}: no detector of torchvision's kinds ({known}).")
    return DetectorCore(detector).train(detector.training)


def detector_of(module: nn.Module, spec: InputSpec) -> nn.Module:
    """The detector inside a core that was cut, ready to detect: its backbone says how wide it is now.

    Args:
        module: What surgery made of a core.
        spec: What the core was traced with.

    Raises:
        ModelError: surgery gave the graph of the core, which has no post-processing.
    """
    if not isinstance(module, DetectorCore):
        raise ModelError(
            "the detector's own class could not be kept, and its graph has no post-processing; "
            "cut fewer channels, or report the detector."
        )
    backbone: Any = module.detector.backbone  # Any: each has attributes of its own
    with torch.no_grad():
        features = features_of(module.detector, torch.zeros(1, *spec.shape)).values()
    widths = [int(level.shape[1]) for level in features]
    if isinstance(getattr(backbone, "out_channels", None), int):
        backbone.out_channels = widths[0]
    elif hasattr(backbone, "out_channels"):
        backbone.out_channels = widths
    detector = module.detector
    assert isinstance(detector, nn.Module)
    return detector


def features_of(detector: Any, images: Tensor) -> Mapping[str, Tensor]:  # Any: the same
    features = detector.backbone(images)
    return OrderedDict([("0", features)]) if isinstance(features, Tensor) else features


def _regions(heads: Any, features: Mapping[str, Tensor]) -> dict[str, Any]:
    # Any: the heads are modules of the user's choice, and so is what they give
    given: dict[str, Any] = {
        "regions": heads.box_predictor(heads.box_head(_sampled(heads.box_roi_pool, features)))
    }
    if heads.has_mask():
        given["masks"] = heads.mask_predictor(heads.mask_head(_sampled(heads.mask_roi_pool, features)))
    if heads.has_keypoint():
        sampled = _sampled(heads.keypoint_roi_pool, features)
        given["keypoints"] = heads.keypoint_predictor(heads.keypoint_head(sampled))
    return given


def _sampled(pool: MultiScaleRoIAlign, features: Mapping[str, Tensor]) -> Tensor:
    levels = [features[name] for name in pool.featmap_names if name in features]
    resized = [functional.interpolate(level, size=tuple(pool.output_size)) for level in levels]
    return torch.stack(resized).sum(0)
