"""No deployed network may be slower than the dense one: where it was measured to be, units are given back.

A width between two blocks of the runtime's kernels can cost more than the whole block, and so can what lies
between layers of such widths. The plan goes back to wider steps, the most valuable units first, and is
measured again; where no step helps, nothing is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.errors import RunFolderError
from edgeprune.pipeline.digests import digest
from edgeprune.pipeline.kept import keep_weights
from edgeprune.pipeline.pruning import Found, found_without, make_study
from edgeprune.pipeline.trajectory import taken, whole_steps
from edgeprune.records import Measurement, Pruning
from edgeprune.runfolder import read_stage

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which hands itself over

STAGE, WEIGHTS = "widths", "widths.safetensors"
WIDEST_STEP = 64
REMADE = ("settled", "found", "pruned", "exports", "accuracies", "measurement", "layouts")
"""What of a build follows from its plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The plan to deploy, and the step of its widths."""

    step: int
    pruning: Pruning


def is_slower(pruning: Pruning, measured: Measurement) -> bool:
    """Whether a network that lost units is slower than the dense one beyond doubt."""
    return any(pruning.plan.removed.values()) and measured.ratio.low > 1


def settled(build: Build) -> Settled:
    """The walk's plan, or what an earlier build on this machine had to make of it."""
    plain = Settled(step=build.target.align, pruning=build.walked)
    try:
        found, inputs = read_stage(build.folder.path, STAGE, Settled)
    except RunFolderError:
        return plain
    whole = all((build.folder.path / name).is_file() for name in found.pruning.files)
    same = all(inputs.get(name) == value for name, value in _inputs(build).items())
    return found if whole and same else plain


def widen_(build: Build) -> None:
    """Give units back until every width is a multiple of twice the step, and forget what followed from it."""
    walked, step = build.walked, 2 * build.settled.step
    slower = f"narrower steps of the widths made it slower than dense ({build.measurement.ratio.value:.2f}x)"

    def make() -> Settled:
        found = at_step(build, walked, step)
        kept = f"multiples of {step}" if any(found.pruning.plan.removed.values()) else "as they were"
        pruning = keep_weights(found, build.folder.path / WEIGHTS)
        notes = (*walked.notes, f"widths are {kept}: {slower}")
        return Settled(step=step, pruning=replace(pruning, notes=notes))

    inputs = {**_inputs(build), "step": str(step)}
    build.stage(STAGE, Settled, inputs, make, files=lambda made: made.pruning.files)
    for name in REMADE:
        build.__dict__.pop(name, None)


def at_step(build: Build, walked: Pruning, step: int) -> Found:
    """The walk's plan with the units that whole steps leave, compensated and refitted."""
    study = make_study(build.analysed, build.images, replace(build.options, align=step), build.journey)
    order = order_of(walked) if step <= WIDEST_STEP else []
    removed = whole_steps(study, order)
    why = f"{walked.trajectory.stopped}; widths are multiples of {step}"
    return found_without(study, walked, removed, why)


def order_of(walked: Pruning) -> Sequence[tuple[str, int]]:
    """The units of a plan, those that can best be spared first, where its walk tells."""
    if walked.trajectory.steps:
        return taken(walked.trajectory.steps)
    return [(name, unit) for name, units in walked.plan.removed.items() for unit in units]


def _inputs(build: Build) -> dict[str, str]:
    """What the widths depend on, the step apart."""
    plan = {name: list(units) for name, units in build.walked.plan.removed.items()}
    return {"plan": digest(plan), "machine": build.machine_digest, "runtime": build.runtime_digest}
