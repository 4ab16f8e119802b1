"""A criterion of the user's own, and what any criterion has to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from edgeprune.criteria.subject import Scores, Subject
from edgeprune.errors import EdgepruneError, InputError


def user_scores(function: Callable[[Subject], Any], subject: Subject) -> Scores:  # Any: that is the question
    """Scores from a function of the user's own, checked.

    Args:
        function: Gives for each group's name an array or tensor of shape (units,), higher: keep.
        subject: What it is given.

    Raises:
        InputError: it fails, or what it gives is no score for every unit.
    """
    name = getattr(function, "__name__", "the criterion")
    try:
        given = function(subject)
    except EdgepruneError:
        raise
    except Exception as err:  # user code: anything may come out
        raise InputError(f"{name}: {type(err).__name__}: {_first_line(err)}.") from err
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise InputError(f"{name} gives {kind}; give a dictionary: group name -> one score per unit.")
    return checked(name, given, subject)


def checked(name: str, given: Mapping[Any, Any], subject: Subject) -> Scores:
    """One finite number for every unit of every group, as float64.

    Raises:
        InputError: something else.
    """
    units = {group.name: group.units for group in subject.groups}
    if unknown := [str(key) for key in given if key not in units]:
        known = next(iter(units), "")
        raise InputError(f"{name} scores {unknown[0]}, which is no group; names are like {known}.")
    if missing := [group for group in units if group not in given]:
        raise InputError(f"{name} gives no scores for {len(missing)} groups, {missing[0]} among them.")
    return {group: _numbers(name, group, given[group], count) for group, count in units.items()}


def _numbers(name: str, group: str, given: object, units: int) -> np.ndarray:
    given = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise InputError(f"{name}, {group}: the scores are no numbers: {_first_line(err)}.") from err
    if numbers.shape != (units,):
        raise InputError(f"{name}, {group}: scores of shape {numbers.shape}; give one per unit, ({units},).")
    if bad := int((~np.isfinite(numbers)).sum()):
        raise InputError(f"{name}, {group}: {bad} of {units} scores are NaN or infinite.")
    return numbers


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or ["no message"])[0][:200]
