"""How good the deployed files are: their answers on the target's runtime, and the task's metric."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeprune import calibration, runtime, tasks
from edgeprune.records import Accuracy, AccuracyChange, Split
from edgeprune.runfolder import write_atomically

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which asks for what is made here

PROGRESS_EVERY = 8
DEVICE_IMAGES = 128
"""Each batch is a conversation with the device."""


def evaluate(build: Build, name: str) -> Accuracy:
    """Run a deployed file on all evaluation images.

    Answers that are more than a class go into a file of the run folder, which the record names.
    """
    answers, truth = run(build, path_of(build, name), Split.EVALUATION, f"accuracy {name}")
    found = build.task.accuracy(answers, truth, len(build.data.classes))
    if found.predictions:
        return found
    content, file = BytesIO(), f"answers-{name}.npz"
    np.savez_compressed(content, answers=answers, truth=truth)
    write_atomically(build.folder.path / file, content.getvalue())
    return replace(found, files=(file,))


def run(build: Build, path: Path, split: Split, what: str) -> tuple[tasks.Kept, tasks.Kept]:
    """What a file answers to the images of a split, and what the metric needs of their labels."""
    predict, total = predictor(build, path), len(build.data.samples[split])
    size = DEVICE_IMAGES if build.target.host else PROGRESS_EVERY
    answers, truth, done = [], [], 0
    for images, labels in calibration.batches(build.data, split, size=size):
        answers.append(build.task.answers(build.task.kept(predict(images), labels)))
        truth.append(build.task.truth(labels))
        done += len(images)
        build.watcher.progress(what, done, total, "images on the target's runtime")
    return np.concatenate(answers), np.concatenate(truth)


def path_of(build: Build, name: str) -> Path:
    """The deployed file of a variant."""
    return build.folder.path / build.exports[name].artifact.path


def predictor(build: Build, path: Path) -> runtime.Predict:
    """A deployed file, ready to answer where it will run."""
    return build.place.predictor(path) or runtime.load(
        path, runtime=build.target.runtime, threads=build.target.threads
    )


def changes(build: Build) -> dict[str, dict[str, AccuracyChange]]:
    """How accuracy changed to each variant from each earlier one, on the same images."""
    answers = {name: _answers(build, name) for name in build.accuracies}
    names = list(answers)
    return {
        later: {
            earlier: build.task.change(answers[earlier][0], *answers[later]) for earlier in names[:number]
        }
        for number, later in enumerate(names)
        if number
    }


def _answers(build: Build, name: str) -> tuple[tasks.Kept, tasks.Kept]:
    """What a file answered to the evaluation images, and what the metric needs of their labels."""
    found = build.accuracies[name]
    if not found.files:
        truth = build.task.truth(calibration.labels(build.data, Split.EVALUATION))
        return np.array(found.predictions, dtype=np.int64), truth
    with np.load(build.folder.path / found.files[0]) as arrays:
        return arrays["answers"], arrays["truth"]
