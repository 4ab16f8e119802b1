"""What a build's search for a budget needs: the dense network measured, and a model of its latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from edgeprune import latency, measure
from edgeprune.errors import ConfigError
from edgeprune.pipeline.budgeting import Budgeted, Dense, Deployer
from edgeprune.pipeline.digests import digest
from edgeprune.pipeline.modelling import cached_model, make_model, model_inputs
from edgeprune.pipeline.options import Journey
from edgeprune.pipeline.quantizing import in_8_bits
from edgeprune.pipeline.sharing import Alone
from edgeprune.pipeline.study import Study, Walked
from edgeprune.records import Artifact, Basis, Figure, Forecast, LatencyModel, Measurement

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which hands itself over

PROCESSES = 3
MODEL_STAGE = "latency-model"
BYTES_SPARED = 2
"""By a weight in 16 bits."""
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
        found = {"budget": limits, "machine": build.machine_digest, "runtime": build.runtime_digest}
        if self.limits and build.config.int8:
            found["int8"] = build.dense_int8.artifact.digest
        return found

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
            limits=shares,
            in_8_bits=partial(in_8_bits, build) if build.config.int8 else None,
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
        file = self.build.folder.path / artifact.path
        return Dense(file=file, artifact=artifact, measured=measured, rest=self._rest)

    @property
    def _rest(self) -> dict[str, float]:
        """Resource -> the share that fewer bits leave of what the dense network takes."""
        build, dense = self.build, self.build.dense_export.artifact
        if not build.config.int8:
            return {"size": 1 - BYTES_SPARED * dense.params / dense.size_bytes} if build.config.fp16 else {}
        rest = {"size": build.dense_int8.artifact.size_bytes / dense.size_bytes}
        if any(limit.figure in CLOCKED for limit in self.limits):
            measured = int8_measurement(build)
            rest["latency"] = measured.ratio.value
            if {"dense", "int8"} <= measured.memory.keys():
                rest["memory"] = measured.memory["int8"].peak_bytes / measured.memory["dense"].peak_bytes
        return rest

    @property
    def note(self) -> str | None:
        """What a reader should know about where the search began."""
        if not (self.build.config.int8 and self.build.options.searches and self.limits) or self.is_asked:
            return None
        if not replace(self.dense, rest={}).shares(self.limits):
            return None
        return "8 bits alone keep the budgets: channels left as far as the test on every class lets them."

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
        measured = build.measurement
        in_32_bits = measured.ratios.get("pruned", {}).get("dense", measured.ratio)
        return Forecast(
            predicted_ratio=float(pruned / dense),
            measured_ratio=in_32_bits.value,
            error=model.error,
            sweep=model.sweep,
        )


def dense_measurement(build: Build) -> Measurement:
    """The dense network alone, to turn limits into shares of what it takes."""
    return _measured(build, "measure-dense", {"dense": build.dense_export.artifact})


def int8_measurement(build: Build) -> Measurement:
    """The dense network in 8 bits beside itself: what of a budget is met without a channel less."""
    variants = {"dense": build.dense_export.artifact, "int8": build.dense_int8.artifact}
    return _measured(build, "measure-int8", variants)


def _measured(build: Build, stage: str, variants: Mapping[str, Artifact]) -> Measurement:
    inputs = {name: artifact.digest for name, artifact in variants.items()}
    inputs |= {"machine": build.machine_digest, "runtime": build.runtime_digest}

    def make() -> Measurement:
        return measure.measure(
            {name: build.folder.path / artifact.path for name, artifact in variants.items()},
            runtime=build.target.runtime,
            threads=build.target.threads,
            image=build.sample.images[0],
            processes=PROCESSES,
            on_progress=lambda done, total: build.watcher.progress(stage, done, total, ""),
            **build.place.options(),
        )

    return build.stage(stage, Measurement, inputs, make)


def latency_model(build: Build) -> LatencyModel:
    """The model of the network on its target, from the run folder, the user's cache, or made now."""
    inputs = model_inputs(
        build.model_digest, build.spec.shape, build.target, build.machine_digest, build.versions
    )

    def watch(done: int, total: int) -> None:
        build.watcher.progress("latency model", done, total, "variants exported")

    def fresh() -> LatencyModel:
        image = build.sample.images[0]
        return make_model(build.analysed, build.target, image, build.place, on_progress=watch)

    return build.stage(MODEL_STAGE, LatencyModel, inputs, lambda: cached_model(inputs, fresh)[0])
