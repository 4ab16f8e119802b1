"""Curves: accuracy over the share of parameters removed, for several methods on the same units and images."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeprune import measure, tasks
from edgeprune.config import METHODS, OWN_METHOD, WALKS, BuildConfig
from edgeprune.errors import ConfigError
from edgeprune.pipeline import ranked
from edgeprune.pipeline.building import Build
from edgeprune.pipeline.digests import analysis_digest, digest, images_digest
from edgeprune.pipeline.finalists import Finalists, fitted
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.journaling import journaled
from edgeprune.pipeline.kept import settings_digest
from edgeprune.pipeline.options import Images, Journey, Labelled, PruneOptions
from edgeprune.pipeline.pruning import Analysed, make_study, walk
from edgeprune.pipeline.study import Study
from edgeprune.pipeline.timing import Stopwatch
from edgeprune.pipeline.trajectory import taken, within
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import Curve, CurvePoint, Labels, Split, Step
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


@dataclass(frozen=True, slots=True)
class Swept:
    """A walk as far as the largest share that a sweep asks for."""

    steps: tuple[Step, ...]


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
        journey: What every analysis takes along.
        watcher: Sees the progress.
    """

    analysed: Analysed
    images: Images
    evaluation: Labelled
    ratios: Sequence[float]
    base: PruneOptions
    stopwatch: Stopwatch | None = None
    journey: Journey = dataclass_field(default_factory=Journey)
    watcher: Watcher = dataclass_field(default_factory=Silence)


Keep = Callable[[Callable[[Journey], Swept]], Swept]
"""Walks, or gives what an earlier sweep kept of the same walk."""


def curve(field: Field, method: Method, keep: Keep | None = None) -> Curve:
    """One walk or ranking up to the largest ratio; every prefix of it compensated and evaluated.

    Of `c-swap-c` each point is the better of two finalists (finalists.py), as of `prune` to this share.

    Args:
        field: What it competes on.
        method: Whose curve.
        keep: Keeps walks; None: this one is walked and forgotten.
    """
    options = method.options(field.base, max(field.ratios))
    study = make_study(field.analysed, field.images, options, field.journey)
    first = _first(study, field, keep or (lambda make: make(field.journey)))
    finalists = Finalists(study, max(field.ratios))
    points, answers = [], [study.answers(field.evaluation, study.program.dense)]
    for number, ratio in enumerate(field.ratios):
        best = finalists.best(fitted(study, first(ratio)), ratio)
        param_ratio, mac_ratio = study.ledger.ratios(best.removed)
        watch = field.stopwatch
        timed = None if watch is None else watch.time(study, best.removed, best.weights, best.fit)
        points.append(
            CurvePoint(
                asked=ratio,
                param_ratio=param_ratio,
                mac_ratio=mac_ratio,
                latency_ratio=timed,
            )
        )
        answers.append(study.answers(field.evaluation, best.weights))
        field.watcher.progress(f"{method.label}: points", number + 1, len(field.ratios), "")
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


def _first(study: Study, field: Field, keep: Keep) -> Callable[[float], dict[str, tuple[int, ...]]]:
    """How much of the method's order stays within a share of the parameters."""
    module = field.analysed.module
    if study.options.method in WALKS:
        swept = keep(lambda journey: Swept(tuple(walk(study, module, journey).steps)))
        return partial(within, study, taken(swept.steps))
    return partial(ranked.prefix, study, ranked.rank(study, ranked.scores(study, module)))


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
            return Field(
                analysed=build.analysed,
                images=build.images,
                evaluation=evaluation,
                ratios=ratios,
                base=build.options,
                stopwatch=stopwatch,
                journey=build.journey,
                watcher=watcher,
            )

        def keep(text: str, make: Callable[[Journey], Swept]) -> Swept:
            """What shares are asked for matters only by the largest: others need no new walk."""
            name = f"walk-{file_name(text)}"
            inputs = {
                **{key: digests[key] for key in ("model", "data", "libraries")},
                "settings": settings_digest(build, method=text, ratio=max(ratios)),
            }
            journal = folder.journal(name, Step, inputs)

            def walked() -> Swept:
                return journaled(journal, field().journey, make, watcher, name)

            return folder.reuse_or_make(name, Swept, inputs, walked)[0]

        def make(text: str) -> Curve:
            method = asked[text]
            if method is None:
                return others[text](field())
            return curve(field(), method, partial(keep, text))

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
