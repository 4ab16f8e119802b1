"""Small trained networks for the tests of causal, with units that do nothing and units that do harm.

In double precision, so that two ways to compute the same thing agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.channels import Coupling, couple, trace
from edgeprune.records import ChannelGroup, InputSpec, Ints

CLASSES = 3
SIZE = 6
IMAGES = 20
"""Per class."""
STEPS = 50
HARMED, HARMED_SCORE = 1, 0.6
"""The class that a planted unit harms, and its mean score then."""


@dataclass(frozen=True)
class Case:
    """A traced network, images that it was not trained on, and what it makes of them."""

    coupling: Coupling
    images: Tensor
    labels: Ints
    probabilities: np.ndarray

    @property
    def graph(self) -> torch.fx.GraphModule:
        return self.coupling.ties.traced.graph_module

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        return self.coupling.groups

    def order(self, group: ChannelGroup) -> list[int]:
        """Any fixed order that is not the numbers': harmful and dead units lie inside."""
        return np.random.default_rng(group.units).permutation(group.units).tolist()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10, affine=False)
        self.outer = nn.Conv2d(10, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner_norm(self.inner(x))))
        return self.head(torch.relu(x).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.expand, self.expand_norm = nn.Conv2d(6, 10, 1, bias=False), nn.BatchNorm2d(10)
        self.depth, self.depth_norm = nn.Conv2d(10, 10, 3, groups=10, bias=False), nn.BatchNorm2d(10)
        self.project, self.project_norm = nn.Conv2d(10, 7, 1, bias=False), nn.BatchNorm2d(7)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem(x))
        x = functional.relu6(self.expand_norm(self.expand(x)))
        x = functional.relu6(self.depth_norm(self.depth(x)))
        return self.head(torch.relu(self.project_norm(self.project(x))).mean((2, 3)))


class Concat(nn.Module):
    """Two branches that share a consumer; the first has one of its own before it; the last is flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 5, 1)
        self.more = nn.Conv2d(4, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.join = nn.Conv2d(12, 6, 3, padding=1)
        self.head = nn.Linear(6 * 9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        left, right = torch.relu(self.left(x)), torch.relu(self.right(x))
        x = torch.relu(self.norm(torch.cat([left, right, torch.relu(self.more(left))], dim=1)))
        return self.head(torch.relu(self.join(x)).flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "residual": (Residual, 6),
    "depthwise": (Depthwise, 4),
    "concat": (Concat, 6),
}
"""Name -> network and seed; with these seeds each network has units of all three findings."""


@cache
def case(name: str) -> Case:
    """A network of `NETWORKS`, trained for a few steps, then damaged."""
    make, seed = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        patterns = torch.randn(CLASSES, 3, SIZE, SIZE)
        network = make()
        train_(network, patterns)
        traced = trace(network, InputSpec(shape=(3, SIZE, SIZE)))
        traced.graph_module.double()
        coupling = couple(traced)
        images, labels = draw(patterns, IMAGES)
        images = images.double()
        plant_(coupling, images[labels == HARMED])
    with torch.no_grad():
        probabilities = traced.graph_module(images).softmax(1).numpy()
    return Case(coupling, images, labels.numpy(), probabilities)


def draw(patterns: Tensor, count: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(CLASSES).repeat_interleave(count)
    return patterns[labels] + 1.5 * torch.randn(len(labels), *patterns.shape[1:]), labels


def train_(network: nn.Module, patterns: Tensor) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # a few steps must do
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(STEPS):
        images, labels = draw(patterns, 8)
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.eval()


def plant_(coupling: Coupling, images: Tensor) -> None:
    """Unit 0 of each group is read by nothing; unit 1 of the last one harms the class of these images."""
    graph = coupling.ties.traced.graph_module
    tensors = dict(graph.named_parameters())
    for group in coupling.groups:
        for slot in (slot for slot in group.slots if slot.consumer):
            dead = torch.from_numpy(slot.indices[0])
            tensors[slot.parameter].data.index_fill_(slot.axis, dead, 0.0)
    slot = next(slot for slot in coupling.groups[-1].slots if slot.consumer)
    weight, harmful = tensors[slot.parameter].requires_grad_(), torch.from_numpy(slot.indices[1])
    for _ in range(100):
        score = graph(images).softmax(1)[:, HARMED].mean()
        if score < HARMED_SCORE:
            break
        (slope,) = torch.autograd.grad(score, weight)
        change = slope.index_select(slot.axis, harmful)
        weight.data.index_add_(slot.axis, harmful, -0.1 * change / change.norm())
    weight.requires_grad_(requires_grad=False)
