"""Replay against full forwards of the masked network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from causal_nets import NETWORKS, Case, case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.causal import Replay, zeroed
from edgeprune.causal.delta import Reader
from edgeprune.causal.fold import NORM, folded
from edgeprune.causal.program import Program
from edgeprune.channels import couple, masked, trace
from edgeprune.memory import Allowance
from edgeprune.records import ChannelGroup, InputSpec

NAMES = sorted(NETWORKS)
SHARDS = [slice(0, 7), slice(7, 8), slice(8, 30)]
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def replay(c: Case, *, delta: bool = False) -> Replay:
    return Replay(Program(c.graph), c.groups, [c.images[shard] for shard in SHARDS], delta=delta)


def in_order(network: Replay, c: Case) -> list[ChannelGroup]:
    return sorted(c.groups, key=network.position)


def expected(c: Case, removed: dict[str, tuple[int, ...]], images: Tensor) -> Tensor:
    with torch.no_grad():
        return masked(c.coupling, removed)(images)


def everything(network: Replay, group: ChannelGroup | None = None, units: tuple[int, ...] = ()) -> Tensor:
    return torch.cat([network.outputs(number, group, units) for number in range(len(SHARDS))])


def subsets(group: ChannelGroup) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, group.units - 1), unique=True, max_size=group.units)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_any_walk_gives_what_the_masked_network_gives(name: str, delta: bool, data: st.DataObject) -> None:
    c = case(name)
    network, removed = replay(c, delta=delta), dict[str, tuple[int, ...]]()
    for group in in_order(network, c):
        network.enter(group)
        tried = data.draw(subsets(group))
        trial = {**removed, group.name: tuple(tried)}
        got = everything(network, group, tuple(tried))
        torch.testing.assert_close(got, expected(c, trial, c.images[:30]), **CLOSE)
        taken = data.draw(subsets(group))
        network.remove_(group, taken)
        returned = [unit for unit in taken if data.draw(st.booleans())]
        network.restore_(group, returned)
        left = tuple(sorted(set(taken) - set(returned)))
        removed = {**removed, group.name: left} if left else removed
        assert network.removed == removed
        torch.testing.assert_close(everything(network), expected(c, removed, c.images[:30]), **CLOSE)
    torch.testing.assert_close(network.full(c.images[30:]), expected(c, removed, c.images[30:]), **CLOSE)


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_removing_units_changes_to_first_order_is_the_slope_of_masking_them_a_little(
    name: str, memory: int | None
) -> None:
    c, little = case(name), 1e-5
    parts = [c.images[shard] for shard in SHARDS]
    network = Replay(Program(c.graph), c.groups, parts, allowance=Allowance(memory))
    for group in in_order(network, c):
        network.enter(group)
        network.remove_(group, [1])
        found = network.changes(1, group, lambda outputs, images: outputs.softmax(1)[:, 0], network.weights)
        before = dict(network.weights)
        for unit in range(group.units):
            sums = []
            for sign in (1, -1):
                gone = zeroed(before, group, [unit])
                network.weights.update({n: torch.lerp(before[n], w, sign * little) for n, w in gone.items()})
                sums.append(float(network.outputs(1).softmax(1)[:, 0].sum()))
                network.weights.update(before)
            assert found[unit] == pytest.approx((sums[0] - sums[1]) / (2 * little), rel=1e-5, abs=1e-8)
        assert found[1] == 0, "it is gone already"
        assert np.ptp(found) > 0


def test_an_intervention_leaves_nothing_behind() -> None:
    c = case("concat")
    network = replay(c)
    dense = network.full(c.images)
    for group in in_order(network, c):
        network.enter(group)
        network.outputs(0, group, [0, 2])
    assert network.removed == {}
    torch.testing.assert_close(network.full(c.images), dense, rtol=0, atol=0)


def test_units_of_two_groups_that_share_a_consumer_return_independently() -> None:
    c = case("concat")
    network = replay(c)
    groups = {group.name: group for group in c.groups}
    left, right = groups["left.weight"], groups["right.weight"]
    shared = {s.parameter for s in left.slots if s.consumer} & {
        s.parameter for s in right.slots if s.consumer
    }
    assert shared == {"join.weight"}
    network.enter(left)
    network.remove_(left, [1, 3])
    network.enter(right)
    network.remove_(right, [0, 2, 4])
    network.restore_(right, [2])
    state = {"left.weight": (1, 3), "right.weight": (0, 4)}
    assert network.removed == state
    torch.testing.assert_close(everything(network), expected(c, state, c.images[:30]), **CLOSE)


def test_groups_are_visited_forwards() -> None:
    c = case("depthwise")
    network = replay(c)
    first, *_, last = in_order(network, c)
    network.enter(last)
    with pytest.raises(AssertionError, match="in the order"):
        network.enter(first)


def test_the_caller_keeps_its_network_and_images() -> None:
    c = case("residual")
    before = {name: tensor.clone() for name, tensor in c.graph.state_dict().items()}
    images = c.images.clone()
    network = replay(c)
    for group in in_order(network, c):
        network.enter(group)
        network.remove_(group, [0])
    assert torch.equal(c.images, images)
    for name, tensor in c.graph.state_dict().items():
        assert torch.equal(tensor, before[name])


class Late(nn.Module):
    """The activation of one branch comes after all of the other, so that its input is kept at every cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.near = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)
        self.far, self.farther = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.stem(x))
        near = self.near(x)
        far = self.farther(functional.silu(self.far(x)))
        return (functional.silu(near) + functional.silu(far)).mean((2, 3))


