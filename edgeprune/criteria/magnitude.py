"""Norm over a group's producer weights (Li et al. 2017, Pruning Filters for Efficient ConvNets)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.records import ChannelGroup


def magnitude(group: ChannelGroup, parameters: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """L2 norm of all weights that produce each unit, shape (units,); biases and norms do not count."""
    total = np.zeros(group.units)
    for slot in group.slots:
        weight = parameters.get(slot.parameter)
        if weight is not None and weight.ndim > 1 and not slot.consumer:
            rows = weight.detach().double().transpose(0, slot.axis).flatten(1).square().sum(dim=1)
            total += rows.numpy()[slot.indices].sum(axis=1)
    return np.asarray(np.sqrt(total))
