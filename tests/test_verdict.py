"""Scores to verdicts: the Welch test, merged classes, effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from edgeprune.causal import Judge, make_judge
from edgeprune.causal.verdict import (
    LARGE_SAMPLE,
    MAX_Z,
    MIN_SAMPLES,
    merge_classes,
    paired_z,
    quantiles,
    welch_z,
)
from edgeprune.errors import DataError
from edgeprune.records import ALL_CLASSES, Finding
from edgeprune.tasks.classification import classified

ALPHA = 0.05
NAN_SCORES = np.array([0.5, np.nan, 0.4])

scores = arrays(np.float64, st.integers(2, 30), elements=st.floats(0, 1, width=32))


def make(
    counts: list[int],
    *,
    alpha: float = ALPHA,
    seed: int = 0,
    combine: str = "any-class",
    pooled: bool = False,
) -> Judge:
    """A judge over classes of so many images, all classified correctly."""
    labels = np.repeat(np.arange(len(counts)), counts)
    chances = np.random.default_rng(seed).uniform(0.6, 0.9, (len(labels), 1))
    probabilities = chances * np.eye(len(counts))[labels]
    names = [f"c{k}" for k in range(len(counts))]
    return make_judge(classified(probabilities, labels), names, alpha=alpha, combine=combine, pooled=pooled)[
        0
    ]


# --- the test -----------------------------------------------------------------------------------------


@given(scores, scores)
@settings(deadline=None)
def test_z_is_that_of_welch(changed: np.ndarray, reference: np.ndarray) -> None:
    z = welch_z(changed, reference)
    assert abs(z) <= MAX_Z
    if max(changed.std(), reference.std()) > 1e-3:
        moments = [(s.mean(), s.std(ddof=1), len(s)) for s in (changed, reference)]
        welch = stats.ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False)
        assert z == pytest.approx(welch.statistic, rel=1e-9, abs=1e-9)


@given(scores, st.data())
@settings(deadline=None)
def test_z_of_pairs_is_that_of_their_differences(changed: np.ndarray, data: st.DataObject) -> None:
    reference = data.draw(arrays(np.float64, len(changed), elements=st.floats(0, 1, width=32)))
    z = paired_z(changed, reference)
    assert abs(z) <= MAX_Z
    if (changed - reference).std() > 1e-3:
        assert z == pytest.approx(stats.ttest_rel(changed, reference).statistic, rel=1e-3, abs=1e-3)


def test_z_of_pairs_without_variance() -> None:
    high, low = np.array([0.5, 0.75]), np.array([0.25, 0.5])
    assert paired_z(high, high + np.array([1e-9, 2e-9])) == 0, "rounding is no effect"
    assert (paired_z(low, high), paired_z(high, low)) == (-MAX_Z, MAX_Z)
    assert paired_z(NAN_SCORES, np.array([0.5, 0.5, 0.4])) == -MAX_Z


def test_z_without_variance() -> None:
    high, low = np.full(5, 0.75), np.full(5, 0.25)
    assert welch_z(high, high) == 0
    assert welch_z(low, high) == -MAX_Z
    assert welch_z(high, low) == MAX_Z


def test_scores_that_are_no_numbers_are_critical() -> None:
    assert welch_z(NAN_SCORES, np.array([0.5, 0.5, 0.4])) == -MAX_Z
    assert make([10, 12]).finding(np.array([0.0, -MAX_Z])) is Finding.CRITICAL


def test_few_images_take_the_quantile_of_student() -> None:
    counts = np.array([2, 10, LARGE_SAMPLE - 1, LARGE_SAMPLE, 500])
    normal = stats.norm.isf(ALPHA)
    expected = [stats.t.isf(ALPHA, 2), stats.t.isf(ALPHA, 18), stats.t.isf(ALPHA, 56), normal, normal]
    assert quantiles(counts, ALPHA) == pytest.approx(expected)


def test_pairs_have_half_the_degrees_of_freedom() -> None:
    counts = np.array([2, 10, LARGE_SAMPLE - 1, LARGE_SAMPLE, 500])
    normal = stats.norm.isf(ALPHA)
    expected = [stats.t.isf(ALPHA, 1), stats.t.isf(ALPHA, 9), stats.t.isf(ALPHA, 28), normal, normal]
    assert quantiles(counts, ALPHA, test="paired") == pytest.approx(expected)


def test_pooled_images_hide_harm_to_one_class() -> None:
    by_class, pool = make([20, 200]), make([20, 200], combine="pooled")
    scores = by_class.dense - 0.1 * (np.arange(220) < 20)
    assert [c.name for c in pool.classes] == [ALL_CLASSES]
    assert pool.dense.tolist() == by_class.dense.tolist()
    z = [by_class.z(number, scores[c.places]) for number, c in enumerate(by_class.classes)]
    assert by_class.finding(np.array(z)) is Finding.CRITICAL
    assert pool.finding(np.array([pool.z(0, scores)])) is Finding.NEUTRAL


def test_the_pool_is_no_further_class_of_itself() -> None:
    judge = make([20, 20], combine="pooled", pooled=True)
    assert (judge.tests, judge.pooled) == (1, False)


def test_the_reference_may_be_another_network() -> None:
    judge = make([20, 20])
    fallen = judge.dense - 0.3
    assert judge.z(0, fallen[:20]) < -judge.quantiles[0]
    assert judge.against(fallen).z(0, fallen[:20]) == 0
    assert judge.against(fallen).effect(np.arange(40), fallen) == 0


def test_harm_to_any_class_is_critical() -> None:
    judge = make([10, 40])
    small, large = judge.quantiles
    assert judge.finding(np.array([0.0, -large - 0.01])) is Finding.CRITICAL
    assert judge.finding(np.array([9.0, -large - 0.01])) is Finding.CRITICAL
    assert judge.finding(np.array([small + 0.01, -large + 0.01])) is Finding.DETRIMENTAL
    assert judge.finding(np.array([small - 0.01, -large + 0.01])) is Finding.NEUTRAL


def test_classes_not_looked_at_decide_nothing() -> None:
    judge = make([10, 40])
    assert judge.finding(np.array([np.nan, np.nan])) is Finding.NEUTRAL
    assert judge.finding(np.array([np.nan, -9.0])) is Finding.CRITICAL


def test_the_tolerance_is_the_fall_that_becomes_significant() -> None:
    judge = make([20, 50])
    for number, tested in enumerate(judge.classes):
        dense = judge.dense[tested.places]
        fall = judge.tolerance[number]
        assert judge.z(number, dense - 0.99 * fall) > -judge.quantiles[number]
        assert judge.z(number, dense - 1.01 * fall) < -judge.quantiles[number]


# --- the effect ---------------------------------------------------------------------------------------


def test_the_effect_is_the_mean_relative_change() -> None:
    judge = make([10, 10])
    images = np.array([3, 15])
    assert judge.effect(images, judge.dense[images] * [1.1, 0.7]) == pytest.approx(-0.1)


def test_the_effect_is_finite_whatever_the_scores() -> None:
    judge = make([10])
    lost = replace(judge, dense=np.zeros(10))
    assert lost.effect(np.arange(10), np.ones(10)) == pytest.approx(1e6, rel=1e-5)
    assert judge.effect(np.arange(3), NAN_SCORES * judge.dense[:3]) == pytest.approx(-1.9 / 3 - 0.2 / 3)


# --- which images -------------------------------------------------------------------------------------


def test_only_images_classified_correctly_are_looked_at_class_by_class() -> None:
    labels = np.arange(60) % 2
    probabilities = np.tile([0.3, 0.7], (60, 1))
    probabilities[labels == 0] = [0.8, 0.2]
    probabilities[:10] = probabilities[:10, ::-1]
    judge, choice = make_judge(classified(probabilities, labels), ["even", "odd"], alpha=ALPHA)
    assert choice.images.tolist() == [*range(10, 60, 2), *range(11, 60, 2)]
    assert [(c.name, c.places.tolist()) for c in judge.classes] == [
        ("even", list(range(25))),
        ("odd", list(range(25, 50))),
    ]
    assert judge.dense.tolist() == [0.8] * 25 + [0.7] * 25


def test_too_few_correct_images_is_an_error_that_says_so() -> None:
    labels = np.zeros(40, np.int64)
    probabilities = np.tile([0.2, 0.8], (40, 1))
    probabilities[: MIN_SAMPLES - 1] = [0.9, 0.1]
    with pytest.raises(DataError, match=r"9 of 40 .* needs 10; check preprocessing"):
        make_judge(classified(probabilities, labels), ["a", "b"], alpha=ALPHA)


# --- few images per class -----------------------------------------------------------------------------


def confused(classes: int, partner: int) -> np.ndarray:
    """One image a class, each a little like the class `partner` away."""
    k = np.arange(classes)
    probabilities = np.full((classes, classes), 0.1 / classes)
    probabilities[k, k] += 0.7
    probabilities[k, (k + partner) % classes] += 0.2
    return probabilities


def test_classes_of_enough_images_stay_as_they_are() -> None:
    labels = np.repeat([0, 1, 2], [10, 30, 11])
    assert merge_classes(np.eye(3)[labels], labels, minimum=10) == [(0,), (1,), (2,)]


def test_small_classes_merge_with_the_most_similar() -> None:
    labels = np.repeat([0, 1, 2, 3], 5)
    assert merge_classes(confused(4, 2)[labels], labels, minimum=10) == [(0, 2), (1, 3)]


def test_a_class_too_small_alone_joins_one_of_enough_images() -> None:
    labels = np.repeat([0, 1, 2], [20, 20, 3])
    probabilities = np.array([[0.90, 0.05, 0.05], [0.05, 0.70, 0.25], [0.05, 0.25, 0.70]])
    assert merge_classes(probabilities[labels], labels, minimum=10) == [(0,), (1, 2)]


@pytest.mark.parametrize("classes", [25, 100])
def test_one_image_a_class_gives_classes_of_about_the_minimum(classes: int) -> None:
    merged = merge_classes(confused(classes, 1), np.arange(classes), minimum=MIN_SAMPLES)
    assert sorted(k for members in merged for k in members) == list(range(classes))
    assert all(MIN_SAMPLES <= len(members) < 3 * MIN_SAMPLES for members in merged)


@pytest.mark.slow
def test_a_thousand_classes_of_one_image() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(1000, 0.01), size=1000)
    labels = np.arange(1000)
    probabilities[labels, labels] += 1
    judge, choice = make_judge(classified(probabilities / 2, labels), [str(k) for k in labels], alpha=ALPHA)
    assert sorted(choice.images) == list(range(1000))
    assert all(MIN_SAMPLES <= len(c.places) < 3 * MIN_SAMPLES for c in judge.classes)
    assert judge.classes[0].name.count("+") == len(judge.classes[0].places) - 1


@given(st.lists(st.integers(0, 25), min_size=1, max_size=12).filter(sum), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_merging_keeps_every_class_and_stops_as_soon_as_it_may(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(len(counts)), size=len(labels))
    merged = merge_classes(probabilities, labels, minimum=10)
    assert merged == merge_classes(probabilities, labels, minimum=10)
    assert sorted(k for members in merged for k in members) == [k for k, n in enumerate(counts) if n]
    sizes = [sum(counts[k] for k in members) for members in merged]
    assert len(merged) == 1 or min(sizes) >= 10
    untouched = [k for k, n in enumerate(counts) if n >= 10]
    assert len({members for members in merged for k in untouched if k in members}) == len(untouched)
