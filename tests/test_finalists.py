"""At one share of the parameters: the walk's network or that of the least magnitude, whichever is nearer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_builds import calibration, trained_net

from edgeprune.pipeline import compensated, orders
from edgeprune.pipeline.compensated import REACHED, Network
from edgeprune.pipeline.finalists import EXCHANGED, Finalists, fitted, holds, nearest, settled
from edgeprune.pipeline.finding import net_removal
from edgeprune.pipeline.options import Images, Journey, Labelled, PruneOptions
from edgeprune.pipeline.pruning import Analysed, analyse, find_units, make_study
from edgeprune.pipeline.study import Study, Walked
from edgeprune.records import Finding, InputSpec, Step

SHARE = 0.5
ASKED = PruneOptions(align=1, max_param_ratio=SHARE, alpha=0.45)


def parts() -> tuple[Analysed, Images]:
    images, labels = (each.numpy() for each in calibration())
    given = [Labelled(images=images[part], labels=labels[part]) for part in (slice(60), slice(60, None))]
    analysed = analyse(trained_net(), InputSpec(shape=(1, 8, 8)))
    return analysed, Images(calibration=given[0], names=["a", "b", "c"], validation=given[1])


def study_of(options: PruneOptions = ASKED) -> Study:
    return make_study(*parts(), options)


def heaviest(study: Study) -> dict[str, tuple[int, ...]]:
    """As many units of each group as the lightest that leave, but those of the largest magnitude."""
    weights, found = study.program.dense, {}
    for group in study.groups:
        count = len(Finalists(study, SHARE).by_magnitude(SHARE).get(group.name, ()))
        ranked = np.argsort(-orders.squared(group, weights), kind="stable")
        found[group.name] = tuple(sorted(int(unit) for unit in ranked[:count]))
    return {name: units for name, units in found.items() if units}


def walked_to(study: Study, removed: dict[str, tuple[int, ...]]) -> Walked:
    """A walk that took these units in one step."""
    found = fitted(study, removed)
    (first, units), *others = removed.items()
    step = Step(
        group=first, units=units, joint=dict(others), finding=Finding.CRITICAL, removed=True,
        effect=0.0, worst_z=-9.0, worst_class=0, evaluated=1,
    )  # fmt: skip
    return Walked(steps=[step], stopped=REACHED, removed=removed, weights=found.weights, fit=found.fit)


def distance(study: Study, found: Network) -> float:
    return study.mover(study.program.dense)([found.weights])[0]


def test_the_least_magnitude_stays_within_the_share() -> None:
    study = study_of()
    largest = max(study.ledger.param_ratio({g.name: (0,)}) for g in study.groups)
    for share in (0.1, 0.3, SHARE):
        ratio = study.ledger.param_ratio(Finalists(study, SHARE).by_magnitude(share))
        assert share - largest < ratio <= share


def test_the_nearer_answers_win() -> None:
    study = study_of()
    light, heavy = (
        fitted(study, removed) for removed in (Finalists(study, SHARE).by_magnitude(SHARE), heaviest(study))
    )
    assert not holds(study, light.weights), "else the guarantee decides"
    assert not holds(study, heavy.weights)
    assert distance(study, light) < distance(study, heavy)
    for given in ([light, heavy], [heavy, light]):
        assert nearest(study, given) is light
    assert Finalists(study, SHARE).best(heavy, SHARE).removed == light.removed


def test_what_keeps_the_guarantee_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of()
    light, heavy = (
        fitted(study, removed) for removed in (Finalists(study, SHARE).by_magnitude(SHARE), heaviest(study))
    )
    monkeypatch.setattr("edgeprune.pipeline.finalists.holds", lambda _, weights: weights is heavy.weights)
    assert nearest(study, [light, heavy]) is heavy
    monkeypatch.setattr(study, "accepts", lambda weights: weights is light.weights)
    assert nearest(study, [light, heavy]) is light, "a limit on accuracy before that"


def test_a_dense_network_holds_and_one_without_most_of_it_does_not() -> None:
    study = study_of()
    assert holds(study, study.program.dense)
    assert not holds(study, fitted(study, heaviest(study)).weights)


def test_an_exchange_is_logged() -> None:
    study, seen = study_of(), []
    walked = walked_to(study, heaviest(study))
    journey = Journey(on_step=lambda step, settled, units, ratio: seen.append((step, ratio)))
    found = settled(study, walked, journey)
    assert found.removed == Finalists(study, SHARE).by_magnitude(SHARE)
    assert net_removal(found.steps) == found.removed
    back, taken = found.steps[1:]
    assert back.note == f"given back: {EXCHANGED}"
    assert taken.note == EXCHANGED
    assert [step for step, _ in seen] == [back, taken]
    assert seen[-1][1] == study.ledger.param_ratio(found.removed)
    assert found.passes[-1].param_ratio == seen[-1][1]
    assert found.passes[-1].order.startswith(orders.LAMP)


def test_a_walk_that_is_nearer_stays_as_it_is() -> None:
    most = 0.9
    study = study_of(replace(ASKED, max_param_ratio=most))
    rivals = Finalists(study, most)
    walked, same = (walked_to(study, rivals.by_magnitude(share)) for share in (SHARE, most))
    own = Network(dict(walked.weights), walked.fit, walked.removed)
    assert distance(study, own) < distance(study, fitted(study, same.removed))
    assert settled(study, walked, Journey()) is walked
    assert settled(study, same, Journey()) is same


@pytest.mark.parametrize(
    "options",
    [
        replace(ASKED, price="units"),
        replace(ASKED, method="variance", compensate="affine"),
        replace(ASKED, refit=False),
        replace(ASKED, max_param_ratio=None),
    ],
)
def test_where_the_user_says_how_or_names_no_share_there_is_one_finalist(options: PruneOptions) -> None:
    study = study_of(options)
    walked = walked_to(study, heaviest(study_of()))
    assert settled(study, walked, Journey()) is walked


@pytest.mark.parametrize("share", [0.2, 0.35, SHARE])
def test_the_analysis_ends_with_the_better_finalist(share: float) -> None:
    options = replace(ASKED, max_param_ratio=share)
    found = find_units(*parts(), options)
    study = study_of(options)
    walked = compensated.walk(study, lambda *seen: None, ())
    own = Network(dict(walked.weights), walked.fit, walked.removed)
    rival = fitted(study, Finalists(study, share).by_magnitude(share))
    assert found.pruning.plan.removed == nearest(study, [own, rival]).removed
    assert found.pruning.plan.param_ratio <= share
    trajectory = found.pruning.trajectory
    assert net_removal(trajectory.steps) == found.pruning.plan.removed
    again = find_units(*parts(), options, Journey(recorded=trajectory.steps))
    assert again.pruning == found.pruning, "taken over from its journal it ends the same"
