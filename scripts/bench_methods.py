"""Curves of every method on real networks: accuracy over the share of parameters removed, SAUCE, plot.

    scripts/bench_methods.py ../shared/data/ --out bench --networks resnet20 --methods c-swap-c,taylor+affine

Needs the weights and images of the test data, which are not part of the project. Resumable: each curve is a
record in the run folder of its network. Methods `tp-...` need Torch-Pruning (scripts/requirements-bench.txt).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.pipeline.sweeping import Field
    from edgeprune.records import Curve

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

VIT = {
    "model": "python:tests.nets:cifar_vit",
    "weights": "models/cifar10_vit.pt",
    "data": "cifar10_shared_own_std",
}
UNITS = {"vit-ffn": ("linear1", "FFN neurons"), "vit-heads": ("self_attn", "attention heads")}
"""Networks of which only some groups are cut: what their names hold, and what their units are."""
WHOLE = 0.9
"""A curve up to here has an area; of less, its points are told."""
NETWORKS = {
    "example": {},
    "scenes": {"task": "segmentation"},
    "shapes": {"task": "detection"},
    "resnet20": {
        "model": "python:tests.nets:cifar_resnet20",
        "weights": "models/cifar10_resnet20.pt",
        "data": "cifar10_shared",
    },
    "resnet56": {
        "model": "python:tests.nets:cifar_resnet56",
        "weights": "models/cifar10_resnet56.pt",
        "data": "cifar10_shared",
    },
    "densenet": {
        "model": "python:tests.nets:cifar_densenet",
        "weights": "models/cifar10_densenet.pt",
        "data": "cifar10_shared_own_std",
    },
    "vit": VIT,
    "vit-ffn": VIT,
    "vit-heads": VIT,
    "camvid": {
        "model": "python:tests.nets:camvid_espnet",
        "weights": "models/camvid_espnet.pt",
        "data": "camvid_shared",
        "task": "segmentation",
    },
    "mobilenet_v2": {
        "model": "torchvision:mobilenet_v2",
        "weights": "models/imagenet_mobilenet_v2.pt",
        "data": "imagenet_shared_rotated",
    },
    "squeezenet": {
        "model": "torchvision:squeezenet1_0",
        "weights": "models/imagenet_squeezenet1_0.pt",
        "data": "imagenet_shared",
    },
}
METHODS = (
    "c-swap-c,c-swap,c-swap+affine,magnitude-l2,magnitude-l2+bn,magnitude-l2+affine,magnitude-l1+affine,"
    "bn-scale+affine,random+affine,activation+affine,variance+affine,gradient+affine,taylor+affine,"
    "integrated-gradients+affine,lrp+affine,i-lrp+affine,class-aware+affine,budget-aware+affine,"
    "tp-lamp+affine,tp-magnitude+bn,tp-taylor+bn,tp-lamp+bn,tp-bn-scale+bn,tp-magnitude,"
    "onnxsim-l2,onnxsim-wanda+ridge"
)
BEGIN, END = "<!-- curves: written by scripts/bench_methods.py -->", "<!-- end of curves -->"
ROUNDING = 1e-9
WHAT = """The metric (%) over the share of parameters removed, on images that nothing else has seen.
`+affine`: another order of units, with the same compensation and least squares as ours."""
RATIOS = "0.05,0.1,0.15,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"


def settings_of(name: str, data: Path, out: Path, align: int) -> dict[str, object]:
    settings: dict[str, object] = dict(NETWORKS[name])
    if "weights" in settings:
        settings["weights"] = str(data / str(settings["weights"]))
        settings["data"] = str(ROOT / "tests" / "data" / f"{settings['data']}.toml")
    return {**settings, "out": out / name, "align": align}


def of_units(field: Field, method: str, units: str) -> Curve:
    """A curve over the share of units of some groups alone, the others left as they are."""
    from edgeprune import channels
    from edgeprune.pipeline.sweeping import curve, read_method

    coupling = field.analysed.coupling
    groups = tuple(group for group in coupling.groups if units in group.name)
    members = {group.name: coupling.members[group.name] for group in groups}
    coupling = replace(coupling, groups=groups, members=members)
    costs = channels.Costs(coupling)
    dense = costs.count({})[0]
    left = [costs.count({g.name: range(round(r * g.units)) for g in groups})[0] for r in field.ratios]
    ratios = [1 - params / dense + ROUNDING for params in left]
    analysed = replace(field.analysed, coupling=coupling)
    found = curve(replace(field, analysed=analysed, ratios=ratios), read_method(method))
    points = zip(found.points, field.ratios, strict=True)
    return replace(found, points=tuple(replace(point, asked=share) for point, share in points))


def page(curves: dict[str, list[Curve]], text: str) -> str:
    """The page with the tables of these networks between the markers replaced, the others as they are."""
    if BEGIN not in text:
        text += f"\n## Methods compared\n\n{WHAT}\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    body, after = rest.split(END)
    headed = re.split(r"^### ([\w-]+)(?=:)", body, flags=re.MULTILINE)[1:]
    tables = {name: f"### {name}{text}" for name, text in zip(headed[::2], headed[1::2], strict=True)}
    for network, found in curves.items():
        lines: list[str] = []
        ordered = sorted(found, key=lambda curve: -sum(point.accuracy for point in curve.points))
        dense, images = ordered[0].dense_accuracy, ordered[0].images or len(ordered[0].dense)
        ratios = [point.asked for point in ordered[0].points]
        metric = "" if ordered[0].metric == "top-1" else f" {ordered[0].metric}"
        of = f"; shares of the {UNITS[network][1]}" if network in UNITS else ""
        area = ["SAUCE [95 %]", "/ dense"] if ratios[-1] >= WHOLE else []
        free = [] if network in UNITS else ["1 point"]
        lines += [f"### {network}: dense{metric} {100 * dense:.2f} % on {images} images{of}", ""]
        lines.append("| " + " | ".join(["method", *area, *free, *[f"{100 * r:g} %" for r in ratios]]) + " |")
        lines.append("|---" * (1 + len(area) + len(free) + len(ratios)) + "|")
        for curve in ordered:
            sauce = curve.sauce
            cells = [f"{100 * point.accuracy:.1f}" for point in curve.points]
            if free:
                cells = [f"{100 * curve.removable():.1f} %", *cells]
            if area:
                span = f"{sauce.value:.3f} [{sauce.low:.3f}, {sauce.high:.3f}]"
                cells = [span, f"{sauce.value / dense:.3f}", *cells]
            name = f"**{curve.label}**" if curve.label == "c-swap-c" else curve.label
            lines.append("| " + " | ".join([name, *cells]) + " |")
        tables[network] = "\n".join(lines)
    written = "\n\n".join(table.strip() for table in tables.values())
    return f"{before}{BEGIN}\n\n{written}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--out", type=Path, default=Path("bench-methods"))
    parser.add_argument("--networks", default="example,resnet20")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--ratios", default=RATIOS)
    parser.add_argument("--price", help="of c-swap-c: units, params, macs, both")
    parser.add_argument("--samples-per-class", type=int)
    parser.add_argument("--align", type=int, default=1)
    parser.add_argument("--allocation", default="global", help="of criteria: global, or uniform over layers")
    parser.add_argument("--page", type=Path, help="a page whose tables are written anew, like docs/method.md")
    args = parser.parse_args()

    import bench_peers

    from edgeprune.config import make_config
    from edgeprune.errors import EdgepruneError
    from edgeprune.pipeline.sweeping import sweep

    curves: dict[str, list[Curve]] = {}
    ratios = [float(text) for text in args.ratios.split(",")]
    for name in args.networks.split(","):
        settings = settings_of(name, args.data, args.out, args.align)
        config = make_config(
            {
                **settings,
                "allocation": args.allocation,
                "price": args.price,
                "samples_per_class": args.samples_per_class,
            }
        )
        for method in args.methods.split(","):
            others = {}
            if bench_peers.is_peer(method):
                others = {method: partial(bench_peers.curve, method=method)}
            elif name in UNITS:
                others = {method: partial(of_units, method=method, units=UNITS[name][0])}
            try:
                (curve,) = sweep(config, [method], ratios, others=others)
            except EdgepruneError as error:  # no BatchNorm scales, say
                print(f"{name:12} {method:28} left out: {error}", flush=True)
                continue
            curves.setdefault(name, []).append(curve)
            cells = " ".join(f"{point.param_ratio:.2f}:{100 * point.accuracy:.1f}" for point in curve.points)
            print(f"{name:12} {curve.label:28} SAUCE {curve.sauce.value:.4f}  {cells}", flush=True)
    if args.page:
        args.page.write_text(page(curves, args.page.read_text()))


if __name__ == "__main__":
    main()
