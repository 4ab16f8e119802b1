"""Forecasts of what the removal of a unit does: near what happens, and silent where they know nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tiny_builds import calibration, trained_net

from edgeprune import causal
from edgeprune.pipeline.forecasting import foretell
from edgeprune.pipeline.options import Images, Labelled, PruneOptions
from edgeprune.pipeline.pruning import analyse, make_study
from edgeprune.pipeline.study import Study
from edgeprune.records import ChannelGroup, InputSpec


@pytest.fixture(scope="module")
def study() -> Study:
    images, labels = (each.numpy() for each in calibration())
    given = Images(calibration=Labelled(images=images, labels=labels), names=["a", "b", "c"])
    options = PruneOptions(align=1, method="c-swap")
    return make_study(analyse(trained_net(), InputSpec(shape=(1, 8, 8))), given, options)


def entered(study: Study) -> tuple[causal.Replay, ChannelGroup]:
    replay = study.replay()
    group = max(study.groups, key=replay.position)
    replay.enter(group)
    return replay, group


def means(study: Study, replay: causal.Replay, group: ChannelGroup, *units: int) -> np.ndarray:
    """The mean score of each shard with these units taken out."""
    outputs = [replay.outputs(shard.number, group, units).numpy() for shard in study.shards]
    return np.array([study.scores_of(*pair).mean() for pair in zip(study.shards, outputs, strict=True)])


def test_the_class_that_is_foretold_to_lose_most_mostly_does(study: Study) -> None:
    """Mostly: each unit of this small network does so much that the first order is not all."""
    replay, group = entered(study)
    found = foretell(study, replay, group)()
    assert found is not None
    happens = np.array([means(study, replay, group, u) for u in range(group.units)])
    happens -= means(study, replay, group)
    assert found.shape == happens.shape == (group.units, len(study.shards))
    used = np.abs(happens).max(axis=1) > 1e-6
    assert 4 < used.sum() < group.units
    assert (found[~used] == 0).all()
    named = found.argmin(axis=1) == happens.argmin(axis=1)
    assert named[used].mean() > 0.8


def test_a_forecast_is_of_the_network_for_which_it_was_made(study: Study) -> None:
    """However late it is asked for: a walk that goes on later must look at the same classes first."""
    replay, group = entered(study)
    at_once, later = foretell(study, replay, group)(), foretell(study, replay, group)
    replay.remove_(group, range(group.units // 2))
    moved = foretell(study, replay, group)()
    assert np.array_equal(at_once, later())
    assert later() is later(), "computed once"
    assert not np.array_equal(at_once, moved)


@dataclass(frozen=True)
class Other:
    """A task that says nothing about slopes."""

    name = "other"


def test_other_tasks_have_no_forecast(study: Study) -> None:
    replay, group = entered(study)
    other = replace(study, images=replace(study.images))
    other.task = Other()  # type: ignore[assignment]
    assert foretell(other, replay, group)() is None


@pytest.mark.parametrize("slope", [RuntimeError("no derivative\nof this op"), np.nan])
def test_a_network_without_slopes_has_no_forecast(
    study: Study, monkeypatch: pytest.MonkeyPatch, slope: object
) -> None:
    replay, group = entered(study)

    def changes(*ignored: object) -> np.ndarray:
        if isinstance(slope, Exception):
            raise slope
        return np.full(group.units, slope)

    monkeypatch.setattr(replay, "changes", changes)
    assert foretell(study, replay, group)() is None
