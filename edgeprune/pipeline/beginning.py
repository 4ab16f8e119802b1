"""A first look at a network and its images: what a build would work on, and about how long its walk takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeprune import causal, channels
from edgeprune.config import WALKS, BuildConfig
from edgeprune.pipeline.building import Build
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.pruning import doubts, make_study, too_few_to_vouch
from edgeprune.pipeline.study import Study
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import Preprocess, Split
from edgeprune.runfolder import RunFolder
from edgeprune.scratch import scratch

LOOKS = 3
"""Interventions that are timed; the shortest counts."""
GROUP_TESTS = (2, 10)
"""Interventions for each channel group that tests of many units at once take, at least and at most, about."""
SINGLE_TESTS = (0.3, 1.2)
"""Interventions for each unit that the published walk takes, about."""
CRITERION = (1.0, 10.0)
"""Looks at all images that a criterion takes, forwards or backwards, about."""
PASSES = (2, 6)
"""Passes of a compensated walk, each with a fit of all layers, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walks:
    """About how long a walk takes on this machine, from timing a few interventions."""

    look_seconds: float
    """One intervention, all its images looked at; most stop earlier."""
    fit_seconds: float
    """One fit of all layers after a pass; 0 without compensation."""
    least_seconds: float
    most_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLook:
    """What a build would work on."""

    model: str
    params: int
    input_shape: tuple[int, int, int]
    groups: int
    units: int
    frozen: dict[str, int]
    """Reason -> axes that may not be cut."""
    data: str
    classes: tuple[str, ...]
    images: dict[str, int]
    """Split -> images."""
    metric: str
    dense: float
    """Of the dense network on the calibration images, in [0, 1]."""
    preprocess: Preprocess
    notes: tuple[str, ...]
    walk: Walks


def first_look(config: BuildConfig, *, watcher: Watcher | None = None) -> FirstLook:
    """Load, trace and couple a network, list its images, and time a few interventions; writes nothing.

    Raises:
        EdgepruneError: what a build would complain about, before it takes its time.
    """
    watcher = watcher or Silence()
    inputs = Inputs.load(config)
    with scratch() as folder, RunFolder.open(Path(folder)) as opened:
        build = Build(inputs, opened, watcher)
        with build.opened:
            return _look(build)


def _look(build: Build) -> FirstLook:
    coupling = build.analysed.coupling
    study = make_study(build.analysed, build.images, build.options, build.journey)
    frozen: dict[str, int] = {}
    for axis in coupling.frozen:
        frozen[axis.reason] = frozen.get(axis.reason, 0) + 1
    return FirstLook(
        model=build.loaded.description,
        params=channels.Costs(coupling).count({})[0],
        input_shape=build.spec.shape,
        groups=len(coupling.groups),
        units=sum(group.units for group in coupling.groups),
        frozen=frozen,
        data=build.data.name,
        classes=build.data.classes,
        images={split.value: len(build.data.samples[split]) for split in Split},
        metric=study.task.metric,
        dense=study.task.value(
            study.task.answers(study.kept), study.task.truth(study.images.calibration.labels)
        ),
        preprocess=build.data.preprocess,
        notes=tuple(
            dict.fromkeys([*build.loaded.notes, *build.data.notes, *doubts(study), *too_few_to_vouch(study)])
        ),
        walk=estimate(study, build.watcher),
    )


def estimate(study: Study, watcher: Watcher) -> Walks:
    """Time a few interventions and one fit, and multiply."""
    group = max(study.groups, key=lambda group: group.units)
    step = causal.aligned_step(group, study.options.align)
    removed = {group.name: tuple(range(min(step, group.units - 1)))}
    looks = []
    for done in range(1, LOOKS + 1):
        looks.append(_seconds(lambda: study.all_scores(study.program.dense)))
        watcher.progress("timing", done, LOOKS + 1, "interventions")
    compensated = study.options.compensation != "none"
    fit = _seconds(lambda: study.compensated(removed)) if compensated else 0.0
    watcher.progress("timing", LOOKS + 1, LOOKS + 1, "one fit of all layers")
    least, most = _interventions(study)
    look = min(looks)
    return Walks(
        look_seconds=look,
        fit_seconds=fit,
        least_seconds=least * look + PASSES[0] * fit,
        most_seconds=most * look + PASSES[1] * fit,
    )


def _interventions(study: Study) -> tuple[float, float]:
    units = sum(group.units for group in study.groups)
    method = study.options.method
    if method not in WALKS:
        return CRITERION
    rates, count = (GROUP_TESTS, len(study.groups)) if method == "c-swap-c" else (SINGLE_TESTS, units)
    least, most = (rate * count for rate in rates)
    return min(least, units), min(most, 2 * units)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
