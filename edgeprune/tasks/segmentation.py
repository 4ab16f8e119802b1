"""Semantic segmentation: a class for each pixel.

The score of a class in an image is its IoU there, where the image shows it (METHODS §1); the metric is mIoU,
the mean over classes of the IoU of all images together. Pixels of the label IGNORED count for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import DataError, ModelError
from edgeprune.records import (
    IGNORED,
    Accuracy,
    AccuracyChange,
    Doubles,
    Floats,
    Interval,
    Ints,
    Labels,
    Scored,
)
from edgeprune.tasks.resampling import compared, draw, tails

Counts = NDArray[np.int64]
"""Pixels of each image and class, shape (N, K, 3): hit, labelled so, answered so."""
HIT, LABELLED, ANSWERED = range(3)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Outputs (N, K or more, h, w); masks (N, H, W) of class numbers, sampled at the outputs' size.

    A network may have outputs beyond the named classes (void): answering one of them is wrong.
    """

    classes: int
    name = "segmentation"
    metric = "mIoU"

    def check(self, outputs: Floats, labels: Labels, names: Sequence[str]) -> None:
        if outputs.ndim != 4:  # noqa: PLR2004  # (images, classes, height, width)
            raise ModelError(
                f"the network gives outputs of shape {outputs.shape[1:]} per image, not a map of scores for "
                "each class; wrap it in a module that does (--model python:file.py:factory)."
            )
        if outputs.shape[1] < len(names):
            raise DataError(
                f"the network has {outputs.shape[1]} outputs for {len(names)} classes; check the data "
                "description's classes, or the weights."
            )
        if labels.max() >= len(names):
            raise DataError(f"label {labels.max()} has no name: there are {len(names)} class names.")

    def kept(self, outputs: Floats, labels: Labels) -> Counts:
        found = np.empty((len(outputs), self.classes, 3), dtype=np.int64)
        for image, (scores, mask) in enumerate(zip(outputs, labels, strict=True)):
            found[image] = self._counts(scores.argmax(axis=0), sampled(mask, scores.shape[1:]))
        return found

    def _counts(self, answer: Ints, mask: Labels) -> Counts:
        valid = mask != IGNORED
        answer, truth = answer[valid], mask[valid].astype(np.int64)
        counted = [
            np.bincount(pixels, minlength=self.classes)[: self.classes]
            for pixels in (truth[answer == truth], truth, answer)
        ]
        return np.stack(counted, axis=1)

    def scored(self, kept: Counts, labels: Labels) -> Scored:
        """IoU of each class that an image shows; profiles are the shares of the classes in the answer."""
        images, classes = np.nonzero(kept[:, :, LABELLED])
        scores = self.scores(kept, labels)
        answered = kept[:, :, ANSWERED] / np.maximum(kept[:, :, ANSWERED].sum(axis=1, keepdims=True), 1)
        return Scored(
            images=images, classes=classes, scores=scores, right=scores > 0, profiles=answered[images]
        )

    def scores(self, kept: Counts, labels: Labels) -> Doubles:
        return np.asarray(iou(kept)[np.nonzero(kept[:, :, LABELLED])])

    def answers(self, kept: Counts) -> Counts:
        return kept

    def truth(self, labels: Labels) -> Labels:
        return labels[:, :0, :0]  # the counts have what they need of the masks

    def value(self, answers: Counts, truth: Labels) -> float:
        return float(mean_iou(answers.sum(axis=0)))

    def drawn(self, answers: Counts, truth: Labels, draws: Ints) -> Doubles:
        counts = draws @ answers.reshape(len(answers), -1)
        return mean_iou(counts.reshape(len(draws), self.classes, 3))

    def accuracy(self, answers: Counts, truth: Labels, classes: int) -> Accuracy:
        total = answers.sum(axis=0)
        low, high = tails(self.drawn(answers, truth, draw(len(answers))))
        shown = total[:, LABELLED] > 0
        return Accuracy(
            metric=self.metric,
            top1=Interval(value=float(mean_iou(total)), low=low, high=high),
            images=len(answers),
            per_class=tuple(float(v) if s else None for v, s in zip(iou(total), shown, strict=True)),
            predictions=(),
            per_image=tuple(mean_iou(answers).tolist()),
        )

    def change(self, before: Counts, after: Counts, truth: Labels) -> AccuracyChange:
        draws = draw(len(before))
        low, high = tails(self.drawn(before, truth, draws) - self.drawn(after, truth, draws))
        drop = Interval(value=self.value(before, truth) - self.value(after, truth), low=low, high=high)
        return compared(drop, mean_iou(before) - mean_iou(after), self.metric)


def iou(counts: Counts) -> Doubles:
    """Intersection over union from counts (..., K, 3), shape (..., K); 0 where there is neither."""
    union = counts[..., LABELLED] + counts[..., ANSWERED] - counts[..., HIT]
    return np.asarray(counts[..., HIT] / np.maximum(union, 1))


def mean_iou(counts: Counts) -> Doubles:
    """Mean IoU over the classes that are shown (labelled), shape (...)."""
    shown = counts[..., LABELLED] > 0
    return np.asarray((iou(counts) * shown).sum(axis=-1) / np.maximum(shown.sum(axis=-1), 1))


def sampled(mask: Labels, size: tuple[int, ...]) -> Labels:
    """A mask at another size, the nearest pixel's class."""
    if mask.shape == size:
        return mask
    rows, columns = (
        ((np.arange(after) + 0.5) * before / after).astype(np.int64)
        for before, after in zip(mask.shape, size, strict=True)
    )
    nearest: Labels = mask[rows[:, None], columns]
    return nearest
