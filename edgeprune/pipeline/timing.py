"""How long networks take on the target before anything is deployed: measured, or predicted."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgeprune import compensate, measure
from edgeprune.config import BuildConfig
from edgeprune.pipeline.building import Build
from edgeprune.pipeline.deploying import deploy, onnx_options
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.ledger import Removed
from edgeprune.pipeline.searching import latency_model
from edgeprune.pipeline.study import Study, Weights
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import Interval, LatencyModel
from edgeprune.runfolder import RunFolder
from edgeprune.scratch import scratch

PROCESSES, RUNS, SECONDS = 3, 50, 2.0
"""Fresh processes of one measurement, and of each the runs and seconds at least and at most."""


class Stopwatch:
    """Times networks as files of the target's runtime, interleaved with the dense one in fresh processes.

    Args:
        build: Whose network, images and target these are; it must be open.
        folder: Where the files may lie.
    """

    def __init__(self, build: Build, folder: Path) -> None:
        self.build, self.folder = build, folder
        self.dense = self._file("dense", build.analysed.traced.graph_module)

    def time(self, study: Study, removed: Removed, weights: Weights, fit: compensate.Refit) -> Interval:
        """Latency of the dense network without these units over its own."""
        if not any(removed.values()):
            return Interval(value=1.0, low=1.0, high=1.0)  # the same file
        pruned = self._file("pruned", study.without(removed, weights, fit))
        target = self.build.target
        found = measure.measure(
            {"dense": self.dense, "pruned": pruned},
            runtime=target.runtime,
            threads=target.threads,
            image=self.build.sample.images[0],
            processes=PROCESSES,
            min_runs=RUNS,
            max_seconds=SECONDS,
            **self.build.place.options(),
        )
        return found.ratio

    def _file(self, name: str, module: nn.Module) -> Path:
        target = self.build.target
        export = deploy(
            name,
            module,
            self.build.spec,
            root=self.folder,
            runtime_name=target.runtime,
            threads=target.threads,
            simplify=self.build.config.simplify,
            options=onnx_options(self.build),
            fp16=self.build.config.fp16 and name != "dense",
            images=self.build.sample.images,
            masked=None,
            saved=(),
            notes=(),
        )
        return self.folder / export.artifact.path


def model_of(config: BuildConfig, *, watcher: Watcher | None = None) -> LatencyModel:
    """The latency model of a network on a target, without a run folder of its own; see `targets show`.

    Raises:
        EdgepruneError: as `build`.
    """
    inputs = Inputs.load(config)
    with scratch() as place, RunFolder.open(Path(place)) as folder:
        build = Build(inputs, folder, watcher or Silence())
        with build.opened:
            return latency_model(build)
