"""The latency model of a network on its target: variants exported, profiled where they run, and fitted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edgeprune import causal, channels, export, latency, measure
from edgeprune.pipeline.digests import digest
from edgeprune.pipeline.pruning import Analysed
from edgeprune.records import Floats, LatencyModel, Target
from edgeprune.runfolder import write_atomically
from edgeprune.scratch import scratch

VARIANTS = 5
CACHE = "latency"
FORMAT = 2
"""Of the models: another one, and those that are kept are made anew."""


def make_model(
    analysed: Analysed,
    target: Target,
    image: Floats,
    place: measure.Place,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyModel:
    """Profile the network at a few widths on its target, and fit the model.

    Args:
        analysed: The network.
        target: Runtime, threads and the step of widths.
        image: What the inferences read, shape (C, H, W).
        place: Where they run.
        on_progress: Called with the variants exported and their number.
    """
    units = {group.name: group.units for group in analysed.coupling.groups}
    steps = {g.name: causal.aligned_step(g, target.align) for g in analysed.coupling.groups}
    widths = [units, *latency.variants(units, steps=steps, count=VARIANTS)]
    with scratch() as folder:
        files = []
        for number, chosen in enumerate(widths):
            path = export_variant(analysed, chosen, Path(folder, f"variant{number}.onnx"))
            files.append(export.for_runtime(path, target.runtime))
            on_progress(number + 1, len(widths))
        profiles = measure.profile(
            files, runtime=target.runtime, threads=target.threads, image=image, **place.options()
        )
    setting = latency.Setting(runtime=target.runtime, threads=target.threads, step=target.align)
    return latency.fit(channels.width_forms(analysed.coupling), widths, profiles, setting=setting)


def export_variant(analysed: Analysed, widths: Mapping[str, int], path: Path) -> Path:
    """Write the network at these widths of its groups; which units stay does not matter for its time."""
    groups = analysed.coupling.groups
    removed = {group.name: tuple(range(group.units - widths[group.name])) for group in groups}
    export.to_onnx(channels.cut(analysed.coupling, removed), analysed.traced.spec, path)
    return path


def cached_model(inputs: Mapping[str, str], make: Callable[[], LatencyModel]) -> tuple[LatencyModel, Path]:
    """The model for these digests from the user's cache, else made and put there; and its file.

    A cache that cannot be read or written is done without.
    """
    path = cache_folder() / f"{digest(inputs)[:32]}.json"
    adapter = TypeAdapter(LatencyModel)
    try:
        return adapter.validate_json(path.read_bytes()), path
    except (OSError, ValidationError):
        made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, adapter.dump_json(made))
    except OSError:
        pass
    return made, path


def cache_folder() -> Path:
    """Where models of latency are kept for all runs of this user."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "edgeprune" / CACHE


def model_inputs(
    network: str, shape: tuple[int, ...], target: Target, machine: str, versions: Mapping[str, str]
) -> dict[str, str]:
    """What a latency model depends on, by name."""
    facts = {name: asdict(target)[name] for name in ("runtime", "threads", "align", "host")}
    return {
        "network": network,
        "shape": str(shape),
        "target": digest(facts),
        "machine": machine,
        "libraries": digest(dict(versions)),
        "settings": digest({"variants": VARIANTS, "format": FORMAT}),
    }
