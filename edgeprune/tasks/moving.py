"""How far the outputs for some images have moved: 0 for equal ones, whatever is right."""

from __future__ import annotations

import numpy as np
from scipy import special

from edgeprune.records import Labels
from edgeprune.tasks.classification import Classification
from edgeprune.tasks.task import Kept, Task


def moved(task: Task, before: Kept, after: Kept, labels: Labels) -> float:
    """Kullback-Leibler divergence of class probabilities; without these, mean square change of scores."""
    if isinstance(task, Classification):
        ours, theirs = (special.log_softmax(kept.astype(np.float64), axis=1) for kept in (before, after))
        return float((np.exp(ours) * (ours - theirs)).sum(axis=1).mean())
    change = task.scores(after, labels) - task.scores(before, labels)
    return float(np.square(change).mean()) if len(change) else 0.0
