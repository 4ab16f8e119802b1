"""A criterion of the user's own, and what any criterion has to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, fx, nn

from edgeprune.criteria.subject import Scores, Subject
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.records import ChannelGroup

NOTHING: Mapping[str, Sequence[int]] = MappingProxyType({})


Outputs = Callable[[Mapping[str, Sequence[int]]], Tensor]
"""Group -> units to take out -> outputs for all calibration images, shape (N, K)."""


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """The dense network as a user's criterion may run it: `replay({group: [0, 3]})`, without units 0 and 3.

    Attributes:
        graph: Functional graph of ATen ops in evaluation mode; parameters are get_attr nodes.
        module: The network itself.
    """

    outputs: Outputs
    graph: fx.GraphModule
    module: nn.Module

    def __call__(self, removed: Mapping[str, Sequence[int]] = NOTHING) -> Tensor:
        """Outputs for all calibration images, shape (N, K)."""
        return self.outputs(removed)


class Calibration(NamedTuple):
    """What a user's criterion judges by."""

    images: Tensor
    """Shape (N, C, H, W), as the network reads them."""
    labels: Tensor
    """Shape (N,)."""


Criterion = Callable[[tuple[ChannelGroup, ...], Replay, Calibration], Any]  # Any: that is the question


def user_scores(function: Criterion, subject: Subject, outputs: Outputs) -> Scores:
    """Scores from a function of the user's own, checked.

    Args:
        function: `(units, replay, calibration)` -> for each group's name an array or tensor of shape
            (units,), higher: keep. `units` are the channel groups.
        subject: Network and images.
        outputs: Runs the network with units taken out.

    Raises:
        InputError: it fails, or what it gives is no score for every unit.
    """
    name = getattr(function, "__name__", "the criterion")
    try:
        replay = Replay(outputs, subject.graph, subject.module)
        given = function(subject.groups, replay, Calibration(subject.images, subject.labels))
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
