#!/usr/bin/env python
"""Seconds and memory of compensation alone: a share of every group leaves, and all layers are fitted anew.

    scripts/bench_refit.py resnet50 --images 100 --share 0.3

Random weights and images: what it takes does not depend on them. The units with the smallest weights leave;
then come moments, the affine compensation of every removal, sequential least squares, and the statistics of
BatchNorms. One process, all cores; the peak is that of the whole process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", nargs="?", default="resnet50", help="of torchvision")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.3, help="of the units of every group")
    args = parser.parse_args()

    import numpy as np
    import torch
    from torchvision import models

    from edgeprune.pipeline.options import Images, Labelled, PruneOptions
    from edgeprune.pipeline.pruning import analyse, make_study
    from edgeprune.records import InputSpec

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    network = models.get_model(args.network, weights=None).eval()
    side = 299 if args.network == "inception_v3" else 224
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((args.images, 3, side, side), dtype=np.float32)
    options = PruneOptions(align=8)
    analysed = analyse(network, InputSpec(shape=(3, side, side)), options)
    labels = analysed.logits(pictures).argmax(axis=1)
    images = Images(
        calibration=Labelled(images=pictures, labels=labels),
        names=tuple(map(str, range(1000))),
    )
    study = make_study(analysed, images, options)
    removed = {group.name: tuple(range(int(args.share * group.units) // 8 * 8)) for group in study.groups}
    began, cpu = time.perf_counter(), time.process_time()
    _, fit = study.compensated(removed)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    gone = study.ledger.param_ratio(removed)
    print(
        f"{args.network}: {args.images} images, {gone:.0%} of the parameters removed, "
        f"{len(fit.weights)} tensors fitted anew in {seconds:.1f} s ({cpu:.1f} s of CPU time), "
        f"peak {peak:.2f} GB"
    )


if __name__ == "__main__":
    main()
