"""Networks as people write them, with the patterns that other tools raise on, skip or get wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from nets import ddrnet_23_slim
from oracle import TOLERANCE, masked_against_cut, random_images, random_units, randomise_, relative_error
from torch import Tensor, nn
from torch.nn import functional

from edgeprune import surgery
from edgeprune.channels import Coupling, couple, cut, kept_indices, trace
from edgeprune.records import InputSpec

SPEC = InputSpec(shape=(3, 32, 32))


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class Cbam(nn.Module):
    """A gate per channel from one network on mean and maximum, then a gate per pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.SiLU(), nn.Conv2d(4, channels, 1))
        self.place = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        mean, largest = functional.adaptive_avg_pool2d(x, 1), functional.adaptive_max_pool2d(x, 1)
        x = x * torch.sigmoid(self.shared(mean) + self.shared(largest))
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.place(both))


class C2f(nn.Module):
    """YOLOv8's block, as published: chunk, a chain of bottlenecks on the last piece, all of it joined."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.width = outputs // 2
        self.cv1, self.cv2 = conv(inputs, outputs, 1), conv((2 + depth) * self.width, outputs, 1)
        self.m = nn.ModuleList(
            nn.Sequential(conv(self.width, self.width), conv(self.width, self.width)) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        joined: Tensor = self.cv2(torch.cat(parts, 1))
        return joined


class Sppf(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(channels, channels // 2, 1), conv(2 * channels, channels, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        joined: Tensor = self.cv2(torch.cat(parts, 1))
        return joined


class Yolo(nn.Module):
    """A small YOLOv8: backbone, one level of the neck, a head per level; gives a list."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv(3, 8, 3, 2), conv(8, 16, 3, 2), conv(16, 32, 3, 2)])
        self.blocks = nn.ModuleList([C2f(16, 16, 1), C2f(32, 32, 2)])
        self.sppf, self.neck = Sppf(32), C2f(48, 16, 1)
        self.heads = nn.ModuleList(nn.Sequential(conv(c, 12), nn.Conv2d(12, 7, 1)) for c in (16, 32))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.blocks[0](self.down[1](self.down[0](x)))
        coarse = self.sppf(self.blocks[1](self.down[2](fine)))
        joined = self.neck(torch.cat([functional.interpolate(coarse, scale_factor=2.0), fine], 1))
        return [head(level) for head, level in zip(self.heads, (joined, coarse), strict=True)]


class UNet(nn.Module):
    """Two levels, transposed convolutions, skips."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = conv(3, 8), nn.ModuleList([conv(8, 12), conv(12, 16)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)])
        self.join, self.out = nn.ModuleList([conv(24, 12), conv(16, 8)]), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = [self.enter(x)]
        for down in self.down:
            levels.append(down(functional.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), levels.pop()], 1))
        return {"out": self.out(x)}


class Loose(nn.Module):
    """Lambdas, a Sequential inside a ModuleList, a layer called twice, plain parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.stages = nn.ModuleList([nn.Sequential(conv(8, 12), nn.Sequential(conv(12, 8)))])
        self.again = nn.Conv2d(8, 8, 1)
        self.weight, self.scale = nn.Parameter(torch.randn(10, 8, 3, 3)), nn.Parameter(torch.rand(10, 1, 1))
        self.register_buffer("shift", torch.rand(10))
        self.functions = [lambda x: x * 0.5, lambda x: torch.relu(x) + 0.1]
        self.finish = lambda head, x: head(x.flatten(2).mean(-1))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = x + stage(x)
        for function in self.functions:
            x = function(self.again(x))
        x = functional.conv2d(x, self.weight, self.shift, padding=1)
        scores: Tensor = self.finish(self.head, torch.relu(x) * self.scale)
        return scores


class Holding(Loose):
    """A lambda that holds its module: a copy of the module still calls the head of the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.finish = lambda _, x: self.head(x.flatten(2).mean(-1))


def gated() -> nn.Sequential:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))
    return nn.Sequential(conv(3, 8, 3, 2), Cbam(8), conv(8, 12), Cbam(12), *head)


def sub_pixel() -> nn.Sequential:
    """Space to depth at the entry, depth to space at the exit, ReLUs with slopes between."""
    layers = [nn.PixelUnshuffle(2), nn.Conv2d(12, 16, 3, padding=1), nn.PReLU(16)]
    return nn.Sequential(*layers, nn.Conv2d(16, 32, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(8, 3, 3))


def shuffled() -> nn.Sequential:
    """ShuffleNet's first version: grouped 1x1 convolutions, a shuffle, a depthwise convolution."""
    unit = [nn.Conv2d(12, 12, 1, groups=3), nn.ChannelShuffle(3), nn.Conv2d(12, 12, 3, groups=12)]
    last = [nn.Conv2d(12, 24, 1, groups=3), nn.BatchNorm2d(24), nn.ReLU(), nn.ChannelShuffle(4)]
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), *unit, *last, nn.Conv2d(24, 8, 1), nn.Flatten(), nn.Linear(6272, 3)
    )


