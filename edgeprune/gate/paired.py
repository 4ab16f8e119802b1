"""Exact tests of two networks on the same images: how likely is so large a drop by chance alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from edgeprune.records import Accuracy

OVER_BELOW = 0.025
"""One side of a 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a network lost and won against another, on the same images."""

    images: int
    lost: int
    gained: int

    @property
    def drop(self) -> float:
        return (self.lost - self.gained) / self.images


def change(before: Accuracy, after: Accuracy) -> Change | None:
    """Return what changed; None where one of the two does not say which images it gets wrong."""
    if before.wrong is None or after.wrong is None or before.images != after.images:
        return None
    wrong_before, wrong_after = set(before.wrong), set(after.wrong)
    return Change(
        images=before.images,
        lost=len(wrong_after - wrong_before),
        gained=len(wrong_before - wrong_after),
    )


def class_changes(before: Accuracy, after: Accuracy) -> dict[int, Change] | None:
    """Return what changed in each class that has images.

    No label is stored, and none is needed: whoever gets an image right says its label.
    """
    if before.wrong is None or after.wrong is None or before.images != after.images:
        return None
    wrong_before, wrong_after = set(before.wrong), set(after.wrong)
    lost = _by_class(sorted(wrong_after - wrong_before), before.predictions)
    gained = _by_class(sorted(wrong_before - wrong_after), after.predictions)
    right = _by_class([i for i in range(before.images) if i not in wrong_before], before.predictions)
    changes = {}
    for number, accuracy in enumerate(before.per_class):
        hits = right.get(number, 0)
        if accuracy is None or (accuracy == 0 and not gained.get(number)):
            continue
        images = round(hits / accuracy) if accuracy else _images_without_hits(after, number, gained)
        changes[number] = Change(images=images, lost=lost.get(number, 0), gained=gained.get(number, 0))
    return changes


def _images_without_hits(after: Accuracy, number: int, gained: dict[int, int]) -> int:
    share = after.per_class[number] or 1.0
    return round(gained[number] / share)


def _by_class(images: Sequence[int], labels: Sequence[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for image in images:
        found[labels[image]] = found.get(labels[image], 0) + 1
    return found


def excess_p(found: Change, limit: float) -> float:
    """Return how likely so many lost images are when the true drop is `limit`; small: the drop is larger.

    McNemar's exact test, one-sided, given the number of images on which the two differ. With a limit of 0
    each of those is as likely lost as gained; a limit shifts that share by what it allows.
    """
    differing = found.lost + found.gained
    if not differing:
        return 1.0
    p = min(1.0, (differing + limit * found.images) / (2 * differing))
    return sum(
        comb(differing, k) * p**k * (1 - p) ** (differing - k) for k in range(found.lost, differing + 1)
    )
