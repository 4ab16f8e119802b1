"""What a small change of a unit does to the loss of the true class, by torch's autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, fx

from edgeprune.criteria.reading import Reading, by_channel, find_readings, per_channel, summed
from edgeprune.criteria.running import Taps, loss, slopes, with_taps
from edgeprune.criteria.subject import Scores, Subject

CLASS_IMAGES = 10
"""Images that each class is judged by (Jiang et al.)."""
THRESHOLD = 0.1
"""τ, as a share of the layer's largest |a · ∂L/∂a| in the same image."""
TIE = 1e-6


def gradient(subject: Subject) -> Scores:
    """|Σ ∂L/∂a| / (N·H·W), L2-normalised per group (Sun et al. 2017, meProp).

    The sums run over images, positions, and all layers that read the unit.
    """
    return _normalised(_sums(subject, lambda taps, found: found))


def taylor(subject: Subject) -> Scores:
    """|Σ a · ∂L/∂a| / (N·H·W), L2-normalised per group (Molchanov et al. 2017).

    Up to the normalisation: the first-order change of the loss when the unit is removed.
    """
    return _normalised(
        _sums(subject, lambda taps, found: {layer: taps[layer] * slope for layer, slope in found.items()})
    )


def loss_changes(subject: Subject) -> Scores:
    """Σ a · ∂L/∂a of each unit, L the mean loss: minus the change of L as it is removed, to first order."""
    sums = _sums(subject, lambda taps, found: {layer: taps[layer] * slope for layer, slope in found.items()})
    return {group: values / len(subject.images) for group, values in sums.items()}


def class_aware(subject: Subject) -> Scores:
    """Σ over classes of mean 1[|a · ∂L/∂a| > τ], max over positions (Jiang et al. 2024, class-aware pruning).

    Of each class, ten images; τ is relative to the layer's largest value in the same image (published as
    a number, which means something else in every layer). Scores are in [0, classes]; so many are equal that
    the mean size, far below one image's weight, decides between those.
    """
    readings = find_readings(subject.graph, subject.groups)
    scores = {group.name: np.zeros(group.units) for group in subject.groups}
    labels = subject.labels.tolist()
    chosen = {label: np.flatnonzero(subject.labels == label)[:CLASS_IMAGES] for label in sorted({*labels})}
    done, total = 0, sum(map(len, chosen.values()))
    for images in chosen.values():
        for image in images.tolist():
            for group, largest in _largest_in(subject, readings, slice(image, image + 1)).items():
                share = largest / (largest.max() or 1.0)
                scores[group] += ((share > THRESHOLD) + TIE * share) / len(images)
            done += 1
            subject.on_progress(done, total)
    return scores


def _largest_in(subject: Subject, readings: Sequence[Reading], image: slice) -> Scores:
    """max |a · ∂L/∂a| of each unit in one image, over positions, copies and the layers that read it.

    One image at a time: what a layer reads need not have the images on its first axis.
    """
    logits, taps = with_taps(subject.graph, readings, subject.images[image])
    found = slopes(loss(logits, subject.labels[image]), taps)
    result: Scores = {}
    for reading in readings:
        products = by_channel((taps[reading.layer] * found[reading.layer]).detach().abs(), reading.axis)
        units = products.amax(dim=0)[reading.channels].amax(dim=1).double().numpy()
        result[reading.group] = np.maximum(result.get(reading.group, units), units)
    return result


def _sums(subject: Subject, value: Callable[[Taps, Taps], Taps]) -> Scores:
    """A value made from what is read and its gradient, summed over images and positions."""
    readings = find_readings(subject.graph, subject.groups)
    one_each = {reading.layer: reading for reading in readings}
    totals: dict[fx.Node, Tensor] = {}
    done = 0
    for images, labels in subject.batches():
        logits, taps = with_taps(subject.graph, readings, images)
        values = value(taps, slopes(loss(logits, labels), taps))
        for layer, reading in one_each.items():
            found = per_channel(lambda rows: rows.sum(dim=0), reading, values[layer].detach())
            totals[layer] = totals[layer] + found if layer in totals else found
        done += len(images)
        subject.on_progress(done, len(subject.images))
    return summed(readings, totals)


def _normalised(sums: Scores) -> Scores:
    """Absolute values with length 1 per group, where 1/(N·H·W) drops out."""
    norms = {group: np.linalg.norm(values) for group, values in sums.items()}
    return {group: np.abs(values) / (norms[group] or 1.0) for group, values in sums.items()}
