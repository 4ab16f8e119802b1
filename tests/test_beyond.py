"""Beyond the natural end of the compensated walk: each pass takes a share, as far as a limit asks for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_builds import calibration, trained_net

from edgeprune.compensate import Block, Survivors
from edgeprune.pipeline import compensated, orders
from edgeprune.pipeline.compensated import STRIDE
from edgeprune.pipeline.finding import net_removal
from edgeprune.pipeline.options import Counted, Images, Labelled, Price, PruneOptions
from edgeprune.pipeline.pruning import analyse, count_findings, make_study
from edgeprune.pipeline.study import Study, Walked
from edgeprune.records import Finding, InputSpec, Step

LIMIT = 0.9
FAR = PruneOptions(align=1, max_param_ratio=LIMIT, alpha=0.45)
"""A level at which a small network ends early."""


def study_of(options: PruneOptions) -> Study:
    images, labels = (each.numpy() for each in calibration())
    parts = (slice(60), slice(60, None))
    known, unseen = (Labelled(images=images[part], labels=labels[part]) for part in parts)
    given = Images(calibration=known, names=["a", "b", "c"], validation=unseen)
    return make_study(analyse(trained_net(), InputSpec(shape=(1, 8, 8))), given, options)


def walked(options: PruneOptions, recorded: tuple[Step, ...] = ()) -> tuple[Study, Walked]:
    study = study_of(options)
    return study, compensated.walk(study, lambda *seen: None, recorded)


def dense_of(study: Study) -> Survivors:
    """The dense network, ready to lose units."""
    dense = study.program.dense
    return study.survivors(dense, study.measure(dense), {})


@pytest.fixture(scope="module")
def far() -> tuple[Study, Walked]:
    return walked(FAR)


def test_each_pass_takes_its_share_up_to_the_limit(far: tuple[Study, Walked]) -> None:
    study, found = far
    natural = [each for each in found.passes if not each.order]
    beyond = found.passes[len(natural) :]
    assert len(beyond) > 3
    assert all(each.factor == 1 for each in natural)
    assert beyond[-1].factor > 1, "how far scores fell is told"
    gone = [natural[-1].param_ratio, *(each.param_ratio for each in beyond)]
    largest = max(study.ledger.param_ratio({g.name: (0,)}) for g in study.groups)
    for before, after in pairwise(gone[:-1]):
        aim = 1 - STRIDE * (1 - before)
        assert aim <= after <= aim + largest
    assert LIMIT - largest < gone[-1] <= LIMIT
    assert found.stopped == "the limit on removed parameters was reached"
    assert net_removal(found.steps) == found.removed


def test_what_classes_need_is_logged_as_such(far: tuple[Study, Walked]) -> None:
    study, found = far
    forced = [step for step in found.steps if step.removed and step.finding is Finding.CRITICAL]
    assert forced
    single = {(step.group, step.units[0]) for step in forced if step.size == 1}
    counts = count_findings(found.steps, study.groups)
    assert sum(group[Finding.CRITICAL] for group in counts.values()) >= len(single)
    assert all(sum(counts[g.name].values()) <= g.units for g in study.groups)


def test_a_set_that_a_class_needs_says_nothing_about_each_unit() -> None:
    group, other = study_of(FAR).groups[:2]
    one = Step(
        group=group.name, units=(0,), finding=Finding.CRITICAL, removed=True,
        effect=0.0, worst_z=-9.0, worst_class=0, evaluated=1,
    )  # fmt: skip
    steps = [
        one,
        replace(one, units=(1, 2)),
        replace(one, units=(3,), joint={other.name: (0,)}),
        replace(one, units=(4, 5), joint={other.name: (1,)}, finding=Finding.NEUTRAL),
    ]
    counts = count_findings(steps, (group, other))
    assert counts[group.name] == {"critical": 1, "neutral": 2, "detrimental": 0}
    assert counts[other.name] == {"critical": 0, "neutral": 1, "detrimental": 0}
    assert [step.size for step in steps] == [1, 2, 2, 3]


def test_a_walk_cut_there_goes_on_as_it_was(far: tuple[Study, Walked]) -> None:
    _, whole = far
    first = next(n for n, step in enumerate(whole.steps) if step.finding is Finding.CRITICAL and step.removed)
    for cut in (first, first + 1, len(whole.steps) - 1):
        _, again = walked(FAR, tuple(whole.steps[:cut]))
        assert again.steps == whole.steps
        assert again.passes == whole.passes
        assert again.removed == whole.removed


@pytest.mark.parametrize("drop", [0.0, 0.05])
def test_a_limit_on_accuracy_gives_back_and_strides_become_smaller(drop: float) -> None:
    options = replace(FAR, max_param_ratio=None, max_accuracy_drop=drop)
    study, found = walked(options)
    assert study.accepts(found.weights)
    assert found.stopped == "the limit on the accuracy drop was reached"
    assert any(step.returned for step in found.steps)
    assert net_removal(found.steps) == found.removed


def test_without_a_limit_the_natural_end_is_the_end() -> None:
    _, found = walked(replace(FAR, max_param_ratio=None))
    assert found.stopped == "natural end: every unit was tested"
    assert {each.factor for each in found.passes} == {1.0}
    assert not any(step.removed and step.finding is Finding.CRITICAL for step in found.steps)


@pytest.mark.parametrize("price", ["auto", "params", "macs", "both"])
def test_the_order_is_that_of_damage_for_what_a_unit_saves(price: Price) -> None:
    study = study_of(replace(FAR, price=price))
    saved = {group.name: study.ledger.ratios({group.name: (0,)}) for group in study.groups}
    wanted = {
        name: {"macs": macs, "both": params + macs, "auto": 1.0}.get(price, params)
        for name, (params, macs) in saved.items()
    }
    survivors = dense_of(study)
    ladders = study.ladders(survivors)
    effects = study.effects(survivors, ladders, {})
    reached, costs = dict.fromkeys(ladders, 0.0), []
    for block in orders.natural(study, survivors):
        cost = effects.get(block.group, 1.0) * block.damage / len(block.units) / wanted[block.group]
        reached[block.group] = max(reached[block.group], cost)
        costs.append(reached[block.group])
    assert len(costs) == sum(map(len, ladders.values()))
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]


def test_the_order_that_answers_best_is_taken() -> None:
    study = study_of(FAR)
    survivors = dense_of(study)
    name, blocks = orders.beyond(study, survivors, 0.6)
    rivals = orders.Orders(study, survivors, 0.6)
    candidates = {each: rivals.by_damage(*how) for each, how in orders.COMPETING.items()}
    candidates[orders.LAMP] = rivals.by_magnitude()

    def move(given: list[Block]) -> float:
        return study.mover(study.program.dense)([rivals.fitted(given)])[0]

    moved = {each: move(given) for each, given in candidates.items()}
    assert len(set(moved.values())) > 1, "else they do not compete"
    assert moved[name] == min(moved.values()) == move(blocks)
    assert survivors.removed == {}, "trials leave the network as it is"


@pytest.mark.parametrize(("price", "counted"), [("units", "units"), ("params", "params"), ("macs", "macs")])
def test_an_order_that_is_asked_for_has_no_rivals(price: Price, counted: Counted) -> None:
    study = study_of(replace(FAR, price=price))
    survivors = dense_of(study)
    name, blocks = orders.beyond(study, survivors, 0.6)
    assert name == orders.NAMES[counted]
    assert blocks == orders.Orders(study, survivors, 0.6).by_damage(counted)


def test_passes_tell_their_orders(far: tuple[Study, Walked]) -> None:
    _, found = far
    assert {each.order for each in found.passes} <= {"", orders.LAMP, *orders.COMPETING}
    assert all(each.order for each in found.passes if each.factor > 1)
    assert not found.passes[0].order, "up to the natural end nothing competes"


def test_layer_adaptive_magnitude() -> None:
    study = study_of(FAR)
    survivors = dense_of(study)
    blocks = orders.Orders(study, survivors, 0.3).by_magnitude()
    left = {g.name: dict(enumerate(orders.squared(g, survivors.weights))) for g in study.groups}
    sizes = {name: len(units) for name, units in left.items()}
    shares = []
    for block in blocks:
        units = left[block.group]
        (unit,) = block.units
        assert units[unit] == min(units.values())
        shares.append((block.group, units[unit] / sum(units.values())))
        del units[unit]
    assert [share for _, share in shares] == sorted(share for _, share in shares)
    assert all(0 < len(units) < sizes[name] for name, units in left.items()), "no layer goes alone"


def test_squares_are_of_what_makes_and_what_reads_a_unit() -> None:
    study = study_of(FAR)
    group = study.groups[0]
    weights = study.program.dense
    made, *read = [slot for slot in group.slots if weights.get(slot.parameter, torch.zeros(1)).ndim > 1]
    found = orders.squared(group, weights)
    for unit in range(group.units):
        total = weights[made.parameter][made.indices[unit]].double().square().sum()
        for slot in read:
            rows = weights[slot.parameter].movedim(slot.axis, 0)[slot.indices[unit]]
            total += rows.double().square().sum() / len(slot.indices[unit])
        assert found[unit] == pytest.approx(float(total))
