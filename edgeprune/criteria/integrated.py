"""Integrated gradients at the layers that read a unit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

from edgeprune.criteria.reading import Reading, averaged, by_channel, find_readings, summed
from edgeprune.criteria.running import Taps, slopes, with_taps
from edgeprune.criteria.subject import Scores, Subject

STEPS = 16


def integrated_gradients(subject: Subject, *, steps: int = STEPS) -> Scores:
    """Mean |attribution| over images and positions (Sundararajan et al. 2017, for a layer).

    Attribution of a value a inside the network: ∫ ∂F/∂a · da along the straight path from a zero image to
    the image, F the true class's logit (Dhamdhere et al. 2018 call it conductance).
    """
    readings = find_readings(subject.graph, subject.groups)
    totals: dict[fx.Node, Tensor] = {}
    rows: dict[fx.Node, int] = {}
    done = 0
    for images, labels in subject.batches():
        for reading, parts in _each(readings, attributions(subject, images, labels, readings, steps=steps)):
            layer = reading.layer
            found = by_channel(parts.double(), reading.axis).abs()
            totals[layer] = totals[layer] + found.sum(0) if layer in totals else found.sum(0)
            rows[layer] = rows.get(layer, 0) + len(found)
        done += len(images)
        subject.on_progress(done, len(subject.images))
    return averaged(readings, {layer: total / rows[layer] for layer, total in totals.items()})


def attribution_sums(subject: Subject, *, steps: int = STEPS) -> Scores:
    """Σ attribution of each unit over images and positions.

    Over units that cut the network in two it is F(images) - F(zero images): completeness.
    """
    readings = find_readings(subject.graph, subject.groups)
    totals: dict[fx.Node, Tensor] = {}
    for images, labels in subject.batches():
        for reading, parts in _each(readings, attributions(subject, images, labels, readings, steps=steps)):
            found = by_channel(parts.double(), reading.axis).sum(dim=0)
            totals[reading.layer] = totals.get(reading.layer, 0) + found
    return summed(readings, totals)


def attributions(
    subject: Subject, images: Tensor, labels: Tensor, readings: Sequence[Reading], *, steps: int
) -> Taps:
    """∫ ∂F/∂a · da of what each layer reads, by the trapezoid rule."""
    result: Taps = {}
    before: tuple[Taps, Taps] | None = None
    for step in range(steps + 1):
        logits, taps = with_taps(subject.graph, readings, images * (step / steps))
        found = slopes(logits.gather(1, labels[:, None]).sum(), taps)
        values = {layer: tap.detach() for layer, tap in taps.items()}
        for layer in values if before else ():
            assert before is not None
            change = values[layer] - before[0][layer]
            part = (found[layer] + before[1][layer]) / 2 * change
            result[layer] = result[layer] + part if layer in result else part
        before = values, found
    return result


def _each(readings: Sequence[Reading], values: Taps) -> list[tuple[Reading, Tensor]]:
    """Every layer once, with one of its readings."""
    one_each = {reading.layer: reading for reading in readings}
    return [(reading, values[layer]) for layer, reading in one_each.items()]
