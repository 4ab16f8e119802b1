"""What the report tells besides the stages: notes, provenance, the trajectory's course, changed images."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import calibration, tasks, zoo
from edgeprune.pipeline import picturing
from edgeprune.pipeline.components import components
from edgeprune.pipeline.digests import digest
from edgeprune.pipeline.kept import walk_inputs
from edgeprune.pipeline.options import Labelled
from edgeprune.pipeline.pruning import make_study, run
from edgeprune.pipeline.trajectory import taken, within
from edgeprune.records import (
    Accuracy,
    Candidate,
    ChangedImage,
    Floats,
    Measurement,
    Provenance,
    Report,
    Split,
)

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which asks for what is made here

STAGE = "course"
SHARES = (0.25, 0.5, 0.75)
"""Of what the walk removed: where the trajectory is looked at between dense and chosen."""
MOST_CHANGED = 12
SECOND_STAGE = (
    "the detector's second stage follows the file, in Python and as it was: accuracy is that of both, "
    "latency, memory and size are those of the file."
)


def notes(build: Build) -> tuple[str, ...]:
    """What the rooms had to say, each thing once."""
    exported = [note for export in build.exports.values() for note in export.notes]
    forecast = build.searching.forecast
    searched = [build.searching.note or "", forecast.sentence if forecast else ""]
    behind = [SECOND_STAGE] if zoo.has_second_stage(build.network) else []
    found = [
        *build.loaded.notes,
        *build.data.notes,
        *build.pruning.notes,
        *exported,
        *searched,
        *behind,
    ]
    return tuple(dict.fromkeys(note for note in found if note))


def provenance(build: Build) -> Provenance:
    """Enough to make the report again."""
    return Provenance(
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        versions=build.versions,
        model=build.loaded.description,
        model_digest=build.loaded.digest,
        data=build.data.name,
        data_digest=build.data.digest,
        config_digest=digest(build.config.model_dump(mode="json", exclude={"out"})),
        started=build.started,
        seconds=dict(build.folder.seconds),
        components=components(),
    )


def with_course(build: Build, report: Report) -> Report:
    """A report with the networks along its trajectory, and images that its networks answer differently."""
    found = changed_images(build, report.accuracy, report.deployed)
    pictures = picturing.pictured(build, report.deployed)
    return replace(report, candidates=candidates(build), changed=found, pictured=pictures)


def candidates(build: Build) -> tuple[Candidate, ...]:
    """The dense network, a few along the trajectory, each compensated as the method says, and the chosen one.

    Judged on validation images where there are any: the evaluation images are kept for the end.
    """
    inputs = {**walk_inputs(build), "plan": digest(asdict(build.pruning.plan))}

    def make() -> tuple[Candidate, ...]:
        return tuple(_candidates(build))

    found, reused = build.folder.reuse_or_make(STAGE, tuple[Candidate, ...], inputs, make)
    build.watcher.stage(STAGE, reused=reused, seconds=build.folder.seconds[STAGE])
    return _timed(found, build.measurement)


def _candidates(build: Build) -> list[Candidate]:
    split, seen = build.images.judged_by
    task, truth = build.task, build.task.truth(seen.labels)

    def answers(outputs: Floats) -> tasks.Kept:
        return task.answers(task.kept(outputs, seen.labels))

    def candidate(ratios: tuple[float, float], answers: tasks.Kept, *, chosen: bool = False) -> Candidate:
        return Candidate(
            param_ratio=ratios[0],
            mac_ratio=ratios[1],
            accuracy=build.task.accuracy(answers, truth, len(build.data.classes)).top1,
            images=len(seen.labels),
            split=split.value,
            chosen=chosen,
        )

    plan = build.pruning.plan
    first = candidate((0.0, 0.0), answers(build.analysed.logits(seen.images)))
    last = candidate(
        (plan.param_ratio, plan.mac_ratio),
        answers(run(build.pruned.module, seen.images, batch=build.analysed.traced.batch)),
        chosen=True,
    )
    return [first, *(candidate(*between) for between in _between(build, seen)), last]


def _between(build: Build, seen: Labelled) -> list[tuple[tuple[float, float], tasks.Kept]]:
    """Ratios and answers of networks between dense and chosen; none where the method has no trajectory."""
    order = taken(build.pruning.trajectory.steps)
    if not order:
        return []
    study = make_study(build.analysed, build.images, build.options, build.journey)
    found: dict[tuple[float, float], tasks.Kept] = {}
    for done, share in enumerate(SHARES, start=1):
        removed = within(study, order, share * build.pruning.plan.param_ratio)
        ratios = study.ledger.ratios(removed)
        if removed and ratios not in found:
            weights, _ = study.compensated(removed)
            found[ratios] = study.answers(seen, weights)
        build.watcher.progress(STAGE, done, len(SHARES), "networks along the trajectory")
    return list(found.items())


def _timed(found: Sequence[Candidate], measurement: Measurement) -> tuple[Candidate, ...]:
    """With the latency of the two that were measured."""
    times = {0: measurement.latency.get("dense"), len(found) - 1: measurement.latency.get("pruned")}
    return tuple(
        replace(candidate, latency_ms=time.p50_ms.value, measured=True)
        if (time := times.get(place)) is not None
        else candidate
        for place, candidate in enumerate(found)
    )


def changed_images(build: Build, accuracy: Mapping[str, Accuracy], deployed: str) -> tuple[ChangedImage, ...]:
    """A few images that dense and deployed answer differently, as small pictures: lost ones first."""
    samples = build.data.samples[Split.EVALUATION]
    before, after = (accuracy[name].predictions for name in ("dense", deployed))
    if not before or not after:
        return ()
    labels = [sample.label for sample in samples]
    chosen = choose_changed(labels, before, after)
    if not chosen:
        return ()
    pictures = calibration.thumbnails(build.data, Split.EVALUATION, chosen)
    return tuple(
        ChangedImage(
            number=number,
            label=labels[number],
            dense=before[number],
            deployed=after[number],
            picture=picture,
        )
        for number, picture in zip(chosen, pictures, strict=True)
    )


def choose_changed(labels: Sequence[int], before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Numbers of changed images: lost, gained, then wrong both times; of each kind, classes in turn."""
    kinds: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for number, (label, a, b) in enumerate(zip(labels, before, after, strict=True)):
        if a != b:
            kinds[0 if a == label else 1 if b == label else 2].append(number)
    lost, gained, other = (_in_turn(kinds[kind], labels) for kind in (0, 1, 2))
    some_gained = gained[: max(MOST_CHANGED // 3, MOST_CHANGED - len(lost))]
    some_lost = lost[: MOST_CHANGED - len(some_gained)]
    return [*some_lost, *some_gained, *other][:MOST_CHANGED]


def _in_turn(numbers: Sequence[int], labels: Sequence[int]) -> list[int]:
    """One of each class, then the second of each, and so on."""
    turns: dict[int, int] = {}
    ranked = []
    for number in numbers:
        turn = turns[labels[number]] = turns.get(labels[number], 0) + 1
        ranked.append((turn, labels[number], number))
    return [number for _, _, number in sorted(ranked)]
