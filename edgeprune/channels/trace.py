"""Module -> traced graph: one namespace of ATen ops with parameter names and shapes for every network."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import ModelError
from edgeprune.records import InputSpec

log = logging.getLogger(__name__)

EXAMPLE_BATCH = 3
"""A small prime: a batch axis is then not mistaken for a factor of the channel count in a reshape."""


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A functional graph of ATen ops over named parameters; every node carries its example shape."""

    graph_module: fx.GraphModule
    spec: InputSpec
    batch: int | None
    """The only batch size the graph accepts; None when it accepts any."""

    @property
    def nodes(self) -> list[fx.Node]:
        return list(self.graph_module.graph.nodes)


def trace(module: nn.Module, spec: InputSpec) -> Traced:
    """Trace a network in evaluation mode; the batch axis stays free where the network allows it.

    Raises:
        ModelError: the network does not accept the input shape, gives something else than one tensor,
            or holds control flow that depends on the data.
    """
    module = copy.deepcopy(module).eval()
    example = torch.zeros(EXAMPLE_BATCH, *spec.shape)
    _check_forward(module, example, spec)
    try:
        return Traced(_export(module, example, dynamic=True), spec, None)
    except Exception as err:  # whatever the exporter raises: the fixed batch below is the answer
        log.info("a free batch axis did not trace (%s); trying batch 1", _first_line(err))
    try:
        return Traced(_export(module, example[:1], dynamic=False), spec, 1)
    except Exception as err:
        raise ModelError(
            f"{type(module).__name__}: torch.export cannot trace it: {_first_line(err)}; "
            "remove control flow that depends on the data, or pass an exported program (.pt2)."
        ) from err


def parameter(graph_module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The tensor that a `get_attr` node reads, or None for any other node."""
    if node.op != "get_attr":
        return None
    found: object = graph_module
    for name in str(node.target).split("."):
        found = getattr(found, name)
    return found if isinstance(found, Tensor) else None


def _check_forward(module: nn.Module, example: Tensor, spec: InputSpec) -> None:
    try:
        with torch.no_grad():
            out = module(example)
    except Exception as err:  # user code: anything may come out
        raise ModelError(
            f"{type(module).__name__}: refuses an input of shape {tuple(spec.shape)}: {_first_line(err)}; "
            "check resize, crop and color in the data description."
        ) from err
    if not isinstance(out, Tensor):
        raise ModelError(
            f"{type(module).__name__}: gives {type(out).__name__}, not one tensor of class scores; "
            "wrap it in a module that returns the scores alone (--model python:file.py:factory)."
        )


def _export(module: nn.Module, example: Tensor, *, dynamic: bool) -> fx.GraphModule:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's business
        program = torch.export.export(module, (example,), dynamic_shapes=shapes)
        graph_module = program.run_decompositions({}).module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    for tensor in (*graph_module.parameters(), *graph_module.buffers()):
        tensor.requires_grad_(requires_grad=False)
    return graph_module


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(err).__name__
