"""Surgery: the user's own class where it can be, the cut graph where not, and equal outputs in both cases."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import cifar_densenet, cifar_resnet20, cifar_resnet56, cifar_vit
from oracle import SPEC, TOLERANCE, Removed, random_images, random_units, randomise_, relative_error, tiny
from tiny_nets import TINY_NETS
from torch import nn

from edgeprune import surgery
from edgeprune.channels import Coupling, couple, cut, kept_indices, trace
from edgeprune.copying import copied
from edgeprune.errors import ParityError
from edgeprune.records import InputSpec

GRAPH_ONLY = {
    "constant": "the constant lifted_tensor_0 inside its forward has channels",
    "attention": "computes something else",
    "attention_fused": "cannot be multiplied",
    "attention_cosine": "is invalid for input",
    "attention_batched_heads": "cannot be multiplied",
    "attention_normalised_heads": "cannot be multiplied",
    "attention_of_torch": "does not accept the new shapes",
    "encoder_layer_of_torch": "expected `qkv_weight` first dim to be 3x embed_dim",
    "window_shift": "is invalid for input",
    "slices": "to have 1 channels, but got 3",
    "overlapping_slices": "to have 2 channels, but got 3",
    "split_sizes": "expects split_sizes to sum exactly to",
    "padded_shortcut": "must match the size of tensor b",
    "padded_concat": "to have 7 channels, but got 9",
    "unflatten": "don't multiply up to the size",
    "unflatten_sum": "don't multiply up to the size",
    "folded_batch": "is invalid for input",
    "written_channels": "computes something else",
    "slice_scatter": "to have a size equal to the slice",
}
"""Tiny networks whose forward holds a size that the cut makes wrong, and what surgery says of them."""


def operate(network: nn.Module, coupling: Coupling, removed: Removed) -> surgery.Operated:
    traced = coupling.ties.traced
    kept = kept_indices(coupling, removed)
    return surgery.operate(network, kept, cut(coupling, removed), traced.spec, batch=traced.batch)


@pytest.mark.parametrize("name", TINY_NETS)
def test_the_own_class_is_kept_where_its_forward_allows_it(name: str) -> None:
    network, coupling = tiny(name)
    removed = random_units(coupling, 0.5)
    operated = operate(network, coupling, removed)
    assert operated.own_class == (name not in GRAPH_ONLY), operated.reason
    assert GRAPH_ONLY.get(name, "") in operated.reason
    assert bool(operated.reason) != operated.own_class
    x = random_images(coupling, images=3)
    with torch.no_grad():
        assert relative_error(cut(coupling, removed)(x), operated.module(x)) < TOLERANCE
    if operated.own_class:
        assert type(operated.module) is type(network)
        assert_attributes_fit(operated.module)


def assert_attributes_fit(module: nn.Module) -> None:
    """Layers say what their tensors are: one made anew from a layer's attributes has the same shapes."""
    for layer in module.modules():
        fresh: nn.Module
        match layer:
            case nn.Conv2d():
                fresh = nn.Conv2d(
                    layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups
                )
            case nn.ConvTranspose2d():
                fresh = nn.ConvTranspose2d(
                    layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups
                )
            case nn.Linear():
                fresh = nn.Linear(layer.in_features, layer.out_features)
            case nn.BatchNorm2d():
                fresh = nn.BatchNorm2d(layer.num_features, affine=layer.affine)
            case nn.GroupNorm():
                fresh = nn.GroupNorm(layer.num_groups, layer.num_channels)
            case nn.PReLU():
                fresh = nn.PReLU(layer.num_parameters)
            case nn.Embedding():
                fresh = nn.Embedding(layer.num_embeddings, layer.embedding_dim)
            case _:
                continue
        for name, tensor in fresh.state_dict().items():
            if name in layer.state_dict():
                assert layer.state_dict()[name].shape == tensor.shape, (layer, name)


def test_the_dense_network_is_untouched() -> None:
    network, coupling = tiny("residual")
    before = copy.deepcopy(network.state_dict())
    operate(network, coupling, random_units(coupling, 0.5))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_groups_of_convolutions_and_norms_shrink() -> None:
    for name, attribute, before, after in [
        ("grouped_whole", "groups", 4, 2),
        ("depthwise_multiplier", "groups", 8, 4),
        ("grouped_same_index", "groups", 2, 2),
        ("transposed_grouped", "groups", 2, 1),
        ("group_norm", "num_groups", 4, 2),
    ]:
        network, coupling = tiny(name)
        own = operate(network, coupling, random_units(coupling, 0.5)).module
        assert (getattr(network.a, attribute), getattr(own.a, attribute)) == (before, after)


def test_shared_weights_stay_shared() -> None:
    network, coupling = tiny("tied_weights")
    removed = random_units(coupling, 0.5)
    own = operate(network, coupling, removed).module
    assert own.a[0].weight is own.a[1].weight
    graph = cut(coupling, removed)
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in graph.parameters())


def test_what_is_left_can_be_trained() -> None:
    network = TINY_NETS["residual"].make()
    network.stem.weight.requires_grad_(requires_grad=False)
    coupling = couple(trace(network, SPEC))
    own = operate(network, coupling, random_units(coupling, 0.5)).module.train()
    own(torch.randn(2, *SPEC.shape)).sum().backward()
    assert own.stem.weight.grad is None
    assert own.head.weight.grad.shape == own.head.weight.shape


@pytest.mark.parametrize(
    "name", ["residual", "attention", "tied_weights", "group_norm", "attention_of_torch"]
)
def test_the_result_can_be_copied_and_pruned_again(name: str) -> None:
    network, coupling = tiny(name)
    first = copied(operate(network, coupling, random_units(coupling, 0.3)).module)
    again = couple(trace(first, SPEC))
    assert again.groups
    removed = random_units(again, 0.5)
    second = operate(first, again, removed).module
    x = random_images(again)
    with torch.no_grad():
        assert relative_error(cut(again, removed)(x), second(x)) < TOLERANCE


def test_broken_weights_are_named() -> None:
    network = TINY_NETS["plain"].make()
    network.head.bias.data[0] = float("nan")
    coupling = couple(trace(network, SPEC))
    with pytest.raises(ParityError, match="NaN or Inf; check the weights"):
        operate(network, coupling, random_units(coupling, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "own_class"),
    [(cifar_resnet20, False), (cifar_resnet56, False), (cifar_densenet, True), (cifar_vit, False)],
)
def test_networks_for_cifar(make: type[nn.Module], own_class: bool) -> None:
    network = make().eval()
    randomise_(network)
    coupling = couple(trace(network, InputSpec(shape=(3, 32, 32))))
    removed = random_units(coupling, 0.5)
    operated = operate(network, coupling, removed)
    assert operated.own_class == own_class, operated.reason  # option A pads by the dense width
    x = random_images(coupling)
    with torch.no_grad():
        assert relative_error(cut(coupling, removed)(x), operated.module(x)) < TOLERANCE
