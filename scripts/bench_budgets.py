#!/usr/bin/env python
"""Networks that a budget asked for, against other prunings of the same network that take as long.

    scripts/bench_budgets.py ../shared/data --networks resnet20,resnet56 --page docs/found.md

For each network `--speedup 1.3` and `--max-accuracy-drop 1` are built. The rivals (every group cut by the
same share, and global orders, without compensation) are cut until the latency model says that they are as
fast, Torch-Pruning's networks (scripts/requirements-bench.txt) until a measurement says so, never faster;
then all are measured in turn. Accuracy: the evaluation images. Resumable.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

BUDGETS: dict[str, dict[str, float]] = {
    "--speedup 1.3": {"speedup": 1.3},
    "--max-accuracy-drop 1": {"max_accuracy_drop": 1.0},
}
RIVALS = {
    "uniform, magnitude-l2": {"method": "magnitude-l2", "allocation": "uniform"},
    "global, taylor": {"method": "taylor", "allocation": "global"},
    "global, magnitude-l2": {"method": "magnitude-l2", "allocation": "global"},
}
"""Without compensation, and BatchNorm as it was."""
PEERS = ("tp-magnitude", "tp-taylor", "tp-lamp", "tp-bn-scale")
"""Torch-Pruning's global orders, widths in the target's steps, as they come."""
HALVINGS = 7


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network of one size."""

    network: str
    runtime: str
    budget: str
    method: str
    ratio: float
    """Latency over the dense network's, as measured."""
    param_ratio: float
    top1: float
    drop: float
    verdict: str = ""


def rows(name: str, runtime: str, budget: str, args: argparse.Namespace) -> list[Row]:
    """Build for a budget, cut the rivals to the same latency, and measure all of them in turn."""
    from bench_methods import settings_of

    from edgeprune.config import make_config
    from edgeprune.pipeline.building import Build
    from edgeprune.pipeline.inputs import Inputs
    from edgeprune.pipeline.watching import Silence
    from edgeprune.runfolder import RunFolder

    place = args.out / f"{name}-{runtime}-{next(iter(BUDGETS[budget]))}"
    settings = {**settings_of(name, args.data, args.out, 8), **BUDGETS[budget]}
    settings |= {"out": place, "target": runtime, "processes": 3, "align": None}
    config = make_config(settings)
    with RunFolder.open(config.out) as folder:
        build = Build(Inputs.load(config), folder, Silence())
        with build.opened:
            report = build.report()
            dense, ours = (report.accuracy[which].top1.value for which in ("dense", "pruned"))
            plans: dict[str, Mapping[str, tuple[int, ...]]] = {"c-swap-c": report.plan.removed}
            accuracies = {"c-swap-c": ours}
            for label, options in RIVALS.items():
                plans[label], accuracies[label] = rival(build, options)
            with tempfile.TemporaryDirectory() as files_of:
                files = {label: exported(build, plan, files_of) for label, plan in plans.items()}
                shares = {label: params(build, removed) for label, removed in plans.items()}
                for label in PEERS:
                    files[label], shares[label], accuracies[label] = peer(build, label, files["c-swap-c"])
                ratios = measured(build, [exported(build, {}, files_of), *files.values()])
    return [
        Row(
            network=name,
            runtime=runtime,
            budget=budget,
            method=label,
            ratio=ratio,
            param_ratio=param_ratio,
            top1=accuracies[label],
            drop=dense - accuracies[label],
            verdict=report.verdict.outcome.value if label == "c-swap-c" else "",
        )
        for (label, param_ratio), ratio in zip(shares.items(), ratios, strict=True)
    ]


def rival(build, changes):  # type: ignore[no-untyped-def]
    """A rival's plan that the model says takes as long as ours or a little longer, and its accuracy."""
    from edgeprune import latency
    from edgeprune.pipeline import ranked
    from edgeprune.pipeline.pruning import make_study
    from edgeprune.pipeline.searching import latency_model
    from edgeprune.records import Split

    model = latency_model(build)
    ours = {width.group: width.after for width in build.pruning.widths}
    goal = latency.predict(model, [ours])[0]
    options = replace(build.options, **changes, compensate="none", max_accuracy_drop=None, limits=())
    study = make_study(build.analysed, build.images, options)
    pieces = ranked.rank(study, ranked.scores(study, build.loaded.module))
    plans = [ranked.joined(pieces[:count]) for count in range(len(pieces) + 1)]
    widths = [
        {name: size - len(plan.get(name, ())) for name, size in study.ledger.sizes.items()} for plan in plans
    ]
    slower = [number for number, ms in enumerate(latency.predict(model, widths)) if ms >= goal]
    plan = plans[slower[-1]]
    weights, _ = study.compensated(plan)
    return plan, study.value(build.labelled(Split.EVALUATION), weights)


