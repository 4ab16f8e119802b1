"""Curves: accuracy over the share of parameters removed, for several methods on the same units and images."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeprune import measure, tasks
from edgeprune.config import METHODS, OWN_METHOD, BuildConfig
from edgeprune.errors import ConfigError
from edgeprune.pipeline import compensated, published, ranked
from edgeprune.pipeline.building import Build
from edgeprune.pipeline.digests import analysis_digest, digest, images_digest
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.kept import settings_digest
from edgeprune.pipeline.options import Images, Labelled, PruneOptions
from edgeprune.pipeline.pruning import Analysed, make_study
from edgeprune.pipeline.study import Study
from edgeprune.pipeline.timing import Stopwatch
from edgeprune.pipeline.trajectory import taken, within
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import Curve, CurvePoint, Labels, Split
from edgeprune.runfolder import RunFolder
from edgeprune.scratch import scratch

MODES: dict[str, dict[str, Any]] = {
    "none": {"compensate": "none"},
    "mean": {"compensate": "mean"},
    "mean-bn": {"compensate": "mean", "bn_reestimate": True},
    "linear": {"compensate": "linear"},
    "shared": {"compensate": "affine", "refit": False},
    "affine": {"compensate": "affine"},
    "bn": {"compensate": "none", "bn_reestimate": True},
}
"""After a `+`: what survivors take over; `shared` is one affine map for all taps, `affine` refits as well."""

Watch = Callable[[str, int, int], None]
"""Label of the curve, points done, points."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method with its compensation, as in `lrp+affine`, `magnitude-l2+bn`, `c-swap-c`."""

    name: str
    compensate: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}+{self.compensate}" if self.compensate else self.name

    def options(self, base: PruneOptions, ratio: float) -> PruneOptions:
        asked: dict[str, Any] = {"compensate": None, "bn_reestimate": False, **MODES.get(self.compensate, {})}
        return replace(base, method=self.name, max_param_ratio=ratio, max_accuracy_drop=None, **asked)


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """What all methods of a sweep compete on.

    Attributes:
        analysed: The network.
        images: Calibration images.
        evaluation: Images that nothing else has seen.
        ratios: Shares of the parameters to remove, ascending; each point stays just below.
        base: Options that all methods share.
        stopwatch: Times every point on the target; None: no latency.
    """

    analysed: Analysed
    images: Images
    evaluation: Labelled
    ratios: Sequence[float]
    base: PruneOptions
    stopwatch: Stopwatch | None = None


def curve(field: Field, method: Method, watch: Watch = lambda label, done, points: None) -> Curve:
    """One walk or ranking up to the largest ratio; every prefix of it compensated and evaluated."""
    options = method.options(field.base, max(field.ratios))
    study = make_study(field.analysed, field.images, options)
    first = _first(study, field.analysed)
    points, answers = [], [study.answers(field.evaluation, study.program.dense)]
    for number, ratio in enumerate(field.ratios):
        removed = first(ratio)
        weights, fit = study.compensated(removed)
        param_ratio, mac_ratio = study.ledger.ratios(removed)
        watched = field.stopwatch
        points.append(
            CurvePoint(
                asked=ratio,
                param_ratio=param_ratio,
                mac_ratio=mac_ratio,
                latency_ratio=None if watched is None else watched.time(study, removed, weights, fit),
            )
        )
        answers.append(study.answers(field.evaluation, weights))
        watch(method.label, number + 1, len(field.ratios))
    return judged_curve(method.label, study.task, field.evaluation.labels, (points, answers))


def judged_curve(
    label: str,
    task: tasks.Task,
    labels: Labels,
    seen: tuple[Sequence[CurvePoint], Sequence[tasks.Kept]],
) -> Curve:
    """A curve by what the networks answered; the dense network's answers come first."""
    if not isinstance(task, tasks.Classification):
        return metric_curve(label, task, labels, seen)
    points, answers = seen
    dense, *correct = [(found == labels).tolist() for found in answers]
    judged = [replace(point, correct=tuple(right)) for point, right in zip(points, correct, strict=True)]
    return make_curve(label, dense, judged)


def make_curve(label: str, dense: Sequence[bool], points: Sequence[CurvePoint]) -> Curve:
    """A curve with its SAUCE, and the 95 % interval of that over evaluation images."""
    ratios = [0.0, *(point.param_ratio for point in points)]
    table = np.array([dense, *(point.correct for point in points)], dtype=np.float64)
    return Curve(
        label=label,
        dense=tuple(dense),
        points=tuple(points),
        sauce=tasks.sauce_interval(ratios, table),
        images=len(dense),
    )


