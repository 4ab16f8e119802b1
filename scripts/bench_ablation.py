#!/usr/bin/env python
"""The poster's ablations of C-SWAP: docs/ablation.md, .json, .svg and .png.

    scripts/bench_ablation.py ../shared/data --samples-per-class 50

resnet20 on the CIFAR images of the test data (not part of the project): pooled inference against the
any-class rule, each at several levels α; random order within a layer against ascending magnitude; and,
besides the poster, paired samples and the current network as reference. Plain removal, no compensation,
widths as the walk leaves them. Rows that the JSON holds already are not run again; `--write` makes table and
plot of them and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

if TYPE_CHECKING:
    from edgeprune.pipeline.options import Images, Labelled, PruneOptions
    from edgeprune.pipeline.pruning import Analysed

Row = dict[str, Any]  # Any: JSON

ALPHAS = (0.01, 0.05, 0.1, 0.2)
VARIANTS: dict[str, dict[str, object]] = {
    **{f"any class, α = {alpha}": {"alpha": alpha} for alpha in ALPHAS},
    **{f"pooled, α = {alpha}": {"alpha": alpha, "combine": "pooled"} for alpha in ALPHAS},
    **{f"random order, seed {seed}": {"order": "random", "seed": seed} for seed in range(3)},
    "paired": {"test": "paired"},
    "current reference": {"reference": "current"},
}
PUBLISHED = "any class, α = 0.05"
EVALUATION_IMAGES = 2000
LARGE = 0.02
"""A difference in accuracy or ratio below this counts as little."""


# --- running ------------------------------------------------------------------------------------------


def load(data: Path, samples_per_class: int) -> tuple[Analysed, Images, Labelled, PruneOptions]:
    from bench_methods import NETWORKS

    from edgeprune.config import make_config
    from edgeprune.pipeline.building import Build, Silence
    from edgeprune.pipeline.inputs import Inputs
    from edgeprune.records import Split
    from edgeprune.runfolder import RunFolder

    chosen = NETWORKS["resnet20"]
    with TemporaryDirectory() as place:
        settings = {
            "model": chosen["model"],
            "weights": str(data / chosen["weights"]),
            "data": str(ROOT / "tests" / "data" / f"{chosen['data']}.toml"),
            "samples_per_class": samples_per_class,
            "method": "c-swap",
            "align": 1,
            "out": Path(place) / "run",
        }
        config = make_config(settings, file=None)
        with RunFolder.open(config.out) as folder:
            build = Build(Inputs.load(config), folder, Silence())
            evaluation = build.labelled(Split.EVALUATION, EVALUATION_IMAGES)
            return build.analysed, build.images, evaluation, build.options


def run(analysed: Analysed, images: Images, evaluation: Labelled, options: PruneOptions) -> Row:
    """One walk to its natural end, and the accuracy of what it leaves on images not seen before."""
    import torch

    from edgeprune.pipeline import published
    from edgeprune.pipeline.pruning import make_study

    study, start = make_study(analysed, images, options), time.perf_counter()
    walked = published.walk(study, lambda *seen: None, ())
    seconds = time.perf_counter() - start

    pieces = study.program.start(torch.from_numpy(evaluation.images))
    outputs = study.program.logits(pieces, walked.weights)
    param_ratio, mac_ratio = study.ledger.ratios(walked.removed)
    return {
        "units": study.ledger.units,
        "units_removed": sum(map(len, walked.removed.values())),
        "param_ratio": param_ratio,
        "mac_ratio": mac_ratio,
        "top1": float((outputs.argmax(dim=1).numpy() == evaluation.labels).mean()),
        "interventions": sum(step.evaluated > 0 for step in walked.steps),
        "images": len(study.judge.dense),
        "calibration_images": len(images.calibration.labels),
        "evaluation_images": len(evaluation.labels),
        "seconds": seconds,
    }


# --- writing ------------------------------------------------------------------------------------------


def table(rows: dict[str, Row]) -> str:
    head = "| variant | units removed | parameters removed | MACs removed | top-1 | interventions |\n"
    lines = [
        f"| {name} | {row['units_removed']} of {row['units']} | {row['param_ratio']:.1%} | "
        f"{row['mac_ratio']:.1%} | {row['top1']:.1%} | {row['interventions']} |"
        for name, row in rows.items()
    ]
    return head + "|---" * 6 + "|\n" + "\n".join(lines)


def verdicts(rows: dict[str, Row]) -> list[str]:
    """What the poster claims, and whether it holds here."""
    published = rows[PUBLISHED]
    pooled = [(rows[f"any class, α = {a}"], rows[f"pooled, α = {a}"]) for a in ALPHAS]
    more = sum(pool["param_ratio"] > one["param_ratio"] for one, pool in pooled)
    worse = sum(pool["top1"] < one["top1"] for one, pool in pooled)
    random = [row for name, row in rows.items() if name.startswith("random")]
    ratio = max(abs(row["param_ratio"] - published["param_ratio"]) for row in random)
    top1 = max(abs(row["top1"] - published["top1"]) for row in random)
    little = "agrees" if max(ratio, top1) < LARGE else "differs"
    levels = [rows[f"any class, α = {a}"]["param_ratio"] for a in ALPHAS]
    falling = "falls" if levels == sorted(levels, reverse=True) else "does not fall steadily"
    agrees = "agrees" if more == worse == len(pooled) else "differs"
    return [
        f"Poster: pooled inference removes more and loses more. Here it removes more at {more} of the "
        f"{len(pooled)} levels and has the lower accuracy at {worse}: {agrees}.",
        f"Poster: random order matters little. Here {len(random)} seeds end within {100 * ratio:.1f} points "
        f"of the ratio and {100 * top1:.1f} points of the accuracy of ascending magnitude: {little} "
        f"(little: below {100 * LARGE:.0f} points).",
        f"Level: from α = {ALPHAS[0]} to {ALPHAS[-1]} the share removed {falling}, from {levels[0]:.1%} to "
        f"{levels[-1]:.1%}: the smaller α, the more proof of harm is asked for.",
    ]


def plot(rows: dict[str, Row], dense: float, paths: list[Path]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "edgeprune"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for start, style in (("any class", "o-"), ("pooled", "s-"), ("random order", "x")):
        chosen = [row for name, row in rows.items() if name.startswith(start)]
        xs, ys = [100 * r["param_ratio"] for r in chosen], [100 * r["top1"] for r in chosen]
        axes.plot(xs, ys, style, label=start)
        if style.endswith("-"):
            for x, y, alpha in zip(xs, ys, ALPHAS, strict=True):
                axes.annotate(f"α={alpha}", (x, y), textcoords="offset points", xytext=(4, 5), fontsize=7)
    for name in ("paired", "current reference"):
        if name in rows:
            axes.plot(100 * rows[name]["param_ratio"], 100 * rows[name]["top1"], "^", label=name)
    axes.axhline(100 * dense, color="grey", linewidth=0.8, label="dense")
    axes.set(xlabel="parameters removed, %", ylabel="top-1, %", title="C-SWAP ablations, resnet20")
    axes.legend(fontsize=8)
    figure.tight_layout()
    for path in paths:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def write(place: Path, kept: Row) -> None:
    rows, published = {name: kept["rows"][name] for name in VARIANTS}, kept["rows"][PUBLISHED]
    plot(rows, kept["dense_top1"], [place.with_suffix(".svg"), place.with_suffix(".png")])
    text = [
        "# Ablations of C-SWAP",
        "resnet20 on CIFAR-10, plain removal, layer by layer, natural end; "
        f"{published['images']} calibration images (of {published['calibration_images']}, those classified "
        f"correctly), top-1 on {published['evaluation_images']} other images "
        f"(dense {kept['dense_top1']:.1%}). At most {kept['group_test']} units tested at once. "
        "Where a row says nothing else: any class, α = 0.05, ascending magnitude, Welch, dense reference.",
        table(rows),
        *(f"- {line}" for line in verdicts(rows)),
        f"![accuracy over parameters removed]({place.with_suffix('.svg').name})",
        f"Written by `scripts/bench_ablation.py`; figures in `{place.with_suffix('.json').name}`. "
        f"{platform.machine()}, torch {kept['torch']}.",
    ]
    place.with_suffix(".md").write_text("\n\n".join(text).replace("\n\n- ", "\n- ") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="folder with models/ and cifar10/")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "ablation", help="without suffix")
    parser.add_argument("--samples-per-class", type=int, default=50)
    parser.add_argument("--group-test", type=int, default=1, help="most at once; 1 as published")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    place = args.out.with_suffix(".json")
    settings = {"samples_per_class": args.samples_per_class, "group_test": args.group_test}
    kept: Row = json.loads(place.read_text()) if place.exists() else {}
    if not args.write:
        if any(kept.get(name) != value for name, value in settings.items()):
            kept = {**settings, "torch": version("torch"), "rows": {}}
        analysed, images, evaluation, options = load(args.data, args.samples_per_class)
        if "dense_top1" not in kept:
            right = analysed.logits(evaluation.images).argmax(axis=1) == evaluation.labels
            kept["dense_top1"] = float(right.mean())
        for name, changes in VARIANTS.items():
            if name not in kept["rows"]:
                chosen: Any = {"group_test": args.group_test, **changes}
                kept["rows"][name] = row = run(analysed, images, evaluation, replace(options, **chosen))
                place.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
                print(
                    f"{name:24} {row['param_ratio']:.3f} {row['top1']:.3f} {row['seconds']:.0f} s", flush=True
                )
    write(args.out, kept)


if __name__ == "__main__":
    main()
