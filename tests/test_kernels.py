"""Ops that run another way than torch's own choice give what torch gives."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import nn

from edgeprune.causal import Program, kernels
from edgeprune.causal.kernels import KERNELS, convolution
from edgeprune.channels import trace
from edgeprune.records import InputSpec

aten = torch.ops.aten
LAYERS = [
    # inputs, outputs, kernel, stride, padding, dilation, groups
    (6, 8, (1, 1), [1, 1], [0, 0], [1, 1], 1),
    (6, 8, (1, 1), [2, 1], [1, 0], [1, 1], 1),
    (6, 8, (3, 2), [1, 2], [2, 1], [2, 1], 1),
    (6, 6, (3, 3), [1, 1], [1, 1], [1, 1], 6),
    (6, 9, (3, 3), [2, 2], [0, 0], [1, 1], 3),
    (6, 8, (1, 1), [1], [0], [1], 1),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("images", [0, 1, 5, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_a_convolution_is_that_of_torch(
    layer: tuple[int, int, tuple[int, int], list[int], list[int], list[int], int],
    images: int,
    dtype: torch.dtype,
    layout: torch.memory_format,
    biased: bool,
) -> None:
    inputs, outputs, kernel, *how, groups = layer
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    x = drawn(images, inputs, 9, 7).to(memory_format=layout)
    weight = drawn(outputs, inputs // groups, *kernel)
    bias = drawn(outputs) if biased else None
    found = convolution(x, weight, bias, *how, groups)
    torch.testing.assert_close(found, aten.conv2d.default(x, weight, bias, *how, groups))


def test_without_onednn_torch_convolves() -> None:
    x, weight = torch.ones(2, 3, 4, 4), torch.ones(5, 3, 1, 1)
    with (
        patch.object(kernels, "_has_onednn", lambda: False),
        patch.object(aten.mkldnn_convolution, "default", side_effect=AssertionError),
    ):
        assert (convolution(x, weight) == 3).all()


def test_a_network_is_compiled_to_them() -> None:
    graph = trace(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), InputSpec(shape=(3, 4, 4))
    ).graph_module
    functions = {op.node.target: op.function for op in Program(graph).ops}
    assert functions[aten.conv2d.default] is convolution
    assert KERNELS[aten.conv2d.default] is convolution


@pytest.mark.skipif(not kernels._has_onednn(), reason="this torch has no oneDNN")
def test_with_onednn_it_convolves() -> None:
    x, weight = torch.ones(2, 3, 4, 4), torch.ones(5, 3, 1, 1)
    with patch.object(aten.conv2d, "default", side_effect=AssertionError):
        assert (convolution(x, weight) == 3).all()


def test_one_image_without_its_batch_is_torchs() -> None:
    assert convolution(torch.ones(3, 4, 4), torch.ones(5, 3, 1, 1)).shape == (5, 4, 4)
