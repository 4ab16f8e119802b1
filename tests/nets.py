"""Networks that torchvision has not, written from their papers; weights of most lie in ../shared/data/models.

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


class DdrBlock(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 to twice the width; `last` leaves out the final ReLU."""

    def __init__(self, inputs: int, width: int, stride: int = 1, *, wide: bool = False, last: bool = False):
        super().__init__()
        outputs = 2 * width if wide else width
        sizes = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
        sizes = sizes if wide else [(inputs, width, 3), (width, width, 3)]
        strides = (1, stride, 1) if wide else (stride, 1)
        layers = [normed(*size, step) for size, step in zip(sizes, strides, strict=True)]
        self.layers = nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers[:-1]), layers[-1])
        fits = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if fits else normed(inputs, outputs, 1, stride)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.layers(x) + self.shortcut(x)
        return joined if self.last else torch.relu(joined)


class Dappm(nn.Module):
    """Deep aggregation pyramid pooling (Hong et al. 2021, figure 5): ever coarser means, added up in turn."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(2 ** (i + 1) + 1, 2**i, 2**i) for i in (1, 2, 3)]
        scales = [nn.Identity(), *pools, nn.AdaptiveAvgPool2d(1)]
        self.scales = nn.ModuleList(nn.Sequential(scale, *activated(inputs, width, 1)) for scale in scales)
        self.processes = nn.ModuleList(nn.Sequential(*activated(width, width, 3)) for _ in range(4))
        self.compression = nn.Sequential(*activated(5 * width, outputs, 1))
        self.shortcut = nn.Sequential(*activated(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        found = [self.scales[0](x)]
        for scale, process in zip(self.scales[1:], self.processes, strict=True):
            found.append(process(resized(scale(x), x) + found[-1]))
        joined: Tensor = self.compression(torch.cat(found, 1)) + self.shortcut(x)
        return joined


class DdrNet(nn.Module):
    """Deep dual-resolution network (Hong et al. 2021): two branches that keep exchanging what they found."""

    def __init__(self, num_classes: int, *, width: int, pooled: int, head: int) -> None:
        super().__init__()
        w, high = width, 2 * width
        stem = [nn.Sequential(normed(i, w, 3, 2), nn.ReLU()) for i in (3, w)]
        self.stem = nn.Sequential(*stem, ddr_stage(w, w), nn.ReLU(), ddr_stage(w, 2 * w, 2), nn.ReLU())
        self.low3, self.low4 = ddr_stage(2 * w, 4 * w, 2), ddr_stage(4 * w, 8 * w, 2)
        self.low5 = DdrBlock(8 * w, 8 * w, 2, wide=True, last=True)
        self.high3, self.high4 = ddr_stage(2 * w, high), ddr_stage(high, high)
        self.high5 = DdrBlock(high, high, wide=True, last=True)
        self.compression3, self.compression4 = normed(4 * w, high, 1), normed(8 * w, high, 1)
        self.down3 = normed(high, 4 * w, 3, 2)
        self.down4 = nn.Sequential(normed(high, 4 * w, 3, 2), nn.ReLU(), normed(4 * w, 8 * w, 3, 2))
        self.pool = Dappm(16 * w, pooled, 4 * w)
        self.head = nn.Sequential(
            *activated(4 * w, head, 3), nn.BatchNorm2d(head), nn.ReLU(), nn.Conv2d(head, num_classes, 1)
        )
        self.extra_head = nn.Sequential(
            *activated(high, head, 3), nn.BatchNorm2d(head), nn.ReLU(), nn.Conv2d(head, num_classes, 1)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stem = self.stem(x)
        low, high = self.low3(stem), self.high3(stem)
        extra = high + resized(self.compression3(torch.relu(low)), high)
        low = self.low4(torch.relu(low + self.down3(torch.relu(high))))
        high = self.high4(torch.relu(extra))
        fused = high + resized(self.compression4(torch.relu(low)), high)
        low = self.low5(torch.relu(low + self.down4(torch.relu(high))))
        joined = resized(self.pool(low), high) + self.high5(torch.relu(fused))
        return {"out": self.head(joined), "extra": self.extra_head(extra)}


def normed(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def activated(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    """Normalise and activate first, then convolve."""
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return [nn.BatchNorm2d(inputs), nn.ReLU(), convolution]


def ddr_stage(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(DdrBlock(inputs, outputs, stride), DdrBlock(outputs, outputs, last=True))


def resized(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear")


def ddrnet_23_slim(num_classes: int = 19) -> DdrNet:
    return DdrNet(num_classes, width=32, pooled=128, head=64)


class Cbr(nn.Module):
    """ESPNet's convolution, normed and activated as far as asked for."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, *, normed: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2, bias=False)
        if normed:
            self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
            self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return self.act(self.bn(found)) if hasattr(self, "bn") else found


