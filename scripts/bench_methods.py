"""Curves of every method on real networks: accuracy over the share of parameters removed, SAUCE, plot.

    scripts/bench_methods.py ../shared/data/ --out bench --networks resnet20 --methods c-swap-c,taylor+affine

Needs the weights and images of the test data, which are not part of the project. Resumable: each curve is a
record in the run folder of its network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

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
    "integrated-gradients+affine,lrp+affine,class-aware+affine"
)
RATIOS = "0.05,0.1,0.15,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--out", type=Path, default=Path("bench-methods"))
    parser.add_argument("--networks", default="example,resnet20")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--ratios", default=RATIOS)
    parser.add_argument("--align", type=int, default=1)
    args = parser.parse_args()

    from edgeprune.config import make_config
    from edgeprune.pipeline.sweeping import sweep

    for name in args.networks.split(","):
        settings = dict(NETWORKS[name])
        if settings:
            settings["weights"] = str(args.data / settings["weights"])
            settings["data"] = str(ROOT / "tests" / "data" / f"{settings['data']}.toml")
        config = make_config({**settings, "out": args.out / name, "align": args.align}, file=None)
        ratios = [float(text) for text in args.ratios.split(",")]
        for method in args.methods.split(","):
            (curve,) = sweep(config, [method], ratios)
            cells = " ".join(f"{point.param_ratio:.2f}:{100 * point.accuracy:.1f}" for point in curve.points)
            print(f"{name:12} {curve.label:28} SAUCE {curve.sauce.value:.4f}  {cells}", flush=True)
            row = {"network": name, "label": curve.label, "sauce": curve.sauce.value, "points": cells}
            with (args.out / "curves.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
