"""What a network's activations take while it runs: the most that is alive at once, for any widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx

from edgeprune.channels.forms import form_of, owners
from edgeprune.channels.groups import Coupling
from edgeprune.channels.ties import shape_of
from edgeprune.records import Ints, WidthForm


@dataclass(frozen=True, slots=True)
class Storage:
    """The memory of one or several tensors, of which each takes the place of the one before."""

    elements: float
    """Per image, without the axes of the forms."""
    forms: tuple[WidthForm, ...]
    born: int
    dies: int
    """Places in the graph's order: of the node that writes it, and of the last one that reads it."""


class Activations:
    """The activations of one traced network.

    A node that makes one tensor of another of the same size, which nobody else reads, works in place, as
    runtimes do with activations and normalisations.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        nodes = [node for node in coupling.ties.traced.nodes if _is_activation(node)]
        place = {node: number for number, node in enumerate(coupling.ties.traced.nodes)}
        home: dict[fx.Node, fx.Node] = {}
        last: dict[fx.Node, int] = {}
        for node in nodes:
            home[node] = home.get(_worked_on(node) or node, node)
            read = [place[user] for user in node.users]
            last[home[node]] = max([last.get(home[node], 0), place[node], *read])
        owner = owners(coupling)
        self._storages = [
            self._storage(node, owner, place[node], last[node]) for node in nodes if home[node] is node
        ]
        self._places = sorted({storage.born for storage in self._storages})

    def _storage(self, node: fx.Node, owner: Ints, born: int, dies: int) -> Storage:
        shape = shape_of(node)
        factors = [f for f in self._coupling.ties.values.get(node, []) if 0 not in f.dims]
        covered = {dim for factor in factors for dim in factor.dims}
        elements = float(np.prod([size for dim, size in enumerate(shape) if dim and dim not in covered]))
        forms = tuple(form_of(self._coupling, owner, factor.ids.ravel()) for factor in factors)
        return Storage(elements, forms, born, dies)

    def peak(self, widths: Mapping[str, int]) -> float:
        """Elements that are alive at once at most, per image, at these widths of all groups."""
        sizes = self._sizes(widths)
        return max(
            (
                sum(size for size, s in zip(sizes, self._storages, strict=True) if s.born <= place <= s.dies)
                for place in self._places
            ),
            default=0.0,
        )

    def total(self, widths: Mapping[str, int]) -> float:
        """Elements of all of them together, per image: what a run back needs is kept until it comes."""
        return sum(self._sizes(widths))

    def _sizes(self, widths: Mapping[str, int]) -> list[float]:
        return [
            storage.elements * float(np.prod([form.size(dict(widths)) for form in storage.forms]))
            for storage in self._storages
        ]


def _is_activation(node: fx.Node) -> bool:
    return node.op in ("placeholder", "call_function") and hasattr(node.meta.get("val"), "shape")


def _worked_on(node: fx.Node) -> fx.Node | None:
    """The tensor whose place a node's result takes; None: it needs memory of its own."""
    read = [argument for argument in node.all_input_nodes if _is_activation(argument)]
    if len(read) != 1 or len(read[0].users) != 1 or read[0].op == "placeholder":
        return None
    if any(argument.op == "get_attr" and len(shape_of(argument)) > 1 for argument in node.all_input_nodes):
        return None  # a convolution or a product of matrices
    same = int(np.prod(shape_of(read[0])[1:])) == int(np.prod(shape_of(node)[1:]))
    return read[0] if same else None
