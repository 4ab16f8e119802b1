"""Detection: boxes with classes.

The score of a class that an image shows is Σ s IoU / (n + Σ s'). Above, over its objects that were found
(detections matched one to one, the surest first, from IoU 0.5 on), the detection's score s times its IoU;
below, the number n of objects, and the scores s' of detections that match none. It is 1 where every object is
found surely and exactly and nothing else, and falls with what is missed, unsure, badly placed or made up. The
metric is COCO's mAP@[.5:.95], by pycocotools.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from edgeprune.errors import DataError, InputError, ModelError
from edgeprune.records import Accuracy, AccuracyChange, Doubles, Floats, Interval, Ints, Labels, Scored
from edgeprune.tasks.resampling import compared, draw, tails

CLASS, SCORE, IGNORED_BOX = 0, 1, 5
"""Columns. Labels are (class, x0, y0, x1, y1, ignored), detections (class, score, x0, y0, x1, y1), in pixels
of the input; class -1 fills up."""
MOST = 100
"""Detections of an image, the surest; COCO looks at no more."""
MATCHED_FROM = 0.5
TINY = 1e-9
RESAMPLES = 200
"""COCO's metric is slow."""

Finish = Callable[[Floats], Sequence[Floats]]
"""The post-processing of a detector: outputs of some images -> detections of each, rows as above."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Boxes of so many classes; `finish` makes detections of what the network gives."""

    classes: int
    finish: Finish
    name = "detection"
    metric = "mAP@[.5:.95]"
    resamples = RESAMPLES

    def check(self, outputs: Floats, labels: Labels, names: Sequence[str]) -> None:
        try:
            found = self.finish(outputs)
        except Exception as err:  # the post-processing is the detector's or the user's own
            raise ModelError(
                f"post-processing the network's outputs failed: {type(err).__name__}: {err}"
            ) from err
        highest = max((float(rows[:, CLASS].max()) for rows in found if len(rows)), default=-1.0)
        if highest >= len(names):
            raise DataError(
                f"the network detects class {highest:.0f}, but there are {len(names)} class names; give "
                "`classes` in the order of its outputs."
            )

    def kept(self, outputs: Floats, labels: Labels) -> Doubles:
        """The surest detections of each image, shape (N, MOST, 6)."""
        kept = np.full((len(outputs), MOST, 6), -1.0)
        for place, rows in zip(kept, self.finish(outputs), strict=True):
            surest = np.argsort(-rows[:, SCORE], kind="stable")[:MOST]
            place[: len(surest)] = rows[surest]
        return kept

    def scored(self, kept: Doubles, labels: Labels) -> Scored:
        images, classes = _shown(labels)
        scores = self.scores(kept, labels)
        profiles = np.eye(self.classes)[classes]
        return Scored(images=images, classes=classes, scores=scores, right=scores > 0, profiles=profiles)

    def scores(self, kept: Doubles, labels: Labels) -> Doubles:
        images, classes = _shown(labels)
        return np.array([matched(kept[i], labels[i], k) for i, k in zip(images, classes, strict=True)])

    def answers(self, kept: Doubles) -> Doubles:
        return kept

    def truth(self, labels: Labels) -> Labels:
        return labels

    def value(self, answers: Doubles, truth: Labels) -> float:
        return float(_mean(_precision(_evaluated(answers, truth, self.classes))))

    def drawn(self, answers: Doubles, truth: Labels, draws: Ints) -> Doubles:
        evaluation = _evaluated(answers, truth, self.classes)
        return np.array([_mean(_precision(_redrawn(evaluation, row))) for row in draws])

    def accuracy(self, answers: Doubles, truth: Labels, classes: int) -> Accuracy:
        precision = _precision(_evaluated(answers, truth, self.classes))
        low, high = tails(self.drawn(answers, truth, draw(len(answers), resamples=RESAMPLES)))
        return Accuracy(
            metric=self.metric,
            top1=Interval(value=float(_mean(precision)), low=low, high=high),
            images=len(answers),
            per_class=tuple(_known(_mean(precision[:, :, k])) for k in range(self.classes)),
            predictions=(),
            per_image=tuple(self._by_image(answers, truth).tolist()),
            others={"mAP@.5": float(_mean(precision[:1]))},
        )

    def change(self, before: Doubles, after: Doubles, truth: Labels) -> AccuracyChange:
        draws = draw(len(before), resamples=RESAMPLES)
        low, high = tails(self.drawn(before, truth, draws) - self.drawn(after, truth, draws))
        drop = Interval(value=self.value(before, truth) - self.value(after, truth), low=low, high=high)
        return compared(drop, self._by_image(before, truth) - self._by_image(after, truth), self.metric)

    def _by_image(self, kept: Doubles, labels: Labels) -> Doubles:
        """The mean score of each image; 1 for one that shows nothing."""
        images, _ = _shown(labels)
        counts = np.bincount(images, minlength=len(labels))
        sums = np.bincount(images, weights=self.scores(kept, labels), minlength=len(labels))
        return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)


