"""`edgeprune build`: every room in its order, each stage's record kept and reused while it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file
from torch import nn

from edgeprune import calibration, gate, measure, report, runtime, tasks, zoo
from edgeprune.config import BuildConfig
from edgeprune.data_files import data_folder
from edgeprune.pipeline import evaluating, sharing, telling
from edgeprune.pipeline.clocking import final_measurement
from edgeprune.pipeline.deploying import make_export, onnx_options
from edgeprune.pipeline.digests import LIBRARIES, digest, images_digest, network_digest, versions
from edgeprune.pipeline.forms import with_forms
from edgeprune.pipeline.giving_back import Settled, is_slower, settled, widen_
from edgeprune.pipeline.inputs import Inputs, data_source
from edgeprune.pipeline.journaling import journaled
from edgeprune.pipeline.kept import check_groups, keep_settings, keep_weights, walk_inputs
from edgeprune.pipeline.options import Images, Journey, Labelled, PruneOptions, asked_options
from edgeprune.pipeline.pruning import Analysed, Found, analyse, find_units
from edgeprune.pipeline.quantizing import quantized, with_room_for_int8
from edgeprune.pipeline.room import check_room
from edgeprune.pipeline.saving import PrunedModel, make_pruned
from edgeprune.pipeline.searching import Searching
from edgeprune.pipeline.tasking import kind_of, make_task, task_settings
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import (
    Accuracy,
    Budget,
    Export,
    InputSpec,
    Layout,
    Measurement,
    Pruning,
    Report,
    Split,
    Step,
)
from edgeprune.runfolder import RunFolder, file_digest

PARITY_IMAGES = 8
VALIDATION_BYTES = 1e9
"""Of validation images beyond as many as there are for calibration."""
WEIGHTS = "walk.safetensors"
REPORTS = ("report.json", "report.html", "report.md")

Record = TypeVar("Record")


def build(config: BuildConfig, *, watcher: Watcher | None = None) -> Report:
    """Build, measure and report; resumes in `config.out` what an earlier build left there.

    Args:
        config: See `BuildConfig`; `edgeprune.make_config` makes one from settings.
        watcher: Sees the progress.

    Raises:
        EdgepruneError: with one line that says what, where and what to do.
    """
    inputs = Inputs.load(config)
    with RunFolder.open(config.out) as folder:
        keep_settings(config, folder.path)
        build = Build(inputs, folder, watcher or Silence())
        check_room(build)
        with build.opened, sharing.leading(build.crew):
            return build.report()


class Build:
    """One build under way. Heavy things are made when a stage that cannot be reused asks for them."""

    def __init__(self, inputs: Inputs, folder: RunFolder, watcher: Watcher) -> None:
        self.config = inputs.config
        self.target = inputs.target
        self.loaded, self.rules = inputs.loaded, inputs.rules
        self.started = inputs.started
        self.folder = folder
        self.watcher = watcher
        self.opened = ExitStack()
        self.crew = sharing.join()
        self.data = calibration.load(
            data_source(self.config, folder.path),
            overrides=self.config.preprocess,
            default=self.loaded.preprocess,
            calibration_per_class=self.config.samples_per_class,
            seed=self.config.seed,
            folders=(Path("calibration"), data_folder("calibration")),
            kind=kind_of(self.config.task),
        )

    # what stages work on, made once when asked for ----------------------------------------------------

    @cached_property
    def spec(self) -> InputSpec:
        return calibration.input_spec(self.data)

    @cached_property
    def network(self) -> nn.Module:
        """What is traced and deployed: of a detector, all but its post-processing."""
        return self._detector[0] if self.config.task == "detection" else self.loaded.module

    @cached_property
    def _detector(self) -> tuple[nn.Module, zoo.Finish]:
        return zoo.detecting(self.loaded.module, self.spec)

    @cached_property
    def task(self) -> tasks.Task:
        finish = self._detector[1] if self.config.task == "detection" else None
        return make_task(self.config.task, self.data.classes, finish)

    @cached_property
    def analysed(self) -> Analysed:
        return analyse(self.network, self.spec, self.options, self.rules)

    @cached_property
    def pruned(self) -> PrunedModel:
        return make_pruned(self.analysed, self.found)

    @cached_property
    def found(self) -> Found:
        """The walk's record, with the new weights that it left in the run folder."""
        pruning = check_groups(self, self.pruning)
        weights = [load_file(self.folder.path / name) for name in pruning.files]
        return Found(pruning, {name: value for file in weights for name, value in file.items()})

    @cached_property
    def place(self) -> measure.Place:
        """Where the network will run; a device is opened when a stage asks for it."""
        return self.opened.enter_context(measure.place(self.target, setup=self.config.setup))

    @cached_property
    def budget(self) -> Budget:
        """What was asked for; a target with a memory limit has a say too."""
        asked = self.config.budget
        return replace(asked, max_memory_bytes=asked.max_memory_bytes or self.target.memory_bytes)

    @cached_property
    def sample(self) -> Labelled:
        """Real images for parity checks and measurements."""
        return self.labelled(Split.CALIBRATION, PARITY_IMAGES)

    @property
    def images(self) -> Images:
        return Images(
            calibration=self.labelled(Split.CALIBRATION),
            names=self.data.classes,
            validation=self._validation,
            task=self.task,
        )

    @property
    def _validation(self) -> Labelled | None:
        """As many as for calibration, or as fit into `VALIDATION_BYTES`."""
        if not self.data.samples[Split.VALIDATION]:
            return None
        most = int(VALIDATION_BYTES / self.sample.images[0].nbytes)
        return self.labelled(Split.VALIDATION, max(most, len(self.data.samples[Split.CALIBRATION])))

    def labelled(self, split: Split, count: int | None = None) -> Labelled:
        images = calibration.images(self.data, split, range(len(self.data.samples[split][:count])))
        return Labelled(images=images, labels=calibration.labels(self.data, split, range(len(images))))

    # stages -------------------------------------------------------------------------------------------

    @property
    def pruning(self) -> Pruning:
        """What is deployed."""
        return self.settled.pruning

    @cached_property
    def settled(self) -> Settled:
        return settled(self)

    @cached_property
    def walked(self) -> Pruning:
        inputs = {**walk_inputs(self), **self.searching.inputs}
        journal = self.folder.journal("walk", Step, inputs)

        def walk(journey: Journey) -> Found:
            sharing.call(self.crew, journey.recorded)
            return find_units(self.analysed, self.images, self.options, journey, search=self.searching.make())

        def make() -> Pruning:
            journey = replace(self.journey, crew=self.crew)
            found = journaled(journal, journey, walk, self.watcher, "walk")
            return keep_weights(found, self.folder.path / WEIGHTS)

        return self.stage("walk", Pruning, inputs, make, files=lambda made: made.files)

    @property
    def journey(self) -> Journey:
        """What every analysis takes along."""
        return Journey(
            on_progress=lambda name, done, total: self.watcher.progress(name, done, total, ""),
            memory_limit=self.config.memory_limit,
        )

    @cached_property
    def options(self) -> PruneOptions:
        options = asked_options(self.config, align=self.target.align, budget=self.budget)
        return with_room_for_int8(self, options)

    @cached_property
    def model_digest(self) -> str:
        return network_digest(self.loaded.module, self.loaded.digest)

    @cached_property
    def dense_export(self) -> Export:
        return self._export("dense", self._export_inputs)

    @cached_property
    def exports(self) -> dict[str, Export]:
        """Every variant, the dense network first and the deployed one last."""
        plan = digest({g: list(u) for g, u in self.pruning.plan.removed.items()})
        inputs = {**self._export_inputs, "plan": plan}
        for name in self.pruning.files:
            inputs["weights"] = file_digest(self.folder.path / name)
        made = {"dense": self.dense_export, "pruned": self._export("pruned", inputs)}
        if self.config.int8:
            made |= {"int8": self.dense_int8, "pruned+int8": quantized(self, made["pruned"])}
        return made

    @cached_property
    def dense_int8(self) -> Export:
        return quantized(self, self.dense_export)

    @property
    def deployed(self) -> str:
        """The variant that the verdict is about."""
        return "pruned+int8" if self.config.int8 else "pruned"

    @property
    def _export_inputs(self) -> dict[str, str]:
        settings = digest(self.export_settings)
        return {"model": self.model_digest, "spec": repr(self.spec), "settings": settings}

    @property
    def export_settings(self) -> dict[str, object]:
        return {
            "runtime": self.target.runtime,
            "simplify": self.config.simplify,
            "fp16": self.config.fp16,
            "onnx": asdict(onnx_options(self)),
            "parity": images_digest(self.data, Split.CALIBRATION),
            "libraries": self.versions,
        }

    def _export(self, name: str, inputs: Mapping[str, str]) -> Export:
        make = partial(make_export, self, name)
        return self.stage(f"export-{name}", Export, inputs, make, files=lambda made: made.files)

    @cached_property
    def accuracies(self) -> dict[str, Accuracy]:
        return {name: self._accuracy(name, export) for name, export in self.exports.items()}

    def _accuracy(self, name: str, export: Export) -> Accuracy:
        inputs = {
            "artifact": export.artifact.digest,
            "data": images_digest(self.data, Split.EVALUATION),
            "runtime": self.runtime_digest,
        }
        if task := task_settings(self.config.task):
            inputs["task"] = digest(task)
        made = partial(evaluating.evaluate, self, name)
        return self.stage(f"accuracy-{name}", Accuracy, inputs, made, files=lambda found: found.files)

    @cached_property
    def measurement(self) -> Measurement:
        return final_measurement(self)

    @cached_property
    def versions(self) -> dict[str, str]:
        return {**versions(LIBRARIES), **runtime.versions(self.target.runtime)}

    @cached_property
    def runtime_digest(self) -> str:
        versions = runtime.versions(self.target.runtime)
        target = {"threads": self.target.threads, "runtime": self.target.runtime, "host": self.target.host}
        return digest({**target, **versions})

    @property
    def machine_digest(self) -> str:
        """A device is known by its name: a build that needs nothing from it does not connect."""
        return digest({"host": self.target.host} if self.target.host else measure.describe_machine())

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """How ONNX Runtime lays the networks out on this machine's CPU; a device may differ."""
        if self.target.runtime != "onnxruntime" or self.target.host:
            return {}
        return {name: runtime.layout(self.folder.path / e.artifact.path) for name, e in self.exports.items()}

    @cached_property
    def searching(self) -> Searching:
        return Searching(self)

    def report(self) -> Report:
        """Run all stages and write the report."""
        while is_slower(self.pruning, self.measurement):
            widen_(self)
        artifacts = {name: export.artifact for name, export in self.exports.items()}
        changed = evaluating.changes(self)
        change = changed[self.deployed]["dense"]
        verdict = gate.judge(
            self.budget,
            artifacts=artifacts,
            accuracy_change=change,
            measurement=self.measurement,
            accuracy=self.accuracies,
            classes=self.data.classes,
            layouts=self.layouts,
            data_digest=self.data.digest,
            deployed=self.deployed,
        )
        result = Report(
            schema_version=report.SCHEMA_VERSION,
            target=self.target,
            budget=self.budget,
            verdict=verdict,
            artifacts=artifacts,
            accuracy=self.accuracies,
            accuracy_change=change,
            measurement=self.measurement,
            plan=self.pruning.plan,
            widths=self.pruning.widths,
            findings=self.pruning.findings,
            trajectory=self.pruning.trajectory,
            frozen=self.pruning.frozen,
            parity=tuple(parity for export in self.exports.values() for parity in export.parity),
            classes=self.data.classes,
            splits={split.value: len(samples) for split, samples in self.data.samples.items()},
            notes=telling.notes(self),
            provenance=telling.provenance(self),
            layouts=self.layouts,
            deployed=self.deployed,
            accuracy_changes=changed if len(changed) > 1 else {},
            quantized={n: export.quantized for n, export in self.exports.items() if export.quantized},
            forecast=self.searching.forecast,
        )
        result = with_forms(self, telling.with_course(self, result))
        report.write(result, self.folder.path)
        return result

    def stage(
        self,
        name: str,
        record_type: type[Record],
        inputs: Mapping[str, str],
        make: Callable[[], Record],
        *,
        files: Callable[[Record], tuple[str, ...]] = lambda record: (),
    ) -> Record:
        def afresh() -> Record:
            for stale in REPORTS:  # an earlier build's: if this one fails, nobody shall read it as its result
                (self.folder.path / stale).unlink(missing_ok=True)
            return make()

        record, reused = self.folder.reuse_or_make(name, record_type, inputs, afresh, files=files)
        self.watcher.stage(name, reused=reused, seconds=self.folder.seconds[name])
        return record
