"""`edgeprune build`: every room in its order, each stage's record kept and reused while it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.torch import load_file, save
from torch import nn

from edgeprune import calibration, channels, gate, measure, report, runtime, tasks
from edgeprune.config import BuildConfig
from edgeprune.data_files import data_folder
from edgeprune.errors import JournalError
from edgeprune.pipeline import sharing, telling
from edgeprune.pipeline.deploying import deploy
from edgeprune.pipeline.digests import LIBRARIES, digest, images_digest, network_digest, versions
from edgeprune.pipeline.inputs import Inputs, data_source
from edgeprune.pipeline.kept import keep_settings, walk_inputs
from edgeprune.pipeline.options import Images, Journey, Labelled, PruneOptions, asked_options
from edgeprune.pipeline.pruning import Analysed, Found, analyse, find_units, run
from edgeprune.pipeline.saving import PrunedModel, make_pruned
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import (
    Accuracy,
    Budget,
    Export,
    InputSpec,
    Ints,
    Layout,
    Measurement,
    Pruning,
    Report,
    Split,
    Step,
)
from edgeprune.runfolder import Journal, RunFolder, file_digest, write_atomically

PARITY_IMAGES = 8
PROGRESS_EVERY = 8
DEVICE_IMAGES = 128
"""Each batch is a conversation with the device."""
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
        with build.opened, sharing.leading(build.crew):
            return build.report()


class Build:
    """One build under way. Heavy things are made when a stage that cannot be reused asks for them."""

    def __init__(self, inputs: Inputs, folder: RunFolder, watcher: Watcher) -> None:
        self.config = inputs.config
        self.target = inputs.target
        self.loaded = inputs.loaded
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
        )

    # what stages work on, made once when asked for ----------------------------------------------------

    @cached_property
    def spec(self) -> InputSpec:
        return calibration.input_spec(self.data)

    @cached_property
    def analysed(self) -> Analysed:
        return analyse(self.loaded.module, self.spec)

    @cached_property
    def pruned(self) -> PrunedModel:
        return make_pruned(self.analysed, self.found)

    @cached_property
    def found(self) -> Found:
        """The walk's record, with the new weights that it left in the run folder."""
        pruning = self.pruning
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
            validation=self.labelled(Split.VALIDATION) if self.data.samples[Split.VALIDATION] else None,
        )

    def labelled(self, split: Split, count: int | None = None) -> Labelled:
        labels = self.labels(split)[:count]
        return Labelled(images=calibration.images(self.data, split, range(len(labels))), labels=labels)

    def labels(self, split: Split) -> Ints:
        return np.array([sample.label for sample in self.data.samples[split]], dtype=np.int64)

    # stages -------------------------------------------------------------------------------------------

    @cached_property
    def pruning(self) -> Pruning:
        inputs = walk_inputs(self)
        journal = self.folder.journal("walk", Step, inputs)

        def make() -> Pruning:
            try:
                found = self._walk(journal)
            except JournalError:  # float rounding of another machine: the steps are of no use here
                journal.clear()
                found = self._walk(journal)
            if not found.weights:
                return found.pruning
            contents = {name: tensor.contiguous() for name, tensor in found.weights.items()}
            write_atomically(self.folder.path / WEIGHTS, save(contents))
            return replace(found.pruning, files=(WEIGHTS,))

        return self._stage("walk", Pruning, inputs, make, files=lambda made: made.files)

    def _walk(self, journal: Journal[Step]) -> Found:
        recorded = journal.read()
        sharing.call(self.crew, recorded)
        pending = iter(recorded)

        def on_step(step: Step, settled: int, units: int, param_ratio: float) -> None:
            if next(pending, None) is None:
                journal.append(step)
            detail = f"{param_ratio:.1%} of parameters removed, worst z {step.worst_z:+.2f}"
            self.watcher.progress("walk", settled, units, detail)

        journey = replace(self.journey, recorded=recorded, on_step=on_step, crew=self.crew)
        return find_units(self.analysed, self.images, self.options, journey)

    @property
    def journey(self) -> Journey:
        """What every analysis takes along."""
        return Journey(
            on_progress=lambda name, done, total: self.watcher.progress(name, done, total, ""),
            memory_limit=self.config.memory_limit,
        )

    @cached_property
    def options(self) -> PruneOptions:
        return asked_options(self.config, align=self.target.align)

    @cached_property
    def model_digest(self) -> str:
        return network_digest(self.loaded.module, self.loaded.digest)

    @cached_property
    def exports(self) -> dict[str, Export]:
        dense = {
            "model": self.model_digest,
            "spec": repr(self.spec),
            "settings": digest(self.export_settings),
        }
        pruned = {**dense, "plan": digest({g: list(u) for g, u in self.pruning.plan.removed.items()})}
        if self.pruning.files:
            pruned["weights"] = file_digest(self.folder.path / WEIGHTS)
        return {"dense": self._export("dense", dense), "pruned": self._export("pruned", pruned)}

    @property
    def export_settings(self) -> dict[str, object]:
        return {
            "runtime": self.target.runtime,
            "simplify": self.config.simplify,
            "parity": images_digest(self.data, Split.CALIBRATION),
            "libraries": self.versions,
        }

    def _export(self, name: str, inputs: Mapping[str, str]) -> Export:
        def make() -> Export:
            module: nn.Module = self.loaded.module if name == "dense" else self.pruned.module
            notes: tuple[str, ...] = ()
            saved: tuple[Path, ...] = ()
            reference = None
            if name == "pruned":
                saved = self.pruned.save(self.folder.path / "pruned")
                reference = self._masked_logits()
                if not self.pruned.own_class:
                    notes = (f"deployed from the traced graph: {self.pruned.reason}",)
            return deploy(
                name,
                module,
                self.spec,
                root=self.folder.path,
                runtime_name=self.target.runtime,
                threads=self.target.threads,
                simplify=self.config.simplify,
                images=self.sample.images,
                masked=reference,
                saved=saved,
                notes=notes,
            )

        return self._stage(f"export-{name}", Export, inputs, make, files=lambda made: made.files)

    def _masked_logits(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """The dense network with the units masked: what cutting them out must agree with."""
        masked = channels.masked(self.analysed.coupling, self.pruning.plan.removed, self.found.weights)
        return run(masked, self.sample.images, batch=self.analysed.traced.batch)

    @cached_property
    def accuracies(self) -> dict[str, Accuracy]:
        return {name: self._accuracy(name, export) for name, export in self.exports.items()}

    def _accuracy(self, name: str, export: Export) -> Accuracy:
        labels = self.labels(Split.EVALUATION)

        def make() -> Accuracy:
            path = self.folder.path / export.artifact.path
            predict = self.place.predictor(path) or runtime.load(
                path, runtime=self.target.runtime, threads=self.target.threads
            )
            size = DEVICE_IMAGES if self.target.host else PROGRESS_EVERY
            predictions: list[int] = []
            for images, _ in calibration.batches(self.data, Split.EVALUATION, size=size):
                predictions += predict(images).argmax(axis=1).tolist()
                self.watcher.progress(
                    f"accuracy {name}", len(predictions), len(labels), "images on the target's runtime"
                )
            return tasks.accuracy(np.array(predictions, dtype=np.int64), labels, len(self.data.classes))

        inputs = {
            "artifact": export.artifact.digest,
            "data": images_digest(self.data, Split.EVALUATION),
            "runtime": self._runtime_digest,
        }
        return self._stage(f"accuracy-{name}", Accuracy, inputs, make)

    @cached_property
    def measurement(self) -> Measurement:
        artifacts = {name: self.folder.path / export.artifact.path for name, export in self.exports.items()}
        inputs = {name: export.artifact.digest for name, export in self.exports.items()}
        inputs |= {"machine": self._machine_digest, "runtime": self._runtime_digest}
        inputs |= {"settings": digest({"processes": self.config.processes, "operators": True})}

        def make() -> Measurement:
            found = measure.measure(
                artifacts,
                runtime=self.target.runtime,
                threads=self.target.threads,
                image=self.sample.images[0],
                processes=self.config.processes,
                operators=True,
                on_progress=lambda done, total: self.watcher.progress(
                    "measure", done, total, "fresh processes"
                ),
                **self.place.options(),
            )
            return self.place.noted(found)

        return self._stage("measure", Measurement, inputs, make)

    @cached_property
    def versions(self) -> dict[str, str]:
        return {**versions(LIBRARIES), **runtime.versions(self.target.runtime)}

    @cached_property
    def _runtime_digest(self) -> str:
        versions = runtime.versions(self.target.runtime)
        target = {"threads": self.target.threads, "runtime": self.target.runtime, "host": self.target.host}
        return digest({**target, **versions})

    @property
    def _machine_digest(self) -> str:
        """A device is known by its name: a build that needs nothing from it does not connect."""
        return digest({"host": self.target.host} if self.target.host else measure.describe_machine())

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """How ONNX Runtime lays the networks out on this machine's CPU; a device may differ."""
        if self.target.runtime != "onnxruntime" or self.target.host:
            return {}
        files = {name: self.folder.path / export.artifact.path for name, export in self.exports.items()}
        return {name: runtime.layout(file) for name, file in files.items()}

    def report(self) -> Report:
        """Run all stages and write the report."""
        artifacts = {name: export.artifact for name, export in self.exports.items()}
        before, after = (
            np.array(self.accuracies[n].predictions, dtype=np.int64) for n in ("dense", "pruned")
        )
        change = tasks.accuracy_change(before, after, self.labels(Split.EVALUATION))
        verdict = gate.judge(
            self.budget,
            artifacts=artifacts,
            accuracy_change=change,
            measurement=self.measurement,
            accuracy=self.accuracies,
            classes=self.data.classes,
            layouts=self.layouts,
            data_digest=self.data.digest,
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
        )
        result = telling.with_course(self, result)
        report.write(result, self.folder.path)
        return result

    def _stage(
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
