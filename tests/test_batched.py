"""Interventions evaluated together: that changes no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from causal_nets import NETWORKS, case
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend_gpu import DEVICE, PretendGpu
from test_walk import Additive, Rules, Walked, damage, rules
from torch import Tensor, nn

from edgeprune.causal import Batched, Program, Replay, Shard
from edgeprune.causal.masks import Masks, _alive, layouts_of
from edgeprune.causal.schedule import Schedule
from edgeprune.causal.walk import _untouched
from edgeprune.channels import Coupling, couple, trace
from edgeprune.records import ChannelGroup, InputSpec, Step

NAMES = sorted(NETWORKS)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


# --- several interventions in one run -------------------------------------------------------------------


class Windows(nn.Module):
    """Images cut into windows that share their axis, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x)).permute(0, 2, 3, 1)
        windows = x.view(-1, 2, 3, 2, 3, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, 8)
        windows = windows + self.down(torch.relu(self.up(self.norm(windows))))
        return self.head(windows.reshape(-1, 36, 8).mean(1))


class Attention(nn.Module):
    """Batch and sequence change places, and share an axis where the heads are read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.token = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.randn(1, 1, 8))
        self.block, self.head = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + 0.1 * torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[:, None]
        return self.head(self.block(x)[:, 0])


class Scaled(nn.Module):
    """Nothing but sums over its channels: no layer whose input could be masked."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight = nn.Conv2d(3, 6, 3), nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.stem(x)).mean((2, 3)) @ self.weight


def flat(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


MADE: dict[str, Callable[[], nn.Module]] = {
    "windows": Windows,
    "attention": Attention,
    "grouped": flat(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1, groups=2), nn.ReLU()),
    "transposed": flat(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2), nn.ReLU()),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, 3)),
}
ONE_BY_ONE: dict[str, Callable[[], nn.Module]] = {"scaled": Scaled}


def made(name: str) -> Coupling:
    torch.manual_seed(0)
    module = {**MADE, **ONE_BY_ONE}[name]()
    images = torch.zeros(1, 3, 6, 6)
    module(images)  # a lazy layer takes its shape
    traced = trace(module, InputSpec(shape=(3, 6, 6)))
    traced.graph_module.double()
    return couple(traced)


def coupling_of(name: str) -> Coupling:
    return case(name).coupling if name in NETWORKS else made(name)


def replay_of(coupling: Coupling, images: Tensor, device: torch.device | str = "cpu") -> Replay:
    traced = coupling.ties.traced
    program = Program(traced.graph_module, batch=traced.batch, device=device)
    return Replay(program, coupling.groups, [images])


def pictures(count: int = 7) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def each_group(network: Replay, coupling: Coupling) -> Iterator[ChannelGroup]:
    """In the order of the graph; a unit of each stays out."""
    for group in sorted(coupling.groups, key=network.position):
        network.enter(group)
        yield group
        network.remove_(group, (1,))


@pytest.mark.parametrize("name", [*NAMES, *MADE, *ONE_BY_ONE])
def test_masks_give_what_weights_at_zero_give(name: str) -> None:
    coupling = coupling_of(name)
    network = replay_of(coupling, pictures())
    for group in each_group(network, coupling):
        assert (network._masks is None) == (name in ONE_BY_ONE), group.name
        sets = [(0,), (1,), (2,), (0, 2), ()]
        got = network.several(0, group, sets)
        wanted = torch.stack([network.outputs(0, group, units) for units in sets])
        torch.testing.assert_close(got, wanted, **CLOSE)
        assert not torch.allclose(wanted[1], wanted[2]), "or it is not seen what goes where"
    assert coupling.groups


@pytest.mark.parametrize("name", NAMES)
def test_values_at_the_cut_are_read_and_not_changed(name: str) -> None:
    coupling = coupling_of(name)
    network = replay_of(coupling, pictures())
    for group in each_group(network, coupling):
        before = network.outputs(0, group, (0,))
        network.several(0, group, [(0,), (2,)])
        assert torch.equal(network.outputs(0, group, (0,)), before)


