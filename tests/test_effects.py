"""Damages of different layers made comparable: by what removals do to the answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from tiny_builds import calibration, trained_net

from edgeprune import tasks
from edgeprune.compensate import Block, in_order
from edgeprune.pipeline.effects import LEAST, effects
from edgeprune.pipeline.options import Images, Labelled, PruneOptions
from edgeprune.pipeline.pruning import analyse, make_study
from edgeprune.pipeline.study import FEWEST_TOLD, Study
from edgeprune.records import InputSpec


def ladder(group: str, *damages: float) -> list[Block]:
    return [Block(group=group, units=(unit,), damage=damage) for unit, damage in enumerate(damages)]


class Network:
    """Units of a group move the answers by so much each, whatever their damage says."""

    def __init__(self, **moves: float) -> None:
        self.moves, self.weights, self.asked = moves, {"kept": torch.zeros(1)}, {}

    def without(self, removed):
        ((group, units),) = removed.items()
        self.asked[group] = units
        return {"moved": torch.tensor(self.moves[group] * len(units))}


def weighed(network, ladders, **taken):
    seen = []
    found = effects(
        network,
        ladders,
        taken,
        lambda changes: [float(each["moved"]) for each in changes],
        lambda *done: seen.append(done),
    )
    assert seen == [(len(network.asked), len(network.asked))], "fewer than are measured at once"
    return found


def test_a_group_counts_by_how_far_the_answers_move_for_its_damage():
    network = Network(a=1.0, b=4.0, c=100.0)
    ladders = {name: ladder(name, *[2.0] * 20) for name in "abc"}
    found = weighed(network, ladders, a=5)
    assert network.asked == {"a": (0, 1, 2, 3, 4), "b": (0, 1), "c": (0, 1)}, "as many as are to leave"
    assert found == pytest.approx({"a": 0.25, "b": 1.0, "c": 25.0}), "over the median"


def test_what_has_no_damage_is_not_weighed_and_nothing_counts_for_nothing():
    network = Network(a=1.0, b=0.0, c=1.0)
    ladders = {"a": ladder("a", 1.0), "b": ladder("b", 1.0), "c": ladder("c", 1.0)}
    ladders |= {"dead": ladder("dead", 0.0), "unread": ladder("unread", math.inf), "narrow": []}
    assert weighed(network, ladders) == pytest.approx({"a": 1.0, "b": LEAST, "c": 1.0})
    still = Network(a=0.0)
    assert weighed(still, {"a": ladder("a", 1.0)}) == {}, "where nothing moves, damages stay as they are"


def test_weights_change_the_order_of_groups_not_that_within_one():
    ladders = {"a": ladder("a", 1.0, 3.0, 2.0), "b": ladder("b", 1.5, 4.0)}
    names = [(block.group, block.units[0]) for block in in_order(ladders)]
    assert names == [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1)]
    heavy = [(block.group, block.units[0]) for block in in_order(ladders, None, {"a": 10.0})]
    assert heavy == [("b", 0), ("b", 1), ("a", 0), ("a", 1), ("a", 2)]
    cheap = [(block.group, block.units[0]) for block in in_order(ladders, {"a": 1.0, "b": 4.0})]
    assert cheap == [("b", 0), ("a", 0), ("b", 1), ("a", 1), ("a", 2)]


# --- a network's own answers ---------------------------------------------------------------------------


def study_of(validation: int) -> Study:
    images, labels = calibration()
    seen = Labelled(images=images.numpy(), labels=labels.numpy())
    unseen = Labelled(images=-images.numpy()[:validation], labels=labels.numpy()[:validation])
    given = Images(calibration=seen, names=["a", "b", "c"], validation=unseen)
    return make_study(analyse(trained_net(), InputSpec(shape=(1, 8, 8))), given, PruneOptions(align=1))


def test_the_answers_are_those_to_images_that_no_fit_has_seen():
    study = study_of(FEWEST_TOLD)
    dense = study.program.dense
    without = {**dense, "head.weight": dense["head.weight"] * 0.5}

    def divergence(images):
        answers = [study.program.logits(study.program.start(images), each) for each in (dense, without)]
        ours, theirs = (special.log_softmax(each.double().numpy(), axis=1) for each in answers)
        return float((np.exp(ours) * (ours - theirs)).sum(axis=1).mean())

    assert study.images.validation is not None
    unseen = torch.from_numpy(study.images.validation.images)
    move = study.mover(dense)
    assert move([dense]) == [0.0]
    assert move([without]) == pytest.approx([divergence(unseen)], rel=1e-4)
    few = study_of(FEWEST_TOLD - 1)
    assert few.mover(dense)([without]) == pytest.approx([divergence(few.all_images)], rel=1e-4)


def test_every_task_tells_how_far_its_outputs_moved():
    labels = np.array([0, 2])
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]], dtype=np.float32)
    plain = tasks.Classification()
    assert tasks.moved(plain, logits, logits + 5.0, labels) == pytest.approx(0.0, abs=1e-9), (
        "a shift is no change"
    )
    assert tasks.moved(plain, logits, logits[::-1], labels) > 0.1

    masks = np.zeros((2, 4, 4), dtype=np.int64)
    masks[:, :2] = 1
    maps = np.eye(2, dtype=np.float32)[masks].transpose(0, 3, 1, 2)
    task = tasks.Segmentation(classes=2)
    before, after = (task.kept(each, masks) for each in (maps, maps[:, ::-1]))
    assert tasks.moved(task, before, before, masks) == 0.0
    assert tasks.moved(task, before, after, masks) == pytest.approx(1.0), "all right before, all wrong after"
