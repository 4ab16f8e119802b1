"""SAUCE: one number for a whole curve of accuracy over the share of parameters removed (METHODS §1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.records import Doubles, Interval
from edgeprune.tasks.resampling import draw, tails

MOST_REMOVED = 0.95


def sauce(ratios: Sequence[float], accuracies: Doubles) -> Doubles:
    """Area under accuracy over the share of parameters removed, r in [0, 0.95], divided by 0.95.

    Args:
        ratios: Ascending, the first 0; beyond the last the accuracy is taken to be chance: 0.
        accuracies: Shape (ratios, ...); the area is taken along the first axis.
    """
    inside = [min(ratio, MOST_REMOVED) for ratio in ratios]
    return np.asarray(np.trapezoid(accuracies, inside, axis=0) / MOST_REMOVED)


def sauce_interval(ratios: Sequence[float], correct: Doubles, *, seed: int = 0) -> Interval:
    """SAUCE and its 95 % interval by resampling evaluation images; `correct` has shape (ratios, images)."""
    areas = sauce(ratios, correct)  # of each image: the area is linear in the images
    low, high = tails(draw(len(areas), seed=seed) @ areas / len(areas))
    return Interval(value=float(areas.mean()), low=low, high=high)


def sauce_of_draws(ratios: Sequence[float], values: Sequence[float], drawn: Doubles) -> Interval:
    """SAUCE of any metric; `drawn` has shape (ratios, draws): the metric with images drawn again."""
    low, high = tails(sauce(ratios, drawn))
    return Interval(value=float(sauce(ratios, np.array(values))), low=low, high=high)
