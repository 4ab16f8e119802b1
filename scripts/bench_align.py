#!/usr/bin/env python
"""Whole networks at widths of whole steps: one walk's plan at steps 1, 4, 8 and 16, timed on each runtime.

    scripts/bench_align.py ../shared/data --networks resnet20,mobilenet_v2 --page docs/align.md

One walk a network, unit by unit (step 1), up to a share of the parameters; its order of units is then cut at
the same share for every step, so that the networks differ in their widths alone. Dense and all of them are
timed in turn in one process (CPU time). Needs the weights and images of the test data; resumable.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

NETWORKS = "resnet20,squeezenet,mobilenet_v2"
STEPS = (1, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network at one step on one runtime."""

    network: str
    runtime: str
    step: int
    default: bool
    """Whether it is what a build takes here."""
    ratio: float
    """Latency over the dense network's."""
    param_ratio: float
    mac_ratio: float
    unblocked: int | None
    """Convolutions out of ONNX Runtime's blocked layout, of the dense network none."""
    reorders: int | None


def rows(name: str, args: argparse.Namespace) -> list[Row]:
    """Walk once, cut at every step, export, and time."""
    from bench_methods import settings_of

    from edgeprune.config import make_config
    from edgeprune.pipeline.building import Build
    from edgeprune.pipeline.inputs import Inputs
    from edgeprune.pipeline.pruning import make_study
    from edgeprune.pipeline.trajectory import taken, within
    from edgeprune.pipeline.watching import Silence
    from edgeprune.runfolder import RunFolder

    settings = {**settings_of(name, args.data, args.out, 1), "max_param_ratio": args.ratio}
    settings |= {"price": "macs", "samples_per_class": args.samples_per_class}
    config = make_config(settings)
    with RunFolder.open(config.out) as folder:
        build = Build(Inputs.load(config), folder, Silence())
        order = taken(build.pruning.trajectory.steps)
        plans = {}
        for step in STEPS:
            study = make_study(build.analysed, build.images, replace(build.options, align=step))
            removed = within(study, order, args.ratio)
            plans[step] = (study.ledger.plan(dict(removed)), study.ledger.sizes)
        return timed(name, build, plans)


def timed(name, build, plans) -> list[Row]:  # type: ignore[no-untyped-def]
    """Export the plans and measure them on every runtime."""
    from edgeprune import measure, runtime
    from edgeprune.export import for_runtime
    from edgeprune.pipeline.inputs import cpu_step
    from edgeprune.pipeline.modelling import export_variant
    from edgeprune.records import Target

    found = []
    with tempfile.TemporaryDirectory() as folder:
        dense = {group: size for _, sizes in plans.values() for group, size in sizes.items()}
        files = [export_variant(build.analysed, dense, Path(folder, "dense.onnx"))]
        for step, (plan, sizes) in plans.items():
            widths = {g: size - len(plan.removed.get(g, ())) for g, size in sizes.items()}
            files.append(export_variant(build.analysed, widths, Path(folder, f"{step}.onnx")))
        for which in ("onnxruntime", "openvino"):
            profiles = measure.profile(
                [for_runtime(file, which) for file in files],
                runtime=which,
                threads=1,
                image=build.sample.images[0],
                max_seconds=30.0,
            )
            default = cpu_step(Target(name=which, runtime=which))
            for number, (step, (plan, _)) in enumerate(plans.items(), start=1):
                layout = runtime.layout(files[number]) if which == "onnxruntime" else None
                row = Row(
                    network=name,
                    runtime=which,
                    step=step,
                    default=step == default,
                    ratio=profiles[number].latency_ms / profiles[0].latency_ms,
                    param_ratio=plan.param_ratio,
                    mac_ratio=plan.mac_ratio,
                    unblocked=layout.unblocked if layout else None,
                    reorders=layout.reorders if layout else None,
                )
                print(row, flush=True)
                found.append(row)
    return found


def table(found: list[Row], ratio: float) -> str:
    """The page."""
    from edgeprune import measure

    lines = [
        "# Widths of whole steps: what they are worth",
        "",
        f"The plan of one walk for each network, at most {ratio:.0%} of the parameters removed, in widths",
        "of whole steps. Latency over the dense network's: process CPU time, one thread, in turn in one",
        "process. Bold: the step that a build takes on this CPU. In brackets: convolutions that ONNX Runtime",
        "could not keep in its blocked layout, and reorders between the layouts.",
        "",
        "| network | runtime | " + " | ".join(f"step {step}" for step in STEPS) + " |",
        "|---|---" + "|---" * len(STEPS) + "|",
    ]
    keys = dict.fromkeys((row.network, row.runtime) for row in found)
    for network, which in keys:
        cells = []
        for row in found:
            if (row.network, row.runtime) == (network, which):
                ratio_ = f"**{row.ratio:.3f}**" if row.default else f"{row.ratio:.3f}"
                lint = f" ({row.unblocked}, {row.reorders})" if row.unblocked is not None else ""
                cells.append(f"{ratio_}{lint}, MACs -{row.mac_ratio:.0%}")
        lines.append(f"| {network} | {which} | " + " | ".join(cells) + " |")
    worst = max((row for row in found if row.default), key=lambda row: row.ratio, default=None)
    if worst is not None:
        lines += ["", f"Slowest at its default step: {worst.network} on {worst.runtime}, {worst.ratio:.3f}."]
    lines += ["", f"Written by `scripts/bench_align.py`. {measure.describe_machine()['cpu']}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--ratio", type=float, default=0.3, help="share of the parameters to remove")
    parser.add_argument("--samples-per-class", type=int)
    parser.add_argument("--out", type=Path, default=Path("bench-align"))
    parser.add_argument("--page", type=Path, help="like docs/align.md")
    args = parser.parse_args()

    file = args.out / "align.json"
    args.out.mkdir(parents=True, exist_ok=True)
    found = [Row(**row) for row in json.loads(file.read_text())] if file.is_file() else []
    for name in args.networks.split(","):
        if name not in {row.network for row in found}:
            found += rows(name, args)
            file.write_text(json.dumps([vars(row) for row in found], indent=1))
    if args.page:
        args.page.write_text(table(found, args.ratio))


if __name__ == "__main__":
    main()
