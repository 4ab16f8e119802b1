"""Exact tests of two networks on the same images: how likely is so large a drop by chance alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, lgamma, log, log1p

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


def two_sided_p(found: Change) -> float:
    """McNemar's exact test: how likely so uneven a split of the differing images is by chance."""
    differing = found.lost + found.gained
    return min(1.0, 2 * _at_least(max(found.lost, found.gained), differing, 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for how many there are (Holm): below 0.05, no false alarm among all at 95 %."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def excess_p(found: Change, limit: float) -> float:
    """Return how likely so many lost images are when the true drop is `limit`; small: the drop is larger.

    McNemar's exact test, one-sided, given the number of images on which the two differ. With a limit of 0
    each of those is as likely lost as gained; a limit shifts that share by what it allows.
    """
    differing = found.lost + found.gained
    if not differing:
        return 1.0
    p = min(1.0, (differing + limit * found.images) / (2 * differing))
    return _at_least(found.lost, differing, p)


def _at_least(successes: int, trials: int, p: float) -> float:
    """Upper tail of the binomial distribution, in logarithms: thousands of images may differ."""
    if p >= 1 or successes <= 0:
        return 1.0
    logs = (lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1) for k in range(successes, trials + 1))
    powers = (k * log(p) + (trials - k) * log1p(-p) for k in range(successes, trials + 1))
    return min(1.0, fsum(exp(ways + power) for ways, power in zip(logs, powers, strict=True)))