def metric_curve(
    label: str,
    task: tasks.Task,
    labels: Labels,
    seen: tuple[Sequence[CurvePoint], Sequence[tasks.Kept]],
) -> Curve:
    """The same for a metric that is no share of images; the dense network's answers come first."""
    points, answers = seen
    draws = tasks.draw(len(labels))
    dense, *values = [task.value(found, labels) for found in answers]
    drawn = np.array([task.drawn(found, labels, draws) for found in answers])
    ratios = [0.0, *(point.param_ratio for point in points)]
    return Curve(
        label=label,
        points=tuple(replace(point, value=value) for point, value in zip(points, values, strict=True)),
        sauce=tasks.sauce_of_draws(ratios, [dense, *values], drawn),
        dense_value=dense,
        metric=task.metric,
        images=len(labels),
    )


def _first(study: Study, analysed: Analysed) -> Callable[[float], dict[str, tuple[int, ...]]]:
    """How much of the method's order stays within a share of the parameters."""
    match study.options.method:
        case "c-swap-c":
            walked = compensated.walk(study, lambda *seen: None, ())
        case "c-swap":
            walked = published.walk(study, lambda *seen: None, ())
        case _:
            pieces = ranked.rank(study, ranked.scores(study, analysed.module))
            return partial(ranked.prefix, study, pieces)
    return partial(within, study, taken(walked.steps))


def sweep(  # noqa: PLR0913 - keywords, and most have a default
    config: BuildConfig,
    methods: Sequence[str],
    ratios: Sequence[float],
    *,
    latency: bool = False,
    others: Mapping[str, Callable[[Field], Curve]] = MappingProxyType({}),
    watcher: Watcher | None = None,
) -> tuple[Curve, ...]:
    """Accuracy over the share of parameters removed, one curve a method; resumes in `config.out`.

    Args:
        config: Network, images and shared options; `out` keeps a record of each curve.
        methods: Like `c-swap-c`, `lrp`, `magnitude-l2+affine`, `taylor+bn`, `python:file.py:function+affine`.
        ratios: Shares of the parameters, in (0, 1), ascending.
        latency: Whether to time every point on the target as well, interleaved with the dense network.
        others: Names of methods that are not ours, and what draws their curves.
        watcher: Sees the progress.

    Raises:
        EdgepruneError: with one line that says what, where and what to do.
    """
    watcher = watcher or Silence()
    inputs = Inputs.load(config)
    asked = {text: None if text in others else read_method(text) for text in methods}
    with RunFolder.open(config.out) as folder, scratch() as files:
        build = Build(inputs, folder, watcher)
        digests = {
            "model": build.model_digest,
            "data": images_digest(build.data, *Split),
            "settings": settings_digest(build, ratios=list(ratios)),
            "libraries": analysis_digest(),
        }
        if latency:
            digests["latency"] = digest({"target": repr(build.target), **measure.describe_machine()})

        @cache
        def field() -> Field:
            evaluation = build.labelled(Split.EVALUATION)
            stopwatch = Stopwatch(build, Path(files)) if latency else None
            return Field(build.analysed, build.images, evaluation, ratios, build.options, stopwatch)

        def make(text: str) -> Curve:
            method = asked[text]
            if method is None:
                return others[text](field())
            return curve(
                field(), method, lambda label, done, points: watcher.progress(label, done, points, "")
            )

        curves = []
        for text in asked:
            name = f"sweep-{file_name(text)}"
            found, reused = folder.reuse_or_make(name, Curve, digests, partial(make, text))
            watcher.stage(name, reused=reused, seconds=folder.seconds[name])
            curves.append(found)
        return tuple(curves)


def read_method(text: str) -> Method:
    """`taylor+affine` -> the method and its compensation.

    Raises:
        ConfigError: there is no such method or compensation.
    """
    name, _, mode = text.partition("+") if not text.startswith(OWN_METHOD) else text.rpartition("+")
    if text.startswith(OWN_METHOD) and mode not in MODES:
        name, mode = text, ""
    if not name.startswith(OWN_METHOD):
        check_name("method", name, METHODS)
    if mode:
        check_name("compensation", mode, tuple(MODES))
    return Method(name, mode)


def file_name(method: str) -> str:
    """A method's name, fit for a file."""
    return re.sub(r"[^A-Za-z0-9+.-]+", "-", method)


def check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
        raise ConfigError(f"no {what} {name!r}; {hint}")
