"""What a unit's values look like where they are read; no labels, no gradients."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from edgeprune.criteria.reading import averaged, find_readings, per_channel
from edgeprune.criteria.running import Runner, Tap
from edgeprune.criteria.subject import Scores, Subject


def activation(subject: Subject) -> Scores:
    """Mean |a| over images and positions (the AMP of the C-SWAP poster, whose expansion is unpublished)."""
    _, sizes, _ = moments(subject)
    return sizes


def variance(subject: Subject) -> Scores:
    """Var(a) over images and positions (VBP, variance-based pruning, arXiv 2507.12988)."""
    _, _, spread = moments(subject)
    return spread


def moments(subject: Subject) -> tuple[Scores, Scores, Scores]:
    """Mean a, mean |a| and Var(a) of each unit, averaged over its channels and the layers that read it."""
    readings = find_readings(subject.graph, subject.groups)
    one_each = {reading.layer: reading for reading in readings}
    totals: dict[fx.Node, Tensor] = {}
    for done, (images, _) in enumerate(subject.batches(), start=1):
        tap = Tap(gradients=False)
        with torch.no_grad():
            Runner(subject.graph, readings, tap).run(images)
        for layer, reading in one_each.items():
            found = per_channel(_powers, reading, tap.taps[layer])
            totals[layer] = totals[layer] + found if layer in totals else found
        subject.on_progress(min(done * subject.batch_size, len(subject.images)), len(subject.images))
    mean = {layer: (total / total[0])[1:] for layer, total in totals.items()}
    return (
        averaged(readings, {layer: m[0] for layer, m in mean.items()}),
        averaged(readings, {layer: m[1] for layer, m in mean.items()}),
        averaged(readings, {layer: (m[2] - m[0].square()).clamp_min(0) for layer, m in mean.items()}),
    )


def _powers(rows: Tensor) -> Tensor:
    """Shape (4, channels): count, Σa, Σ|a|, Σa²."""
    return torch.stack([torch.ones_like(rows).sum(0), rows.sum(0), rows.abs().sum(0), rows.square().sum(0)])
