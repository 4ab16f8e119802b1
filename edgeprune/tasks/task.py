"""What a task must say. Each is a small frozen object; a user's own needs no more than this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeprune.records import Accuracy, AccuracyChange, Doubles, Floats, Ints, Labels, Scored

Kept = NDArray[Any]
"""What is kept of the outputs for some images, their number first; small, where outputs are maps."""


class Task(Protocol):
    """What a network is for.

    The way of a batch: outputs -> `kept`, image by image -> `scored` for the causal test, `answers` for the
    metric. Labels are what the calibration data gives: class numbers (N,), masks (N, H, W), boxes (N, M, 6).
    """

    @property
    def name(self) -> str:
        """As in `task = "..."`."""

    @property
    def metric(self) -> str:
        """What `accuracy` measures, for reports: `top-1`, `mIoU`."""

    def check(self, outputs: Floats, labels: Labels, names: Sequence[str]) -> None:
        """Raise a ModelError or DataError where outputs of some images cannot belong to these labels."""

    def kept(self, outputs: Floats, labels: Labels) -> Kept:
        """What is needed of the outputs."""

    def scored(self, kept: Kept, labels: Labels) -> Scored:
        """Scores with the classes they belong to; which classes an image has must depend on labels alone."""

    def scores(self, kept: Kept, labels: Labels) -> Doubles:
        """Only the scores of `scored`, in its order."""

    def answers(self, kept: Kept) -> Kept:
        """What the metric needs of what was kept."""

    def truth(self, labels: Labels) -> Kept:
        """What the metric needs of the labels."""

    def value(self, answers: Kept, truth: Kept) -> float:
        """The metric over all these images, in [0, 1]; higher is better."""

    def drawn(self, answers: Kept, truth: Kept, draws: Ints) -> Doubles:
        """The metric with each image counted so often; `draws` has shape (draws, images)."""

    def accuracy(self, answers: Kept, truth: Kept, classes: int) -> Accuracy:
        """The metric with its interval, overall and per class."""

    def change(self, before: Kept, after: Kept, truth: Kept) -> AccuracyChange:
        """Two networks on the same images."""