class NormAct(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn, self.act = nn.BatchNorm2d(width, eps=1e-3), nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.act(self.bn(x))
        return found


class Bare(nn.Module):
    """A convolution under the name `conv`, dilated if asked for."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = (size - 1) // 2 * dilation
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


class Esp(nn.Module):
    """Efficient spatial pyramid (Mehta et al. 2018, figure 1): reduce, split over dilations, add up, merge.

    `down` halves the size, with norm and activation side by side; else they are one, behind a shortcut where
    the widths agree.
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool = False, shortcut: bool = True) -> None:
        super().__init__()
        width = outputs // 5
        self.c1 = Bare(inputs, width, 3, 2) if down else Bare(inputs, width, 1)
        self.d1 = Bare(width, outputs - 4 * width, 3)
        for dilation in (2, 4, 8, 16):
            setattr(self, f"d{dilation}", Bare(width, width, 3, dilation=dilation))
        self.down, self.shortcut = down, shortcut
        if down:
            self.bn, self.act = nn.BatchNorm2d(outputs, eps=1e-3), nn.PReLU(outputs)
        else:
            self.bn = NormAct(outputs)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.c1(x)
        sums = [self.d2(reduced)]
        for branch in (self.d4, self.d8, self.d16):
            sums.append(sums[-1] + branch(reduced))
        joined = torch.cat([self.d1(reduced), *sums], dim=1)
        if self.down:
            found: Tensor = self.act(self.bn(joined))
            return found
        merged: Tensor = self.bn(x + joined if self.shortcut else joined)
        return merged


class EspEncoder(nn.Module):
    """ESPNet-C with p = 2 and q = 8; gives what the decoder reads of its three levels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.level1 = Cbr(3, 16, 3, 2)
        self.b1 = NormAct(19)
        self.level2_0 = Esp(19, 64, down=True)
        self.level2 = nn.ModuleList(Esp(64, 64) for _ in range(2))
        self.b2 = NormAct(131)
        self.level3_0 = Esp(131, 128, down=True)
        self.level3 = nn.ModuleList(Esp(128, 128) for _ in range(8))
        self.b3 = NormAct(256)
        self.classifier = Bare(256, num_classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = functional.avg_pool2d(x, 3, 2, 1)
        quarter = functional.avg_pool2d(half, 3, 2, 1)
        first = self.b1(torch.cat([self.level1(x), half], dim=1))
        start = second = self.level2_0(first)
        for layer in self.level2:
            second = layer(second)
        joined = self.b2(torch.cat([second, start, quarter], dim=1))
        start = third = self.level3_0(joined)
        for layer in self.level3:
            third = layer(third)
        return first, joined, self.classifier(self.b3(torch.cat([start, third], dim=1)))


class EspNet(nn.Module):
    """ESPNet (Mehta et al. 2018, figure 4d): class scores at the size of the image, (N, K, H, W)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        k = num_classes
        self.encoder = EspEncoder(k)
        self.level3_C = Bare(131, k, 1)
        self.br = nn.BatchNorm2d(k, eps=1e-3)
        self.conv = Cbr(k + 19, k, 3)
        self.up_l3 = nn.Sequential(nn.ConvTranspose2d(k, k, 2, 2, bias=False))
        self.combine_l2_l3 = nn.Sequential(NormAct(2 * k), Esp(2 * k, k, shortcut=False))
        self.up_l2 = nn.Sequential(nn.ConvTranspose2d(k, k, 2, 2, bias=False), NormAct(k))
        self.classifier = nn.ConvTranspose2d(k, k, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.encoder(x)
        up = self.up_l3(self.br(third))
        joined = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(second), up], dim=1)))
        scores: Tensor = self.classifier(self.conv(torch.cat([joined, first], dim=1)))
        return scores


def camvid_espnet(num_classes: int = 12) -> EspNet:
    """Eleven classes and void."""
    return EspNet(num_classes)
