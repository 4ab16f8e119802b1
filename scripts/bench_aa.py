#!/usr/bin/env python3
"""How honest are the intervals: the same network against itself, and against one that is 5 % slower.

    scripts/bench_aa.py --out docs/measurement.json    # 40 A/A and 20 detections, every second beside hogs
    scripts/bench_aa.py --runs 2 --slow-runs 1 --processes 2 --pairs 10     # tried in a minute

A/A: the 95 % interval of the ratio covers 1 in at least 90 % of the runs, its half-width is at most 2 % on a
quiet machine and 4 % beside one hog per core. Detection: against a limit of 0 % a network with 5 % more work
is "over" in at least 95 % of the runs, and the network itself in at most 5 %. Exits with 1 where one does not
hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune import measure
from edgeprune.gate import judge
from edgeprune.measure import measuring, stairs
from edgeprune.records import (
    AccuracyChange,
    Basis,
    Budget,
    Figure,
    Interval,
    Limit,
    Measurement,
    Outcome,
)

LAYERS = 20
"""One more is 5 % more work."""
HOG = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    pass
"""
NO_CHANGE = AccuracyChange(drop=Interval(value=0.0, low=0.0, high=0.0), lost=0, gained=0, p_value=1.0)
NOTHING_SLOWER = Budget(limits=(Limit(figure=Figure.LATENCY_P50, basis=Basis.DENSE, value=1.0),))
LEAST_COVER, LEAST_FOUND, MOST_FALSE = 0.90, 0.95, 0.05
WIDEST_QUIET, WIDEST_HOGGED = 0.02, 0.04


@dataclass(frozen=True, kw_only=True)
class Trial:
    kind: str
    """`same` or `slower`."""
    hogs: bool
    value: float
    low: float
    high: float
    outcome: str
    quality: str
    load_average: float
    seconds: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def covers(self) -> bool:
        return self.low <= 1.0 <= self.high


