"""Searches for a budget: goals follow what measurements say, and the most accurate network within wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_builds import calibration, trained_net

from edgeprune import tasks
from edgeprune.pipeline import finding
from edgeprune.pipeline.descent import Descent, Point
from edgeprune.pipeline.finding import Search, net_removal
from edgeprune.pipeline.options import Images, Labelled, PruneOptions
from edgeprune.pipeline.pruning import analyse, make_study, too_few_to_vouch
from edgeprune.pipeline.study import Study
from edgeprune.records import InputSpec, Interval

CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def study() -> Study:
    images, labels = calibration()
    half = len(labels) // 2
    parts = [
        Labelled(images=images[part].numpy(), labels=labels[part].numpy())
        for part in (slice(half), slice(half, None))
    ]
    seen = Images(calibration=parts[0], names=CLASSES, validation=parts[1])
    return make_study(analyse(trained_net(), InputSpec(shape=(1, 8, 8))), seen, PruneOptions(align=1))


def descent_of(study: Study) -> tuple[Descent, list[Mapping[str, Sequence[int]]]]:
    """Latency and parameters both follow the parameters; and the units gone after each step."""

    def costs(widths):
        counts = np.array([study.ledger.of_widths(each) for each in widths], dtype=float)
        return {
            "latency": 0.2 + 0.8 * counts[:, 1] / study.ledger.dense_macs,
            "params": counts[:, 0] / study.ledger.dense_params,
        }

    seen: list[Mapping[str, Sequence[int]]] = []
    return Descent(study, costs, lambda step, removed: seen.append(removed)), seen


def exactly(share: float) -> Interval:
    return Interval(value=share, low=share, high=share)


def test_rounds_reach_a_goal_with_the_least_damaged_units(study):
    descent, seen = descent_of(study)
    found = descent.toward(descent.start(), {"latency": 0.6})
    assert found is not None
    assert 0.5 < found.costs["latency"] <= 0.61
    assert len(descent.steps) == len(seen) > 1
    assert net_removal(descent.steps) == found.removed == seen[-1]
    # The second half of the inner layer is read by nobody: it goes first.
    assert set(range(8, 16)) <= set(found.removed["inner.weight"])
    assert study.validation_accuracy(found.weights) >= study.validation_accuracy(study.program.dense) - 0.05


def test_two_goals_are_met_at_once(study):
    descent, _ = descent_of(study)
    found = descent.toward(descent.start(), {"latency": 0.7, "params": 0.5})
    assert found is not None
    assert found.costs["latency"] <= 0.71
    assert found.costs["params"] <= 0.51


def test_goals_that_hold_already_cost_nothing(study):
    descent, seen = descent_of(study)
    assert descent.toward(descent.start(), {"latency": 1.0}) is None
    assert not seen


def test_the_goal_moves_where_predictions_were_wrong(study):
    """Only 70 % of what is predicted is saved."""
    descent, seen = descent_of(study)

    def confirm(point: Point) -> dict[str, Interval]:
        return {"latency": exactly(1 - 0.7 * (1 - point.costs["latency"]))}

    search = Search(study, descent, confirm)
    point, why = search.within(descent.start(), {"latency": 0.6})
    assert not search.trials[0].fits
    assert search.trials[-1].fits
    assert confirm(point)["latency"].value <= 0.6
    assert why == "the budgets are met, as measured"
    assert seen[-1] == point.removed == net_removal(descent.steps)


def test_a_network_far_within_is_not_the_last_word(study):
    """Twice as much is saved as predicted: the first network has lost more than it had to."""
    descent, _ = descent_of(study)
    search = Search(study, descent, lambda point: {"latency": exactly(1 - 2 * (1 - point.costs["latency"]))})
    point, _ = search.within(descent.start(), {"latency": 0.6})
    first, best = search.trials[0], next(t for t in search.trials if t.point is point)
    assert first.measured["latency"].value < 0.4
    dearer = [trial for trial in search.trials[1:] if trial.fits]
    assert any(2 * first.measured["latency"].value < trial.measured["latency"].value for trial in dearer)
    assert best.fits
    assert best.accuracy == max(trial.accuracy for trial in search.trials if trial.fits)
    assert net_removal(descent.steps) == point.removed


def test_the_nearest_network_is_given_where_none_fits(study):
    descent, _ = descent_of(study)
    search = Search(study, descent, lambda point: {"latency": exactly(0.9 + 0.1 * point.costs["latency"])})
    point, why = search.within(descent.start(), {"latency": 0.5})
    assert "out of reach" in why
    assert point is min(search.trials, key=lambda trial: trial.measured["latency"].value).point
    assert all(len(units) > 0 for units in point.removed.values())


def test_the_fastest_network_within_a_drop(study):
    limited = replace(study.options, max_accuracy_drop=0.05)
    limited_study = make_study(analyse(trained_net(), InputSpec(shape=(1, 8, 8))), study.images, limited)
    descent, _ = descent_of(limited_study)
    search = Search(limited_study, descent, lambda point: {})
    point, why = search.fastest(descent.start())
    assert point.costs["latency"] < 0.8
    assert limited_study.accepts(point.weights)
    assert why in ("the limit on the accuracy drop was reached", "no unit is left to take")
    assert net_removal(descent.steps) == point.removed


def test_a_search_goes_on_from_its_steps(study):
    descent, _ = descent_of(study)
    whole = descent.toward(descent.start(), {"latency": 0.6})
    assert whole is not None
    again, _ = descent_of(study)
    point = again.resumed(net_removal(descent.steps[:1]))
    assert point.removed == descent.steps[0].together
    finished = again.toward(point, {"latency": 0.6})
    assert finished is not None
    assert finished.costs["latency"] == pytest.approx(whole.costs["latency"], abs=0.05)


def test_too_few_images_to_vouch_for_a_limit_are_told(study):
    images = len(study.images.validation.labels)
    assert tasks.enough_for(0.5) < images < tasks.enough_for(0.01) == 328
    for limit, told in ((0.5, False), (0.01, True), (None, False)):
        limited = Study(
            study.traced, study.coupling, study.images, replace(study.options, max_accuracy_drop=limit),
            study.program, study.kept,
        )  # fmt: skip
        notes = too_few_to_vouch(limited)
        assert bool(notes) == told
        assert not told or f"{images} validation images" in notes[0]


def test_a_drop_that_enough_images_show_is_vouched_for():
    right, task = np.zeros(tasks.enough_for(0.02), dtype=np.int64), tasks.Classification()
    worse = right.copy()
    worse[: len(right) // 100] = 1
    assert tasks.surely_within(task, (right, worse), right, 0.021)
    assert not tasks.surely_within(task, (right, worse), right, 0.015)


def test_a_margin_for_few_images():
    right, task = np.zeros(1000, dtype=np.int64), tasks.Classification()
    few = right.copy()
    few[:6] = 1
    assert tasks.surely_within(task, (right, few), right, 0.01)
    assert not tasks.surely_within(task, (right[:100], few[:100]), right[:100], 0.06)
    assert tasks.surely_within(task, (right[:10], right[:10]), right[:10], 0.0)


def test_aims_beyond_a_limit_and_by_what_savings_came_to():
    assert finding.aimed(0.5, 1.0) == pytest.approx(0.495)
    assert finding.aimed(0.5, 0.5) == pytest.approx(0.02)
    assert finding.aimed(0.8, 2.0) > 0.8


def test_torch_stays_deterministic(study):
    descent, _ = descent_of(study)
    one, two = (descent.toward(descent.start(), {"latency": 0.8}) for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.removed == two.removed
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
