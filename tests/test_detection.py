"""Detectors: what traces is cut, and what detects is whole."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from oracle import TOLERANCE, masked_against_cut, random_images, random_units, randomise_, relative_error
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.ops import MultiScaleRoIAlign

from edgeprune import surgery
from edgeprune.channels import Coupling, couple, cut, kept_indices, masked, trace
from edgeprune.errors import ModelError
from edgeprune.records import InputSpec
from edgeprune.zoo import detecting
from edgeprune.zoo.detection import DetectorCore, core_of, detector_of, is_detector

SPEC = InputSpec(shape=(3, 64, 64))
IMAGE_SIZES = {"min_size": 64, "max_size": 64}


class Backbone(nn.Module):
    """One level of features; says how wide it is, as torchvision asks."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 16
        self.a, self.b = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))))


def anchors() -> AnchorGenerator:
    return AnchorGenerator(sizes=((16,),), aspect_ratios=((1.0, 2.0),))


def faster_rcnn() -> nn.Module:
    pool = MultiScaleRoIAlign(["0"], 3, 2)
    options = {"num_classes": 4, "box_roi_pool": pool, "rpn_anchor_generator": anchors(), **IMAGE_SIZES}
    return detection.FasterRCNN(Backbone(), box_score_thresh=0.0, box_detections_per_img=5, **options)


def mask_rcnn() -> nn.Module:
    pools = {
        f"{name}_roi_pool": MultiScaleRoIAlign(["0"], size, 2) for name, size in (("box", 3), ("mask", 4))
    }
    options = {"num_classes": 4, "rpn_anchor_generator": anchors(), **pools, **IMAGE_SIZES}
    return detection.MaskRCNN(Backbone(), box_score_thresh=0.0, box_detections_per_img=5, **options)


def keypoint_rcnn() -> nn.Module:
    pools = {f"{n}_roi_pool": MultiScaleRoIAlign(["0"], size, 2) for n, size in (("box", 3), ("keypoint", 4))}
    options = {
        "num_classes": 2,
        "num_keypoints": 3,
        "rpn_anchor_generator": anchors(),
        **pools,
        **IMAGE_SIZES,
    }
    return detection.KeypointRCNN(Backbone(), box_score_thresh=0.0, box_detections_per_img=5, **options)


def retina_net() -> nn.Module:
    options = {"num_classes": 4, "anchor_generator": anchors(), **IMAGE_SIZES}
    network = detection.RetinaNet(Backbone(), score_thresh=0.0, detections_per_img=5, **options)
    return network


def fcos() -> nn.Module:
    backbone = Backbone()  # its head normalises over 32 groups
    backbone.b, backbone.out_channels = nn.Conv2d(8, 64, 3, 2, 1), 64
    anchor = AnchorGenerator(sizes=((8,),), aspect_ratios=((1.0,),))
    options = {"num_classes": 4, "anchor_generator": anchor, **IMAGE_SIZES}
    return detection.FCOS(backbone, score_thresh=0.0, detections_per_img=5, **options)


def ssd() -> nn.Module:
    backbone = Backbone()
    backbone.out_channels = [16]
    boxes = DefaultBoxGenerator([[2]], scales=[0.2, 0.5])
    return detection.ssd.SSD(backbone, boxes, (64, 64), 4, score_thresh=0.0, detections_per_img=5)


DETECTORS = (faster_rcnn, mask_rcnn, keypoint_rcnn, retina_net, fcos, ssd)


def prepared(make: Callable[[], nn.Module]) -> tuple[DetectorCore, Coupling]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = make().eval()
    randomise_(detector)
    core = core_of(detector)
    return core, couple(trace(core, SPEC, one_tensor=False))


def operate(core: DetectorCore, coupling: Coupling, removed: dict[str, tuple[int, ...]]) -> surgery.Operated:
    traced, kept = coupling.ties.traced, kept_indices(coupling, removed)
    return surgery.operate(core, kept, cut(coupling, removed), traced.spec, batch=traced.batch)


@pytest.mark.slow
@pytest.mark.parametrize("make", DETECTORS)
def test_a_smaller_detector_detects_what_the_masked_one_detects(make: Callable[[], nn.Module]) -> None:
    core, coupling = prepared(make)
    assert coupling.unknown_ops == {}
    removed = random_units(coupling, 0.4)
    assert masked_against_cut(coupling, removed) < TOLERANCE
    operated = operate(core, coupling, removed)
    assert operated.own_class, operated.reason
    smaller = detector_of(operated.module, SPEC)
    assert type(smaller) is type(core.detector)
    zeroed = copy.deepcopy(core)
    zeroed.load_state_dict(masked(coupling, removed).state_dict(), strict=False)
    image = torch.rand(3, 50, 60, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        [expected], [found] = zeroed.detector([image]), smaller([image])
    assert len(expected["boxes"]) > 0
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-3)