@contextlib.contextmanager
def hogs(number: int) -> Iterator[None]:
    """Busy processes that end with us, however we end: they watch their standard input."""
    running = [
        subprocess.Popen([sys.executable, "-c", HOG], stdin=subprocess.PIPE)  # noqa: S603 - our own words
        for _ in range(number)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()


def outcome_of(found: Measurement) -> Outcome:
    """What the gate says of the second network against a budget of 0 % more time than the first."""
    latency = {"dense": found.latency["first"], "pruned": found.latency["second"]}
    measured = replace(found, latency=latency)
    return judge(NOTHING_SLOWER, artifacts={}, accuracy_change=NO_CHANGE, measurement=measured).outcome


def trial(first: Path, second: Path, kind: str, *, busy: bool, options: argparse.Namespace) -> Trial:
    shape = (stairs.WIDEST, stairs.SIDE, stairs.SIDE)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    began = time.monotonic()
    with hogs(os.cpu_count() or 1) if busy else contextlib.nullcontext():
        found = measure.measure(
            {"first": first, "second": second},
            runtime=options.runtime,
            threads=1,
            image=image,
            processes=options.processes,
            min_runs=5,  # the times of each alone are not looked at
            max_seconds=options.max_seconds,
        )
    ratio = found.ratio
    return Trial(
        kind=kind,
        hogs=busy,
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        outcome=outcome_of(found).value,
        quality=found.quality,
        load_average=os.getloadavg()[0],
        seconds=time.monotonic() - began,
    )


def judged(trials: list[Trial]) -> dict[str, dict[str, float | bool]]:
    """Each figure of the acceptance, and whether it holds."""
    same = [each for each in trials if each.kind == "same"]
    slower = [each for each in trials if each.kind == "slower"]
    found: dict[str, dict[str, float | bool]] = {}

    def hold(name: str, value: float, limit: float, *, at_least: bool) -> None:
        holds = value >= limit if at_least else value <= limit
        found[name] = {"value": value, "limit": limit, "holds": holds}

    if same:
        hold("A/A covers 1", _share(each.covers for each in same), LEAST_COVER, at_least=True)
        over = _share(each.outcome == Outcome.OVER for each in same)
        hold("A/A called over", over, MOST_FALSE, at_least=False)
    for busy, limit in ((False, WIDEST_QUIET), (True, WIDEST_HOGGED)):
        widths = [each.half_width for each in same if each.hogs is busy]
        if widths:
            name = f"half-width, median, {'with' if busy else 'without'} hogs"
            hold(name, statistics.median(widths), limit, at_least=False)
            found[f"half-width, largest, {'with' if busy else 'without'} hogs"] = {"value": max(widths)}
    if slower:
        over = _share(each.outcome == Outcome.OVER for each in slower)
        hold("5 % slower called over", over, LEAST_FOUND, at_least=True)
        found["5 % slower, median ratio"] = {"value": statistics.median(each.value for each in slower)}
    return found


def page(content: dict[str, Any]) -> str:  # Any: JSON
    """The figures as a page of the documentation."""
    rows = []
    for name, figure in content["figures"].items():
        limit = f"{figure['limit']:g}" if "limit" in figure else ""
        holds = {True: "yes", False: "**no**", None: ""}[figure.get("holds")]
        rows.append(f"| {name} | {figure['value']:.4f} | {limit} | {holds} |")
    trials, options, machine = content["trials"], content["options"], content["machine"]
    hogged = sum(trial["hogs"] for trial in trials)
    lines = [
        "# How honest the intervals are",
        "",
        "The same network against itself (A/A), and against one that does 5 % more work, measured and judged",
        "as `edgeprune measure` and `edgeprune gate` do it. A hog is a process that does nothing but use a",
        "core; there is one for each core.",
        "",
        "| figure | value | limit | holds |",
        "|---|---|---|---|",
        *rows,
        "",
        f"{len(trials)} trials, {hogged} of them beside hogs; {options['runtime']}, one thread, "
        f"{options['processes']} fresh processes a trial, {options['pairs']} pairs of runs in each; "
        f"{machine['cpu']}, {machine['cores']} cores; load averages from "
        f"{min(trial['load_average'] for trial in trials):.1f} to "
        f"{max(trial['load_average'] for trial in trials):.1f}: others used the machine too.",
        "Written by `scripts/bench_aa.py`; every trial is in `measurement.json`.",
    ]
    return "\n".join(lines) + "\n"


def _share(cases: Iterable[bool]) -> float:
    known = list(cases)
    return sum(known) / len(known)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="A/A; every second beside hogs")
    parser.add_argument("--slow-runs", type=int, default=20, help="detections; every second beside hogs")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=measuring.PAIRS)
    parser.add_argument("--max-seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path, help="write all trials as JSON")
    return parser.parse_args()


def main() -> int:
    options = parse()
    measuring.PAIRS = options.pairs
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        net, again, slower = (Path(folder, f"{name}.onnx") for name in ("net", "again", "slower"))
        for path, layers in ((net, LAYERS), (again, LAYERS), (slower, LAYERS + 1)):
            stairs.write_network(path, stairs.WIDEST, layers=layers)
        plan = [("same", again)] * options.runs + [("slower", slower)] * options.slow_runs
        for number, (kind, second) in enumerate(plan):
            trials.append(trial(net, second, kind, busy=number % 2 == 1, options=options))
            last = trials[-1]
            print(
                f"{number + 1}/{len(plan)} {kind}{' hogs' if last.hogs else ''}: {last.value:.4f} "
                f"[{last.low:.4f}, {last.high:.4f}] {last.outcome}, load {last.load_average:.1f}, "
                f"{last.seconds:.0f} s",
                flush=True,
            )
    found = judged(trials)
    for name, figure in found.items():
        word = "holds" if figure.get("holds", True) else "DOES NOT HOLD"
        limit = f", limit {figure['limit']}: {word}" if "limit" in figure else ""
        print(f"{name}: {figure['value']:.4f}{limit}")
    if options.out:
        content = {
            "machine": measure.describe_machine(),
            "options": {k: v for k, v in vars(options).items() if k != "out"},
            "figures": found,
            "trials": [asdict(each) for each in trials],
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(page(content), encoding="utf-8")
    return 0 if all(figure.get("holds", True) for figure in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
