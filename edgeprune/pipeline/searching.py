"""What a build's search for a budget needs: the dense network measured, and a model of its latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import latency, measure
from edgeprune.config import BuildConfig
from edgeprune.errors import ConfigError
from edgeprune.pipeline.budgeting import Budgeted, Dense, Deployer
from edgeprune.pipeline.digests import digest
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.modelling import VARIANTS, cached_model, make_model, model_inputs
from edgeprune.pipeline.options import Journey
from edgeprune.pipeline.sharing import Alone
from edgeprune.pipeline.study import Study, Walked
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import Basis, Figure, Forecast, LatencyModel, Measurement
from edgeprune.runfolder import RunFolder
from edgeprune.scratch import scratch

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which hands itself over

PROCESSES = 3
MODEL_STAGE = "latency-model"
CLOCKED = (Figure.LATENCY_P50, Figure.PEAK_MEMORY)
"""Figures that only a measurement tells."""


class Searching:
    """The search of one build."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.limits = build.options.limits

    @cached_property
    def is_asked(self) -> bool:
        """Whether there is one: for a budget below what the dense network takes, or for accuracy alone."""
        return self.build.options.searches and (not self.limits or bool(self.dense.shares(self.limits)))

    @property
    def inputs(self) -> dict[str, str]:
        """Digests of what it depends on besides a walk's inputs: the budgets, and the target."""
        if not self.is_asked:
            return {}
        build = self.build
        limits = digest({"limits": [asdict(limit) for limit in self.limits]})
        return {"budget": limits, "machine": build.machine_digest, "runtime": build.runtime_digest}

    def make(self) -> Callable[[Study, Journey], Walked] | None:
        """The search itself; None where the method's own end is what is wanted."""
        build = self.build
        if not self.is_asked:
            return None
        if not isinstance(build.crew, Alone):
            raise ConfigError("a budget is searched for by one process; start edgeprune without torchrun.")
        shares = self.dense.shares(self.limits)
        deployer = Deployer(
            analysed=build.analysed,
            target=build.target,
            dense=self.dense,
            image=build.sample.images[0],
            place=build.place,
            timed="latency" in shares or "memory" in shares,
        )
        model = latency_model(build) if not shares or "latency" in shares else None
        return Budgeted(shares=shares, model=model, deployer=deployer).walk

    @cached_property
    def dense(self) -> Dense:
        """The dense network as deployed, measured where a limit is on what only that tells."""
        artifact = self.build.dense_export.artifact
        clocked = any(
            (limit.figure in CLOCKED and limit.basis is Basis.ABSOLUTE) or limit.figure is Figure.PEAK_MEMORY
            for limit in self.limits
        )
        measured = dense_measurement(self.build) if clocked else None
        return Dense(file=self.build.folder.path / artifact.path, artifact=artifact, measured=measured)

    @cached_property
    def forecast(self) -> Forecast | None:
        """The latency model's word on the deployed network, where there is a model."""
        build = self.build
        made = (build.folder.path / "stages" / f"{MODEL_STAGE}.json").is_file()
        if not made or not self.is_asked:
            return None
        model = latency_model(build)
        widths = {width.group: width.after for width in build.pruning.widths}
        pruned, dense = latency.predict(model, [widths, model.dense])
        return Forecast(
            predicted_ratio=float(pruned / dense),
            measured_ratio=build.measurement.ratio.value,
            error=model.error,
            sweep=model.sweep,
        )


def dense_measurement(build: Build) -> Measurement:
    """The dense network alone, to turn limits into shares of what it takes."""
    artifact = build.dense_export.artifact
    inputs = {"dense": artifact.digest, "machine": build.machine_digest, "runtime": build.runtime_digest}

    def make() -> Measurement:
        return measure.measure(
            {"dense": build.folder.path / artifact.path},
            runtime=build.target.runtime,
            threads=build.target.threads,
            image=build.sample.images[0],
            processes=PROCESSES,
            on_progress=lambda done, total: build.watcher.progress("measure dense", done, total, ""),
            **build.place.options(),
        )

    return build.stage("measure-dense", Measurement, inputs, make)


def latency_model(build: Build) -> LatencyModel:
    """The model of the network on its target, from the run folder, the user's cache, or made now."""
    inputs = model_inputs(
        build.model_digest, build.spec.shape, build.target, build.machine_digest, build.versions
    )
    inputs["settings"] = digest({"variants": VARIANTS})

    def watch(done: int, total: int) -> None:
        build.watcher.progress("latency model", done, total, "variants exported")

    def fresh() -> LatencyModel:
        image = build.sample.images[0]
        return make_model(build.analysed, build.target, image, build.place, on_progress=watch)

    return build.stage(MODEL_STAGE, LatencyModel, inputs, lambda: cached_model(inputs, fresh)[0])


def model_of(config: BuildConfig, *, watcher: Watcher | None = None) -> LatencyModel:
    """The latency model of a network on a target, without a run folder of its own; see `targets show`.

    Raises:
        EdgepruneError: as `build`.
    """
    from edgeprune.pipeline.building import Build

    inputs = Inputs.load(config)
    with scratch() as place, RunFolder.open(Path(place)) as folder:
        build = Build(inputs, folder, watcher or Silence())
        with build.opened:
            return latency_model(build)
