"""What a network is for: per-image score, accuracy, and how sure both are. Classification so far.

Works on logits as arrays, so that the deployed runtime and torch are judged by the same code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from edgeprune.records import Accuracy, AccuracyChange, Floats, Interval, Ints

Doubles = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
MOST_REMOVED = 0.95


def probabilities(logits: Floats) -> Doubles:
    """Softmax over classes, shape (N, K)."""
    return np.asarray(special.softmax(logits.astype(np.float64), axis=1))


def true_class_scores(logits: Floats, labels: Ints) -> Doubles:
    """The score of C-SWAP: softmax probability of the true class, shape (N,)."""
    return np.asarray(probabilities(logits)[np.arange(len(labels)), labels])


def sauce(ratios: Sequence[float], accuracies: Doubles) -> Doubles:
    """Area under accuracy over the share of parameters removed, r in [0, 0.95], divided by 0.95 (METHODS §1).

    Args:
        ratios: Ascending, the first 0; beyond the last the accuracy is taken to be chance: 0.
        accuracies: Shape (ratios, ...); the area is taken along the first axis.
    """
    inside = [min(ratio, MOST_REMOVED) for ratio in ratios]
    return np.asarray(np.trapezoid(accuracies, inside, axis=0) / MOST_REMOVED)


def sauce_interval(ratios: Sequence[float], correct: Doubles, *, seed: int = 0) -> Interval:
    """SAUCE and its 95 % interval by resampling evaluation images; `correct` has shape (ratios, images)."""
    areas = sauce(ratios, correct)  # of each image: the area is linear in the images
    draws = np.random.default_rng(seed).multinomial(
        len(areas), np.full(len(areas), 1 / len(areas)), RESAMPLES
    )
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(draws @ areas / len(areas), tails)
    return Interval(value=float(areas.mean()), low=float(low), high=float(high))


def accuracy(predictions: Ints, labels: Ints, classes: int) -> Accuracy:
    """Top-1 with Wilson's interval, overall and per class."""
    correct = predictions == labels
    interval = stats.binomtest(int(correct.sum()), len(labels)).proportion_ci(CONFIDENCE, method="wilson")
    counts = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[correct], minlength=classes)
    return Accuracy(
        top1=Interval(value=float(correct.mean()), low=float(interval.low), high=float(interval.high)),
        images=len(labels),
        per_class=tuple(float(h / n) if n else None for h, n in zip(hits, counts, strict=True)),
        predictions=tuple(int(p) for p in predictions),
        wrong=tuple(int(image) for image in np.flatnonzero(~correct)),
    )


def accuracy_change(dense: Ints, pruned: Ints, labels: Ints, *, seed: int = 0) -> AccuracyChange:
    """Dense against pruned on the same images: paired bootstrap, exact McNemar test."""
    before, after = dense == labels, pruned == labels
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    images = len(labels)
    # An image was lost, gained or neither: resampling images is drawing how many there are of each.
    shares = np.array([lost, gained, images - lost - gained]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=RESAMPLES)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, tails)
    p_value = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    return AccuracyChange(
        drop=Interval(value=(lost - gained) / images, low=float(low), high=float(high)),
        lost=lost,
        gained=gained,
        p_value=float(p_value),
    )
