"""How sure a metric and its change are: images drawn again, with replacement (bootstrap); paired tests."""

from __future__ import annotations

import numpy as np
from scipy import stats

from edgeprune.records import AccuracyChange, Doubles, Interval, Ints

CONFIDENCE = 0.95
RESAMPLES = 2000
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
