"""Attention heads cut in width instead of whole."""

from __future__ import annotations

import pytest
import torch
from nets import cifar_vit
from oracle import (
    TOLERANCE,
    masked_against_cut,
    random_images,
    random_units,
    randomise_,
    relative_error,
    tiny,
)
from torch import nn

from edgeprune import surgery
from edgeprune.channels import Coupling, couple, cut, kept_indices, trace
from edgeprune.records import InputSpec

NARROWER = {
    "attention": {"stem.weight": 8, "q.weight": 4, "v.weight": 4, "proj.weight": 8},
    "attention_batched_heads": {"stem.weight": 8, "q.weight": 4, "v.weight": 4, "proj.weight": 8},
    "attention_fused": {"stem.weight": 8, "qkv.weight": 4, "proj.weight": 8},
    "attention_of_torch": {"stem.weight": 8, "attention.in_proj_weight": 4, "attention.out_proj.weight": 8},
    "encoder_layer_of_torch": {"a.self_attn.in_proj_weight": 4, "a.linear1.weight": 12},
}
"""Units per group when the width of the heads is cut: 4 for 2 heads of width 4."""
WHOLE = ("attention_cosine", "attention_normalised_heads")
"""Between projection and score lies more than moves."""


def sizes(coupling: Coupling) -> dict[str, int]:
    return {group.name: group.units for group in coupling.groups}


@pytest.mark.parametrize("name", NARROWER)
def test_the_width_of_heads_is_cut(name: str) -> None:
    coupling = couple(tiny(name)[1].ties.traced, head_width=True)
    assert sizes(coupling) == NARROWER[name]
    for seed, ratio in enumerate((0.3, 0.8)):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE
    for group in coupling.groups:
        assert masked_against_cut(coupling, {group.name: (0, 2)}) < TOLERANCE


@pytest.mark.parametrize("name", WHOLE)
def test_heads_are_cut_whole_where_their_width_cannot_be(name: str) -> None:
    whole = tiny(name)[1]
    assert sizes(couple(whole.ties.traced, head_width=True)) == sizes(whole)


def test_scores_are_divided_as_before() -> None:
    """The root of the width is the op's own default, which the cut must not change."""
    coupling = couple(tiny("attention_fused")[1].ties.traced, head_width=True)
    graph = cut(coupling, {"qkv.weight": (1, 3)})
    [node] = graph.graph.find_nodes(
        op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default
    )
    assert node.kwargs["scale"] == 0.5


@pytest.mark.slow
def test_a_transformer_gives_its_graph() -> None:
    network: nn.Module = cifar_vit().eval()
    randomise_(network)
    coupling = couple(trace(network, InputSpec(shape=(3, 32, 32))), head_width=True)
    assert sorted(set(sizes(coupling).values())) == [16, 256]
    removed = random_units(coupling, 0.5)
    assert masked_against_cut(coupling, removed) < TOLERANCE
    traced, graph, kept = coupling.ties.traced, cut(coupling, removed), kept_indices(coupling, removed)
    operated = surgery.operate(network, kept, graph, traced.spec, batch=traced.batch)
    x = random_images(coupling)
    with torch.no_grad():
        assert relative_error(graph(x), operated.module(x)) < TOLERANCE
