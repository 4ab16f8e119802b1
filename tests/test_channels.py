"""Channel groups: complete, and right by the oracle."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from nets import cifar_resnet20, cifar_vit
from oracle import SPEC, TOLERANCE, masked_against_cut, random_units, randomise_, tiny
from tiny_nets import TINY_NETS, conv, net
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small, shufflenet_v2_x0_5

from edgeprune.channels import Bound, Costs, Coupling, couple, cut, trace, why_nothing
from edgeprune.channels.rules import RULES
from edgeprune.channels.shapes import same
from edgeprune.errors import ModelError
from edgeprune.records import InputSpec

GOLDEN = Path(__file__).parent / "golden"
RATIOS = (0.1, 0.5, 0.9)
aten = torch.ops.aten


def units(coupling: Coupling) -> int:
    return sum(group.units for group in coupling.groups)


def assert_right(coupling: Coupling) -> None:
    for seed, ratio in enumerate(RATIOS):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE


# --- the oracle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY_NETS)
def test_removing_equals_masking(name: str) -> None:
    _, coupling = tiny(name)
    assert units(coupling) == TINY_NETS[name].units
    assert_right(coupling)


def test_every_tiny_net_can_be_cut_somewhere() -> None:
    assert all(net.units > 0 for net in TINY_NETS.values())


@cache
def covered_ops() -> frozenset[object]:
    return frozenset(node.target for name in TINY_NETS for node in tiny(name)[1].ties.traced.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("op", RULES, ids=str)
def test_every_rule_has_a_tiny_net(op: object) -> None:
    assert op in covered_ops()


@pytest.mark.parametrize("name", TINY_NETS)
def test_removing_nothing_changes_nothing(name: str) -> None:
    assert masked_against_cut(tiny(name)[1], {}) == 0


@pytest.mark.parametrize("name", ["chunk_branch_concat", "split_sizes", "uneven_chunks", "slices", "c2f"])
def test_no_piece_of_a_split_goes_empty(name: str) -> None:
    _, coupling = tiny(name)
    removed = {group.name: tuple(range(group.units - 1)) for group in coupling.groups}
    assert masked_against_cut(coupling, removed) < TOLERANCE
    for parameter in cut(coupling, removed).parameters():
        assert parameter.numel() > 0


# --- what is frozen, and why --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameter", "axis", "reason"),
    [
        ("plain", "stem.weight", 1, "the network's input"),
        ("plain", "head.weight", 0, "the network's output"),
        ("spatial_gate", "a.weight", 0, "reduced over channels"),
        ("channel_attention", "a.weight", 0, "a spatial axis"),
        ("computed_weight", "stem.weight", 0, "a computed weight"),
        ("weight_norm", "b.weight", 0, "a computed weight"),
        ("layer_norm", "stem.weight", 0, "normalised over channels"),
        ("group_norm_of_all", "b.weight", 0, "normalised over channels"),
        ("rms_norm", "stem.weight", 0, "normalised over channels"),
        ("log_softmax", "a.weight", 0, "a softmax axis"),
        ("softmax", "a.weight", 0, "a softmax axis"),
        ("mean_of_all", "a.weight", 0, "reduced over channels"),
        ("sum_of_all", "a.weight", 0, "reduced over channels"),
        ("largest_channel", "a.weight", 0, "reduced over channels"),
        ("avg_pool2d_along_channels", "a.weight", 0, "a spatial axis"),
        ("every_second_channel", "a.weight", 0, "every n-th channel is taken"),
        ("roll_channels", "a.weight", 0, "rolled along the axis"),
        ("grouped_whole", "a.weight", 1, "inside a convolution group"),
        ("split_sizes", "stem.weight", 0, "the only unit of its kind"),
        ("einsum_heads", "p", 1, "summed between activations"),
        ("attention_grouped_query", "q.weight", 0, "heads that share keys and values"),
        ("lstm", "a.weight", 0, "no rule for aten.lstm.input"),
        ("no_rule", "a.weight", 0, "no rule for aten.cumsum.default"),
    ],
)
def test_a_frozen_axis_names_its_reason(name: str, parameter: str, axis: int, reason: str) -> None:
    found = {(f.parameter, f.axis): f.reason for f in tiny(name)[1].frozen}
    assert found[parameter, axis] == reason


def test_an_op_without_a_rule_is_counted() -> None:
    assert tiny("no_rule")[1].unknown_ops == {"aten.cumsum.default": 1}
    assert tiny("plain")[1].unknown_ops == {}


def test_a_rule_of_the_users_own_frees_what_the_op_froze() -> None:
    traced = tiny("no_rule")[1].ties.traced
    coupling = couple(traced, rules={aten.cumsum.default: same})
    assert coupling.unknown_ops == {}
    assert units(coupling) == TINY_NETS["no_rule"].units + 8
    assert_right(coupling)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c2f", "attention_fused", "dense_block", "grouped_residual"])
def test_beyond_its_bound_coupling_gives_a_partial_answer(name: str) -> None:
    whole, found = tiny(name)[1], []
    assert whole.stopped == ""
    for pairs in range(0, whole.ties.pairs, whole.ties.pairs // 5):
        part = couple(whole.ties.traced, bound=Bound(pairs=pairs))
        assert part.stopped == f"coupling stopped after {pairs} ties"
        found.append(units(part))
        assert_right(part)
    assert found[0] == 0
    assert 0 < found[-1] <= units(whole)


def test_out_of_time_everything_is_frozen() -> None:
    part = couple(tiny("plain")[1].ties.traced, bound=Bound(seconds=-1))
    assert part.groups == ()
    assert why_nothing(part) == "coupling stopped after -1 s (40 channels)"


def test_why_nothing_gives_reasons_and_ops() -> None:
    network = net(lambda m, x: torch.cumsum(x, 1), 0).make()
    coupling = couple(trace(network, SPEC))
    assert coupling.groups == ()
    sentence = why_nothing(coupling)
    assert sentence == (
        "no rule for aten.cumsum.default (8 channels); its input cannot be cut (8 channels); "
        "the network's output (5 channels); the network's input (3 channels); "
        "aten.cumsum.default has no coupling rule (1 times)"
    )


def test_why_nothing_of_a_network_without_layers() -> None:
    assert why_nothing(couple(trace(nn.Flatten(), SPEC))) == "it has no layers with channels"


# --- tracing ------------------------------------------------------------------------------------------


class BatchOfOne(nn.Module):
    """Only serves one image at a time: the batch is not free."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TINY_NETS["residual"].make()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores.reshape(int(x.shape[0]), 5)


