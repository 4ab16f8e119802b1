"""Module -> traced graph: one namespace of ATen ops with parameter names and shapes for every network."""

from __future__ import annotations

import contextlib
import logging
import warnings
from dataclasses import dataclass
from io import StringIO

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from edgeprune.copying import copied
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


def trace(module: nn.Module, spec: InputSpec, *, one_tensor: bool = True) -> Traced:
    """Trace a network in evaluation mode; the batch axis stays free where the network allows it.

    Args:
        one_tensor: Refuse a network that gives anything but one tensor. Otherwise it may give tensors in
            dictionaries, tuples and lists: all of them are outputs, and the graph keeps their structure.

    Raises:
        ModelError: the network does not accept the input shape, does not give one tensor (or none at all),
            or holds control flow that depends on the data.
    """
    module = _in_evaluation_mode(module)
    example = torch.zeros(EXAMPLE_BATCH, *spec.shape)
    _check_output(module, _forward(module, example[:1], spec), one_tensor=one_tensor)
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


def attribute(graph_module: fx.GraphModule, name: str) -> object:
    """What a `get_attr` node with this target reads: a parameter, a buffer or a constant of the graph."""
    found: object = graph_module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _in_evaluation_mode(module: nn.Module) -> nn.Module:
    """A copy; the module of an exported program has no modes and refuses to be asked."""
    module = copied(module)
    with contextlib.suppress(NotImplementedError):
        module.eval()
    return module


def _forward(module: nn.Module, example: Tensor, spec: InputSpec) -> object:
    try:
        with torch.no_grad():
            return module(example)
    except Exception as err:  # user code: anything may come out
        raise ModelError(
            f"{type(module).__name__}: refuses an input of shape {tuple(spec.shape)}: {_first_line(err)}; "
            "check resize, crop and color in the data description."
        ) from err


def _check_output(module: nn.Module, out: object, *, one_tensor: bool) -> None:
    if one_tensor and not isinstance(out, Tensor):
        raise ModelError(
            f"{type(module).__name__}: gives {type(out).__name__}, not one tensor of class scores; "
            "wrap it in a module that returns the scores alone (--model python:file.py:factory)."
        )
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
        raise ModelError(
            f"{type(module).__name__}: gives {type(out).__name__} without a tensor in it; "
            "wrap it in a module that returns tensors, or dictionaries, tuples or lists of them."
        )


def _export(module: nn.Module, example: Tensor, *, dynamic: bool) -> fx.GraphModule:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    # The exporter's deprecations, and its dumps of the graphs it refuses, are not the user's business.
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (example,), dynamic_shapes=shapes)
        graph_module = program.run_decompositions({}).module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    # torch.export puts methods that refuse over train() and eval(); a graph without modes can take both.
    del graph_module.train, graph_module.eval
    _name_once_(graph_module)
    return graph_module


def _name_once_(graph_module: fx.GraphModule) -> None:
    """Shared tensors are read by their first name, as `named_parameters` gives it; unused reads go."""
    named = [
        *graph_module.named_parameters(remove_duplicate=False),
        *graph_module.named_buffers(remove_duplicate=False),
    ]
    first = {id(tensor): name for name, tensor in reversed(named)}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        node.target = first.get(id(attribute(graph_module, str(node.target))), node.target)
        if not node.users:
            graph_module.graph.erase_node(node)
    graph_module.recompile()


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(err).__name__
