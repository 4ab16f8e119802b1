#!/usr/bin/env python
"""Prune networks at random and write down what comes of it: docs/coverage.md, made of docs/coverage.json.

Each network runs in a process of its own, with limits on time and memory. What the JSON holds already is not
run again; `--only PATTERN ...` runs (again) what matches, `--write` makes the table and runs nothing.

Weights are random: what is checked is arithmetic, not accuracy. For random units at two ratios, the network
with these units masked is compared with the network without them; then the pruned network is exported and
compared on ONNX Runtime and on OpenVINO (files as the exporter gives them: not simplified, so that large ones
take no minutes more; with a free batch where the network traced with one). Of several outputs, all count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
ROWS, TABLE = ROOT / "docs" / "coverage.json", ROOT / "docs" / "coverage.md"
OWN = ("cifar_resnet20", "cifar_resnet56", "cifar_densenet", "cifar_vit", "ddrnet_23_slim")
KINDS = ("classification", "segmentation", "detection", "from papers (tests/nets.py)")
RATIOS = (0.5, 0.9)
TOLERANCE, PARITY = 1e-4, 1e-3
STEPS = ("trace", "couple", "oracle", "surgery", "export")
TOP_REASONS = 3
POLL_S = 1.0

Row = dict[str, Any]  # Any: JSON

# --- one network, in its own process ------------------------------------------------------------------


def networks() -> dict[str, tuple[str, int]]:
    """Name -> kind and parameters, the smallest first."""
    from torchvision import models

    found = {name: (KINDS[3], 0) for name in OWN}
    for kind, module in zip(KINDS, (models, models.segmentation, models.detection), strict=False):
        for name in models.list_models(module=module):
            found[name] = (kind, models.get_model_weights(name).DEFAULT.meta["num_params"])
    return dict(sorted(found.items(), key=lambda item: item[1][1]))


def build(name: str) -> Any:  # Any: an nn.Module
    import nets
    from torchvision import models

    from edgeprune.zoo.detection import core_of, is_detector

    if name in OWN:
        return getattr(nets, name)().eval()
    inits = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    backbone = {} if networks()[name][0] == KINDS[0] else {"weights_backbone": None}
    network = models.get_model(name, weights=None, **backbone, **inits).eval()
    return core_of(network) if is_detector(network) else network


def side_of(name: str) -> int:
    """Height and width of the image; small where the network takes any."""
    if name.startswith("cifar"):
        return 32
    sizes = {"inception_v3": 299, "ssd300_vgg16": 300, "ddrnet_23_slim": 256}
    kind = networks()[name][0]
    return sizes.get(name, {KINDS[1]: 256, KINDS[2]: 320}.get(kind, 224))


def examine(name: str) -> Row:
    """Everything the table says about one network."""
    from oracle import masked_against_cut, random_units, randomise_

    from edgeprune import surgery
    from edgeprune.channels import couple, cut, kept_indices, trace
    from edgeprune.records import InputSpec

    network, spec = build(name), InputSpec(shape=(3, side_of(name), side_of(name)))
    randomise_(network)
    clock = [time.perf_counter()]
    traced = trace(network, spec, one_tensor=False)
    clock.append(time.perf_counter())
    coupling = couple(traced)
    clock.append(time.perf_counter())
    errors = [masked_against_cut(coupling, random_units(coupling, r, seed=i)) for i, r in enumerate(RATIOS)]
    clock.append(time.perf_counter())
    removed, free_batch = random_units(coupling, RATIOS[0]), traced.batch is None
    graph, kept = cut(coupling, removed), kept_indices(coupling, removed)
    operated = surgery.operate(network, kept, graph, spec, batch=traced.batch)
    clock.append(time.perf_counter())
    row = described(coupling) | {
        "parameters": sum(p.numel() for p in network.parameters()),
        "masked_error": max(errors),
        "own_class": operated.own_class,
        "why_graph": operated.reason,
    }
    del network, traced, coupling, graph, kept  # the largest need the room
    with tempfile.TemporaryDirectory() as folder:
        row |= deploy(operated.module, spec, Path(folder), free_batch=free_batch)
    clock.append(time.perf_counter())
    row["seconds"] = {s: b - a for s, a, b in zip(STEPS, clock, clock[1:], strict=False)}
    return row


def described(coupling: Any) -> Row:  # Any: a Coupling
    """What can be cut, and what cannot and why."""
    frozen: Counter[str] = Counter()
    for axis in coupling.frozen:
        frozen[axis.reason] += axis.indices
    traced = coupling.ties.traced
    return {
        "side": traced.spec.shape[-1],
        "free_batch": traced.batch is None,
        "groups": len(coupling.groups),
        "units": sum(group.units for group in coupling.groups),
        "frozen_axes": len(coupling.frozen),
        "frozen": dict(frozen.most_common()),
        "unknown_ops": coupling.unknown_ops,
    }


def deploy(module: Any, spec: Any, folder: Path, *, free_batch: bool) -> Row:
    # Any: an nn.Module, an InputSpec
    """Largest relative difference to torch on both runtimes, or why there is none."""
    import onnxruntime
    import torch

    from edgeprune import export, runtime
    from edgeprune.errors import EdgepruneError
    from edgeprune.records import OnnxOptions

    joined, row = make_joined(module), Row()
    images = torch.randn(3, *spec.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = torch.cat([joined(image[None]) for image in images]).numpy()
    path, images = folder / "network.onnx", images.numpy()
    infinite = float("inf")
    try:
        row["notes"] = list(export.to_onnx(joined, spec, path, OnnxOptions(batch=None if free_batch else 1)))
        found = runtime.load(path, runtime="onnxruntime", threads=1)(images)
        row["onnx"] = export.parity("torch -> ONNX Runtime", expected, found, limit=infinite).error
        if free_batch:
            [found] = onnxruntime.InferenceSession(path).run(None, {export.INPUT: images})
            row["onnx_batch"] = export.parity("a batch of 3", expected, found, limit=infinite).error
        export.to_openvino(path, path.with_suffix(".xml"))
        found = runtime.load(path.with_suffix(".xml"), runtime="openvino", threads=1)(images)
        row["openvino"] = export.parity("torch -> OpenVINO", expected, found, limit=infinite).error
    except EdgepruneError as err:
        row["failed_export"] = str(err).splitlines()[0][:200]
    return row


def make_joined(module: Any) -> Any:  # Any: an nn.Module
    """All outputs of a network in one row per image."""
    import torch
    from torch import Tensor, nn
    from torch.utils._pytree import tree_leaves

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([t.flatten(1) for t in tree_leaves(self.network(x)) if isinstance(t, Tensor)], 1)

    joined = Joined()
    joined.training = False  # a graph knows no modes
    return joined


# --- all of them --------------------------------------------------------------------------------------


def run_one(name: str, *, seconds: float, gigabytes: float) -> Row:
    """A row made in a fresh process; its end by a limit is a row too."""
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | one_thread)  # noqa: S603  # ours
        peak, start, ended = 0.0, time.monotonic(), ""
        while child.poll() is None:
            with suppress(psutil.Error):
                peak = max(peak, psutil.Process(child.pid).memory_info().rss / 1e9)
            if time.monotonic() - start > seconds:
                ended = f"not finished in {seconds:.0f} s"
            if peak > gigabytes:
                ended = f"more than {gigabytes:.0f} GB of memory"
            if ended:
                child.kill()
            time.sleep(POLL_S)
        out.seek(0)
        err.seek(0)
        lines, why = out.read().decode().splitlines(), err.read().decode().strip().splitlines()
    row: Row = {"failed": ended or (why[-1][:300] if why else f"exit code {child.returncode}")}
    if child.returncode == 0 and not ended:
        row = json.loads(lines[-1])
    return row | {"peak_gb": round(peak, 2)}


def is_open(row: Row | None) -> bool:
    """Whether something of a network's row is still to be found out."""
    if row is None:
        return True
    return bool(row.get("free_batch")) and not row.keys() & {"onnx_batch", "failed_export"}


