"""Scores under an intervention -> verdict: the any-class test of C-SWAP (METHODS §1).

For each class k over the calibration images in which the dense network gets it right (n_k of them), a
one-sided two-sample Welch test compares the scores under the intervention, σ*, with those of the dense
network, σ: z_k = (mean σ* - mean σ) / sqrt(s²/n_k + s*²/n_k). Published: score, any-class rule, α. The test
is a reconstruction, and so an option: `TESTS`. So is how images are combined: `COMBINATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from edgeprune.errors import DataError
from edgeprune.records import ALL_CLASSES, Bools, Doubles, Finding, Ints, Scored

MIN_SAMPLES = 10
"""Classes with fewer scores are merged with their nearest."""
LARGE_SAMPLE = 30
"""From here on the normal quantile serves; below, Student's t with 2 n - 2 degrees of freedom."""
MIN_SCORE = 1e-6
ROUNDING = 1e-6
MAX_Z = 1e6
"""z is clipped to ± this, so that every z is finite (JSON knows no infinity)."""


@dataclass(frozen=True, slots=True, eq=False)
class TestClass:
    """One class, or several merged ones, of the test."""

    name: str
    places: Ints
    """Which of the judge's scores are its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Judges scores against the dense network's.

    Attributes:
        classes: The classes of the test; together they hold every score once.
        dense: The dense network's scores, in [0, 1]; those of another one after `against`.
        images: The image of each score, ascending; images that show several classes have several.
        quantiles: How far z may fall, per test: one a class, and one for the pool where there is one.
        pooled: Whether all scores together are one more class of the test (the last).
        test: Which of `TESTS`.
    """

    classes: tuple[TestClass, ...]
    dense: Doubles
    images: Ints
    quantiles: Doubles
    pooled: bool = False
    test: str = "welch"

    @property
    def tests(self) -> int:
        """How many z there are."""
        return len(self.quantiles)

    @property
    def members(self) -> list[tuple[str, Ints]]:
        """Name and scores of each test."""
        found = [(c.name, c.places) for c in self.classes]
        return [*found, (ALL_CLASSES, np.arange(len(self.dense)))] if self.pooled else found

    @property
    def tolerance(self) -> Doubles:
        """Δ_k: about how far the mean score of class k may fall before the fall is significant.

        The paired test calls smaller falls significant where scores fall together.
        """
        spread = np.array([self.dense[places].std(ddof=1) for _, places in self.members])
        counts = np.array([len(places) for _, places in self.members])
        return np.asarray(self.quantiles * spread * np.sqrt(2 / counts), dtype=np.float64)

    def z(self, number: int, scores: Doubles) -> float:
        """z of one class; `scores` are its own under the intervention."""
        return TESTS[self.test].z(scores, self.dense[self.classes[number].places])

    def pooled_z(self, scores: Doubles) -> float:
        """z of all scores together."""
        return TESTS[self.test].z(scores, self.dense)

    def hopeful_z(self, scores: Doubles) -> float:
        """z of all scores together if those not looked at yet (NaN) lost nothing."""
        return self.pooled_z(np.where(np.isnan(scores), self.dense, scores))

    def pool_is_lost(self, scores: Doubles) -> bool:
        """Whether all scores together come out worse even if those not looked at yet (NaN) lost nothing.

        Taking this for the verdict may keep a unit that could go, and never removes one that must stay.
        """
        return self.pooled and self.hopeful_z(scores) < -float(self.quantiles[-1])

    def relaxed(self, factor: float) -> Judge:
        """A judge that lets scores fall further, by this factor on the quantiles."""
        return replace(self, quantiles=self.quantiles * factor)

    def fallen(self, z: Doubles) -> float:
        """By what factor the z of any class passes its limit; 1 where none does."""
        return max(1.0, float(np.nanmax(-z / self.quantiles)))

    def against(self, scores: Doubles) -> Judge:
        """A judge that compares with these scores instead of the dense network's."""
        return replace(self, dense=scores)

    def effect(self, places: Ints, scores: Doubles) -> float:
        """Causal effect ξ over these scores: mean of (σ* - σ) / σ; σ is clipped at 1e-6, NaN is σ* = 0."""
        dense = np.maximum(self.dense[places], MIN_SCORE)
        return float(np.mean((np.nan_to_num(scores, nan=0.0) - dense) / dense))

    def finding(self, z: Doubles) -> Finding:
        """Verdict from the z of every class, NaN for those not looked at: harm to any class is critical."""
        if (z < -self.quantiles).any():
            return Finding.CRITICAL
        return Finding.DETRIMENTAL if (z > self.quantiles).any() else Finding.NEUTRAL


def welch_z(changed: Doubles, reference: Doubles) -> float:
    """Two-sample z in ± MAX_Z; at the limit where neither sample varies, at the lower one for NaN scores."""
    difference = float(changed.mean() - reference.mean())
    if np.isnan(difference):
        return -MAX_Z
    variance = float(changed.var(ddof=1) / len(changed) + reference.var(ddof=1) / len(reference))
    if variance == 0:
        return MAX_Z * float(np.sign(difference))
    return float(np.clip(difference / np.sqrt(variance), -MAX_Z, MAX_Z))


