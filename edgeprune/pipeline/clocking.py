"""The final measurement of a build: all variants, interleaved in fresh processes on the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune import gate, measure
from edgeprune.pipeline.digests import digest
from edgeprune.records import Figure, Measurement

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which hands itself over

STAGE = "measure"
LONGER = 3
"""How many times the processes are taken where the first ones leave a limit on a time open."""
BY_INTERVAL = (Figure.LATENCY_P50, Figure.LATENCY_P90)


def final_measurement(build: Build) -> Measurement:
    """The stage's record; measured again, at greater length, where a limit lies inside the interval."""
    inputs = {name: export.artifact.digest for name, export in build.exports.items()}
    inputs |= {"machine": build.machine_digest, "runtime": build.runtime_digest}
    settings: dict[str, object] = {"processes": build.config.processes, "operators": True}
    if times := [repr(limit) for limit in gate.limits(build.budget) if limit.figure in BY_INTERVAL]:
        settings["limits"] = times
    inputs["settings"] = digest(settings)

    def make() -> Measurement:
        found = _measured(build, build.config.processes)
        if gate.leaves_open(build.budget, found, deployed=build.deployed):
            return _measured(build, LONGER * build.config.processes)
        return found

    return build.stage(STAGE, Measurement, inputs, make)


def _measured(build: Build, processes: int) -> Measurement:
    found = measure.measure(
        {name: build.folder.path / export.artifact.path for name, export in build.exports.items()},
        runtime=build.target.runtime,
        threads=build.target.threads,
        image=build.sample.images[0],
        processes=processes,
        operators=True,
        on_progress=lambda done, total: build.watcher.progress(STAGE, done, total, "fresh processes"),
        **build.place.options(),
    )
    return build.place.noted(found)
