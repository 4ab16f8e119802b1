"""The first layer that reads a group, as a difference: conv(x, W) without channels j = y - conv(x_j, W_j).

Its output y is kept at the cut, and an intervention subtracts the share of the few channels taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from edgeprune.causal.fold import CONVOLUTIONS
from edgeprune.causal.program import Op, Program, Value, Values, Weights, arguments_of
from edgeprune.records import ChannelGroup, Ints

aten = torch.ops.aten
LINEAR = (*CONVOLUTIONS, aten.linear.default)
MOST = 0.25
"""Of the layer's input channels: taking out more at once, running the layer again is as quick."""


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """The layer at the cut: linear in the channels that the group gives it."""

    op: Op
    weight: str
    source: fx.Node
    arguments: dict[str, Value]

    @classmethod
    def find(cls, program: Program, place: int, group: ChannelGroup) -> Self | None:
        """The layer at this place, or None where it is no plain convolution or linear layer."""
        op = program.ops[place]
        if op.node.target not in LINEAR:
            return None
        arguments = arguments_of(op.node)
        source, weight = arguments["input"], arguments["weight"]
        assert isinstance(source, fx.Node)
        assert isinstance(weight, fx.Node)
        plain = source.op != "get_attr" and weight.op == "get_attr" and arguments.get("groups", 1) == 1
        name = str(weight.target)
        axes = {slot.axis for slot in group.slots if slot.consumer and slot.parameter == name}
        return cls(op, name, source, arguments) if plain and axes == {1} else None

    def channels(self, group: ChannelGroup, units: Sequence[int]) -> Ints:
        """The layer's input channels that belong to these units."""
        slots = [slot for slot in group.slots if slot.consumer and slot.parameter == self.weight]
        return np.unique(np.concatenate([slot.indices[list(units)].ravel() for slot in slots]))

    def pays(self, channels: Ints, weights: Weights) -> bool:
        return len(channels) <= MOST * weights[self.weight].shape[1]

    @torch.inference_mode()
    def without(self, values: Values, output: Tensor, weights: Weights, channels: Ints) -> Values:
        """The values alive behind the layer, its output less what these channels add to it."""
        weight = weights[self.weight]
        index = torch.from_numpy(channels).to(weight.device)
        arguments = {
            **self.arguments,
            "input": values[self.source].index_select(1 - weight.ndim, index),
            "weight": weight.index_select(1, index),
            "bias": None,
        }
        left = {node: value for node, value in values.items() if node not in self.op.dies}
        return {**left, self.op.node: output - self.op.function(**arguments)}
