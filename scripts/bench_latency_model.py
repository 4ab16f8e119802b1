#!/usr/bin/env python
"""How well the latency model predicts networks that it has not seen, on each runtime.

    scripts/bench_latency_model.py --networks cifar_resnet20,mobilenet_v2,squeezenet1_0 --variants 5

Each network is exported at random widths (whole steps); the model is fitted on five of them and the dense
network, and predicts the others, which are measured in the same process, in turn. Weights do not matter for
times, so none are needed. `--page docs/latency-model.md` writes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.records import LatencyModel

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

NETWORKS = "cifar_resnet20,mobilenet_v2,squeezenet1_0"
FITTED = 5
TEST_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network on one runtime."""

    network: str
    runtime: str
    step: int
    dense_ms: float
    measured_ms: list[float]
    predicted_ms: list[float]

    @property
    def errors(self) -> list[float]:
        pairs = zip(self.predicted_ms, self.measured_ms, strict=True)
        return [abs(predicted - measured) / measured for predicted, measured in pairs]


def module_of(name: str):
    """A network without its weights: one of tests/nets.py, or torchvision's."""
    import torchvision

    from tests import nets

    made = getattr(nets, name, None) or getattr(torchvision.models, name)
    return made().eval(), 32 if name.startswith("cifar") else 224


def rows(name: str, runtimes: list[str], variants: int) -> list[Row]:
    """Export a network's variants once, and measure them on every runtime."""
    import numpy as np

    from edgeprune import causal, channels, latency, measure
    from edgeprune.export import for_runtime
    from edgeprune.pipeline.inputs import cpu_step
    from edgeprune.pipeline.modelling import export_variant
    from edgeprune.pipeline.pruning import analyse
    from edgeprune.records import InputSpec, Target

    module, side = module_of(name)
    analysed = analyse(module, InputSpec(shape=(3, side, side)))
    groups = analysed.coupling.groups
    units = {group.name: group.units for group in groups}
    forms = channels.width_forms(analysed.coupling)
    image = np.random.default_rng(0).random((3, side, side), dtype=np.float32)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        exported: dict[int, list[Path]] = {}
        for runtime in runtimes:
            step = cpu_step(Target(name=runtime, runtime=runtime))
            steps = {group.name: causal.aligned_step(group, step) for group in groups}
            widths = [
                units,
                *latency.variants(units, steps=steps, count=FITTED),
                *latency.variants(units, steps=steps, count=variants, seed=TEST_SEED),
            ]
            if step not in exported:
                exported[step] = [
                    export_variant(analysed, each, Path(folder, f"{step}-{number}.onnx"))
                    for number, each in enumerate(widths)
                ]
            files = [for_runtime(path, runtime) for path in exported[step]]
            profiles = measure.profile(files, runtime=runtime, threads=1, image=image, max_seconds=30.0)
            seen = 1 + FITTED
            setting = latency.Setting(runtime=runtime, threads=1, step=step)
            model: LatencyModel = latency.fit(forms, widths[:seen], profiles[:seen], setting=setting)
            row = Row(
                network=name,
                runtime=runtime,
                step=step,
                dense_ms=model.dense_ms,
                measured_ms=[profile.latency_ms for profile in profiles[seen:]],
                predicted_ms=[float(ms) for ms in latency.predict(model, widths[seen:])],
            )
            print(
                f"{name:16} {runtime:12} step {step:2}  dense {row.dense_ms:8.3f} ms  "
                f"median error {100 * median(row.errors):.1f} %  largest {100 * max(row.errors):.1f} %",
                flush=True,
            )
            found.append(row)
    return found


def table(found: list[Row]) -> str:
    """The page: one line for each network and runtime, and the medians."""
    lines = [
        "# Latency model: predicted against measured",
        "",
        "Each line: networks at random widths (whole steps) that the model has not seen; it was fitted on",
        f"{FITTED} others and the dense network. End-to-end process CPU time of one inference, batch 1, one",
        "thread, in turn in one process. Error: |predicted - measured| / measured.",
        "",
        "| network | runtime | step | dense ms | measured ms | predicted ms | median error | largest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        measured = " ".join(f"{ms:.3g}" for ms in row.measured_ms)
        predicted = " ".join(f"{ms:.3g}" for ms in row.predicted_ms)
        errors = f"{100 * median(row.errors):.1f} % | {100 * max(row.errors):.1f} %"
        cells = (row.network, row.runtime, str(row.step), f"{row.dense_ms:.3g}", measured, predicted, errors)
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for runtime in dict.fromkeys(row.runtime for row in found):
        errors = [error for row in found if row.runtime == runtime for error in row.errors]
        lines.append(f"- {runtime}: median error {100 * median(errors):.1f} % over {len(errors)} networks.")
    from edgeprune import measure

    cpu = measure.describe_machine()["cpu"]
    lines += ["", f"Written by `scripts/bench_latency_model.py`. {cpu}, {platform.machine()}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--runtimes", default="onnxruntime,openvino")
    parser.add_argument("--variants", type=int, default=5, help="unseen networks of each")
    parser.add_argument("--json", type=Path, help="figures of earlier runs are kept there")
    parser.add_argument("--page", type=Path, help="like docs/latency-model.md")
    args = parser.parse_args()

    found: dict[str, Row] = {}
    if args.json and args.json.is_file():
        found = {key: Row(**row) for key, row in json.loads(args.json.read_text()).items()}
    for name in args.networks.split(","):
        runtimes = [r for r in args.runtimes.split(",") if f"{name} {r}" not in found]
        for row in rows(name, runtimes, args.variants) if runtimes else []:
            found[f"{row.network} {row.runtime}"] = row
        if args.json:
            args.json.write_text(json.dumps({key: vars(row) for key, row in found.items()}, indent=1))
    if args.page:
        args.page.write_text(table(list(found.values())))


if __name__ == "__main__":
    main()