def test_a_network_without_a_free_batch_is_traced_for_one_image() -> None:
    network = BatchOfOne()
    randomise_(network)
    traced = trace(network, SPEC)
    assert traced.batch == 1
    coupling = couple(traced)
    assert units(coupling) == TINY_NETS["residual"].units
    assert_right(coupling)


def test_a_free_batch_stays_free_after_the_cut() -> None:
    _, coupling = tiny("attention_batched_heads")
    smaller = cut(coupling, random_units(coupling, 0.5))
    assert [len(smaller(torch.zeros(n, *SPEC.shape))) for n in (1, 4, 5)] == [1, 4, 5]


def test_tracing_leaves_the_network_alone() -> None:
    network = TINY_NETS["plain"].make().train()
    trace(network, SPEC)
    assert network.training
    assert all(p.requires_grad for p in network.parameters())


def test_a_wrong_input_size_is_refused() -> None:
    with pytest.raises(ModelError, match=r"refuses an input of shape \(1, 8, 8\)"):
        trace(TINY_NETS["plain"].make(), InputSpec(shape=(1, 8, 8)))


def test_an_output_that_is_no_tensor_is_refused() -> None:
    class Gives(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x}

    with pytest.raises(ModelError, match="gives dict, not one tensor"):
        trace(Gives(), SPEC)


def test_control_flow_on_data_is_refused() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(ModelError, match="control flow that depends on the data"):
        trace(Branches(), SPEC)


def test_a_shared_tensor_has_one_name() -> None:
    graph_module = tiny("tied_weights")[1].ties.traced.graph_module
    read = {str(node.target) for node in graph_module.graph.find_nodes(op="get_attr")}
    assert "a.0.weight" in read
    assert "a.1.weight" not in read


@pytest.mark.parametrize("name", ["residual", "attention", "tied_weights", "c2f", "channel_shuffle_by_view"])
def test_a_cut_graph_can_be_cut_again(name: str) -> None:
    _, coupling = tiny(name)
    again = couple(trace(cut(coupling, random_units(coupling, 0.5)), SPEC))
    assert 0 < units(again) < units(coupling)
    assert_right(again)


# --- costs --------------------------------------------------------------------------------------------


def test_costs_of_a_small_network() -> None:
    network = net(lambda m, x: m.a(x), 12, out=4, a=conv(8, 4)).make()
    costs = Costs(couple(trace(network, SPEC)))
    stem, norm, a, head = 3 * 9 * 8, 16, 8 * 9 * 4, 4 * 5
    assert costs.count({}) == (stem + 8 + norm + a + 4 + head + 5, 64 * (stem + a) + head)
    stem, norm, a, head = 3 * 9 * 5, 10, 5 * 9 * 2, 2 * 5
    smaller = costs.count({"stem.weight": (0, 3, 7), "a.weight": (1, 2)})
    assert smaller == (stem + 5 + norm + a + 2 + head + 5, 64 * (stem + a) + head)


# --- golden files -------------------------------------------------------------------------------------


def as_text(coupling: Coupling) -> str:
    lines = []
    for group in coupling.groups:
        slots = [f"{'<' if s.consumer else '>'}{s.parameter}.{s.axis}" for s in group.slots]
        lines.append(f"{group.units} x {group.name}: {' '.join(slots)}")
    for axis in coupling.frozen:
        lines.append(f"frozen: {axis.indices} of {axis.parameter}.{axis.axis}: {axis.reason}")
    return "\n".join([*lines, *(f"no rule: {op} {n}" for op, n in coupling.unknown_ops.items()), ""])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "side"),
    [
        (cifar_resnet20, 32),
        (cifar_vit, 32),
        (mobilenet_v3_small, 64),
        (shufflenet_v2_x0_5, 64),
    ],
)
def test_channel_groups_are_as_recorded(make: type[nn.Module], side: int, update_golden: bool) -> None:
    found = as_text(couple(trace(make(), InputSpec(shape=(3, side, side)))))
    path = GOLDEN / f"groups_{make.__name__}.txt"
    if update_golden:
        path.write_text(found)
    assert found == path.read_text()
