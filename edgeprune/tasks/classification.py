"""One class an image: the score is the softmax probability of the true class, the metric top-1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from edgeprune.errors import DataError, ModelError
from edgeprune.records import Accuracy, AccuracyChange, Doubles, Floats, Interval, Ints, Labels, Scored
from edgeprune.tasks.resampling import CONFIDENCE, RESAMPLES, tails


@dataclass(frozen=True, slots=True)
class Classification:
    """Outputs (N, K), labels (N,)."""

    name = "classification"
    metric = "top-1"

    def check(self, outputs: Floats, labels: Labels, names: Sequence[str]) -> None:
        if outputs.ndim != 2:  # noqa: PLR2004  # (images, classes)
            raise ModelError(
                f"the network gives outputs of shape {outputs.shape[1:]} per image, not one score per class."
            )
        if labels.max() >= len(names):
            raise DataError(f"label {labels.max()} has no name: there are {len(names)} class names.")
        if labels.max() >= outputs.shape[1]:
            name = names[labels.max()]
            raise DataError(
                f"label {labels.max()} ({name}) is out of range: the network has {outputs.shape[1]} outputs; "
                "check the data description's classes, or the weights."
            )

    def kept(self, outputs: Floats, labels: Labels) -> Floats:
        return outputs

    def scored(self, kept: Floats, labels: Labels) -> Scored:
        return classified(probabilities(kept), as_classes(labels))

    def scores(self, kept: Floats, labels: Labels) -> Doubles:
        return true_class_scores(kept, as_classes(labels))

    def answers(self, kept: Floats) -> Ints:
        answers: Ints = kept.argmax(axis=1)
        return answers

    def truth(self, labels: Labels) -> Labels:
        return labels

    def value(self, answers: Ints, truth: Labels) -> float:
        return float((answers == truth).mean())

    def drawn(self, answers: Ints, truth: Labels, draws: Ints) -> Doubles:
        return np.asarray(draws @ (answers == truth) / len(answers))

    def accuracy(self, answers: Ints, truth: Labels, classes: int) -> Accuracy:
        return accuracy(answers, as_classes(truth), classes)

    def change(self, before: Ints, after: Ints, truth: Labels) -> AccuracyChange:
        return accuracy_change(before, after, as_classes(truth))


def as_classes(labels: Labels) -> Ints:
    """Labels as class numbers, shape (N,)."""
    assert labels.ndim == 1
    assert labels.dtype == np.int64
    return labels  # type: ignore[return-value]  # checked on the lines above


def classified(probabilities: Doubles, labels: Ints) -> Scored:
    """One score an image: the probability of its class; profiles are the probabilities, shape (N, K)."""
    images = np.arange(len(labels))
    return Scored(
        images=images,
        classes=labels,
        scores=probabilities[images, labels].astype(np.float64),
        right=probabilities.argmax(axis=1) == labels,
        profiles=probabilities,
    )


def probabilities(logits: Floats) -> Doubles:
    """Softmax over classes, shape (N, K)."""
    return np.asarray(special.softmax(logits.astype(np.float64), axis=1))


def true_class_scores(logits: Floats, labels: Ints) -> Doubles:
    """The score of C-SWAP: softmax probability of the true class, shape (N,)."""
    return np.asarray(probabilities(logits)[np.arange(len(labels)), labels])


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
    low, high = tails((drawn[:, 0] - drawn[:, 1]) / images)
    p_value = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    return AccuracyChange(
        drop=Interval(value=(lost - gained) / images, low=low, high=high),
        lost=lost,
        gained=gained,
        p_value=float(p_value),
    )