def test_values_kept_at_the_cut_are_never_overwritten() -> None:
    torch.manual_seed(0)
    traced = trace(Late(), InputSpec(shape=(3, 6, 6)))
    coupling = couple(traced)
    images = torch.randn(4, 3, 6, 6)
    with torch.no_grad():
        dense = traced.graph_module(images)
    network = Replay(Program(traced.graph_module), coupling.groups, [images[:4]])
    for group in sorted(coupling.groups, key=network.position):
        network.enter(group)
        for _ in range(3):
            torch.testing.assert_close(network.outputs(0), dense)


# --- the first layer as a difference ------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_first_layer_corrected_gives_what_it_gives_run_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = case(name)
    plain, delta = replay(c), replay(c, delta=True)
    corrected = watch_corrections(monkeypatch)
    for group in in_order(plain, c):
        for network in (plain, delta):
            network.enter(group)
        for units in ((1,), (0, 2), tuple(range(group.units))):
            got = everything(delta, group, units)
            torch.testing.assert_close(got, everything(plain, group, units), **CLOSE)
        for network in (plain, delta):
            network.remove_(group, (1, 2))
        torch.testing.assert_close(everything(delta, group, (0,)), everything(plain, group, (0,)), **CLOSE)
        for network in (plain, delta):
            network.restore_(group, (2,))
        torch.testing.assert_close(everything(delta, group, (0,)), everything(plain, group, (0,)), **CLOSE)
    reached = {weight for weight, _ in corrected}
    first = {delta._program.ops[delta.position(group)].node.args[1].target for group in c.groups}
    assert reached == first, "every first layer here is one that can be corrected"


@pytest.mark.parametrize("most", [0.0, 1.0])
def test_only_a_few_channels_are_corrected(most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    c = case("residual")
    monkeypatch.setattr("edgeprune.causal.delta.MOST", most)
    corrected, network = watch_corrections(monkeypatch), replay(c, delta=True)
    group = in_order(network, c)[0]
    network.enter(group)
    everything(network, group, tuple(range(group.units)))
    assert bool(corrected) == bool(most)


def test_a_layer_in_convolution_groups_runs_again() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1, groups=2), nn.Flatten(), nn.Linear(96, 3)
    )
    coupling = couple(trace(network, InputSpec(shape=(3, 6, 6))))
    images = torch.randn(4, 3, 6, 6)
    delta = Replay(Program(coupling.ties.traced.graph_module), coupling.groups, [images[:4]])
    for group in sorted(coupling.groups, key=delta.position):
        delta.enter(group)
        with torch.no_grad():
            masked_outputs = masked(coupling, {group.name: (0,)})(images)
        torch.testing.assert_close(delta.outputs(0, group, (0,)), masked_outputs)