def run(names: list[str], rows: dict[str, Row], arguments: argparse.Namespace) -> None:
    """Run these networks, the results written after each."""

    lock = Lock()

    def one(name: str) -> None:
        row = run_one(name, seconds=arguments.seconds, gigabytes=arguments.gigabytes)
        with lock:
            rows[name] = row
            write(rows)
        print(name, json.dumps(row)[:200], flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(one, names))


# --- the table ----------------------------------------------------------------------------------------

STAGES = {"onnx": "fails", "onnx_batch": "", "openvino": "fails"}
HEADER = (
    *("network", "M parameters", "units", "frozen axes: reason (channels)", "masked vs removed"),
    *("own class", "ONNX Runtime", "batch of 3", "OpenVINO", "seconds", "GB"),
)


def write(rows: dict[str, Row]) -> None:
    """The JSON, and the table made of it."""
    TABLE.parent.mkdir(exist_ok=True)
    place = ROWS.with_suffix(".tmp")
    place.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
    place.replace(ROWS)
    TABLE.write_text(as_markdown(rows))


def as_markdown(rows: dict[str, Row]) -> str:
    known = networks()
    packages = ("torch", "torchvision", "onnx", "onnxruntime", "openvino")
    lines = ["# Coverage", "", *summary(rows), ""]
    lines += [
        "Seconds are trace + couple + both oracle checks + surgery + export and both runtimes, one thread,"
    ]
    lines += [f"on {platform.machine()} with {psutil.cpu_count()} cores that others used too. Versions: "]
    lines[-1] += ", ".join(f"{package} {version(package)}" for package in packages) + "."
    lines += [
        "Written by `scripts/coverage_table.py`, which says how; the figures are in `coverage.json`.",
        "",
    ]
    for kind in KINDS:
        names = [name for name, (of, _) in known.items() if of == kind]
        lines += [f"## {kind.capitalize()}", "", "| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
        lines += [as_line(name, rows.get(name), known[name][1]) for name in names]
        lines += [""]
    return "\n".join([*lines, *graphs(rows), *failures(rows)]).rstrip() + "\n"


def summary(rows: dict[str, Row]) -> list[str]:
    """One line per kind: how many run, pass, keep their class and agree on both runtimes."""
    lines = [
        "| | run | masked = removed to 1e-4 | own class | graph | ONNX Runtime to 1e-3 "
        "| a batch of 3 in one | OpenVINO to 1e-3 | not run |"
    ]
    lines += ["|---" * 9 + "|"]
    known = networks()
    for kind in KINDS:
        names = [name for name, (of, _) in known.items() if of == kind]
        found = [rows[name] for name in names if name in rows]
        counts = [
            len(found),
            sum(row.get("masked_error", 1) <= TOLERANCE for row in found),
            sum(row.get("own_class", False) for row in found),
            sum(not row.get("own_class", True) for row in found),
            sum(row.get("onnx", 1) <= PARITY for row in found),
            sum(row.get("onnx_batch", 1) <= PARITY for row in found),
            sum(row.get("openvino", 1) <= PARITY for row in found),
            len(names) - len(found),
        ]
        lines.append(f"| {kind} | " + " | ".join(map(str, counts)) + " |")
    return lines


def as_line(name: str, row: Row | None, parameters: int) -> str:
    if row is None or "failed" in row:
        cells = [
            name,
            f"{parameters / 1e6:.1f}",
            "",
            "not run" if row is None else row["failed"],
            *[""] * (len(HEADER) - 4),
        ]
        return "| " + " | ".join(cells) + " |"
    reasons = [f"{reason} ({count})" for reason, count in list(row["frozen"].items())[:TOP_REASONS]]
    more = len(row["frozen"]) - TOP_REASONS
    cells = [
        name if row["free_batch"] else f"{name} (batch 1 only)",
        f"{row['parameters'] / 1e6:.1f}",
        f"{row['units']} in {row['groups']}",
        f"{row['frozen_axes']}: {', '.join(reasons)}" + (f" and {more} more" if more > 0 else ""),
        f"{row['masked_error']:.0e}",
        "yes" if row["own_class"] else "graph",
        *(f"{row[stage]:.0e}" if stage in row else missing for stage, missing in STAGES.items()),
        f"{sum(row['seconds'].values()):.0f}",
        f"{row['peak_gb']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def graphs(rows: dict[str, Row]) -> list[str]:
    """Why networks come back as a graph."""
    given = {name: row["why_graph"] for name, row in rows.items() if row.get("why_graph")}
    if not given:
        return []
    return ["## Why the graph", "", *(f"- {name}: {why}" for name, why in sorted(given.items())), ""]


def failures(rows: dict[str, Row]) -> list[str]:
    """What does not export, deploy or agree, and the cause where it is known."""
    found = []
    for name, row in sorted(rows.items()):
        found += [f"- {name}: {row[key]}" for key in ("failed", "failed_export") if key in row]
        found += [
            f"- {name}: {stage} differs by {row[stage]:.1e}" for stage in STAGES if row.get(stage, 0) > PARITY
        ]
    return ["## Failures", "", *(found or ["None."]), ""]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", help="patterns of names, like 'resnet*': run these, known or not"
    )
    parser.add_argument("--most", type=float, default=1000, help="skip networks of more million parameters")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=900, help="limit for each network")
    parser.add_argument("--gigabytes", type=float, default=12, help="limit for each network")
    parser.add_argument("--write", action="store_true", help="only make the table from the JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.one:
        warnings.simplefilter("ignore")
        print(json.dumps(examine(arguments.one)))
        return
    rows: dict[str, Row] = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    names = [name for name, (_, size) in networks().items() if size <= arguments.most * 1e6]
    if arguments.only:
        names = [name for name in names if any(fnmatch(name, only) for only in arguments.only)]
    else:
        names = [name for name in names if is_open(rows.get(name))]
    names.sort(key=rows.__contains__)  # those without a row first
    if not arguments.write:
        run(names, rows, arguments)
    write(rows)


if __name__ == "__main__":
    main()
