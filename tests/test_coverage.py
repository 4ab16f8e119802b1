"""Every classifier of torchvision, at its own size: groups, cut and surgery by the oracle. Takes minutes."""

from __future__ import annotations

import warnings

import pytest
import torch
from oracle import TOLERANCE, masked_against_cut, random_images, random_units, randomise_, relative_error
from torch import nn
from torchvision import models

from edgeprune import surgery
from edgeprune.channels import couple, cut, kept_indices, trace
from edgeprune.records import InputSpec

MOST_PARAMETERS = 150_000_000
"""Larger networks take minutes each, and hold no block that a smaller one of their family has not."""
OWN_CLASS_NOT = ("vit_", "swin_", "maxvit", "shufflenet")
"""Families whose forward holds a size that the cut makes wrong."""


def build(name: str) -> nn.Module:
    parameters = models.get_model_weights(name).DEFAULT.meta["num_params"]
    if parameters > MOST_PARAMETERS:
        pytest.skip(f"{parameters / 1e6:.0f} M parameters")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet and Inception speak of their initialisation
        network = models.get_model(name).eval()
    randomise_(network)
    return network


@pytest.mark.heavy
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_a_classifier_of_torchvision(name: str) -> None:
    side = 299 if name == "inception_v3" else 224
    network = build(name)
    coupling = couple(trace(network, InputSpec(shape=(3, side, side))))
    assert coupling.unknown_ops == {}
    for seed, ratio in enumerate((0.5, 0.9)):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE
    removed = random_units(coupling, 0.5)
    graph = cut(coupling, removed)
    kept, spec = kept_indices(coupling, removed), coupling.ties.traced.spec
    operated = surgery.operate(network, kept, graph, spec, batch=coupling.ties.traced.batch)
    assert operated.own_class != name.startswith(OWN_CLASS_NOT), operated.reason
    x = random_images(coupling)
    with torch.no_grad():
        assert relative_error(graph(x), operated.module(x)) < TOLERANCE