def test_the_backbone_says_how_wide_it_is() -> None:
    core, coupling = prepared(ssd)
    name = next(group.name for group in coupling.groups if "backbone.b" in group.name)
    smaller = detector_of(operate(core, coupling, {name: (0, 1, 2)}).module, SPEC)
    assert smaller.backbone.out_channels == [13]
    core, coupling = prepared(retina_net)
    smaller = detector_of(operate(core, coupling, {name: (0, 1, 2)}).module, SPEC)
    assert (smaller.backbone.out_channels, core.detector.backbone.out_channels) == (13, 16)


def test_what_a_region_is_taken_from_is_coupled_with_its_head() -> None:
    _, coupling = prepared(faster_rcnn)
    [features] = [group for group in coupling.groups if group.name == "detector.backbone.b.weight"]
    read = {(slot.parameter, slot.indices.shape[1]) for slot in features.slots if slot.consumer}
    assert read == {("detector.rpn.head.conv.0.0.weight", 1), ("detector.roi_heads.box_head.fc6.weight", 9)}


def test_a_second_stage_follows_the_first_as_it_is() -> None:
    """The file of a Faster R-CNN ends before its regions; behind it, boxes come out as the detector's own."""
    core, _ = prepared(faster_rcnn)
    detector = core.detector
    first, finish = detecting(detector, SPEC)
    detector.transform.image_mean, detector.transform.image_std = [0.0] * 3, [1.0] * 3
    images = torch.rand(2, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, given = detector(list(images)), finish(first(images).numpy())
    for own, rows in zip(expected, given, strict=True):
        assert len(rows) == len(own["boxes"]) > 0
        assert rows[:, 0] == pytest.approx(own["labels"].numpy() - 1)
        assert rows[:, 1] == pytest.approx(own["scores"].numpy(), abs=1e-5)
        assert rows[:, 2:] == pytest.approx(own["boxes"].numpy(), abs=1e-2)

    coupling = couple(trace(first, SPEC))
    cuttable = {group.name for group in coupling.groups}
    assert cuttable == {"backbone.a.weight", "head.conv.0.0.weight"}, "what regions are taken from stays"
    removed = random_units(coupling, 0.4)
    kept = kept_indices(coupling, removed)
    smaller = surgery.operate(first, kept, cut(coupling, removed), SPEC, batch=None)
    assert smaller.own_class, smaller.reason
    with torch.no_grad():
        masked_outputs, outputs = masked(coupling, removed)(images).numpy(), smaller.module(images).numpy()
    for rows, others in zip(finish(masked_outputs), finish(outputs), strict=True):
        assert len(rows) > 0
        assert rows == pytest.approx(others, abs=1e-2)


def test_other_networks_are_refused() -> None:
    assert not is_detector(nn.ReLU())
    with pytest.raises(ModelError, match="ReLU: no detector of torchvision's kinds"):
        core_of(nn.ReLU())
    with pytest.raises(ModelError, match="its graph has no post-processing"):
        detector_of(nn.ReLU(), SPEC)


@pytest.mark.heavy
@pytest.mark.parametrize("name", models.list_models(module=models.detection))
def test_a_detector_of_torchvision(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = models.get_model(name, weights=None, weights_backbone=None).eval()
    randomise_(detector)
    core, side = core_of(detector), 300 if name == "ssd300_vgg16" else 320
    coupling = couple(trace(core, InputSpec(shape=(3, side, side)), one_tensor=False))
    assert coupling.unknown_ops == {}
    for seed, ratio in enumerate((0.5, 0.9)):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE
    removed = random_units(coupling, 0.5)
    operated = operate(core, coupling, removed)
    assert operated.own_class, operated.reason
    x = random_images(coupling)
    with torch.no_grad():
        assert relative_error(cut(coupling, removed)(x), operated.module(x)) < TOLERANCE
        [found] = detector_of(operated.module, coupling.ties.traced.spec)([torch.rand(3, 200, 250)])
    assert {"boxes", "labels", "scores"} <= found.keys()
