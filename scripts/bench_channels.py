#!/usr/bin/env python
"""Seconds and memory of tracing, grouping and cutting, beside Torch-Pruning's graph of the same network.

    pip install --no-deps --target /tmp/peers -r scripts/requirements-bench.txt
    scripts/bench_channels.py --peers /tmp/peers vit_b_16 densenet121 convnext_tiny efficientnet_b0

Each figure comes from a process of its own, the two tools in turn, one thread. Grouping is `couple` on a
traced network; Torch-Pruning's graph is `DependencyGraph().build_dependency`, which runs the network once.
Both are the best of some repetitions in CPU seconds, tracing and cutting are single; a first round is thrown
away. Memory is the peak of the process above what it held with the network in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121", "vit_b_16", "convnext_tiny")
REPETITIONS = 4
HEADER = (
    *("network", "M parameters", "trace s", "group s", "cut s", "trace / group", "MB"),
    *("Torch-Pruning graph s", "MB", "graph / group"),
)
SHORTEST_S, LIMIT_S = 1e-4, 600
Figures = dict[str, float]


def build(name: str) -> tuple[Any, tuple[int, ...]]:  # Any: an nn.Module
    from torchvision import models

    side = 299 if name == "inception_v3" else 224
    warnings.simplefilter("ignore")
    return models.get_model(name).eval(), (3, side, side)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def seconds(call: Callable[[], object], repetitions: int = 1) -> float:
    """CPU seconds of the fastest call."""
    found = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found[1:] or found)


def ours(name: str) -> Figures:
    from edgeprune.channels import couple, cut, trace
    from edgeprune.records import InputSpec

    network, shape = build(name)
    size = sum(p.numel() for p in network.parameters())
    before, kept = peak_mb(), []
    trace_s = seconds(lambda: kept.append(trace(network, InputSpec(shape=shape))))
    group_s = seconds(lambda: couple(kept[0]), REPETITIONS)
    coupling = couple(kept[0])
    half = {group.name: tuple(range(group.units // 2)) for group in coupling.groups}
    cut_s = seconds(lambda: cut(coupling, half))
    return {"size": size, "trace": trace_s, "group": group_s, "cut": cut_s, "mb": peak_mb() - before}


def peer(name: str) -> Figures:
    import torch
    import torch_pruning

    network, shape = build(name)
    before, example = peak_mb(), torch.zeros(1, *shape)
    graph_s = seconds(
        lambda: torch_pruning.DependencyGraph().build_dependency(network, example_inputs=example), REPETITIONS
    )
    return {"graph": graph_s, "peer_mb": peak_mb() - before}


def in_a_process(tool: str, name: str, peers: Path | None) -> Figures:
    """Figures of one tool on one network; none where it fails or takes too long."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([str(peers)] if peers else [])])
    command = [sys.executable, __file__, "--tool", tool, name]
    try:
        done = subprocess.run(  # noqa: S603  # this very file
            command, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
    except subprocess.SubprocessError as err:
        last = (getattr(err, "stderr", None) or str(err)).strip().splitlines()[-1]
        print(f"{name}: {tool}: {last}", file=sys.stderr)
        return {}
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def as_line(name: str, found: Figures) -> str:
    def cell(key: str, digits: int = 3) -> str:
        return f"{found[key]:.{digits}f}" if key in found else ""

    def ratio(above: str, below: str) -> str:
        both = above in found and below in found
        return f"{found[above] / max(found[below], SHORTEST_S):.1f}" if both else ""

    found = {**found, "size": found.get("size", 0.0) / 1e6}
    cells = [name, cell("size", 1), cell("trace", 1), cell("group"), cell("cut"), ratio("trace", "group")]
    cells += [cell("mb", 0), cell("graph"), cell("peer_mb", 0), ratio("graph", "group")]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="of torchvision")
    parser.add_argument("--peers", type=Path, help="folder with Torch-Pruning; without it: ours alone")
    parser.add_argument("--tool", choices=("ours", "peer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tool:
        print(json.dumps({"ours": ours, "peer": peer}[arguments.tool](arguments.networks[0])))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {version('torch')}, one thread\n")
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|")
    for name in arguments.networks:
        found = in_a_process("ours", name, None)
        found |= in_a_process("peer", name, arguments.peers) if arguments.peers else {}
        print(as_line(name, found), flush=True)


if __name__ == "__main__":
    main()
