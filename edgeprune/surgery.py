"""Module + kept indices -> a smaller module of the user's own class, verified against the cut graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from edgeprune.copying import copied
from edgeprune.errors import ParityError
from edgeprune.records import InputSpec

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest relative difference between own class and cut graph that still counts as equal."""
DOUBLE_TOLERANCE = 1e-9
"""The same in double precision, where only another computation differs by so much."""

Kept = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Operated:
    """The smaller network."""

    module: nn.Module
    own_class: bool
    """Whether `module` is of the user's own class; else it is the traced graph."""
    reason: str
    """Why the own class could not be kept; empty when it was."""


def operate(
    module: nn.Module, kept: Kept, graph: fx.GraphModule, spec: InputSpec, *, batch: int | None
) -> Operated:
    """Slice a copy of the user's module; fall back to the cut graph where its forward hard-codes a shape.

    Args:
        module: The dense network; untouched.
        kept: Parameter or buffer -> axis -> indices that stay.
        graph: The cut graph, which the result must agree with.
        spec: Input of the network.
        batch: The only batch size the graph accepts, or None.

    Raises:
        ParityError: the cut graph itself gives NaN or Inf.
    """
    example = torch.randn(batch or 2, *spec.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = graph(example)
    if not all_finite(expected):
        raise ParityError(
            "surgery: the cut network gives NaN or Inf; check the weights of the dense network."
        )
    name = type(module).__name__
    try:
        own = _sliced_copy(module, kept, graph)
        with torch.no_grad():
            error = relative_error(expected, own(example))
            error = error if error > TOLERANCE else _perturbed_error(graph, own, example[:1])
    except Exception as err:  # user code runs here: anything may come out, and the graph is the answer
        reason = f"{name} does not accept the new shapes: {_first_line(err)}"
    else:
        if error <= TOLERANCE:
            return Operated(own, own_class=True, reason="")
        reason = f"{name}.forward computes something else with the new shapes (relative error {error:.1e})"
    log.info("the traced graph is used instead of the own class: %s", reason)
    return Operated(graph, own_class=False, reason=reason)


def _perturbed_error(graph: nn.Module, own: nn.Module, example: Tensor) -> float:
    """Difference with other weights, in double precision; 0 or infinite.

    Trained weights may hide a wrong forward: heads that are all but uniform, branches that start at zero.
    """
    graph, own = copied(graph).double(), copied(own).double()
    generator = torch.Generator().manual_seed(0)
    others = dict(own.named_parameters())
    for name, weight in graph.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        weight.add_(0.5 * noise * (weight.abs().mean() + 0.01))
        others[name].copy_(weight)
    try:
        expected = graph(example.double())
    except RuntimeError:  # the network insists on single precision
        return 0.0
    if not all_finite(expected):  # these weights say nothing
        return 0.0
    return 0.0 if relative_error(expected, own(example.double())) <= DOUBLE_TOLERANCE else float("inf")


def all_finite(output: object) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tree_leaves(output) if isinstance(t, Tensor))


def relative_error(expected: object, other: object) -> float:
    """max |a - b| / max |a|, the largest over the tensors of an output; infinite when the shapes differ.

    Args:
        expected: One tensor, or tensors in dictionaries, tuples and lists.
    """
    ours, structure = tree_flatten(expected)
    theirs, other_structure = tree_flatten(other)
    if structure != other_structure:
        return float("inf")
    return max((_leaf_error(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _leaf_error(expected: object, other: object) -> float:
    if not isinstance(expected, Tensor) or not isinstance(other, Tensor):
        return 0.0 if expected is other or expected == other else float("inf")
    if expected.shape != other.shape:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, other) else float("inf")
    if not expected.numel():
        return 0.0
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((expected - other).abs().max() / scale)


def _sliced_copy(module: nn.Module, kept: Kept, graph: fx.GraphModule) -> nn.Module:
    own = copied(module).eval()
    groups = {id(_tensor(own, name)): count for name, count in _conv_groups(graph).items()}
    dense_groups = [(child, groups.get(id(getattr(child, "weight", None)))) for child in own.modules()]
    changed = {id(_tensor(own, name)): _sliced(_tensor(own, name), axes) for name, axes in kept.items()}
    for child in own.modules():
        stores: list[dict[str, Any]] = [child._parameters, child._buffers]  # Any: as torch types them
        for store in stores:
            store.update({key: changed[id(value)] for key, value in store.items() if id(value) in changed})
    for child, count in dense_groups:
        _fix_attributes_(child, count)
    return own


def _tensor(module: nn.Module, name: str) -> Tensor:
    owner_name, _, last = name.rpartition(".")
    found = getattr(module.get_submodule(owner_name), last, None)
    if not isinstance(found, Tensor):
        raise LookupError(f"the constant {name} inside its forward has channels")
    return found


def _sliced(tensor: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    value = tensor.detach()
    for axis, indices in axes.items():
        value = value.index_select(axis, indices.to(value.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value.clone(), requires_grad=tensor.requires_grad)
    return value.clone()


def _conv_groups(graph: fx.GraphModule) -> dict[str, int]:
    """Weight -> groups of the grouped convolution that uses it in the cut graph."""
    found = {}
    for node in graph.graph.nodes:
        names = [
            argument.name for argument in getattr(getattr(node.target, "_schema", None), "arguments", ())
        ]
        if "weight" in names and "groups" in names:
            given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            if given["weight"].op == "get_attr" and "groups" in given:
                found[str(given["weight"].target)] = given["groups"]
    return found


def _fix_attributes_(child: nn.Module, groups: int | None) -> None:
    """Make the attributes of torch's own layers say what their tensors are."""
    weight = getattr(child, "weight", None)
    if weight is None:
        weight = getattr(child, "running_mean", None)  # a norm without scales
    if not isinstance(weight, Tensor):
        return
    match child:
        case nn.modules.conv._ConvTransposeNd():
            child.groups = groups or child.groups
            child.in_channels, child.out_channels = weight.shape[0], weight.shape[1] * child.groups
        case nn.modules.conv._ConvNd():
            child.groups = groups or child.groups
            child.out_channels, child.in_channels = weight.shape[0], weight.shape[1] * child.groups
        case nn.Linear():
            child.out_features, child.in_features = weight.shape
        case nn.modules.batchnorm._NormBase():
            child.num_features = weight.shape[0]
        case nn.LayerNorm() | nn.RMSNorm():
            child.normalized_shape = tuple(weight.shape)
        case nn.GroupNorm():
            per_group = child.num_channels // child.num_groups  # groups are removed whole
            child.num_channels, child.num_groups = weight.shape[0], weight.shape[0] // per_group
        case nn.PReLU():
            child.num_parameters = weight.shape[0]
        case nn.Embedding():
            child.embedding_dim = weight.shape[1]
        case _:
            pass


def _first_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return lines[0][:200] if lines else type(err).__name__
