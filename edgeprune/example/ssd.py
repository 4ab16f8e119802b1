"""The network of the detection example: torchvision's SSD (Liu et al. 2016) on a small backbone, 96x96."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from edgeprune.example.scenes import WIDE_SIDE

ASPECT_RATIOS = [[2], [2]]
SCALES = [0.2, 0.33, 0.5]
"""Sides of the anchors of both levels, and of what would be the next one, of the image's."""


def _block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ShapesBackbone(nn.Module):
    """Images (N, 3, 96, 96) to features (N, 64, 12, 12), which know the coarse ones, and (N, 128, 6, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = [64, 128]
        self.stem = _block(3, 24, stride=2)
        self.level1 = nn.Sequential(_block(24, 32, stride=2), _block(32, 32))
        self.level2 = nn.Sequential(_block(32, 64, stride=2), _block(64, 64))
        self.level3 = nn.Sequential(_block(64, 128, stride=2), _block(128, 128))
        self.up, self.join = nn.Conv2d(128, 64, 1), _block(128, 64)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.level2(self.level1(self.stem(x)))
        coarse = self.level3(fine)
        above = functional.interpolate(self.up(coarse), scale_factor=2.0, mode="nearest")
        return {"fine": self.join(torch.cat([fine, above], dim=1)), "coarse": coarse}


def shapes_net(num_classes: int = 4) -> SSD:
    """The example network with untrained weights; `zoo.load("example:shapes")` gives the trained one.

    Args:
        num_classes: Without torchvision's class 0, which stands for no object.
    """
    return SSD(
        ShapesBackbone(),
        DefaultBoxGenerator(ASPECT_RATIOS, scales=SCALES),
        (WIDE_SIDE, WIDE_SIDE),
        num_classes + 1,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        score_thresh=0.02,
        detections_per_img=100,
        topk_candidates=100,
    )
