"""Criteria: how much a unit seems to matter, one file a family. The walk uses one as its order.

subject.py       what a criterion looks at; reading.py, running.py: where units are read, and how to get at it
magnitude.py     magnitude-l1, magnitude-l2, bn-scale       chance.py       random
activations.py   activation, variance                       gradients.py    gradient, taylor, class-aware
integrated.py    integrated-gradients                       gates.py        budget-aware
relevance.py     lrp, i-lrp, by the rules in propagation.py (zennit)
own.py           a user's own
"""

from __future__ import annotations

from collections.abc import Callable

from edgeprune.criteria.activations import activation, variance
from edgeprune.criteria.chance import chance
from edgeprune.criteria.gates import budget_aware
from edgeprune.criteria.gradients import class_aware, gradient, taylor
from edgeprune.criteria.integrated import integrated_gradients
from edgeprune.criteria.magnitude import bn_scale, magnitude, magnitudes
from edgeprune.criteria.own import checked, user_scores
from edgeprune.criteria.relevance import iterative_lrp, lrp
from edgeprune.criteria.subject import Scores, Subject
from edgeprune.errors import InputError

__all__ = ["NAMES", "Scores", "Subject", "magnitude", "score", "user_scores"]

CRITERIA: dict[str, Callable[[Subject, int], Scores]] = {
    "magnitude-l1": lambda subject, seed: magnitudes(subject, 1),
    "magnitude-l2": lambda subject, seed: magnitudes(subject, 2),
    "bn-scale": lambda subject, seed: bn_scale(subject),
    "random": chance,
    "activation": lambda subject, seed: activation(subject),
    "variance": lambda subject, seed: variance(subject),
    "gradient": lambda subject, seed: gradient(subject),
    "taylor": lambda subject, seed: taylor(subject),
    "integrated-gradients": lambda subject, seed: integrated_gradients(subject),
    "lrp": lambda subject, seed: lrp(subject),
    "i-lrp": lambda subject, seed: iterative_lrp(subject),
    "class-aware": lambda subject, seed: class_aware(subject),
    "budget-aware": budget_aware,
}
NAMES: tuple[str, ...] = tuple(CRITERIA)
OF_ONE_CLASS = ("integrated-gradients", "lrp", "i-lrp", "class-aware", "budget-aware")
"""Those that start at the score of an image's one class."""
OF_CLASSES = ("gradient", "taylor", *OF_ONE_CLASS)
"""Those that need a class for each image or pixel."""


def score(name: str, subject: Subject, *, seed: int = 0, kept_share: float = 0.5) -> Scores:
    """How much each unit is worth keeping, by one of `NAMES`.

    Scores compare within a group; those of i-lrp are ranks over all groups and mean most when used so.

    Args:
        name: Of `NAMES`.
        subject: The network and images.
        seed: Of random and budget-aware; the others have nothing random.
        kept_share: Of budget-aware: the share of the removable parameters to aim at, in (0, 1).

    Raises:
        EdgepruneError: there is no such criterion, it cannot judge this network, or it needs a library that
            is not there.
    """
    if name not in CRITERIA:
        raise InputError(f"{name} is no criterion; choose one of {', '.join(NAMES)}.")
    if name in OF_ONE_CLASS and subject.labels.ndim != 1:
        raise InputError(f"{name} needs images of one class each; taylor or variance do without.")
    if name in OF_CLASSES and subject.labels.is_floating_point():
        raise InputError(f"{name} needs a class for each image or pixel; variance does without.")
    if name == "budget-aware":
        return checked(name, budget_aware(subject, seed, kept_share=kept_share), subject)
    return checked(name, CRITERIA[name](subject, seed), subject)
