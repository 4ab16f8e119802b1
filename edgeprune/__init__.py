"""edgeprune: a pretrained vision network -> a smaller one on a CPU, with a measured report.

The rooms, in the order in which a build passes them (`pipeline` is the only one that knows two of them):

    cli           words in, one call, words out
    config        edgeprune.toml + flags -> BuildConfig
    target        targets/*.toml -> Target
    zoo           name or file -> trained module
    calibration   images and labels in three disjoint splits -> network inputs
    channels      module -> channel groups, by ties over torch.export
    causal        which units are not needed: C-SWAP
    compensate    what survivors take over of the units removed; no gradients, no labels
    criteria      rival measures of a unit, and the walk's order
    latency       profiles of a few widths -> how long any others take
    knapsack      which groups give up how many units for a budget
    tasks         scores and accuracy
    surgery       module + units -> smaller module
    export        module -> ONNX -> OpenVINO, other forms, and how far they agree
    quantize      ONNX -> 8 bits, with the accuracy under control
    runtime       a deployed file -> predictions
    measure       time and memory, in fresh processes
    gate          budgets + figures -> verdict
    report        report.json, report.html, report.md
    runfolder     records on disk: cache, resume, provenance
    records       what passes between rooms
    budgets       a limit as users write it -> a limit
    copying       deep copies of networks
    memory        what an analysis may keep
    disk          room for what a build writes
    scratch       temporary files, and the end of what a kill leaves
    quantities    "12ms", "5MB" -> numbers
    data_files    where the target profiles and data descriptions that ship with edgeprune lie
    example       the network that ships with edgeprune
    errors        what can go wrong

In Python: `edgeprune.build(edgeprune.make_config({...}))` for the whole way to a report, and
`edgeprune.prune(model, (images, labels))` for a smaller module in a notebook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.config import BuildConfig, make_config
    from edgeprune.pipeline import PrunedModel, PruneOptions, build, load, prune
    from edgeprune.pipeline.sweeping import sweep
    from edgeprune.records import Report

_HOMES = {
    "BuildConfig": "edgeprune.config",
    "make_config": "edgeprune.config",
    "PruneOptions": "edgeprune.pipeline",
    "PrunedModel": "edgeprune.pipeline",
    "build": "edgeprune.pipeline",
    "load": "edgeprune.pipeline",
    "prune": "edgeprune.pipeline",
    "sweep": "edgeprune.pipeline.sweeping",
    "Report": "edgeprune.records",
}

__all__ = [
    "BuildConfig",
    "PruneOptions",
    "PrunedModel",
    "Report",
    "build",
    "load",
    "make_config",
    "prune",
    "sweep",
]


def __getattr__(name: str) -> object:
    """The public names, loaded when asked for: `import edgeprune` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