def paired_z(changed: Doubles, reference: Doubles) -> float:
    """One-sample z of the differences in ± MAX_Z; the lower limit for NaN scores.

    Differences within ± ROUNDING count as none: two ways to compute the same score are not an effect.
    """
    difference = changed - reference
    if np.isnan(difference).any():
        return -MAX_Z
    difference = np.where(np.abs(difference) < ROUNDING, 0.0, difference)
    mean, error = float(difference.mean()), float(difference.std(ddof=1)) / np.sqrt(len(difference))
    if error == 0:
        return MAX_Z * float(np.sign(mean))
    return float(np.clip(mean / error, -MAX_Z, MAX_Z))


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two samples of scores of the same images are compared.

    Attributes:
        z: From the scores under the intervention and those of the reference.
        freedom: Degrees of freedom, from the number of images.
    """

    z: Callable[[Doubles, Doubles], float]
    freedom: Callable[[Ints], Ints]


TESTS = {
    "welch": Comparison(welch_z, lambda counts: 2 * counts - 2),
    "paired": Comparison(paired_z, lambda counts: counts - 1),
}


def quantiles(counts: Ints, alpha: float, *, test: str = "welch") -> Doubles:
    """The 1 - α quantile for classes of so many images each."""
    students = stats.t.ppf(1 - alpha, TESTS[test].freedom(counts))
    return np.asarray(np.where(counts < LARGE_SAMPLE, students, stats.norm.ppf(1 - alpha)), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Which images and scores a judge looks at.

    Attributes:
        images: Image numbers; class by class where images have one class each, else ascending.
        scores: Of the scores that these images have, in this order: whether the judge looks at it.
    """

    images: Ints
    scores: Bools


def make_judge(  # noqa: PLR0913  # what to judge by, and each reconstruction of METHODS §1
    scored: Scored,
    names: Sequence[str],
    *,
    alpha: float,
    pooled: bool = False,
    test: str = "welch",
    combine: str = "any-class",
) -> tuple[Judge, Choice]:
    """A judge from what the dense network makes of the calibration images, and what it looks at.

    Args:
        scored: The dense network's scores.
        names: Class names.
        alpha: Level of the test.
        pooled: Whether all scores together are tested as well.
        test: Which of `TESTS`.
        combine: Which of `COMBINATIONS`.

    Returns:
        The judge, whose image numbers count within the chosen ones, and the choice. Images of one class each
        are put class by class, so that a class lies in one stretch.

    Raises:
        DataError: the network gets too little right.
    """
    right = np.flatnonzero(scored.right)
    if len(right) < MIN_SAMPLES:
        raise DataError(
            f"the dense network gets {len(right)} of {len(scored.scores)} calibration images right, and the "
            f"causal test needs {MIN_SAMPLES}; check preprocessing and labels, or give more images."
        )
    merged = COMBINATIONS[combine](scored.profiles[right], scored.classes[right])
    of_class = {number: place for place, members in enumerate(merged) for number in members}
    groups = np.array([of_class[int(k)] for k in scored.classes[right]])
    if len(np.unique(scored.images)) == len(scored.images):
        order = np.lexsort((scored.classes[right], groups))
        right, groups = right[order], groups[order]
        images, numbers = scored.images[right], np.arange(len(right), dtype=np.int64)
        looked_at = np.ones(len(right), dtype=np.bool_)
    else:
        images, numbers = np.unique(scored.images[right], return_inverse=True)
        looked_at = scored.right[np.isin(scored.images, images)]
    classes = tuple(
        TestClass(
            ALL_CLASSES if combine == "pooled" else "+".join(names[m] for m in members),
            np.flatnonzero(groups == place),
        )
        for place, members in enumerate(merged)
    )
    pooled = pooled and combine != "pooled"
    counts = np.array([len(c.places) for c in classes] + [len(right)] * pooled, dtype=np.int64)
    limits = quantiles(counts, alpha, test=test)
    return Judge(classes, scored.scores[right], numbers, limits, pooled, test), Choice(images, looked_at)


def any_class(probabilities: Doubles, labels: Ints) -> list[tuple[int, ...]]:
    """Each class is a test of its own: harm to any of them is critical."""
    return merge_classes(probabilities, labels, minimum=MIN_SAMPLES)


def all_pooled(probabilities: Doubles, labels: Ints) -> list[tuple[int, ...]]:
    """All images in one test ("general inference"): harm to one class may hide behind the others."""
    return [tuple(int(k) for k in np.unique(labels))]


COMBINATIONS: dict[str, Callable[[Doubles, Ints], list[tuple[int, ...]]]] = {
    "any-class": any_class,
    "pooled": all_pooled,
}


def merge_classes(probabilities: Doubles, labels: Ints, *, minimum: int) -> list[tuple[int, ...]]:
    """Merge classes of few images with the most similar (product of softmax means) until all have enough.

    The smallest class goes first, ties by number, and looks among those that are too small as well: classes
    of enough images stay as they are, and no merged class draws all others in.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    members: dict[int, tuple[int, ...]] = {row: (int(k),) for row, k in enumerate(classes)}
    means = np.array([probabilities[labels == k].mean(axis=0) for k in classes])
    while len(members) > 1 and min(sizes[row] for row in members) < minimum:
        small = min(members, key=lambda row: (sizes[row], row))
        others = [row for row in members if row != small]
        near = [row for row in others if sizes[row] < minimum] or others
        similar = near[int((means[near] @ means[small]).argmax())]
        pair = [small, similar]
        means[similar] = np.average(means[pair], axis=0, weights=sizes[pair])
        sizes[similar] = sizes[pair].sum()
        members[similar] = tuple(sorted(members[similar] + members.pop(small)))
    return [members[row] for row in sorted(members)]
