"""Accuracy over what a method removes."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.records.measured import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A network at some share of parameters removed."""

    asked: float
    param_ratio: float
    mac_ratio: float
    correct: tuple[bool, ...] = ()
    """Per evaluation image, where answers are right or wrong."""
    value: float | None = None
    """The metric, where they are not."""
    latency_ratio: Interval | None = None
    """Latency over that of the dense network, interleaved on the target; None: not measured."""

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / len(self.correct) if self.value is None else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Accuracy over the share of parameters removed."""

    label: str
    dense: tuple[bool, ...] = ()
    """As of a point."""
    points: tuple[CurvePoint, ...]
    sauce: Interval
    """Area under the curve for shares in [0, 0.95], divided by 0.95 (METHODS §1)."""
    dense_value: float | None = None
    metric: str = "top-1"
    images: int = 0
    """Evaluated; 0 in older records, where `dense` tells."""

    @property
    def dense_accuracy(self) -> float:
        return sum(self.dense) / len(self.dense) if self.dense_value is None else self.dense_value

    def removable(self, drop: float = 0.01) -> float:
        """Share of the parameters that may go before accuracy has fallen by `drop` (absolute, in [0, 1]).

        Between the points the curve is straight; it begins at the dense network, and ends at its last point.
        """
        least = self.dense_accuracy - drop
        share, accuracy = 0.0, self.dense_accuracy
        for point in sorted(self.points, key=lambda point: point.param_ratio):
            if point.accuracy < least:
                part = (accuracy - least) / (accuracy - point.accuracy)
                return share + part * (point.param_ratio - share)
            share, accuracy = point.param_ratio, point.accuracy
        return share
