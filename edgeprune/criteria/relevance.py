"""Layer-wise relevance propagation: which units the network's answer rests on (Yeom et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from edgeprune.criteria.reading import Reading, by_channel, find_readings, summed
from edgeprune.criteria.running import Tap, Taps, class_scores
from edgeprune.criteria.subject import Scores, Subject
from edgeprune.errors import EdgepruneError, ModelError

ROUND = 0.05
"""Share of all units that i-lrp removes before it looks again."""


def lrp(subject: Subject) -> Scores:
    """Σ |R| over images, positions and the layers that read a unit (Yeom et al. 2021, Pruning by Explaining).

    Each image starts with one unit of relevance on its true class; rules as in `propagation`.
    """
    return _scores(subject, {}, subject.on_progress)


def iterative_lrp(subject: Subject) -> Scores:
    """Rank in the order of removal: `lrp` again after every 5 % of all units, lowest first, over all groups.

    The last unit of a group stays until nothing else is left: without it no relevance passes.
    """
    left = {group.name: np.ones(group.units, dtype=bool) for group in subject.groups}
    ranks = {group.name: np.zeros(group.units) for group in subject.groups}
    total = sum(group.units for group in subject.groups)
    rounds, gone = math.ceil(1 / ROUND), 0
    for number in range(rounds):

        def on_progress(done: int, images: int, number: int = number) -> None:
            subject.on_progress(number * images + done, rounds * images)

        scores = _scores(subject, _masked(subject, left), on_progress)
        until = round(total * (number + 1) / rounds)
        for name, unit in _lowest(scores, left, until - gone):
            ranks[name][unit], gone = gone, gone + 1
            left[name][unit] = False
    return ranks


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Relevance of one batch."""

    image: Tensor
    """Of the pixels, shape as the images."""
    layers: Taps
    """Of what each layer reads."""


def attribute(
    subject: Subject,
    readings: Sequence[Reading],
    images: Tensor,
    labels: Tensor,
    weights: Mapping[str, Tensor] | None = None,
) -> Found:
    """Relevance that arrives at the image and at every layer that reads units.

    Raises:
        EdgepruneError: the library is missing.
        ModelError: an op has no rule.
    """
    try:
        from edgeprune.criteria.propagation import Propagation
    except ModuleNotFoundError as err:
        if err.name is None or not err.name.startswith("zennit"):
            raise
        raise EdgepruneError('lrp needs zennit: pip install "edgeprune[lrp]".') from err
    tap, pixels = Tap(), images.detach().clone().requires_grad_()
    with torch.enable_grad():
        propagation = Propagation(subject.graph, readings, tap, weights)
        logits = class_scores(propagation.run(pixels))
        start = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
        wanted = [pixels, *tap.taps.values()]
        try:
            found = torch.autograd.grad(logits, wanted, grad_outputs=start, allow_unused=True)
        except RuntimeError as err:  # every way is cut
            raise ModelError(
                "lrp: no relevance comes from the output to the layers (a softmax on the way?); "
                "choose another criterion."
            ) from err
        finally:
            propagation.forget()
    image, *rest = [torch.zeros_like(w) if r is None else r for w, r in zip(wanted, found, strict=True)]
    return Found(image, dict(zip(tap.taps, rest, strict=True)))


def _scores(
    subject: Subject, weights: Mapping[str, Tensor], on_progress: Callable[[int, int], None]
) -> Scores:
    readings = find_readings(subject.graph, subject.groups)
    one_each = {reading.layer: reading for reading in readings}
    totals: dict[fx.Node, Tensor] = {}
    done = 0
    for images, labels in subject.batches():
        found = attribute(subject, readings, images, labels, weights)
        for layer, reading in one_each.items():
            sizes = by_channel(found.layers[layer], reading.axis).double().abs().sum(dim=0)
            totals[layer] = totals[layer] + sizes if layer in totals else sizes
        done += len(images)
        on_progress(done, len(subject.images))
    return summed(readings, totals)


def _masked(subject: Subject, left: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Weights with the entries of the units that are gone at zero, wherever a layer sums over them."""
    dense = {**dict(subject.graph.named_parameters()), **dict(subject.graph.named_buffers())}
    result: dict[str, Tensor] = {}
    for group in subject.groups:
        gone = np.flatnonzero(~left[group.name])
        for slot in group.slots if gone.size else ():
            if slot.consumer:
                base = result.get(slot.parameter, dense[slot.parameter].detach())
                index = torch.from_numpy(slot.indices[gone].ravel())
                result[slot.parameter] = base.index_fill(slot.axis, index, 0.0)
    return result


def _lowest(scores: Scores, left: Mapping[str, np.ndarray], count: int) -> list[tuple[str, int]]:
    """The next units to go; the strongest of each group only when all others are gone."""
    waiting = []
    for name, still in left.items():
        units = np.flatnonzero(still)
        strongest = units[np.argmax(scores[name][units])] if units.size else -1
        waiting += [(u == strongest, scores[name][u], name, int(u)) for u in units]
    return [(name, unit) for _, _, name, unit in sorted(waiting, key=lambda w: w[:2])[:count]]
