"""Attention heads cut in width instead of whole."""

from __future__ import annotations

from functools import cache
from pathlib import Path

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
from torch import Tensor, nn
from torch.nn import functional

import edgeprune
from edgeprune import surgery
from edgeprune.causal import Program, Replay
from edgeprune.channels import Coupling, couple, cut, kept_indices, masked, trace
from edgeprune.errors import ModelError
from edgeprune.pipeline import PruneOptions
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


# --- through the analysis -----------------------------------------------------------------------------

TOKENS = InputSpec(shape=(3, 16, 16))
LABELS = torch.arange(3).repeat_interleave(40)


class Classifier(nn.Module):
    """A transformer of one layer: 16 patches, 2 heads of width 8."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.made = nn.ModuleList([nn.Linear(16, 48)] if fused else [nn.Linear(16, 16) for _ in range(3)])
        self.proj, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        if self.fused:
            q, k, v = self.made[0](x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (layer(x).unflatten(-1, (2, 8)).transpose(1, 2) for layer in self.made)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.proj(mixed)
        x = x + self.down(functional.gelu(self.up(x)))
        scores: Tensor = self.head(x.mean(1))
        return scores


@cache
def classifier(*, fused: bool) -> tuple[nn.Module, Tensor]:
    """Trained for a few steps, and its images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(fused=fused)
        images = torch.randn(3, *TOKENS.shape)[LABELS] + torch.randn(len(LABELS), *TOKENS.shape)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), LABELS).backward()
        optimizer.step()
    return network.eval(), images


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False])
def test_replay_of_a_narrower_head_is_the_masked_network(fused: bool) -> None:
    network, images = classifier(fused=fused)
    traced = trace(network, TOKENS)
    traced.graph_module.double()
    coupling, images = couple(traced, head_width=True), images.double()
    replay = Replay(Program(traced.graph_module), coupling.groups, [images[:50], images[50:]])
    removed: dict[str, tuple[int, ...]] = {}
    narrowed = 0
    for group in sorted(coupling.groups, key=replay.position):
        replay.enter(group)
        narrowed += any(slot.consumer and slot.axis == 0 for slot in group.slots)
        found = torch.cat([replay.outputs(shard, group, (0, 2)) for shard in (0, 1)])
        with torch.no_grad():
            expected = masked(coupling, {**removed, group.name: (0, 2)})(images)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        replay.remove_(group, (1, 3))
        replay.restore_(group, (3,))
        removed[group.name] = (1,)
    assert narrowed == 1
    with torch.no_grad():
        torch.testing.assert_close(
            replay.full(images), masked(coupling, removed)(images), rtol=1e-9, atol=1e-9
        )


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("method", ["c-swap-c", "c-swap", "magnitude-l2"])
def test_heads_lose_width_in_every_method(method: str, fused: bool, tmp_path: Path) -> None:
    """The scores that the method saw, on masks and refitted layers, are those of the network that is cut."""
    network, images = classifier(fused=fused)
    most = 0.85 if method == "c-swap-c" else 0.5  # heads, which the answers feel most, go late
    options = PruneOptions(method=method, head_width=True, align=1, max_param_ratio=most, price="units")
    found = edgeprune.prune(network, (images, LABELS), options=options)
    assert 0.6 * most < found.pruning.plan.param_ratio <= most
    narrow = {w.group: w.after for w in found.pruning.widths if w.before == 8}
    assert min(narrow.values()) < 8
    with torch.no_grad():
        scores = found.module(images).softmax(1)[torch.arange(len(LABELS)), LABELS]
    for k, said in enumerate(found.pruning.trajectory.final_scores[:3]):
        assert float(scores[k == LABELS].mean()) == pytest.approx(said, abs=1e-4)
    found.save(tmp_path)
    fresh = Classifier(fused=fused)
    torch.testing.assert_close(edgeprune.load(tmp_path, fresh)(images), found.module(images))


def test_a_criterion_that_cannot_look_into_heads_says_so() -> None:
    network, images = classifier(fused=False)
    options = PruneOptions(method="taylor", head_width=True, max_param_ratio=0.3)
    with pytest.raises(
        ModelError, match=r"made.0.weight: this criterion cannot look into what reads it: aten.lin"
    ):
        edgeprune.prune(network, (images, LABELS), options=options)
