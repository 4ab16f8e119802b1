"""Which channel groups give up how many units: the least damage that saves as much as the budgets ask for.

max Σ value·keep subject to A·keep ≤ budgets (resource-aware pruning, Ramhorst 2023), as an integer program:
each group stands on one rung of its ladder, a rung being a width with what the units below it did for the
network and what leaving them out saves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from edgeprune.records import Doubles, Ints

TIME_LIMIT_SECONDS = 20.0
GAP = 1e-3
"""How far from the optimum an answer may be, relative to it."""
FINE_GAP = 1e-6
"""The same beside damages that nobody knows, which are large."""
TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The widths that a group may be cut to, from its present one down."""

    group: str
    damages: tuple[float, ...]
    """Of each rung: what it costs to come down to it from the present width; infinite where nobody knows."""
    savings: Mapping[str, tuple[float, ...]]
    """Resource -> what each rung saves against the present width."""


def choose(
    ladders: Sequence[Ladder], needs: Mapping[str, float], caps: Mapping[str, float] | None = None
) -> dict[str, int] | None:
    """The rungs with the least damage that save what is needed: group -> rungs down (1: the first).

    Args:
        ladders: One a group; groups that stay as they are do not appear in the answer.
        needs: Resource -> least sum of savings.
        caps: Resource -> largest sum of savings.

    Returns None where all rungs together do not save enough (or a cap forbids it).
    """
    places = [(number, rung) for number, ladder in enumerate(ladders) for rung in range(len(ladder.damages))]
    if all(need <= 0 for need in needs.values()):
        return {}
    if not places:
        return None
    found_damages = np.array([ladders[number].damages[rung] for number, rung in places])
    damages = _known(found_damages, np.array([rung for _, rung in places]))
    gap = GAP if np.isfinite(found_damages).all() else FINE_GAP
    constraints = [_one_rung_each(places, len(ladders))]
    for resource, bounds in _bounds(needs, caps or {}).items():
        row = np.array([ladders[number].savings[resource][rung] for number, rung in places])
        scale = max(float(np.abs(row).max()), TINY)
        low, high = (bound / scale for bound in bounds)
        constraints.append(LinearConstraint(csr_array(row[None] / scale), low, high))
    found = milp(
        damages / max(float(damages.mean()), TINY),
        integrality=np.ones(len(places)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": TIME_LIMIT_SECONDS, "mip_rel_gap": gap},
    )
    if found.x is None:
        return None
    return {
        ladders[number].group: rung + 1
        for (number, rung), taken in zip(places, found.x, strict=True)
        if taken > 0.5  # noqa: PLR2004 - a rounded 0 or 1
    }


def _known(damages: Doubles, rungs: Ints) -> Doubles:
    """Where nobody knows what a rung costs: as much as all that is known, and more than the rung before."""
    known = np.isfinite(damages)
    return np.where(known, damages, (float(damages[known].sum()) or 1.0) * (1 + rungs))


def _one_rung_each(places: Sequence[tuple[int, int]], count: int) -> LinearConstraint:
    rows = [number for number, _ in places]
    table = csr_array((np.ones(len(places)), (rows, range(len(places)))), shape=(count, len(places)))
    return LinearConstraint(table, 0, 1)


def _bounds(needs: Mapping[str, float], caps: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    return {
        resource: (needs.get(resource, -np.inf), caps.get(resource, np.inf)) for resource in {**needs, **caps}
    }
