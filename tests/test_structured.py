"""Networks that give several tensors: dictionaries, tuples and lists come through trace, cut and surgery."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
from oracle import (
    SPEC,
    TOLERANCE,
    masked_against_cut,
    random_images,
    random_units,
    randomise_,
    relative_error,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_structure
from torchvision import models

from edgeprune import surgery
from edgeprune.channels import couple, cut, kept_indices, trace
from edgeprune.errors import ModelError
from edgeprune.records import InputSpec


class Several(nn.Module):
    """Two heads on one body; `shape` puts what they give together."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape
        self.stem, self.inner = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.near, self.far = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> object:
        x = torch.relu(self.stem(x))
        near, far = self.near(x), self.far(torch.relu(self.inner(x)))
        outputs: dict[str, object] = {
            "tuple": (near, far),
            "list": [near, far],
            "dict": {"near": near, "far": far},
            "ordered": OrderedDict(near=near, far=far),
            "nested": {"all": [near, (far, far.mean((2, 3)))], "nothing": None},
        }
        return outputs[self.shape]


@pytest.mark.parametrize("shape", ["tuple", "list", "dict", "ordered", "nested"])
def test_the_structure_of_the_output_is_kept(shape: str) -> None:
    network = Several(shape).eval()
    randomise_(network)
    coupling = couple(trace(network, SPEC, one_tensor=False))
    assert {group.name for group in coupling.groups} == {"stem.weight", "inner.weight"}
    frozen = {axis.parameter: axis.reason for axis in coupling.frozen if axis.axis == 0}
    assert frozen == {"near.weight": "the network's output", "far.weight": "the network's output"}
    removed = random_units(coupling, 0.5)
    assert masked_against_cut(coupling, removed) < TOLERANCE
    assert_surgery_agrees(network, coupling, removed)


def assert_surgery_agrees(network: nn.Module, coupling: Any, removed: dict[str, tuple[int, ...]]) -> None:
    # Any: a Coupling
    traced, graph = coupling.ties.traced, cut(coupling, removed)
    kept = kept_indices(coupling, removed)
    operated = surgery.operate(network, kept, graph, traced.spec, batch=traced.batch)
    assert operated.own_class, operated.reason
    x = random_images(coupling)
    with torch.no_grad():
        found = operated.module(x)
        assert tree_structure(found) == tree_structure(network(x))
        assert relative_error(graph(x), found) < TOLERANCE


def test_a_wrong_output_among_several_is_seen() -> None:
    one, two = torch.ones(3), torch.ones(2)
    assert surgery.relative_error((one, two), (one, two)) == 0
    assert surgery.relative_error((one, two), (one, two * 2)) == 1
    assert surgery.relative_error((one, two), [one, two]) == float("inf")
    assert surgery.relative_error((one, 1), (one, 2)) == float("inf")
    assert surgery.relative_error((one, two), (one, one)) == float("inf")
    assert surgery.relative_error(torch.arange(3), torch.arange(3) + 1) == float("inf")
    assert surgery.relative_error((one, torch.ones(0)), (one, torch.ones(0))) == 0


def test_a_network_without_an_output_is_refused() -> None:
    class Gives(nn.Module):
        def forward(self, x: Tensor) -> dict[str, object]:
            return {"size": x.shape[-1], "nothing": None}

    with pytest.raises(ModelError, match="gives dict without a tensor in it"):
        trace(Gives(), SPEC, one_tensor=False)


@pytest.mark.heavy
@pytest.mark.parametrize("name", models.list_models(module=models.segmentation))
def test_a_segmentation_network_of_torchvision(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = models.get_model(name, weights=None, weights_backbone=None).eval()
    randomise_(network)
    coupling = couple(trace(network, InputSpec(shape=(3, 128, 128)), one_tensor=False))
    assert coupling.unknown_ops == {}
    for seed, ratio in enumerate((0.5, 0.9)):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE
    assert_surgery_agrees(network, coupling, random_units(coupling, 0.5))
