"""Curves of every method on real networks: accuracy over the share of parameters removed, SAUCE, plot.

    scripts/bench_methods.py ../shared/data/ --out bench --networks resnet20 --methods c-swap-c,taylor+affine

Needs the weights and images of the test data, which are not part of the project. Resumable: each curve is a
record in the run folder of its network. Methods `tp-...` need Torch-Pruning (scripts/requirements-bench.txt).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.records import Curve

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

NETWORKS = {
    "example": {},
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
    "vit": {
        "model": "python:tests.nets:cifar_vit",
        "weights": "models/cifar10_vit.pt",
        "data": "cifar10_shared_own_std",
    },
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
    "integrated-gradients+affine,lrp+affine,class-aware+affine,"
    "tp-magnitude+bn,tp-taylor+bn,tp-lamp+bn,tp-bn-scale+bn,tp-magnitude,onnxsim-l2,onnxsim-wanda+ridge"
)
BEGIN, END = "<!-- curves: written by scripts/bench_methods.py -->", "<!-- end of curves -->"
RATIOS = "0.05,0.1,0.15,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"


def settings_of(name: str, data: Path, out: Path, align: int) -> dict[str, object]:
    settings: dict[str, object] = dict(NETWORKS[name])
    if settings:
        settings["weights"] = str(data / str(settings["weights"]))
        settings["data"] = str(ROOT / "tests" / "data" / f"{settings['data']}.toml")
    return {**settings, "out": out / name, "align": align}


def page(curves: dict[str, list[Curve]], text: str) -> str:
    """The page with its tables between the markers replaced."""
    lines: list[str] = []
    for network, found in curves.items():
        ordered = sorted(found, key=lambda curve: -curve.sauce.value)
        dense = sum(ordered[0].dense) / len(ordered[0].dense)
        ratios = [point.asked for point in ordered[0].points]
        lines += [f"### {network}: dense {100 * dense:.2f} % on {len(ordered[0].dense)} images", ""]
        lines.append("| method | SAUCE [95 %] | / dense | " + " | ".join(f"{r:.0%}" for r in ratios) + " |")
        lines.append("|---" * (3 + len(ratios)) + "|")
        for curve in ordered:
            area = curve.sauce
            cells = [f"{100 * point.accuracy:.1f}" for point in curve.points]
            name = f"**{curve.label}**" if curve.label == "c-swap-c" else curve.label
            span = f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
            lines.append(f"| {name} | {span} | {area.value / dense:.3f} | " + " | ".join(cells) + " |")
        lines.append("")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n\n" + "\n".join(lines) + "\n" + END + after


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--out", type=Path, default=Path("bench-methods"))
    parser.add_argument("--networks", default="example,resnet20")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--ratios", default=RATIOS)
    parser.add_argument("--align", type=int, default=1)
    parser.add_argument("--allocation", default="global", help="of criteria: global, or uniform over layers")
    parser.add_argument("--page", type=Path, help="a page whose tables are written anew, like docs/method.md")
    args = parser.parse_args()

    import bench_peers

    from edgeprune.config import make_config
    from edgeprune.pipeline.sweeping import sweep

    curves: dict[str, list[Curve]] = {}
    ratios = [float(text) for text in args.ratios.split(",")]
    for name in args.networks.split(","):
        settings = settings_of(name, args.data, args.out, args.align)
        config = make_config({**settings, "allocation": args.allocation})
        for method in args.methods.split(","):
            others = {method: lambda field, method=method: bench_peers.curve(field, method)}
            (curve,) = sweep(config, [method], ratios, others=others if bench_peers.is_peer(method) else {})
            curves.setdefault(name, []).append(curve)
            cells = " ".join(f"{point.param_ratio:.2f}:{100 * point.accuracy:.1f}" for point in curve.points)
            print(f"{name:12} {curve.label:28} SAUCE {curve.sauce.value:.4f}  {cells}", flush=True)
    if args.page:
        args.page.write_text(page(curves, args.page.read_text()))


if __name__ == "__main__":
    main()
