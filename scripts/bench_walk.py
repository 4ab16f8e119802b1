#!/usr/bin/env python
"""What each speed-up of the walk is worth: interventions, seconds and peak memory, against full forwards.

    scripts/bench_walk.py ../shared/data --out docs/walk --networks resnet20,resnet56,mobilenet_v2
    scripts/bench_walk.py ../shared/data --out /tmp/walk --networks resnet20 --images 100 --sample 40

The plain walk (method c-swap, dense reference, align 1) on images of the test data, which are not part of the
project. Each variant runs in a fresh process, rounds over all variants one after the other. Where `--sample`
says so, the variants that test one by one do so with an even sample of the units only, each taken out of
the network as the walk `all` had left it when it came there; their CPU seconds are those of the sample times
units over sample, and those rows are marked. Ratios are of CPU time, which other load disturbs least. `full`
is the obvious implementation: the traced network, consumers' weights zeroed, on all images, for every unit.
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
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeprune.pipeline.study import Study
    from edgeprune.records import ChannelGroup

Row = dict[str, Any]  # Any: JSON
State = dict[str, list[int]]
"""Group -> units that a walk removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What of the walk is switched on."""

    replay: bool = True
    delta: bool = False
    early_exit: bool = False
    group_test: int = 1


VARIANTS = {
    "full": Variant(replay=False),
    "replay": Variant(),
    "replay + delta": Variant(delta=True),
    "replay + early exit": Variant(early_exit=True),
    "replay + delta + early exit": Variant(delta=True, early_exit=True),
    "replay + group tests": Variant(group_test=64),
    "all": Variant(early_exit=True, group_test=64),
}
EXACT, ALL = "replay + delta + early exit", "all"
GROWTH = (1, 2, 4)


# --- one variant, in its own process ------------------------------------------------------------------


def load(data: Path, network: str, images: int | None) -> Study:
    import numpy as np
    from bench_methods import NETWORKS

    from edgeprune.config import make_config
    from edgeprune.pipeline.building import Build, Silence
    from edgeprune.pipeline.inputs import Inputs
    from edgeprune.pipeline.options import Images, Labelled
    from edgeprune.pipeline.pruning import make_study
    from edgeprune.runfolder import RunFolder

    chosen = NETWORKS[network]
    with TemporaryDirectory() as place:
        settings = {
            "model": chosen["model"],
            "weights": str(data / chosen["weights"]),
            "data": str(ROOT / "tests" / "data" / f"{chosen['data']}.toml"),
            "method": "c-swap",
            "align": 1,
            "out": Path(place) / "run",
        }
        config = make_config(settings, file=None)
        with RunFolder.open(config.out) as folder:
            build = Build(Inputs.load(config), folder, Silence())
            every = build.images.calibration
            count = min(images or len(every.labels), len(every.labels))
            some = np.linspace(0, len(every.labels) - 1, count).astype(int)
            fewer = Labelled(images=every.images[some], labels=every.labels[some])
            return make_study(
                build.analysed, Images(calibration=fewer, names=build.images.names), build.options
            )


def walked(
    study: Study, variant: Variant, groups: Sequence[ChannelGroup], sample: int | None, state: State
) -> Row:
    """A walk, or the interventions of a sample of units on the way of another walk, which removed `state`."""
    import torch

    from edgeprune import causal
    from edgeprune.causal.replay import zeroed
    from edgeprune.pipeline.forecasting import foretell
    from edgeprune.pipeline.published import unit_order
    from edgeprune.records import Doubles

    graph = study.traced.graph_module
    parameters = {name: value.detach() for name, value in graph.named_parameters()}
    shards = study.shards
    network = study.replay(delta=variant.delta)

    def replayed(shard: causal.Shard, group: ChannelGroup | None, units: Sequence[int]) -> Doubles:
        outputs = network.outputs(shard.number, group, units).numpy()
        return study.scores_of(shard, outputs)

    def full(shard: causal.Shard, group: ChannelGroup | None, units: Sequence[int]) -> Doubles:
        gone = {name: units for name, units in network.removed.items() if group is None or name != group.name}
        if group is not None:
            gone[group.name] = (*network.removed.get(group.name, ()), *units)
        weights: dict[str, torch.Tensor] = {}
        for other in (other for other in groups if other.name in gone):
            weights |= zeroed({**parameters, **weights}, other, gone[other.name])
        with torch.inference_mode():
            outputs = torch.func.functional_call(graph, weights, (study.inputs[shard.images],)).numpy()
        return study.scores_of(shard, outputs)

    scores = replayed if variant.replay else full
    order: Callable[[ChannelGroup], list[int]] = lambda group: unit_order(group, parameters)  # noqa: E731
    rules = causal.Rules(group_test=variant.group_test, early_exit=variant.early_exit, align=1)
    units = sum(group.units for group in groups)
    scores(shards[0], None, ())  # warm-up
    if sample is None or variant.group_test > 1 or sample >= units:
        start, used = time.perf_counter(), time.process_time()
        walker = causal.Walker(
            network,
            scores,
            study.judge,
            order,
            rules,
            foretell=lambda group: foretell(study, network, group),
        )
        steps, _ = causal.walk(walker, groups, shards)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        tried = sum(step.evaluated > 0 for step in steps)
        evaluated = sum(step.evaluated for step in steps)
        factor = 1.0
    else:
        walk = (groups, order, state)
        tried, evaluated, entering, testing = sampled(study, network, walk, scores, variant, sample)
        factor = units / tried
        used = entering * variant.replay + testing * factor
        seconds = None
    return {
        "units": units,
        "images": len(study.labels),
        "interventions": round(tried * factor),
        "evaluated": round(evaluated * factor),
        "seconds": seconds,
        "cpu": used,
        "sample": tried if factor != 1 else None,
        "state": {name: list(units) for name, units in network.removed.items()},
        "param_ratio": None if factor != 1 else study.ledger.param_ratio(network.removed),
    }


def sampled(  # noqa: PLR0913, PLR0917  # a walk's parts
    study: Study,
    network: Any,  # Any: a Replay; torch stays out of this process until it is needed
    walk: tuple[Sequence[ChannelGroup], Callable[[ChannelGroup], list[int]], State],
    scores: Callable[..., Any],
    variant: Variant,
    sample: int,
) -> tuple[int, int, float, float]:
    """Interventions on an even sample of all units, each where another walk came to it.

    Returns:
        How many, images evaluated, CPU seconds of moving the cut forward, and of the interventions.
    """
    from edgeprune import causal

    groups, order, state = walk
    examiner = causal.Examiner(study.judge, study.shards, early_exit=variant.early_exit)
    every = sum(group.units for group in groups) / sample
    place, due, tried, evaluated = 0, 0.0, 0, 0
    entering, testing = 0.0, 0.0
    for group in sorted(groups, key=lambda g: (network.position(g), g.name)):
        start = time.process_time()
        network.enter(group)
        entering += time.process_time() - start
        leaves = set(state.get(group.name, ()))
        for unit in order(group):
            if place >= due:
                if variant.early_exit:  # a walk knows z from its last removal: not counted
                    z = examiner.everything().examine(lambda shard, g=group: scores(shard, g, ())).z
                    examiner.move_(z)
                start = time.process_time()
                outcome = examiner.examine(lambda shard, g=group, u=unit: scores(shard, g, (u,)))
                testing += time.process_time() - start
                tried, evaluated, due = tried + 1, evaluated + outcome.evaluated, due + every
            if unit in leaves:
                network.remove_(group, [unit])
            place += 1
    return tried, evaluated, entering, testing


def one(args: argparse.Namespace) -> Row:
    study = load(args.data, args.networks, args.images)
    groups = study.groups[: args.groups] if args.groups else study.groups
    state = json.loads(args.state.read_text()) if args.state else {}
    row = walked(study, VARIANTS[args.variant], groups, args.sample, state)
    return {**row, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


# --- all of them --------------------------------------------------------------------------------------


def fresh(  # noqa: PLR0913  # as the command line
    args: argparse.Namespace,
    network: str,
    variant: str,
    *,
    images: int | None,
    groups: int | None,
    state: Path | None = None,
) -> Row:
    command = [sys.executable, __file__, str(args.data), "--variant", variant, "--networks", network]
    given = (("images", images), ("groups", groups), ("sample", args.sample), ("state", state))
    for name, value in given:
        command += [f"--{name}", str(value)] if value else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # this very file
    if done.returncode:
        raise SystemExit(done.stderr)
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return {**found, "network": network, "variant": variant}


def compare(args: argparse.Namespace, network: str) -> list[Row]:
    """Every variant, in rounds; the median of the seconds, the largest memory."""
    rounds: dict[str, list[Row]] = {}
    wanted = args.variants.split(",")
    state = args.out.with_name(f"{args.out.name}-{network}-state.json")
    for number in range(args.rounds):
        for variant in sorted(wanted, key=lambda variant: variant != ALL):
            at = state if args.sample and variant != ALL and state.exists() else None
            row = fresh(args, network, variant, images=args.images, groups=None, state=at)
            found = row.pop("state")
            if variant == ALL:
                state.write_text(json.dumps(found))
            rounds.setdefault(variant, []).append(row)
            print(f"{network:13} round {number} {variant:28} {row['cpu']:9.1f} CPU s", flush=True)
    return [
        {
            **rows[0],
            "seconds": median(row["seconds"] for row in rows) if rows[0]["seconds"] else None,
            "cpu": median(row["cpu"] for row in rows),
            "peak_mb": max(row["peak_mb"] for row in rows),
        }
        for rows in (rounds[variant] for variant in wanted)
    ]


def growth(args: argparse.Namespace, network: str, images: int, groups: int) -> list[Row]:
    """The walk with all speed-ups at 1, 2 and 4 times as many images, and as many channel groups."""
    rows = []
    for factor in GROWTH:
        share = factor / GROWTH[-1]
        some = args.growth_groups
        by_images = fresh(args, network, ALL, images=max(1, int(images * share)), groups=some)
        by_units = fresh(args, network, ALL, images=args.images, groups=max(1, int(groups * share)))
        del by_images["state"], by_units["state"]
        rows += [
            {**by_images, "grows": "images", "times": factor},
            {**by_units, "grows": "units", "times": factor},
        ]
        print(f"{network:13} growth {factor}x", flush=True)
    return rows


def as_table(kept: Row) -> str:
    lines = [
        "| network | variant | interventions | images run | CPU s | times as fast | s | peak MB | removed |",
        "|---" * 9 + "|",
    ]
    slowest = {row["network"]: row["cpu"] for row in kept["rows"] if row["variant"] == "full"}
    for row in kept["rows"]:
        ratio = f"{slowest[row['network']] / row['cpu']:.1f}" if row["network"] in slowest else ""
        wall = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        mark = f" (from {row['sample']} units)" if row["sample"] else ""
        removed = "" if row["param_ratio"] is None else f"{row['param_ratio']:.3f}"
        lines.append(
            f"| {row['network']} | {row['variant']} | {row['interventions']} | {row['evaluated']} | "
            f"{row['cpu']:.1f}{mark} | {ratio} | {wall} | {row['peak_mb']:.0f} | {removed} |"
        )
    return "\n".join(lines)


def growth_table(kept: Row) -> str:
    lines = [
        "| network | grows | times | images | units | interventions | CPU s | peak MB |",
        "|---" * 8 + "|",
    ]
    lines += [
        f"| {row['network']} | {row['grows']} | {row['times']} | {row['images']} | {row['units']} | "
        f"{row['interventions']} | {row['cpu']:.1f} | {row['peak_mb']:.0f} |"
        for row in kept["growth"]
    ]
    return "\n".join(lines)


def others(place: Path, networks: Sequence[str]) -> Row:
    """What an earlier run found out about other networks."""
    kept: Row = json.loads(place.read_text()) if place.exists() else {"rows": [], "growth": []}
    for part in ("rows", "growth"):
        kept[part] = [row for row in kept[part] if row["network"] not in networks]
    return kept


def write(place: Path, kept: Row) -> None:
    place.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
    text = [
        "# Cost of the walk",
        "Plain C-SWAP, layer by layer, α = 0.05, align 1; images are those classified correctly. `full` runs "
        "the whole network for every unit; `all` is what a build does: replay, early exit, group tests with "
        "first looks. Removed is the share of the parameters. Marked rows are "
        "extrapolated from an even sample of the units, each tested where the walk `all` came to it. "
        "Peak MB is that of the whole process.",
        as_table(kept),
        *(["Growth, with all speed-ups:", growth_table(kept)] if kept["growth"] else []),
        f"{platform.machine()}, {os.cpu_count()} cores, {kept['threads']} threads, torch {kept['torch']}; "
        f"median of {kept['rounds']} rounds. Written by `scripts/bench_walk.py`.",
    ]
    place.with_suffix(".md").write_text("\n\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--out", type=Path, default=Path("bench-walk"), help="without suffix")
    parser.add_argument("--networks", default="resnet20,resnet56,mobilenet_v2")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--images", type=int, help="calibration images at most")
    parser.add_argument("--sample", type=int, help="units of a variant that tests one by one")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--growth-groups", type=int, help="growth on the first channel groups alone")
    parser.add_argument("--variant", choices=tuple(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--groups", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(one(args)))
        return
    import torch

    networks = args.networks.split(",")
    kept = others(args.out.with_suffix(".json"), networks)
    kept |= {"rounds": args.rounds, "threads": torch.get_num_threads(), "torch": version("torch")}
    for network in networks:
        kept["rows"] += compare(args, network)
        write(args.out, kept)
        if not args.no_growth:
            study = load(args.data, network, args.images)
            images, groups = len(study.images.calibration.labels), args.growth_groups or len(study.groups)
            kept["growth"] += growth(args, network, images, groups)
            write(args.out, kept)
    print(as_table(kept))


if __name__ == "__main__":
    main()
