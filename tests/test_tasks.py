"""Accuracy and how sure it is, against figures worked out by hand or another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from edgeprune import tasks


def ints(values: ArrayLike) -> NDArray[np.int64]:
    return np.asarray(values, dtype=np.int64)


def wilson(hits: int, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson 1927: the p for which the normal test of hits / count just does not reject."""
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return middle - half, middle + half


def mcnemar(lost: int, gained: int) -> float:
    """Exact, two-sided: twice the smaller tail of a fair coin."""
    n, few = lost + gained, min(lost, gained)
    return float(min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n))


# --- scores -------------------------------------------------------------------------------------------


def test_probabilities_are_a_softmax_that_does_not_overflow() -> None:
    found = tasks.probabilities(np.array([[0, math.log(3)], [1e4, 0], [-1e4, -1e4]], dtype=np.float32))
    assert found == pytest.approx(np.array([[0.25, 0.75], [1, 0], [0.5, 0.5]]))


def test_the_score_of_an_image_is_that_of_its_true_class() -> None:
    logits = np.log(np.array([[1, 2, 1], [8, 1, 1]], dtype=np.float32))
    assert tasks.true_class_scores(logits, ints([1, 2])) == pytest.approx([0.5, 0.1])


# --- accuracy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (7, 10), (1, 1), (0, 1), (980, 1000)])
def test_the_interval_of_accuracy_is_wilsons(hits: int, count: int) -> None:
    predictions = ints([0] * hits + [1] * (count - hits))
    found = tasks.accuracy(predictions, ints([0] * count), 2)
    assert found.top1.value == hits / count
    assert (found.top1.low, found.top1.high) == pytest.approx(wilson(hits, count), abs=1e-9)
    assert found.images == count


def test_accuracy_per_class_has_none_for_a_class_without_images() -> None:
    found = tasks.accuracy(ints([0, 1, 1, 3]), ints([0, 0, 1, 3]), 5)
    assert found.per_class == (0.5, 1.0, None, 1.0, None)
    assert found.predictions == (0, 1, 1, 3)


def test_a_prediction_beyond_the_classes_of_the_data_is_wrong_and_no_more() -> None:
    assert tasks.accuracy(ints([7, 1]), ints([0, 1]), 2).per_class == (0.0, 1.0)


# --- change of accuracy -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "gained", "p"), [(5, 0, 0.0625), (8, 2, 0.109375), (3, 3, 1.0), (0, 1, 1.0)]
)
def test_mcnemar_by_hand(lost: int, gained: int, p: float) -> None:
    same = 20
    labels = ints([0] * (lost + gained + same))
    dense = ints([0] * lost + [1] * gained + [0] * same)
    pruned = ints([1] * lost + [0] * gained + [0] * same)
    found = tasks.accuracy_change(dense, pruned, labels)
    assert (found.lost, found.gained) == (lost, gained)
    assert found.p_value == pytest.approx(p)
    assert found.drop.value == pytest.approx((lost - gained) / len(labels))


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_a_sum_of_binomials(lost: int, gained: int) -> None:
    labels = ints([0] * (lost + gained + 1))
    dense = ints([0] * lost + [1] * gained + [0])
    pruned = ints([1] * lost + [0] * gained + [0])
    assert tasks.accuracy_change(dense, pruned, labels).p_value == pytest.approx(mcnemar(lost, gained))


def test_networks_that_agree_have_no_change_and_no_doubt() -> None:
    found = tasks.accuracy_change(ints([1, 2, 2]), ints([1, 2, 2]), ints([1, 2, 0]))
    assert (found.lost, found.gained, found.p_value) == (0, 0, 1.0)
    assert (found.drop.value, found.drop.low, found.drop.high) == (0.0, 0.0, 0.0)


def test_other_answers_that_are_as_wrong_are_no_change() -> None:
    assert tasks.accuracy_change(ints([1, 1]), ints([2, 2]), ints([0, 0])).drop.value == 0.0


def test_the_interval_of_the_drop_is_that_of_paired_differences() -> None:
    generator = np.random.default_rng(4)
    labels = ints(np.zeros(400))
    dense = ints(generator.random(400) < 0.1)
    pruned = ints(np.where(generator.random(400) < 0.08, 1 - dense, dense))
    found = tasks.accuracy_change(dense, pruned, labels)
    difference = (dense == labels).astype(float) - (pruned == labels)
    half = 1.96 * difference.std() / math.sqrt(len(labels))
    assert found.drop.low == pytest.approx(difference.mean() - half, abs=0.006)
    assert found.drop.high == pytest.approx(difference.mean() + half, abs=0.006)


def test_the_interval_of_the_drop_is_the_same_every_time_and_another_with_another_seed() -> None:
    generator = np.random.default_rng(1)
    dense, pruned, labels = (ints(generator.integers(0, 2, 50)) for _ in range(3))
    assert tasks.accuracy_change(dense, pruned, labels) == tasks.accuracy_change(dense, pruned, labels)
    other = tasks.accuracy_change(dense, pruned, labels, seed=9)
    assert other.drop != tasks.accuracy_change(dense, pruned, labels).drop


def test_many_images_need_little_memory() -> None:
    dense = ints(np.arange(3_000_000) % 100 == 0)
    found = tasks.accuracy_change(dense, ints(np.zeros(3_000_000)), ints(np.zeros(3_000_000)))
    assert found.drop.value == pytest.approx(-0.01)
    assert found.drop.low < -0.01 < found.drop.high < -0.0095


def test_one_image_lost() -> None:
    found = tasks.accuracy_change(ints([0]), ints([1]), ints([0]))
    assert (found.drop.value, found.drop.low, found.drop.high) == (1.0, 1.0, 1.0)