def params(build, removed) -> float:  # type: ignore[no-untyped-def]
    from edgeprune.pipeline.ledger import Ledger

    return Ledger(build.analysed.coupling).param_ratio(removed)


def exported(build, removed, folder) -> Path:  # type: ignore[no-untyped-def]
    """The file of a network without these units, for the target's runtime."""
    from edgeprune.export import for_runtime
    from edgeprune.pipeline.modelling import export_variant

    sizes = {group.name: group.units for group in build.analysed.coupling.groups}
    widths = {name: size - len(removed.get(name, ())) for name, size in sizes.items()}
    number = len(list(Path(folder).glob("*.onnx")))
    return for_runtime(
        export_variant(build.analysed, widths, Path(folder, f"{number}.onnx")), build.target.runtime
    )


def peer(build, name, ours):  # type: ignore[no-untyped-def]
    """Torch-Pruning's smallest network that takes as long as ours or longer, its size and its accuracy."""
    from bench_peers import answers, torch_pruning

    from edgeprune import export
    from edgeprune.export import for_runtime
    from edgeprune.records import Split

    field = SimpleNamespace(analysed=build.analysed, images=build.images)
    maker, _ = torch_pruning(field, name, "", round_to=build.target.align)  # type: ignore[arg-type]
    low, high, best = 0.0, 1.0, maker(0.0)
    folder = ours.parent
    kept = exported(build, {}, folder)
    for step in range(HALVINGS):
        middle = (low + high) / 2
        network, removed = maker(middle)
        path = folder / f"{name}-{step}.onnx"
        export.to_onnx(network.eval(), build.spec, path)
        path = for_runtime(path, build.target.runtime)
        if measured(build, [ours, path])[0] >= 1:
            low, best, kept = middle, (network, removed), path
        else:
            high = middle
    task, seen = build.images.task, build.labelled(Split.EVALUATION)
    return kept, best[1], task.value(answers(best[0], task, seen), seen.labels)


def measured(build, files) -> list[float]:  # type: ignore[no-untyped-def]
    """Latencies over the first file's, all in turn in one process."""
    from edgeprune import measure

    found = measure.profile(
        files, runtime=build.target.runtime, threads=1, image=build.sample.images[0], max_seconds=30.0
    )
    return [each.latency_ms / found[0].latency_ms for each in found[1:]]


def table(found: list[Row]) -> str:
    """The page."""
    from edgeprune import measure

    lines = [
        "# Budgets: what was found, against other prunings that take as long",
        "",
        "Latency over the dense network's: process CPU time, one thread, all networks in turn in one",
        "process. Rivals are cut in the same steps of the width until the latency model (Torch-Pruning's,",
        "`tp-`: a measurement) says that they are as fast, never faster; no compensation. Accuracy:",
        "evaluation images, which nothing else has seen.",
        "",
        "| network | runtime | budget | method | latency | parameters removed | top-1 | drop | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        method = f"**{row.method}**" if row.verdict else row.method
        cells = (f"{row.ratio:.3f}", f"{row.param_ratio:.1%}", f"{row.top1:.2%}", f"{100 * row.drop:+.2f}")
        words = (row.network, row.runtime, f"`{row.budget}`", method, *cells, row.verdict)
        lines.append(f"| {' | '.join(words)} |")
    cpu = measure.describe_machine()["cpu"]
    return "\n".join([*lines, "", f"Written by `scripts/bench_budgets.py`. {cpu}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--networks", default="resnet20,resnet56")
    parser.add_argument("--runtimes", default="openvino")
    parser.add_argument("--budgets", default=",".join(BUDGETS))
    parser.add_argument("--out", type=Path, default=Path("bench-budgets"))
    parser.add_argument("--page", type=Path, help="like docs/found.md")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "budgets.json"
    found = [Row(**row) for row in json.loads(file.read_text())] if file.is_file() else []
    done = {(row.network, row.runtime, row.budget) for row in found}
    for name in args.networks.split(","):
        for runtime in args.runtimes.split(","):
            for budget in args.budgets.split(","):
                if (name, runtime, budget) not in done:
                    found += rows(name, runtime, budget, args)
                    file.write_text(json.dumps([vars(row) for row in found], indent=1))
                    for row in found[-1 - len(RIVALS) - len(PEERS) :]:
                        print(row, flush=True)
    if args.page:
        args.page.write_text(table(found))


if __name__ == "__main__":
    main()
