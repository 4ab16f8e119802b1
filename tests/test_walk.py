"""The walk against a reference without cleverness, its invariant, and its bookkeeping."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from causal_nets import NETWORKS, Case, case
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_walk import Reference

from edgeprune.causal import (
    Alone,
    Batched,
    Judge,
    Program,
    Replay,
    Rules,
    Shard,
    Walker,
    aligned_step,
    make_judge,
    make_shards,
    walk,
)
from edgeprune.causal.walk import TOGETHER
from edgeprune.criteria import magnitude
from edgeprune.memory import Allowance
from edgeprune.pipeline.published import unit_order
from edgeprune.records import ChannelGroup, Finding, Slot, Step
from edgeprune.tasks.classification import classified

NAMES = sorted(NETWORKS)
PLAIN = Rules(group_test=1, early_exit=False, align=1)
RULES = [
    PLAIN,
    Rules(group_test=1, early_exit=True, align=1),
    Rules(group_test=8, early_exit=False, align=1),
    Rules(group_test=8, early_exit=True, align=4),
    Rules(group_test=64, early_exit=True, align=8, first_look=0.5),
    Rules(group_test=8, early_exit=True, align=1, first_look=0.7),
    Rules(group_test=3, early_exit=True, align=2, first_look=0.7),
]


Options = Mapping[str, Any]  # Any: each option has a type of its own
OPTIONS: list[Options] = [
    {"test": "paired"},
    {"combine": "pooled"},
    {"reference": "current"},
    {"test": "paired", "combine": "pooled", "reference": "current"},
    {"delta": True},
    {"at_once": 3},
    {"memory": 3_000},
    {"foretold": True},
    {"delta": True, "at_once": 2, "memory": 3_000, "foretold": True},
    {"batch": 4},
    {"batch": 3, "reference": "current", "at_once": 2, "memory": 3_000},
]
"""Away from the defaults: each alone, all together; of the last seven `reference` alone may change any."""


@dataclass(frozen=True)
class Several(Alone):
    """As several processes would: so many shards are evaluated before the verdict is looked at."""

    at_once: int


class Recorder(Replay):
    """A replay that remembers the network after each removal."""

    states: list[dict[str, tuple[int, ...]]]

    def remove_(self, group: ChannelGroup, units: Sequence[int]) -> None:
        super().remove_(group, units)
        self.states.append(self.removed)


@dataclass
class Walked:
    """A walk on one of the small networks."""

    case: Case
    rules: Rules
    alpha: float = 0.05
    tolerant: float = 1.0
    """More breaks the judge: classes may fall further than the test allows."""
    recorded: Sequence[Step] = ()
    test: str = "welch"
    combine: str = "any-class"
    reference: Literal["dense", "current"] = "dense"
    delta: bool = False
    at_once: int = 1
    """Shards that are evaluated before the next look at the verdict."""
    memory: int | None = None
    """Bytes for values at the cut."""
    batch: int = 1
    """Interventions in one run."""
    foretold: bool = False
    """Whether forecasts decide which classes are asked first."""
    settled: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        c = self.case
        options = {"test": self.test, "combine": self.combine}
        scored = classified(c.probabilities, c.labels)
        judge, choice = make_judge(scored, ["a", "b", "c"], alpha=self.alpha, **options)
        self.images, self.labels = c.images[choice.images], c.labels[choice.images]
        judge = replace(judge, quantiles=judge.quantiles * self.tolerant)
        shards = make_shards(judge, minimum=1)
        images = [self.images[shard.images] for shard in shards]
        kept = Allowance(self.memory)
        self.network = Recorder(Program(c.graph), c.groups, images, delta=self.delta, allowance=kept)
        self.network.states = []
        self.batched = Batched(self.network, self.scores, self.several, self.batch)
        walker = Walker(
            self.network,
            self.batched.scores,
            judge,
            c.order,
            replace(self.rules, reference=self.reference),
            foretell=self.foretell if self.foretold else lambda group: lambda: None,
            on_step=lambda step, settled: self.settled.append(settled),
            foresee=self.batched.foresee,
            crew=Several(self.at_once),
        )
        self.shards = shards
        self.steps, self.stopped = walk(walker, c.groups, shards, self.recorded)

    def foretell(self, group: ChannelGroup) -> Callable[[], np.ndarray]:
        weights = dict(self.network.weights)

        def changes(shard: Shard) -> np.ndarray:
            labels = torch.from_numpy(self.labels[shard.images])

            def scores(outputs: torch.Tensor, images: slice) -> torch.Tensor:
                return outputs.softmax(1).gather(1, labels[images, None])

            return self.network.changes(shard.number, group, scores, weights) / len(labels)

        return lambda: np.stack([changes(shard) for shard in self.shards], axis=1)

    def scores(self, shard: Shard, group: ChannelGroup | None, units: Sequence[int]) -> np.ndarray:
        return self.right(shard, self.network.outputs(shard.number, group, units))

    def several(self, shard: Shard, group: ChannelGroup, sets: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return [self.right(shard, each) for each in self.network.several(shard.number, group, sets)]

    def right(self, shard: Shard, outputs: torch.Tensor) -> np.ndarray:
        """Probabilities of the true classes."""
        labels = torch.from_numpy(self.labels[shard.images])
        return outputs.softmax(1).gather(1, labels[:, None])[:, 0].numpy()

    @property
    def oracle(self) -> Reference:
        paired, pooled, current = (
            self.test == "paired",
            self.combine == "pooled",
            self.reference == "current",
        )
        return Reference(self.case.coupling, self.images, self.labels, self.alpha, paired, pooled, current)

    def check_invariant(self) -> None:
        """No class significantly below dense, after any removal and at the end."""
        limits = np.array(self.oracle.quantiles())
        for state in [*self.network.states, self.network.removed]:
            assert (np.array(self.oracle.z(state)) >= -limits - 1e-9).all(), state


# --- against the reference ----------------------------------------------------------------------------


def check_equals_the_reference(walked: Walked) -> None:
    """Order, verdicts, removals, ξ and z, to rounding."""
    steps, removed = walked.oracle.walk(walked.case.order)
    groups, units, findings, effects, z = zip(*steps, strict=True)
    assert [(s.group, s.units) for s in walked.steps] == [
        (g, (u,)) for g, u in zip(groups, units, strict=True)
    ]
    assert [str(s.finding) for s in walked.steps] == list(findings)
    assert [s.removed for s in walked.steps] == [finding != "critical" for finding in findings]
    assert [s.effect for s in walked.steps] == pytest.approx(list(effects), rel=1e-6, abs=1e-9)
    assert [s.worst_z for s in walked.steps] == pytest.approx([min(zs) for zs in z], rel=1e-6, abs=1e-9)
    assert [s.worst_class for s in walked.steps if not s.removed] == [
        int(np.argmin(zs)) for zs, finding in zip(z, findings, strict=True) if finding == "critical"
    ]
    assert {s.evaluated for s in walked.steps} == {len(walked.labels)}
    assert walked.network.removed == removed


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.25])
@pytest.mark.parametrize("name", NAMES)
def test_the_plain_walk_equals_the_reference(name: str, alpha: float) -> None:
    check_equals_the_reference(Walked(case(name), PLAIN, alpha))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_the_walk_equals_the_reference(name: str, options: Options) -> None:
    check_equals_the_reference(Walked(case(name), PLAIN, **options))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_every_option_changes_what_is_found(options: Options) -> None:
    plain, other = (
        [w.steps for w in walks]
        for walks in (
            [Walked(case(name), PLAIN) for name in NAMES],
            [Walked(case(name), PLAIN, **options) for name in NAMES],
        )
    )
    assert plain != other


@pytest.mark.parametrize("name", NAMES)
def test_all_three_findings_occur(name: str) -> None:
    found = {step.finding for alpha in (0.05, 0.25) for step in Walked(case(name), PLAIN, alpha).steps}
    assert found == set(Finding)


@pytest.mark.parametrize("foretold", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.25])
@pytest.mark.parametrize("name", NAMES)
def test_the_early_exit_is_sure(name: str, alpha: float, foretold: bool) -> None:
    plain = Walked(case(name), PLAIN, alpha)
    early = Walked(case(name), replace(PLAIN, early_exit=True), alpha, foretold=foretold)
    assert [(s.group, s.units, s.finding) for s in early.steps] == [
        (s.group, s.units, s.finding) for s in plain.steps
    ]
    assert early.network.removed == plain.network.removed
    assert sum(s.evaluated for s in early.steps) < sum(s.evaluated for s in plain.steps)


def test_the_order_of_units_is_that_of_magnitude_or_of_the_seed() -> None:
    c = case("residual")
    parameters = dict(c.graph.named_parameters())
    first, second = c.groups[:2]
    for group in (first, second):
        norms = magnitude(group, parameters)[unit_order(group, parameters)]
        assert (np.diff(norms) >= 0).all()
    drawn = [unit_order(first, parameters, order="random", seed=seed) for seed in (0, 0, 1)]
    assert all(sorted(order) == list(range(first.units)) for order in drawn)
    assert drawn[0] == drawn[1] != drawn[2]
    twin = replace(first, name="twin")
    assert unit_order(twin, parameters, order="random") != drawn[0], "each group has its own"


# --- the invariant ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_no_class_ever_falls_significantly(name: str, rules: Rules) -> None:
    walked = Walked(case(name), rules)
    assert walked.network.states
    walked.check_invariant()
    for group in walked.case.groups:
        width = group.units - len(walked.network.removed.get(group.name, ()))
        assert width == group.units or width % aligned_step(group, rules.align) == 0
        assert width >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_judge_breaks_the_invariant(name: str) -> None:
    with pytest.raises(AssertionError):
        Walked(case(name), PLAIN, tolerant=3.0).check_invariant()


# --- resume -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, *OPTIONS[2:]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_walk_cut_anywhere_goes_on_as_it_was(name: str, options: Options) -> None:
    rules = Rules(group_test=4, align=2, first_look=0.7)
    whole = Walked(case(name), rules, **options)
    for cut in range(0, len(whole.steps) + 1, 5):
        rest = Walked(case(name), rules, recorded=whole.steps[:cut], **options)
        assert rest.steps == whole.steps
        assert rest.network.removed == whole.network.removed
        assert (rest.settled, rest.stopped) == (whole.settled, whole.stopped)


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_several_processes_and_little_memory_change_no_step(name: str, rules: Rules) -> None:
    alone = Walked(case(name), rules)
    assert Walked(case(name), rules, at_once=3, memory=3_000).steps == alone.steps


def test_a_journal_of_another_walk_is_noticed() -> None:
    whole = Walked(case("concat"), PLAIN)
    with pytest.raises(AssertionError, match="another walk"):
        Walked(case("concat"), PLAIN, recorded=whole.steps[1:])


# --- bookkeeping, on a network that is made of numbers ------------------------------------------------

IMAGES = 12
CLASSES = 2
MANY = 6
"""Classes enough for a first look at some of them."""


@dataclass
class Additive:
    """A network whose scores fall by so much for every unit that is taken out.

    `damage[group]` has the shape (units, classes).
    """

    damage: dict[str, np.ndarray]
    rules: Rules
    within: Callable[[dict[str, tuple[int, ...]]], bool] = lambda removed: True
    accepts: Callable[[dict[str, tuple[int, ...]]], bool] = lambda removed: True
    copies: int = 1
    batch: int = 1
    """Interventions in one run."""
    foretold: float | None = None
    """The forecast in true changes: 1 is right, -1 upside down, None says nothing."""

    def __post_init__(self) -> None:
        self.version = self.runs = 0
        self.settled: list[int] = []
        self.gone: dict[str, list[int]] = {name: [] for name in self.damage}
        self.asked: list[dict[str, tuple[int, ...]]] = []
        self.classes = next(iter(self.damage.values())).shape[1]
        rng = np.random.default_rng(0)
        labels = np.arange(self.classes).repeat(IMAGES)
        probabilities = rng.uniform(0.6, 0.9, (len(labels), 1)) * np.eye(self.classes)[labels]
        self.judge, _ = make_judge(classified(probabilities, labels), list("abcdefgh"), alpha=0.05)
        self.shards = make_shards(self.judge, minimum=1)
        self.groups = [
            ChannelGroup(name=n, units=len(d), slots=(slot(n, len(d), self.copies),))
            for n, d in self.damage.items()
        ]

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(units) for name, units in self.gone.items() if units}

    def position(self, group: ChannelGroup) -> int:
        return list(self.damage).index(group.name)

    def enter(self, group: ChannelGroup) -> None:
        self.version += 1

    def remove_(self, group: ChannelGroup, units: Sequence[int]) -> None:
        assert not set(units) & set(self.gone[group.name])
        self.gone[group.name] += units
        self.version += 1
        assert self.worst_slack() >= 0

    def restore_(self, group: ChannelGroup, units: Sequence[int]) -> None:
        self.gone[group.name] = [u for u in self.gone[group.name] if u not in units]
        self.version += 1

    def several(self, shard: Shard, group: ChannelGroup, sets: Sequence[Sequence[int]]) -> list[np.ndarray]:
        found = [self.scores(shard, group, units) for units in sets]
        self.runs -= len(sets) - 1
        return found

    def scores(self, shard: Shard, group: ChannelGroup | None, units: Sequence[int]) -> np.ndarray:
        self.runs += 1
        taken = self.gone if group is None else {**self.gone, group.name: [*self.gone[group.name], *units]}
        fall = sum((self.damage[name][u] for name, us in taken.items() for u in us), np.zeros(self.classes))
        (number,) = shard.classes
        return self.judge.dense[shard.scores] - fall[number]

    def foretell(self, group: ChannelGroup) -> Callable[[], np.ndarray | None]:
        factor = self.foretold
        return lambda: None if factor is None else -factor * self.damage[group.name]

    def worst_slack(self) -> float:
        z = [self.judge.z(s.classes[0], self.scores(s, None, ())) for s in self.shards]
        return float(np.min(z + self.judge.quantiles))

    def ask(self) -> bool:
        self.asked.append(self.removed)
        return self.accepts(self.removed)

    def run(self, recorded: Sequence[Step] = ()) -> tuple[list[Step], str]:
        batched = Batched(self, self.scores, self.several, self.batch)
        walker = Walker(
            self,
            batched.scores,
            self.judge,
            lambda group: range(group.units),
            self.rules,
            within=self.within,
            accepts=self.ask,
            foretell=self.foretell,
            on_step=lambda step, settled: self.settled.append(settled),
            foresee=batched.foresee,
        )
        return walk(walker, self.groups, self.shards, recorded)

    def width(self, name: str) -> int:
        return len(self.damage[name]) - len(self.gone[name])


def slot(name: str, units: int, copies: int) -> Slot:
    return Slot(parameter=name, axis=0, indices=np.arange(units * copies).reshape(units, copies))


def harmless(units: int) -> dict[str, np.ndarray]:
    return {"only": np.zeros((units, CLASSES))}


rules = st.builds(
    Rules,
    group_test=st.sampled_from([1, 2, 5, 64]),
    early_exit=st.booleans(),
    align=st.sampled_from([1, 2, 8]),
    first_look=st.sampled_from([1 / 8, 1 / 2]),
)
foretold = st.sampled_from([None, 1.0, -1.0])
falls = st.sampled_from([-0.02, 0.0, 0.01, 0.03, 0.2])
damage = st.sampled_from([CLASSES, MANY]).flatmap(
    lambda classes: st.lists(
        st.lists(st.tuples(*[falls] * classes), min_size=2, max_size=20), min_size=1, max_size=3
    ).map(lambda groups: {f"g{i}": np.array(units) for i, units in enumerate(groups)})
)


@given(damage, rules, foretold, st.data())
@settings(deadline=None, max_examples=60)
def test_cut_and_resumed_equals_undisturbed(
    damage: dict[str, np.ndarray], rules: Rules, foretold: float | None, data: st.DataObject
) -> None:
    whole = Additive(damage, rules, foretold=foretold)
    steps, stopped = whole.run()
    cut = data.draw(st.integers(0, len(steps)))
    rest = Additive(damage, rules, foretold=foretold)
    assert rest.run(steps[:cut]) == (steps, stopped)
    assert rest.gone == whole.gone
    assert whole.worst_slack() >= 0


@given(damage, rules)
@settings(deadline=None, max_examples=60)
def test_progress_never_goes_back(damage: dict[str, np.ndarray], rules: Rules) -> None:
    network = Additive(damage, rules)
    network.run()
    assert all(a <= b for a, b in pairwise(network.settled))
    assert max(network.settled) <= sum(map(len, damage.values()))


@given(damage, rules, foretold)
@settings(deadline=None, max_examples=60)
def test_every_unit_is_settled_and_one_stays(
    damage: dict[str, np.ndarray], rules: Rules, foretold: float | None
) -> None:
    network = Additive(damage, rules, foretold=foretold)
    steps, _ = network.run()
    for name, units in damage.items():
        decided = [s for s in steps if s.group == name and (s.removed or len(s.units) == 1)]
        removed = [unit for step in decided if step.removed for unit in step.units]
        refused = {unit for step in decided if not step.removed for unit in step.units} - set(removed)
        tested = sorted([*removed, *refused])
        assert removed == sorted(set(removed)), "in their order, each once"
        assert tested == list(range(len(tested)))
        assert len(tested) == len(units) or len(removed) == len(units) - 1
        assert network.width(name) >= 1
    assert max(len(s.units) for s in steps) <= rules.group_test


# --- first looks --------------------------------------------------------------------------------------


def every_other(units: int) -> np.ndarray:
    """Every other unit is needed by the third class; the rest does a little harm to one class each."""
    damage = np.zeros((units, MANY))
    damage[::2, 2] = 0.5
    damage[1::2] = 0.001 * np.eye(MANY)[np.arange(units // 2) % MANY]
    return damage


def evaluated(
    damage: np.ndarray, first_look: float, foretold: float | None = None
) -> tuple[int, dict[str, list[int]]]:
    network = Additive({"g": damage}, Rules(align=1, first_look=first_look), foretold=foretold)
    steps, _ = network.run()
    return sum(step.evaluated for step in steps), network.gone


def test_first_looks_find_the_same_with_fewer_images() -> None:
    looking, gone = evaluated(every_other(40), 1 / 3)
    testing, gone_without = evaluated(every_other(40), 1)
    assert gone == gone_without == {"g": list(range(1, 40, 2))}
    assert looking < 0.7 * testing


def test_what_a_first_look_missed_is_found_together_and_tried_again() -> None:
    damage = np.zeros((12, MANY))
    damage[[1, 6], MANY - 1] = 0.5  # the last class, which nobody asks at first
    network = Additive({"g": damage}, Rules(align=1, first_look=1 / 3))
    steps, _ = network.run()
    assert network.gone["g"] == [0, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    refused = [s for s in steps if not s.removed and s.note == TOGETHER]
    assert refused
    assert all(step.worst_class == MANY - 1 for step in refused)
    last = {unit: step.removed for step in steps for unit in step.units}
    assert [unit for unit, removed in last.items() if not removed] == [1, 6]


def test_a_forecast_saves_images_and_changes_nothing() -> None:
    looking, gone = evaluated(every_other(40), 1 / 3)
    foretold, gone_foretold = evaluated(every_other(40), 1 / 3, foretold=1.0)
    misled, gone_misled = evaluated(every_other(40), 1 / 3, foretold=-1.0)
    assert gone == gone_foretold == gone_misled
    assert foretold < 0.8 * looking
    assert misled > looking


def test_a_refusal_that_is_foretold_takes_one_class() -> None:
    damage = np.zeros((6, MANY))
    damage[:, MANY - 1] = 0.5
    network = Additive({"g": damage}, Rules(align=1), foretold=1.0)
    steps, _ = network.run()
    assert [(s.finding, s.worst_class, s.evaluated) for s in steps] == 6 * [
        (Finding.CRITICAL, MANY - 1, IMAGES)
    ]


def test_group_tests_grow_and_halve_until_the_culprit_is_found() -> None:
    damage = np.zeros((40, CLASSES))
    damage[10] = 0.5
    network = Additive({"g": damage}, Rules(group_test=8, align=1))
    steps, _ = network.run()
    assert [s.units for s in steps[:3]] == [(0,), (1, 2), (3, 4, 5, 6)]
    refused_then = [(s.units[0], len(s.units), s.removed) for s in steps[3:8]]
    assert refused_then == [(7, 8, False), (7, 4, False), (7, 2, True), (9, 1, True), (10, 1, False)]
    assert [len(s.units) for s in steps[8:]] == [1, 1, 2, 4, 8, 8, 5]
    assert network.width("g") == 1


def test_what_a_refusal_implies_is_not_evaluated_again() -> None:
    damage = np.zeros((40, CLASSES))
    damage[10] = 0.5
    steps, _ = Additive({"g": damage}, Rules(group_test=8, align=1)).run()
    (culprit,) = [s for s in steps if s.units == (10,)]
    (pair,) = [s for s in steps if s.units == (7, 8, 9, 10)]
    assert (culprit.finding, culprit.worst_z) == (Finding.CRITICAL, pair.worst_z)
    assert (culprit.evaluated, culprit.note) == (0, "known from the test of more units at once")
    assert all(s.evaluated for s in steps if s is not culprit)


# --- the end of a group -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "align", "width"),
    [(16, 8, 8), (20, 8, 8), (8, 8, 8), (6, 8, 6), (20, 1, 1), (17, 4, 4), (9, 8, 8)],
)
def test_widths_are_aligned_upwards(units: int, align: int, width: int) -> None:
    network = Additive(harmless(units), Rules(align=align))
    network.run()
    assert network.width("only") == width


def test_units_of_several_channels_align_by_their_channels() -> None:
    network = Additive(harmless(16), Rules(align=8), copies=4)
    network.run()
    assert network.width("only") == 2
    assert [aligned_step(network.groups[0], align) for align in (1, 4, 8, 16, 6)] == [1, 1, 2, 4, 3]


@pytest.mark.parametrize("align", [1, 2, 8])
@pytest.mark.parametrize("units", [3, 16, 20, 37])
@pytest.mark.parametrize("most", [0, 1, 5, 14])
def test_an_accuracy_limit_gives_units_back_until_it_is_kept(units: int, align: int, most: int) -> None:
    network = Additive(
        harmless(units), Rules(align=align), accepts=lambda removed: len(removed.get("only", ())) <= most
    )
    steps, _ = network.run()
    gone = network.gone["only"]
    assert len(gone) <= most
    assert gone == list(range(len(gone))), "the most valuable return first"
    assert not gone or network.width("only") % align == 0
    assert all(s.removed for s in steps if s.units == ())
    asked = [len(removed["only"]) for removed in network.asked]
    assert all(before > after for before, after in pairwise(asked))
    assert not gone or asked[-1] == len(gone)


def compensating() -> Additive:
    """Unit 7 alone does harm that the seven units removed together with it make good for."""
    damage = np.zeros((16, CLASSES))
    damage[7], damage[8:15] = 0.49, -0.07
    return Additive({"g": damage}, Rules(align=8))


def test_a_network_that_aligning_makes_critical_gives_back_more() -> None:
    network = compensating()
    steps, _ = network.run()
    assert [len(s.units) for s in steps] == [1, 2, 4, 8, 0, 0]
    assert [len(s.returned) for s in steps] == [0, 0, 0, 0, 7, 8]
    assert steps[-2].finding is Finding.CRITICAL
    assert steps[-2].note == "7 units given back to align the width or keep the accuracy"
    assert network.width("g") == 16


def test_a_network_that_was_tested_on_the_way_is_not_tested_again() -> None:
    network = Additive(harmless(16), Rules(align=8, group_test=1))
    steps, _ = network.run()
    assert network.width("only") == 8
    assert [len(s.units) for s in steps] == [1] * 15 + [0]
    assert (steps[-1].evaluated, len(steps[-1].returned)) == (0, 7)


def test_a_group_given_back_whole_is_as_if_never_entered() -> None:
    network = Additive(harmless(6), Rules(align=8))
    steps, stopped = network.run()
    assert network.removed == {}
    assert sum(len(s.units) - len(s.returned) for s in steps) == 0
    assert steps[-1].evaluated == 0
    assert network.asked == [], "the accuracy of the network before holds"
    assert stopped == "natural end: every unit was tested"


@pytest.mark.parametrize("group_test", [1, 64])
@pytest.mark.parametrize("limit", [0, 1, 11, 19, 20])
def test_the_limit_on_size_ends_the_walk(group_test: int, limit: int) -> None:
    network = Additive(
        {name: np.zeros((11, CLASSES)) for name in "ab"},
        Rules(align=1, group_test=group_test),
        within=lambda removed: sum(map(len, removed.values())) <= limit,
    )
    _, stopped = network.run()
    assert sum(map(len, network.gone.values())) == limit
    ended = "the limit on removed parameters was reached"
    assert stopped == (ended if limit < 20 else "natural end: every unit was tested")


# --- records ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [np.nan, 0.0, 1.0])
def test_steps_are_finite_whatever_the_network_gives(score: float) -> None:
    network = Additive(harmless(4), PLAIN)
    object.__setattr__(network, "scores", lambda shard, group, units: np.full(IMAGES, score))
    network.worst_slack = lambda: 0.0
    steps, _ = network.run()
    assert {s.finding for s in steps} == {Finding.DETRIMENTAL if score == 1 else Finding.CRITICAL}
    for step in steps:
        json.dumps(asdict(step), allow_nan=False)


def test_shards_hold_whole_classes() -> None:
    probabilities = np.eye(3)[np.repeat([0, 1, 2], [10, 25, 12])]
    judge, _ = make_judge(
        classified(probabilities, np.repeat([0, 1, 2], [10, 25, 12])), list("abc"), alpha=0.05
    )
    assert [(s.images, s.classes) for s in make_shards(judge, minimum=1)] == [
        (slice(0, 10), (0,)),
        (slice(10, 35), (1,)),
        (slice(35, 47), (2,)),
    ]
    assert [(s.number, s.images, s.classes) for s in make_shards(judge, minimum=20)] == [
        (0, slice(0, 35), (0, 1)),
        (1, slice(35, 47), (2,)),
    ]
    assert isinstance(judge, Judge)
