"""The network of the segmentation example: a small U-Net (Ronneberger et al. 2015) for 64x64 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ScenesNet(nn.Module):
    """Images (N, 3, 64, 64) to class scores (N, num_classes, 64, 64)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _block(3, 24, stride=2)
        self.level1 = _block(24, 32)
        self.down2, self.level2 = _block(32, 64, stride=2), _block(64, 64)
        self.down3, self.level3 = _block(64, 128, stride=2), _block(128, 128)
        self.up2, self.join2 = nn.Conv2d(128, 64, 1), _block(128, 64)
        self.up1, self.join1 = nn.Conv2d(64, 32, 1), _block(64, 32)
        self.head = nn.Conv2d(32, 4 * num_classes, 1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.level1(self.stem(x))
        second = self.level2(self.down2(first))
        third = self.level3(self.down3(second))
        joined = self.join2(torch.cat([second, _twice(self.up2(third))], dim=1))
        joined = self.join1(torch.cat([first, _twice(self.up1(joined))], dim=1))
        scores: Tensor = self.shuffle(self.head(joined))
        return scores


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def scenes_net(num_classes: int = 5) -> ScenesNet:
    """The example network with untrained weights; `zoo.load("example:scenes")` gives the trained one."""
    return ScenesNet(num_classes)
