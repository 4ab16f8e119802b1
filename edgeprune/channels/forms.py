"""How the axes of a network's tensors change with the widths of its channel groups."""

from __future__ import annotations

from itertools import chain

import numpy as np

from edgeprune.channels.groups import Coupling
from edgeprune.records import Ints, WidthForm


def width_forms(coupling: Coupling) -> tuple[WidthForm, ...]:
    """Every way in which the size of some axis (parameter or activation) depends on widths, each once."""
    owner = owners(coupling)
    found: dict[tuple[int, tuple[tuple[str, float], ...]], WidthForm] = {}
    for ids in _axes(coupling, owner):
        form = form_of(coupling, owner, ids)
        if form.copies:
            found[form.constant, tuple(form.copies.items())] = form
    return tuple(found.values())


def owners(coupling: Coupling) -> Ints:
    """Per set of tied identities, the number of the group that it is a unit of, or -1."""
    owner = np.full(int(coupling.component.max(initial=-1)) + 1, -1, dtype=np.int64)
    for number, group in enumerate(coupling.groups):
        owner[coupling.members[group.name]] = number
    return owner


def form_of(coupling: Coupling, owner: Ints, ids: Ints) -> WidthForm:
    """How many of these identities stay at which widths.

    Args:
        coupling: The channel groups.
        owner: From `owners`.
        ids: Identities along an axis, shape (n,).
    """
    mine = owner[coupling.component[ids]]
    counts = np.bincount(mine[mine >= 0], minlength=len(coupling.groups))
    copies = {
        group.name: int(count) / group.units
        for group, count in zip(coupling.groups, counts, strict=True)
        if count
    }
    return WidthForm(constant=int((mine < 0).sum()), copies=copies)


def _axes(coupling: Coupling, owner: Ints) -> list[Ints]:
    """Identities along every axis; of a joint factor, the axes that get shorter when units leave."""
    ties = coupling.ties
    factors = chain(
        chain.from_iterable(ties.values.values()),
        chain.from_iterable(chain.from_iterable(ties.outputs.values())),
    )
    lines = list(ties.axes.values())
    for factor in factors:
        if factor.ids.ndim > 1:
            along = (_first_line(factor.ids, axis) for axis in range(factor.ids.ndim))
            lines += [line for line in along if _follows(coupling, owner, line)]
        lines.append(factor.ids.ravel())
    return lines


def _follows(coupling: Coupling, owner: Ints, line: Ints) -> bool:
    """Whether all units of the groups on the line lie there, and as often: else another axis gets shorter."""
    component = coupling.component[line]
    times = np.bincount(component, minlength=len(owner))
    groups = [coupling.groups[number] for number in np.unique(owner[component]) if number >= 0]
    return all(len(np.unique(times[coupling.members[group.name]])) == 1 for group in groups)


def _first_line(ids: Ints, axis: int) -> Ints:
    return np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)[:, 0]
