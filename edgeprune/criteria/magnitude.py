"""What the weights alone say: norms of what produces a unit, and BatchNorm scales."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgeprune.criteria.reading import arguments
from edgeprune.criteria.subject import Scores, Subject
from edgeprune.errors import ModelError
from edgeprune.records import ChannelGroup


def magnitude(
    group: ChannelGroup, parameters: Mapping[str, Tensor], *, power: int = 2
) -> NDArray[np.float64]:
    """Norm of all weights that produce each unit, shape (units,); biases and norms do not count.

    A unit that only its readers name (the width of attention heads) is judged by these.
    Li et al. 2017, Pruning Filters for Efficient ConvNets: (Σ |w|^power)^(1/power), power 1 or 2.
    """
    total = np.zeros(group.units)
    known = [(slot, parameters[slot.parameter]) for slot in group.slots if slot.parameter in parameters]
    weights = [(slot, weight) for slot, weight in known if weight.ndim > 1]
    for slot, weight in [pair for pair in weights if not pair[0].consumer] or weights:
        rows = weight.detach().double().transpose(0, slot.axis).flatten(1).abs().pow(power).sum(dim=1)
        total += rows.numpy()[slot.indices].sum(axis=1)
    return np.asarray(total ** (1 / power))


def magnitudes(subject: Subject, power: int) -> Scores:
    """`magnitude` of every group."""
    parameters = dict(subject.graph.named_parameters())
    return {group.name: magnitude(group, parameters, power=power) for group in subject.groups}


def bn_scale(subject: Subject) -> Scores:
    """Mean |scale| over the BatchNorms that a unit passes (Liu et al. 2017, Network Slimming).

    A unit that passes none is scaled by 1.

    Raises:
        ModelError: the network has no BatchNorm with scales.
    """
    scales = _scales(subject.graph)
    if not scales:
        raise ModelError(
            "bn-scale: the network has no BatchNorm scales (folded away?); choose another criterion."
        )
    result = {}
    for group in subject.groups:
        found = [
            scales[slot.parameter][slot.indices].mean(axis=1)
            for slot in group.slots
            if slot.parameter in scales
        ]
        result[group.name] = np.mean(found, axis=0) if found else np.ones(group.units)
    return result


def _scales(graph: fx.GraphModule) -> dict[str, NDArray[np.float64]]:
    """|scale| of every BatchNorm, by name."""
    result = {}
    tensors = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten._native_batch_norm_legit_no_training.default:
            name = str(getattr(arguments(node)["weight"], "target", ""))
            if name in tensors:
                result[name] = tensors[name].detach().double().abs().numpy()
    return result
