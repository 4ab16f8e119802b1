"""How sure a metric and its change are: images drawn again, with replacement (bootstrap); paired tests."""

from __future__ import annotations

from math import ceil

import numpy as np
from scipy import stats

from edgeprune.records import AccuracyChange, Doubles, Interval, Ints
from edgeprune.tasks.task import Kept, Task

CONFIDENCE = 0.95
RESAMPLES = 2000
FEW_RESAMPLES = 200
"""For a standard error."""
MARGIN = 1.28
"""Standard errors kept from a limit: nine times in ten the drop is within it, whatever images are drawn."""
ROUNDING = 1e-9


def draw(images: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Ints:
    """How often each image is drawn, shape (resamples, images)."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)


def tails(values: Doubles) -> tuple[float, float]:
    """Both ends of the 95 % interval."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def compared(drop: Interval, fall: Doubles, metric: str) -> AccuracyChange:
    """The record of a change, with the signed-rank test of how far each image's answer fell."""
    fall = np.where(np.abs(fall) < ROUNDING, 0.0, fall)
    return AccuracyChange(
        drop=drop,
        lost=int((fall > 0).sum()),
        gained=int((fall < 0).sum()),
        p_value=float(stats.wilcoxon(fall).pvalue) if fall.any() else 1.0,
        test="Wilcoxon signed-rank",
        metric=metric,
    )


def enough_for(limit: float) -> int:
    """Images that can vouch for half of a limit: the margin is as much as the other half, or more with fewer.

    A drop d of a share of right answers has a standard error of at least sqrt(d / images).
    """
    return ceil(2 * MARGIN**2 / limit) if limit > 0 else 0


def surely_within(task: Task, pair: tuple[Kept, Kept], truth: Kept, limit: float) -> bool:
    """Whether a drop of the metric is within a limit, with a margin for how few images tell.

    The margin is `MARGIN` standard errors of the drop, over images drawn again (at least one image's worth
    each), but never more than the limit: no loss at all is always within it.

    Args:
        task: Whose metric.
        pair: Answers of the dense network and of the pruned one.
        truth: What they should be.
        limit: Absolute, in [0, 1].
    """
    before, after = pair
    draws = draw(len(truth), resamples=FEW_RESAMPLES)
    fall = task.drawn(before, truth, draws) - task.drawn(after, truth, draws)
    error = float(np.hypot(fall.std(), 1 / len(truth)))
    drop = task.value(before, truth) - task.value(after, truth)
    return bool(drop <= max(limit - MARGIN * error, 0.0) + ROUNDING)
