"""The name of a task -> the task."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from edgeprune import calibration, tasks, zoo
from edgeprune.config import BuildConfig
from edgeprune.data_files import data_folder
from edgeprune.errors import ModelError
from edgeprune.records import Kind

KINDS: dict[str, Kind] = {"classification": "classes", "segmentation": "masks", "detection": "boxes"}
"""Task -> what its images are labelled with."""
OWN = "python:"


def kind_of(task: str) -> Kind:
    """What the images of a task are labelled with; a task of the user's own takes what an .npz holds."""
    return "values" if task.startswith(OWN) else KINDS[task]


def task_settings(name: str) -> dict[str, object]:
    """What a walk depends on besides the options: the task, and the code of the user's own."""
    if name == "classification":
        return {}
    own = inspect.getmodule(zoo.find_function(name)) if name.startswith(OWN) else None
    code = "" if own is None else inspect.getsource(own)
    return {"task": name, "code": code}


def guess_task(config: BuildConfig) -> str:
    """The task that a network and its images are for, as far as they say so."""
    if config.data is not None and not config.data.startswith("torchvision:"):
        kind = calibration.guess_kind(config.data, (Path("calibration"), data_folder("calibration")))
        found = next((task for task, known in KINDS.items() if known == kind), None)
        if found is not None and kind != "classes":
            return found
    return zoo.task_of(config.model) or "classification"


def make_task(name: str, classes: Sequence[str], finish: zoo.Finish | None = None) -> tasks.Task:
    """What the network is for.

    Args:
        name: One of `config.TASKS`, or python:file.py:function.
        classes: Of the data.
        finish: Of a detector: its post-processing.

    Raises:
        ModelError: the network is none for this task.
    """
    if name.startswith(OWN):
        function = zoo.find_function(name)
        return tasks.Own(function, name, metric=getattr(function, "metric", "mean score"))
    match name:
        case "segmentation":
            return tasks.Segmentation(len(classes))
        case "detection":
            if finish is None:
                raise ModelError(
                    "task = detection: the network says nothing about boxes; give one of torchvision's "
                    "one-stage detectors, or a module with a method `detections(outputs)`."
                )
            return tasks.Detection(len(classes), finish)
        case _:
            return tasks.Classification()
