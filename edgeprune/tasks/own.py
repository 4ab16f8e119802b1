"""A task of the user's own: one function that says how good each answer is.

    def score(outputs, labels):
        '''Outputs of some images, their labels as in the data -> how good each answer is, in [0, 1].'''

It gives an array of shape (N,), or (N, K) for K classes with NaN where an image does not show one. The causal
test compares these scores; the metric is their mean over images, and over classes where there are several.
Multi-label: the probability of each right decision. Regression, depth, keypoints: 1 where the error is
nothing, falling to 0 as it grows. Embeddings: the similarity to what the labels say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import DataError, ModelError
from edgeprune.records import Accuracy, AccuracyChange, Doubles, Floats, Interval, Ints, Labels, Scored
from edgeprune.tasks.resampling import ROUNDING, compared, draw, tails

MATRIX = 2


@dataclass(frozen=True, slots=True)
class Own:
    """Scores by a user's function.

    Attributes:
        function: Outputs and labels of some images to scores, shape (N,) or (N, K).
        name: As the user named it.
        metric: What the mean score is called in reports.
    """

    function: Callable[[Floats, Labels], object]
    name: str
    metric: str = "mean score"

    def check(self, outputs: Floats, labels: Labels, names: Sequence[str]) -> None:
        found = self.kept(outputs, labels[: len(outputs)])
        if found.shape[1] > len(names):
            raise DataError(
                f"{self.name} gives scores for {found.shape[1]} classes, but the data has {len(names)} class "
                "names; give `classes` in the description."
            )

    def kept(self, outputs: Floats, labels: Labels) -> Doubles:
        """Scores, shape (N, K), NaN where an image does not show a class."""
        try:
            found = np.asarray(self.function(outputs, labels), dtype=np.float64)
        except Exception as err:  # the user's own code: anything may come out
            raise ModelError(f"{self.name}: {type(err).__name__}: {err}") from err
        if found.ndim not in (1, MATRIX) or len(found) != len(outputs):
            raise ModelError(
                f"{self.name}: gives {found.shape} for {len(outputs)} images; give scores (N,) or (N, K)."
            )
        if (found < -ROUNDING).any() or (found > 1 + ROUNDING).any():
            low, high = np.nanmin(found), np.nanmax(found)
            raise ModelError(f"{self.name}: gives scores from {low:g} to {high:g}; they lie in 0 to 1.")
        return found[:, None] if found.ndim == 1 else found

    def scored(self, kept: Doubles, labels: Labels) -> Scored:
        """Every score above 0 counts as right; profiles are the scores themselves."""
        images, classes = np.nonzero(~np.isnan(kept))
        scores = kept[images, classes]
        profiles = np.nan_to_num(kept)[images]
        return Scored(images=images, classes=classes, scores=scores, right=scores > 0, profiles=profiles)

    def scores(self, kept: Doubles, labels: Labels) -> Doubles:
        return kept[~np.isnan(kept)]

    def answers(self, kept: Doubles) -> Doubles:
        return kept

    def truth(self, labels: Labels) -> Labels:
        return labels.reshape(len(labels), -1)[:, :0]

    def value(self, answers: Doubles, truth: Labels) -> float:
        return float(self.drawn(answers, truth, np.ones((1, len(answers)), dtype=np.int64))[0])

    def drawn(self, answers: Doubles, truth: Labels, draws: Ints) -> Doubles:
        shown = ~np.isnan(answers)
        counts = draws @ shown
        means = draws @ np.nan_to_num(answers) / np.maximum(counts, 1)
        return np.asarray((means * (counts > 0)).sum(axis=1) / np.maximum((counts > 0).sum(axis=1), 1))

    def accuracy(self, answers: Doubles, truth: Labels, classes: int) -> Accuracy:
        low, high = tails(self.drawn(answers, truth, draw(len(answers))))
        columns = [column[~np.isnan(column)] for column in answers.T]
        of_class = [float(column.mean()) if len(column) else None for column in columns]
        return Accuracy(
            metric=self.metric,
            top1=Interval(value=self.value(answers, truth), low=low, high=high),
            images=len(answers),
            per_class=(*of_class, *[None] * (classes - len(of_class))),
            predictions=(),
            per_image=tuple(_by_image(answers).tolist()),
        )

    def change(self, before: Doubles, after: Doubles, truth: Labels) -> AccuracyChange:
        draws = draw(len(before))
        low, high = tails(self.drawn(before, truth, draws) - self.drawn(after, truth, draws))
        return compared(
            Interval(value=self.value(before, truth) - self.value(after, truth), low=low, high=high),
            _by_image(before) - _by_image(after),
            self.metric,
        )


def _by_image(answers: Doubles) -> Doubles:
    counts = (~np.isnan(answers)).sum(axis=1)
    return np.asarray(np.nan_to_num(answers).sum(axis=1) / np.maximum(counts, 1))