def _shown(labels: Labels) -> tuple[Ints, Ints]:
    """Image and class of each score: classes of which an image shows an object that counts."""
    rows = labels.astype(np.float64)
    images, places = np.nonzero((rows[:, :, CLASS] >= 0) & (rows[:, :, IGNORED_BOX] == 0))
    pairs = np.unique(np.stack([images, rows[images, places, CLASS].astype(np.int64)], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def matched(detections: Doubles, labels: Labels, number: int) -> float:
    """The score of one class in one image; detections over ignored objects count for nothing."""
    found = detections[detections[:, CLASS] == number]
    objects = labels[labels[:, CLASS] == number].astype(np.float64)
    ignored = objects[:, IGNORED_BOX] > 0
    overlaps = box_iou(found[:, 2:6], objects[:, 1:5])
    taken = np.zeros(len(objects), dtype=np.bool_)
    hit = made_up = 0.0
    for row, detection in zip(overlaps, found, strict=True):  # the surest first
        free = np.where(taken | ignored, 0.0, row)
        best = int(free.argmax()) if len(free) else 0
        if len(free) and free[best] >= MATCHED_FROM:
            taken[best] = True
            hit += float(detection[SCORE] * free[best])
        elif not (row[ignored] >= MATCHED_FROM).any():
            made_up += float(detection[SCORE])
    return hit / (int((~ignored).sum()) + made_up)


def box_iou(one: Doubles, other: Doubles) -> Doubles:
    """Intersection over union of boxes (n, 4) and (m, 4), shape (n, m)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    return np.asarray(common / np.maximum(areas[0][:, None] + areas[1][None] - common, TINY))


# --- COCO's metric, by its own library ----------------------------------------------------------------

# Any: pycocotools is untyped


def _evaluated(answers: Doubles, truth: Labels, classes: int) -> Any:
    """All images matched by COCO's rules."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as err:
        raise InputError(
            "detection is judged by pycocotools; run: pip install 'edgeprune[detection]'"
        ) from err
    with contextlib.redirect_stdout(StringIO()):
        labelled, found = COCO(), COCO()
        for coco, annotations in ((labelled, list(_objects(truth))), (found, list(_detections(answers)))):
            coco.dataset = {
                "images": [{"id": image} for image in range(len(truth))],
                "categories": [{"id": k} for k in range(classes)],
                "annotations": annotations,
            }
            coco.createIndex()
        evaluation = COCOeval(labelled, found, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
    return evaluation


def _objects(truth: Labels) -> Any:
    number = 0
    for image, rows in enumerate(truth):
        for k, x0, y0, x1, y1, ignored in rows[rows[:, CLASS] >= 0].tolist():
            number += 1
            yield {
                "id": number,
                "image_id": image,
                "category_id": int(k),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": int(ignored),
            }


def _detections(answers: Doubles) -> Any:
    number = 0
    for image, rows in enumerate(answers):
        for k, score, x0, y0, x1, y1 in rows[rows[:, CLASS] >= 0].tolist():
            number += 1
            yield {
                "id": number,
                "image_id": image,
                "category_id": int(k),
                "score": score,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
            }


def _redrawn(evaluation: Any, counts: Ints) -> Any:
    """The same with each image counted so often: what matched does not change, only who is counted."""
    images = np.repeat(np.arange(len(counts)), counts)
    total = len(counts)
    again = copy(evaluation)
    again.params, again._paramsEval = copy(evaluation.params), copy(evaluation._paramsEval)
    again.params.imgIds = again._paramsEval.imgIds = list(range(len(images)))
    categories = len(evaluation.evalImgs) // total
    again.evalImgs = [evaluation.evalImgs[k * total + int(i)] for k in range(categories) for i in images]
    return again


def _precision(evaluation: Any) -> Doubles:
    """Precision at each threshold, recall and class, shape (T, R, K); -1 where a class has no object."""
    with contextlib.redirect_stdout(StringIO()):
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][:, :, :, 0, 0])


def _mean(precision: Doubles) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


def _known(value: float) -> float | None:
    return None if value < 0 else value