def watch_corrections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Weight and number of channels of each correction from now on."""
    seen: list[tuple[str, int]] = []
    without = Reader.without

    def watched(self: Reader, *rest: object) -> object:
        seen.append((self.weight, len(rest[-1])))
        return without(self, *rest)

    monkeypatch.setattr(Reader, "without", watched)
    return seen


# --- memory -------------------------------------------------------------------------------------------


def test_values_that_nobody_reads_any_more_are_freed() -> None:
    c = case("depthwise")
    network = Replay(Program(c.graph), c.groups, [c.images[:60]], delta=False)
    assert network.kept_bytes == c.images.nbytes
    per_value = {"stem.weight": 6 * 36, "expand.weight": 10 * 16, "project.weight": 7}
    for group in in_order(network, c):
        network.enter(group)
        assert network.kept_bytes == 60 * 8 * per_value[group.name], (
            "one value is alive: what the consumer reads"
        )
        for _ in range(3):
            network.outputs(0, group, [1])
        assert network.kept_bytes == 60 * 8 * per_value[group.name]


# --- batches and threads -------------------------------------------------------------------------------


def test_large_images_run_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    c = case("depthwise")
    monkeypatch.setattr("edgeprune.causal.program.PIECE_BYTES", 2.5 * c.images[0].nbytes)
    network = replay(c)
    sizes = [[len(piece.images[network._program.input]) for piece in shard] for shard in network._pieces]
    assert sizes[:2] == [[2, 2, 2, 1], [1]]
    assert len(sizes[2]) == 12
    assert max(sizes[2]) == 2
    torch.testing.assert_close(everything(network), expected(c, {}, c.images[:30]), **CLOSE)
    torch.testing.assert_close(network.full(c.images), expected(c, {}, c.images), **CLOSE)


def test_a_network_of_batch_one_runs_image_by_image() -> None:
    c = case("concat")
    program = Program(c.graph, batch=1)
    network = Replay(program, c.groups, [c.images[shard] for shard in SHARDS])
    sizes: set[int] = set()
    run = program.run_

    def watched(values: dict[torch.fx.Node, Tensor], **rest: object) -> None:
        run(values, **rest)
        sizes.update(len(v) for v in values.values() if isinstance(v, Tensor))

    program.run_ = watched
    first = in_order(network, c)[0]
    network.enter(first)
    state = {first.name: (1, 4)}
    torch.testing.assert_close(everything(network, first, (1, 4)), expected(c, state, c.images[:30]), **CLOSE)
    network.remove_(first, (1, 4))
    torch.testing.assert_close(network.full(c.images), expected(c, state, c.images), **CLOSE)
    assert sizes == {1}


def test_outputs_do_not_depend_on_the_number_of_threads() -> None:
    c, before = case("residual"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything(replay(c))
        torch.set_num_threads(2)
        together = everything(replay(c))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)


# --- folding ------------------------------------------------------------------------------------------


class Norms(nn.Module):
    """BatchNorms that can be folded (with and without bias and scale), and three that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.plain_norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.biased, self.biased_norm = nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4, affine=False)
        self.read_twice, self.after_read = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.shared, self.after_shared = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.alone = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.biased_norm(self.biased(self.plain_norm(self.plain(x)))))
        twice = self.read_twice(x)
        x = self.after_read(twice) + twice
        x = self.after_shared(self.shared(x)) + self.shared(torch.relu(x))
        return self.alone(functional.relu(x)).mean((2, 3))


def test_folding_changes_nothing_but_the_number_of_ops() -> None:
    torch.manual_seed(0)
    module = Norms().double().eval()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    traced = trace(module.float(), InputSpec(shape=(3, 6, 6)))
    graph = traced.graph_module.double()
    small = folded(graph).graph
    images = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(small(images), graph(images), **CLOSE)

    def norms(g: torch.fx.GraphModule) -> int:
        return sum(node.target is NORM for node in g.graph.nodes)

    assert (norms(graph), norms(small)) == (5, 3)


@pytest.mark.parametrize("name", NAMES)
def test_variants_are_what_each_change_gives_alone(name: str) -> None:
    c = case(name)
    program = Program(c.graph)
    names = [each for each in program.dense if program.dense[each].is_floating_point()]
    changes = [{each: 1.3 * program.dense[each]} for each in reversed(names)]
    (piece, *_) = program.start(c.images)
    found = program.variants(piece, weights=program.dense, changes=[*changes, {}])
    for change, outputs in zip([*changes, {}], found, strict=True):
        alone = program.finish(piece, weights={**program.dense, **change})
        torch.testing.assert_close(outputs, alone, rtol=1e-12, atol=1e-12)
    assert set(piece) == {program.input}, "the piece is as it was"


def test_what_comes_before_a_change_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    c = case("residual")
    program, ran = Program(c.graph), []
    run = Program.run_

    def counted(self: Program, values: object, *, weights: object, start: int, stop: int) -> None:
        ran.extend(range(start, stop))
        run(self, values, weights=weights, start=start, stop=stop)  # type: ignore[arg-type]

    monkeypatch.setattr(Program, "run_", counted)
    last = list(program.dense)[-1]
    (piece, *_) = program.start(c.images)
    program.variants(piece, weights=program.dense, changes=[{last: program.dense[last]}] * 3)
    assert ran.count(0) == 1
    assert ran.count(len(program.ops) - 1) == 3
