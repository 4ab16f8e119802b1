"""Walks whose steps are written down as they go: a killed one takes them over and goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from edgeprune.errors import JournalError
from edgeprune.pipeline.options import Journey
from edgeprune.pipeline.watching import Watcher
from edgeprune.records import Step
from edgeprune.runfolder import Journal

Walk = TypeVar("Walk")


def journaled(
    journal: Journal[Step], journey: Journey, walk: Callable[[Journey], Walk], watcher: Watcher, name: str
) -> Walk:
    """Walk, with the journal's steps taken over and new ones added to it.

    Args:
        journal: Of this walk.
        journey: What the walk takes along besides.
        walk: Does it.
        watcher: Sees the progress.
        name: What the watcher calls the walk.
    """
    try:
        return _walk(journal, journey, walk, watcher, name)
    except JournalError:  # float rounding of another machine: the steps are of no use here
        journal.clear()
        return _walk(journal, journey, walk, watcher, name)


def _walk(
    journal: Journal[Step], journey: Journey, walk: Callable[[Journey], Walk], watcher: Watcher, name: str
) -> Walk:
    recorded = journal.read()
    pending = iter(recorded)

    def on_step(step: Step, settled: int, units: int, param_ratio: float) -> None:
        if next(pending, None) is None:
            journal.append(step)
        detail = f"{param_ratio:.1%} of parameters removed, worst z {step.worst_z:+.2f}"
        watcher.progress(name, settled, units, detail)

    return walk(replace(journey, recorded=recorded, on_step=on_step))
