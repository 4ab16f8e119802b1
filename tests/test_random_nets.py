"""Channel groups of networks that nobody wrote: the oracle on random sequences of blocks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import TOLERANCE, masked_against_cut, random_units, randomise_
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.channels import couple, trace
from edgeprune.records import InputSpec

SIDE = 8


@dataclass(frozen=True, slots=True)
class Step:
    """One block: what it is, and how wide (in fours)."""

    kind: str
    width: int


class Block(nn.Module):
    """A block of one kind; `outputs` says how many channels it gives."""

    def __init__(self, step: Step, inputs: int) -> None:
        super().__init__()
        self.kind = step.kind
        self.outputs = inputs
        width = 4 * step.width
        match step.kind:
            case "conv":
                self.outputs = width
                self.a = nn.Conv2d(inputs, width, 3, padding=1)
            case "grouped":
                self.outputs = width
                self.a = nn.Conv2d(inputs, width, 3, padding=1, groups=2)
            case "whole_groups":
                self.a = nn.Conv2d(inputs, inputs, 1, groups=inputs // 2)
            case "depthwise":
                self.a = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
            case "norm":
                self.a = nn.BatchNorm2d(inputs)
            case "group_norm":
                self.a = nn.GroupNorm(inputs // 2, inputs)
            case "residual" | "squeeze_excite" | "token_mlp":
                layer = nn.Linear if step.kind == "token_mlp" else Conv1x1
                self.a, self.b = layer(inputs, width), layer(width, inputs)
            case "concat":
                self.outputs = inputs + width
                self.a = nn.Conv2d(inputs, width, 1)
            case "chunk_branch":
                self.a = nn.Conv2d(inputs // 2, inputs // 2, 1)
            case "glu":
                self.outputs = inputs // 2
            case "attention":
                self.a, self.b = nn.Linear(inputs, 3 * inputs), nn.Linear(inputs, inputs)
            case _:
                pass

    def forward(self, x: Tensor) -> Tensor:  # noqa: PLR0911  # one line a kind
        n, c, h, w = x.shape
        match self.kind:
            case "residual":
                return x + self.b(torch.relu(self.a(x)))
            case "squeeze_excite":
                return x * torch.sigmoid(self.b(torch.relu(self.a(x.mean((2, 3), keepdim=True)))))
            case "token_mlp":
                return self.b(functional.gelu(self.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
            case "concat":
                return torch.cat([self.a(x), x], 1)
            case "chunk_branch":
                first, second = x.chunk(2, 1)
                return torch.cat([self.a(second), first], 1)
            case "glu":
                return functional.glu(x, 1)
            case "shuffle":
                return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            case "pool":
                return functional.max_pool2d(x, 3, 1, 1)
            case "relu":
                return torch.relu(x)
            case "attention":
                q, k, v = (
                    self.a(x.flatten(2).transpose(1, 2)).view(n, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
                )
                mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
                return self.b(mixed).transpose(1, 2).view(n, c, h, w)
            case _:
                return self.a(x)


class Conv1x1(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)


class Random(nn.Module):
    """A stem, blocks, and a head over all pixels or over their mean."""

    def __init__(self, steps: list[Step], *, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential()
        channels = 8
        for step in steps:
            self.blocks.append(Block(step, channels))
            channels = self.blocks[-1].outputs
            channels = channels if channels % 4 == 0 else self._widen(channels)
        self.head = nn.Linear(channels * (SIDE * SIDE if flat else 1), 5)

    def _widen(self, channels: int) -> int:
        self.blocks.append(Block(Step("conv", 2), channels))
        return 8

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        scores: Tensor = self.head(x.flatten(1) if self.flat else x.mean((2, 3)))
        return scores


KINDS = (
    *("conv", "grouped", "whole_groups", "depthwise", "norm", "group_norm", "residual", "squeeze_excite"),
    *("token_mlp", "concat", "chunk_branch", "glu", "shuffle", "pool", "relu", "attention"),
)
STEPS = st.builds(Step, st.sampled_from(KINDS), st.integers(1, 3))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=1, max_size=7), flat=st.booleans(), seed=st.integers(0, 99))
def test_removing_equals_masking(steps: list[Step], flat: bool, seed: int) -> None:
    network = Random(steps, flat=flat)
    randomise_(network, seed=seed)
    coupling = couple(trace(network, InputSpec(shape=(3, SIDE, SIDE))))
    assert coupling.unknown_ops == {}
    for ratio in (0.3, 0.8):
        assert masked_against_cut(coupling, random_units(coupling, ratio, seed=seed)) < TOLERANCE
