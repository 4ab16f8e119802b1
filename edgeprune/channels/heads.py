"""Cutting the width of attention heads instead of whole heads, where the user asks for it.

A score sums over the width of query and key. It loses exactly one term when one index goes from both, the
same in every head; that index is masked where query and key are made, because no weight reads it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable, Sequence

import torch
from torch import fx

from edgeprune.channels.reading import Op, bind, first_along
from edgeprune.channels.ties import Factor, Ties
from edgeprune.records import Ints

aten = torch.ops.aten

MOVES: frozenset[Op] = frozenset(
    [
        *(aten.view.default, aten._unsafe_view.default, aten.permute.default, aten.transpose.int),
        *(aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
        *(
            aten.select.int,
            aten.unbind.int,
            aten.slice.Tensor,
            aten.split.Tensor,
            aten.split_with_sizes.default,
        ),
        *(aten.clone.default, aten.expand.default, aten.mul.Tensor, aten.div.Tensor, operator.getitem),
    ]
)
"""Ops that leave a zero where it is, or move it; products only with a number."""
MAKERS: frozenset[Op] = frozenset([aten.linear.default, aten.conv1d.default, aten.conv2d.default])


def cut_widths(
    ties: Ties, terms: Sequence[tuple[fx.Node, Sequence[Hashable]]], summed: Collection[Hashable]
) -> bool:
    """Tie the widths of query and key, of all heads at once; False where whole heads are to be cut."""
    if not ties.head_width:
        return False
    widths, made = [], []
    for value, labels in terms:
        joint = [f for f in ties.factors(value) if any(labels[d] in summed for d in f.dims)]
        maker = _maker(value)
        if maker is None or len(joint) != 1 or len(joint[0].dims) == 1:
            return False
        widths.append((joint[0], [i for i, d in enumerate(joint[0].dims) if labels[d] not in summed]))
        made += maker
    if len({_first(*width).shape for width in widths}) > 1:
        return False
    for factor, heads in widths:
        ties.tie_along(factor.ids, heads)
        ties.tie(_first(factor, heads), _first(*widths[0]))
        ties.widths.append(_first(factor, heads))
    ties.made.update((str(parameter.target), 0) for parameter in made)
    return True


def _first(factor: Factor, heads: Sequence[int]) -> Ints:
    return first_along(factor.ids, heads).ravel()


def _maker(node: fx.Node) -> list[fx.Node] | None:
    """Weight and bias that make a tensor which is only moved afterwards."""
    while node.target in MOVES:
        tensors = [
            n for n in node.all_input_nodes if isinstance(n.meta.get("val"), (torch.Tensor, list, tuple))
        ]
        if len(tensors) != 1:
            return None
        [node] = tensors
    if node.target not in MAKERS:
        return None
    a = bind(node)
    made = [parameter for parameter in (a.weight, a.bias) if parameter is not None]
    return made if all(p.op == "get_attr" for p in made) and getattr(a, "groups", 1) == 1 else None