class Recurrent(nn.Module):
    """Convolutions, then a recurrent layer over the columns: text recognition."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8, 3, 2), conv(8, 12, 3, 2)
        self.recurrent = kind(12, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.b(self.a(x)).mean(2).transpose(1, 2)
        scores: Tensor = self.head(self.recurrent(columns)[0])
        return scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "units"),
    [
        (Loose, 8 + 12 + 10),
        (gated, 4 + 4),  # the mean over channels freezes all but the inner layer of each gate
        (Yolo, 8 + 16 + 40 + 32 + 96 + 48 + 40 + 24),
        (UNet, 8 + 12 + 16 + 12 + 8 + 12 + 8),
        (sub_pixel, 16 + 8),
        (shuffled, 4 + 2 + 8),
        (lambda: Recurrent(nn.GRU), 8),
        (lambda: Recurrent(nn.LSTM), 8),
    ],
    ids=["loose", "cbam", "yolo", "u_net", "sub_pixel", "shuffle_net", "gru", "lstm"],
)
def test_a_network_as_people_write_it(make: Callable[[], nn.Module], units: int) -> None:
    network = make().eval()
    randomise_(network)
    coupling = couple(trace(network, SPEC, one_tensor=False))
    assert sum(group.units for group in coupling.groups) == units
    for seed, ratio in enumerate((0.1, 0.5, 0.9)):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE
    assert_own_class(network, coupling)


def assert_own_class(network: nn.Module, coupling: Coupling) -> None:
    removed = random_units(coupling, 0.5)
    traced, graph, kept = coupling.ties.traced, cut(coupling, removed), kept_indices(coupling, removed)
    operated = surgery.operate(network, kept, graph, traced.spec, batch=traced.batch)
    assert operated.own_class, operated.reason
    with torch.no_grad():
        x = random_images(coupling)
        assert relative_error(graph(x), operated.module(x)) < TOLERANCE


@pytest.mark.slow
def test_a_lambda_that_holds_its_module_gives_the_graph() -> None:
    network = Holding().eval()
    randomise_(network)
    coupling = couple(trace(network, SPEC))
    removed = random_units(coupling, 0.5)
    assert masked_against_cut(coupling, removed) < TOLERANCE
    kept, graph = kept_indices(coupling, removed), cut(coupling, removed)
    operated = surgery.operate(network, kept, graph, SPEC, batch=coupling.ties.traced.batch)
    assert not operated.own_class
    assert "the constant lifted_tensor_0 inside its forward has channels" in operated.reason


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "op"), [(nn.GRU, "aten.gru.input"), (nn.LSTM, "aten.lstm.input")])
def test_a_recurrent_layer_is_frozen_by_name(kind: type[nn.Module], op: str) -> None:
    coupling = couple(trace(Recurrent(kind).eval(), SPEC))
    frozen = {(axis.parameter, axis.axis): axis.reason for axis in coupling.frozen}
    assert frozen["b.0.weight", 0] == f"no rule for {op}"
    assert coupling.unknown_ops == {op: 1}


@pytest.mark.heavy
def test_ddrnet() -> None:
    network = ddrnet_23_slim().eval()
    without_extra = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("extra_head"))
    assert round(without_extra / 1e6, 1) == 5.7  # as the paper says
    randomise_(network)
    coupling = couple(trace(network, InputSpec(shape=(3, 128, 128)), one_tensor=False))
    assert coupling.unknown_ops == {}
    for seed, ratio in enumerate((0.5, 0.9)):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE
    assert_own_class(network, coupling)


@pytest.mark.slow
def test_the_result_is_a_network_like_any_other() -> None:
    """Trained for a step, copied, saved and read again, traced and pruned again."""
    network = gated().eval()
    randomise_(network)
    coupling = couple(trace(network, SPEC))
    removed = random_units(coupling, 0.5)
    kept, traced = kept_indices(coupling, removed), coupling.ties.traced
    own = surgery.operate(network, kept, cut(coupling, removed), SPEC, batch=traced.batch).module
    x, labels = torch.randn(4, *SPEC.shape), torch.arange(4)
    optimizer, losses = torch.optim.SGD(own.train().parameters(), 0.05), []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append(functional.cross_entropy(own(x), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    fresh = copy.deepcopy(own)
    randomise_(fresh, seed=1)
    fresh.load_state_dict(own.state_dict())
    with torch.no_grad():
        assert relative_error(own.eval()(x), fresh.eval()(x)) == 0
    again = couple(trace(fresh, SPEC))
    assert 0 < sum(group.units for group in again.groups) < sum(group.units for group in coupling.groups)
    assert masked_against_cut(again, random_units(again, 0.5)) < TOLERANCE
    assert_own_class(fresh, again)
