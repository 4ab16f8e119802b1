"""Budget-aware: gates on the units, trained alone until they fit a budget (Lemaire et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from edgeprune.criteria.reading import Reading, find_readings
from edgeprune.criteria.running import Runner, class_scores
from edgeprune.criteria.subject import Scores, Subject
from edgeprune.records import ChannelGroup

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Hard-concrete distribution (Louizos et al. 2018): temperature, and the interval that is clamped."""
OPEN = 2.0
"""log α of every gate at the start: 97 % open."""
STEPS, IMAGES, RATE = 200, 32, 0.1
FEW = 4
"""Batches per step where the graph sets the batch size."""
FREE = 0.8
"""Below this share of its limit, what is kept does not press."""
STEEPEST = 0.95
"""From here on the barrier continues straight: what is kept may overshoot its limit for a while."""

Gates = dict[str, Tensor]
"""Group name -> log α of each unit."""


def budget_aware(subject: Subject, seed: int, *, kept_share: float = 0.5, steps: int = STEPS) -> Scores:
    """log α of hard-concrete gates on what layers read, trained alone (Lemaire et al. 2019, BAR).

    Loss: KL(dense ‖ gated) + v²/(1-v), v = (V - a)/(b - a), where V is the expected kept share of the
    removable parameters, b its limit, which falls along a sigmoid to `kept_share`, and a = 0.8·b.

    Args:
        seed: Of the mini-batches and of the gates' noise.
        kept_share: Share of the removable parameters to end with, in (0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    readings = find_readings(subject.graph, subject.groups)
    dense = _dense(subject)
    gates = {group.name: torch.full((group.units,), OPEN, requires_grad=True) for group in subject.groups}
    costs = _costs(subject)
    optimizer = torch.optim.Adam(gates.values(), lr=RATE)
    size = min(subject.batch * FEW if subject.batch else IMAGES, len(subject.images))
    for step in range(steps):
        chosen = torch.randperm(len(subject.images), generator=generator)[:size]
        open_now = {name: sample(log_alpha, generator) for name, log_alpha in gates.items()}
        pieces = torch.split(chosen, subject.batch or size)
        logits = torch.cat([_gated(subject.graph, readings, open_now, subject.images[p]) for p in pieces])
        apart = functional.kl_div(
            logits.log_softmax(1), dense[chosen], reduction="batchmean", log_target=True
        )
        kept = sum(((costs[name] * active(gate).sum()) for name, gate in gates.items()), torch.zeros(()))
        optimizer.zero_grad()
        torch.autograd.backward(apart + barrier(kept, limit((step + 1) / steps, kept_share)))
        optimizer.step()
        subject.on_progress(step + 1, steps)
    return {name: log_alpha.detach().double().numpy() for name, log_alpha in gates.items()}


def sample(log_alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Gates in [0, 1], some exactly 0 or 1."""
    noise = torch.rand(log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    wide = torch.sigmoid((noise.logit() + log_alpha) / BETA) * (ZETA - GAMMA) + GAMMA
    return wide.clamp(0, 1)


def active(log_alpha: Tensor) -> Tensor:
    """P(gate > 0)."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def limit(progress: float, kept_share: float) -> float:
    """How much may be kept at this point of the training: from all to `kept_share`, along a sigmoid."""
    low, now, high = (1 / (1 + math.exp(-10 * (t - 0.5))) for t in (0.0, progress, 1.0))
    return 1 - (1 - kept_share) * (now - low) / (high - low)


def barrier(kept: Tensor, most: float) -> Tensor:
    """v²/(1-v), continued by its tangent where v is close to 1 or past it."""
    v = ((kept - FREE * most) / (most - FREE * most)).clamp_min(0)
    inside = v.clamp_max(STEEPEST)
    slope = STEEPEST * (2 - STEEPEST) / (1 - STEEPEST) ** 2
    return inside.square() / (1 - inside) + slope * (v - inside)


def _dense(subject: Subject) -> Tensor:
    """Log-probabilities of the dense network."""
    with torch.no_grad():
        logits = [class_scores(subject.graph(images)) for images, _ in subject.batches()]
    return torch.cat(logits).log_softmax(1)


def _gated(
    graph: fx.GraphModule, readings: tuple[Reading, ...], gates: Mapping[str, Tensor], images: Tensor
) -> Tensor:
    reads: dict[fx.Node, list[Reading]] = {}
    for reading in readings:
        reads.setdefault(reading.layer, []).append(reading)

    def touch(layer: fx.Node, value: Tensor) -> Tensor:
        axis = reads[layer][0].axis
        scale = torch.ones(value.shape[axis], dtype=value.dtype)
        for reading in reads[layer]:
            channels = reading.channels
            opened = gates[reading.group].to(value.dtype)[:, None].expand(channels.shape).flatten()
            scale = scale.index_copy(0, channels.flatten(), opened)
        return value * scale.reshape([-1, *[1] * ((value.ndim - 1 - axis) % value.ndim)])

    return class_scores(Runner(graph, readings, touch).run(images))


def _costs(subject: Subject) -> dict[str, float]:
    """Share of the removable parameters that one unit of a group owns; the shares of all sum to 1."""
    sizes = {name: p.shape for name, p in subject.graph.named_parameters()}

    def entries(group: ChannelGroup) -> float:
        slots = [slot for slot in group.slots if slot.parameter in sizes]
        others = (
            (slot, math.prod(sizes[slot.parameter]) / sizes[slot.parameter][slot.axis]) for slot in slots
        )
        return float(sum(slot.indices.shape[1] * entries for slot, entries in others))

    total = sum(entries(group) * group.units for group in subject.groups)
    return {group.name: float(np.divide(entries(group), total)) for group in subject.groups}
