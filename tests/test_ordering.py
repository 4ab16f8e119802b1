"""Labels in another order than the network's outputs."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_builds import calibration, trained_net

import edgeprune
from edgeprune.errors import DataError
from edgeprune.tasks import other_order

NAMES = ["ant", "bee", "cow", "dog"]
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(4), 25)


def test_a_permutation_is_named():
    meant = np.array([2, 0, 3, 1])  # class -> the output that stands for it
    answers = np.where(RNG.random(100) < 0.9, meant[LABELS], RNG.integers(0, 4, 100))
    told = other_order(answers, LABELS, NAMES, 4)
    assert told is not None
    assert 'set classes = ["bee", "dog", "ant", "cow"]' in told
    assert "images of ant as 2, bee as 0, cow as 3, ..." in told


def test_a_part_of_many_outputs_is_named():
    told = other_order(LABELS + 217, LABELS, NAMES, 1000)
    assert told is not None
    assert "ant as 217, bee as 218, cow as 219, ..." in told
    assert "it has 1000 outputs" in told


def test_what_is_right_weak_or_few_is_left_alone():
    assert other_order(LABELS, LABELS, NAMES, 4) is None
    assert other_order(RNG.integers(0, 4, 100), LABELS, NAMES, 4) is None, "a guess"
    assert other_order(np.zeros(100, dtype=np.int64), LABELS, NAMES, 4) is None, "always one class"
    two_of_ten = np.repeat(np.arange(10), 10)
    swapped = np.where(two_of_ten < 2, 1 - two_of_ten, two_of_ten)
    assert other_order(swapped, two_of_ten, list("abcdefghij"), 10) is None, "most of it is right"
    assert other_order((LABELS + 1)[::20] % 4, LABELS[::20], NAMES, 4) is None, "too few images"
    assert other_order(np.zeros(30, dtype=np.int64), np.zeros(30, dtype=np.int64), NAMES, 4) is None


def test_an_analysis_refuses_them():
    images, labels = calibration()
    with pytest.raises(DataError, match=r'set classes = \["b", "c", "a"\] in the description of the data'):
        edgeprune.prune(trained_net(), (images, (labels + 1) % 3), class_names=("a", "b", "c"))