class Twice(nn.Module):
    """Two layers read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return (self.one(x) + self.other(x)).mean((2, 3))


def test_only_the_layers_of_a_group_read_masked_values() -> None:
    torch.manual_seed(0)
    coupling = couple(trace(Twice(), InputSpec(shape=(3, 6, 6))))
    (group,) = coupling.groups
    first = replace(group, slots=tuple(s for s in group.slots if s.parameter != "other.weight"))
    network = replay_of(coupling, pictures().float())
    network.enter(first)
    got = network.several(0, first, [(0,), (1, 2)])
    wanted = torch.stack([network.outputs(0, first, units) for units in [(0,), (1, 2)]])
    torch.testing.assert_close(got, wanted, **CLOSE)


def test_values_of_unknown_layout_are_not_repeated() -> None:
    coupling = coupling_of("residual")
    network = replay_of(coupling, pictures())
    program = network._program
    last = max(coupling.groups, key=network.position)
    layouts = layouts_of(program)
    assert Masks.find(program, last, layouts) is not None
    for lacking in _alive(program, network.position(last)):
        known = {node: layout for node, layout in layouts.items() if node is not lacking}
        assert Masks.find(program, last, known) is None


def test_a_network_of_batch_one_goes_one_by_one() -> None:
    c = case("residual")
    network = Replay(Program(c.graph, batch=1), c.groups, [c.images[:3]])
    for group in each_group(network, c.coupling):
        assert network._masks is None
        assert network.several(0, group, [(0,), (2,)]).shape == (2, 3, 3)


# --- the walk -------------------------------------------------------------------------------------------


def plain(step: Step) -> Step:
    return replace(step, effect=0.0, worst_z=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rules", [Rules(group_test=1, align=1), Rules(align=1), Rules(align=4, first_look=0.5)]
)
@pytest.mark.parametrize("name", NAMES)
def test_the_walk_is_that_of_one_by_one(name: str, rules: Rules) -> None:
    one, four = Walked(case(name), rules), Walked(case(name), rules, batch=4)
    assert [plain(step) for step in four.steps] == [plain(step) for step in one.steps]
    assert [s.worst_z for s in four.steps] == pytest.approx([s.worst_z for s in one.steps], rel=1e-6)
    assert [s.effect for s in four.steps] == pytest.approx([s.effect for s in one.steps], rel=1e-6)
    assert (four.network.removed, four.stopped) == (one.network.removed, one.stopped)
    assert four.settled == one.settled


@pytest.mark.slow
@given(damage, rules, st.sampled_from([2, 5, 64]), st.data())
@settings(deadline=None, max_examples=60)
def test_any_walk_is_that_of_one_by_one(
    damage: dict[str, np.ndarray], rules: Rules, batch: int, data: st.DataObject
) -> None:
    one, some = Additive(damage, rules), Additive(damage, rules, batch=batch)
    found = one.run()
    assert some.run() == found
    assert some.runs <= one.runs
    assert (some.gone, some.settled) == (one.gone, one.settled)
    rest = Additive(damage, rules, batch=batch)
    assert rest.run(found[0][: data.draw(st.integers(0, len(found[0])))]) == found


def needed(units: int) -> dict[str, np.ndarray]:
    """Units that the first of the classes needs."""
    return {"g": np.tile([0.5, 0.0, 0.0], (units, 1))}


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_refusals_in_a_row_share_runs(batch: int) -> None:
    network = Additive(needed(32), Rules(group_test=1, align=1), batch=batch)
    steps, _ = network.run()
    assert len(steps) == 32
    assert not any(step.removed for step in steps)
    one = Additive(needed(32), Rules(group_test=1, align=1))
    one.run()
    assert network.runs == pytest.approx(one.runs / batch, abs=3)


def test_forwards_of_a_replay_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, run, runs = [], Program.run_, 0
    for batch in (1, 8):
        before = runs

        def counted(self: Program, values: object, *, weights: object, start: int, stop: int) -> None:
            nonlocal runs
            runs += stop == len(self.ops)
            run(self, values, weights=weights, start=start, stop=stop)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(Program, "run_", counted)
            walked = Walked(case("depthwise"), Rules(group_test=1, align=1), alpha=0.25, batch=batch)
        counts.append((runs - before, [plain(step) for step in walked.steps]))
    (one, steps), (eight, same) = counts
    assert steps == same
    assert eight < 0.6 * one


# --- what is known ahead --------------------------------------------------------------------------------


class Counted:
    """A network of one group whose scores say how often it changed."""

    def __init__(self, size: int) -> None:
        self.version, self.runs = 0, list[tuple[int, ...]]()
        self.group = ChannelGroup(name="g", units=9, slots=())
        self.batched = Batched(self, self.alone, self.several, size)
        self.most = 99

    def alone(self, shard: Shard, group: ChannelGroup | None, units: Sequence[int]) -> np.ndarray:
        self.runs.append((shard.number, 1))
        return np.array([self.version, *units])

    def several(self, shard: Shard, group: ChannelGroup, sets: Sequence[Sequence[int]]) -> list[np.ndarray]:
        if len(sets) > self.most:
            raise torch.OutOfMemoryError("too much")
        self.runs.append((shard.number, len(sets)))
        return [np.array([self.version, *units]) for units in sets]

    def ask(self, shard: int, *units: int) -> list[int]:
        return self.batched.scores(SHARDS[shard], self.group, units).tolist()


SHARDS = [Shard(n, slice(n, n + 1), slice(n, n + 1), (n,)) for n in range(3)]


def all_shards(scores: Callable[[Shard], np.ndarray]) -> None:
    for shard in SHARDS:
        scores(shard)


def test_what_comes_next_is_evaluated_ahead_and_remembered() -> None:
    network = Counted(3)
    network.batched.foresee([(1,), (2,), (3,), (4,)], all_shards)
    assert network.ask(0, 1) == [0, 1]
    assert network.ask(0, 2) == [0, 2]
    assert network.ask(0, 3) == [0, 3]
    assert network.runs == [(0, 3)]
    assert network.ask(0, 4) == [0, 4]
    assert network.runs == [(0, 3), (0, 1)], "not the first of what was foreseen: one by one"


def test_a_change_makes_all_of_it_stale() -> None:
    network = Counted(3)
    network.batched.foresee([(1,), (2,), (3,)], all_shards)
    network.ask(0, 1)
    network.version += 1
    assert network.ask(0, 2) == [1, 2]
    assert network.ask(0, 1) == [1, 1]


@pytest.mark.parametrize("change", ["enter", "remove_", "restore_"])
def test_a_replay_says_when_it_changes(change: str) -> None:
    c = case("residual")
    network = replay_of(c.coupling, c.images[:4])
    group = min(c.groups, key=network.position)
    network.enter(group)
    network.remove_(group, (1,))
    before = network.version
    network.several(0, group, [(0,), (2,)])
    assert network.version == before
    getattr(network, change)(*([group] if change == "enter" else [group, (1,)]))
    assert network.version > before


def test_what_is_decided_is_not_evaluated_further() -> None:
    network = Counted(3)

    def first_only(scores: Callable[[Shard], np.ndarray]) -> None:
        """Unit 2 is refused by the first shard."""
        if scores(SHARDS[0])[1] != 2:
            all_shards(scores)

    network.batched.foresee([(1,), (2,), (3,)], first_only)
    network.ask(0, 1)
    network.ask(1, 1)
    assert network.runs == [(0, 3), (1, 2)]
    assert network.ask(1, 2) == [0, 2]
    assert network.runs[-1] == (1, 1)


def test_what_has_come_far_goes_on_alone() -> None:
    network = Counted(3)
    network.batched.foresee([(1,), (2,), (3,)], all_shards)
    for shard in range(3):
        network.ask(shard, 1)
    assert network.runs == [(0, 3), (1, 3), (2, 1)]


def test_what_was_looked_at_less_far_waits() -> None:
    network = Counted(3)
    network.batched.foresee([(1,), (2,)], all_shards)
    network.ask(0, 1)
    network.batched.foresee([(2,), (3,)], all_shards)
    network.ask(0, 2)
    network.ask(1, 2)
    assert network.runs == [(0, 2), (1, 1)], "unit 3 has not seen the first shard"


def test_less_at_once_where_memory_is_short() -> None:
    network = Counted(8)
    network.most = 2
    network.batched.foresee([(unit,) for unit in range(8)], all_shards)
    assert network.ask(0, 0) == [0, 0]
    assert network.runs == [(0, 2)]
    assert network.batched.size == 2
    network.most = 1
    assert network.ask(1, 0) == [0, 0]
    assert network.runs[-1] == (1, 1)
    assert network.batched.size == 1


@given(st.integers(1, 30), st.integers(1, 16), st.integers(0, 20))
def test_the_schedule_knows_what_comes_as_long_as_all_is_refused(units: int, size: int, limit: int) -> None:
    schedule = Schedule(list(range(units)), 64, _size=size)
    wanted = [tuple(some) for some in schedule.ahead(limit)]
    found = []
    while some := schedule.units(limit):
        found.append(tuple(some))
        schedule.refuse_(refused(some))
    assert found == wanted


def refused(units: Sequence[int]) -> Step:
    return replace(_untouched(ChannelGroup(name="g", units=1, slots=())), units=tuple(units), removed=False)


# --- elsewhere than on the CPU ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, *MADE])
def test_several_interventions_run_elsewhere(name: str) -> None:
    coupling, images = coupling_of(name), pictures()
    plain_network = replay_of(coupling, images)
    wanted = [plain_network.several(0, group, [(0,), (2,)]) for group in each_group(plain_network, coupling)]
    with PretendGpu():
        network = replay_of(coupling, images, DEVICE)
        found = [network.several(0, group, [(0,), (2,)]) for group in each_group(network, coupling)]
    for got, value in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, value, **CLOSE)
