"""Networks that torchvision has not, written from their papers; their weights lie in ../shared/data/models.

Each factory serves as a user's own code: `--model python:tests.nets:cifar_resnet20`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import DenseNet


class PaddedShortcut(nn.Module):
    """Option A of He et al. 2015: every second pixel, zeros for the channels that are new."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        half = self.new_channels // 2
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.new_channels - half))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else PaddedShortcut(outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2: three stages of equal length, widths 16, 32, 64."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = cifar_stage(16, 16, blocks, stride=1)
        self.layer2 = cifar_stage(16, 32, blocks, stride=2)
        self.layer3 = cifar_stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        scores: Tensor = self.linear(features.mean((2, 3)))
        return scores


def cifar_stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(CifarBlock(inputs, outputs, stride), *rest)


def cifar_resnet20(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(3, num_classes)


def cifar_resnet56(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(9, num_classes)


def cifar_densenet(num_classes: int = 10) -> DenseNet:
    """torchvision's DenseNet with a stem for 32x32 images."""
    network = DenseNet(
        growth_rate=12, block_config=(6, 12, 24), num_init_features=24, num_classes=num_classes
    )
    network.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    network.features.norm0 = nn.Identity()
    network.features.relu0 = nn.Identity()
    network.features.pool0 = nn.Identity()
    return network


class PatchEmbedding(nn.Module):
    """Non-overlapping 4x4 patches as tokens: (N, 3, 32, 32) to (N, 64, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.proj(x)
        return patches.flatten(2).transpose(1, 2)


class CifarViT(nn.Module):
    """Vision transformer (Dosovitskiy 2020) with nn.TransformerEncoderLayer: post-norm, ReLU."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        width = 128
        self.patch_embed = PatchEmbedding(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 65, width))
        layer = nn.TransformerEncoderLayer(width, nhead=8, dim_feedforward=256, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, num_layers=6)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        token = self.cls_token.expand(len(x), -1, -1)
        tokens = self.transformer(torch.cat([token, self.patch_embed(x)], dim=1) + self.pos_embed)
        scores: Tensor = self.mlp_head(tokens[:, 0])
        return scores


def cifar_vit(num_classes: int = 10) -> CifarViT:
    return CifarViT(num_classes)
