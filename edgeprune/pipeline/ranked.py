"""Rival criteria on the same units: what is least worth goes first, in one order, without a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeprune import causal, criteria, zoo
from edgeprune.compensate import Block
from edgeprune.errors import ConfigError
from edgeprune.pipeline.study import Study, Walked

ACCURACY_STEPS = 7
"""Halvings of the parameter ratio in the search for an accuracy limit."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Units of one group that leave together."""

    group: str
    units: tuple[int, ...]


def walk(study: Study, module: nn.Module) -> Walked:
    """Rank by the criterion of the options, and cut as far as the limits ask for.

    Raises:
        ConfigError: no limit says how far.
    """
    options = study.options
    if not options.asks_for_more:
        raise ConfigError(
            f"method = {options.method}: a criterion ranks units and does not say how many to remove; "
            "give --max-param-ratio or --max-accuracy-drop."
        )
    pieces = rank(study, scores(study, module))
    top = options.max_param_ratio if options.max_param_ratio is not None else 1.0
    walked = _cut(study, pieces, top)
    if study.accepts(walked.weights):
        return walked
    low, high = 0.0, study.ledger.param_ratio(walked.removed)
    best = _cut(study, pieces, 0.0)
    for _ in range(ACCURACY_STEPS):
        middle = (low + high) / 2
        walked = _cut(study, pieces, middle)
        if study.accepts(walked.weights):
            low, best = middle, walked
        else:
            high = middle
    return best


def _cut(study: Study, pieces: list[Piece], ratio: float) -> Walked:
    removed = prefix(study, pieces, ratio)
    weights, fit = study.compensated(removed)
    stopped = f"{study.options.method}: units in its order up to the limit, untested"
    return Walked(steps=[], stopped=stopped, removed=removed, weights=weights, fit=fit)


def scores(study: Study, module: nn.Module) -> Mapping[str, NDArray[np.float64]]:
    subject = criteria.Subject(
        graph=study.traced.graph_module,
        groups=study.groups,
        images=study.all_images,
        labels=torch.from_numpy(study.images.calibration.labels),
        module=module,
        batch=study.traced.batch,
        on_progress=study.progress(study.options.method),
    )
    method = study.options.method
    if method.startswith("python:"):
        return criteria.user_scores(zoo.find_function(method), subject, partial(_outputs, study))
    return criteria.score(method, subject, seed=study.options.seed)


def _outputs(study: Study, removed: Mapping[str, Sequence[int]]) -> Tensor:
    """Of the dense network for all calibration images, with these units taken out."""
    weights = dict(study.program.dense)
    for group in study.groups:
        if units := removed.get(group.name):
            weights |= causal.zeroed(weights, group, units)
    return study.program.logits(study.program.start(study.all_images), weights)


def rank(study: Study, worth: Mapping[str, NDArray[np.float64]]) -> list[Piece]:
    """All units that may leave, in steps of the width, the least worth first.

    `global`: scores relative to the mean of their group are compared over all layers; `uniform`: every group
    loses the same share.
    """
    ordered = []
    for number, group in enumerate(study.groups):
        step, values = study.step(group), worth[group.name]
        order = np.argsort(values, kind="stable")
        cuts = list(range(group.units % step or step, group.units, step))
        relative = values / max(float(np.abs(values).mean()), np.finfo(float).tiny)
        for first, last in zip([0, *cuts], cuts, strict=False):
            units = tuple(int(unit) for unit in order[first:last])
            key = (
                last / group.units
                if study.options.allocation == "uniform"
                else float(relative[list(units)].mean())
            )
            ordered.append((key, number, first, Piece(group.name, units)))
    return [piece for *_, piece in sorted(ordered, key=lambda entry: entry[:3])]


def prefix(study: Study, pieces: Sequence[Piece | Block], ratio: float) -> dict[str, tuple[int, ...]]:
    """The units of as many pieces, from the first, as stay within a share of the parameters."""
    return joined(pieces[: study.ledger.most(len(pieces), lambda count: joined(pieces[:count]), ratio)])


def joined(pieces: Sequence[Piece | Block]) -> dict[str, tuple[int, ...]]:
    """Group -> units of all its pieces."""
    return {name: tuple(sorted(units)) for name, units in causal.joined({}, pieces).items()}
