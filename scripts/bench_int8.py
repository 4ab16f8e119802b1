#!/usr/bin/env python
"""Which 8-bit file serves which runtime best: one QDQ ONNX file for both, or NNCF's IR for OpenVINO.

    scripts/bench_int8.py ../shared/data --networks resnet20,mobilenet_v2 --out docs/int8.md

Needs the weights and images of the test data, which are not part of the project. All files of one runtime are
interleaved; accuracies are of evaluation images. The figures go into a table, and with the machine into JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

NETWORKS = {
    "resnet20": ("python:tests.nets:cifar_resnet20", "models/cifar10_resnet20.pt", "cifar10_shared"),
    "resnet56": ("python:tests.nets:cifar_resnet56", "models/cifar10_resnet56.pt", "cifar10_shared"),
    "mobilenet_v2": (
        "torchvision:mobilenet_v2",
        "models/imagenet_mobilenet_v2.pt",
        "imagenet_shared_rotated",
    ),
}
RANGES, TESTED = 150, 500
HEAD = ("network", "runtime", "file", "time over float32, 95 % CI", "top-1", "size")


def spread(total: int, count: int) -> list[int]:
    return [round(i * (total - 1) / max(1, count - 1)) for i in range(min(count, total))]


def bench(name: str, shared: Path, processes: int) -> dict[str, Any]:  # Any: JSON
    """Time and accuracy of every file of one network on both runtimes."""
    import numpy as np
    import onnx

    from edgeprune import calibration, export, measure, quantize, runtime, zoo
    from edgeprune.records import Split

    model, weights, data_name = NETWORKS[name]
    loaded = zoo.load(model, weights=str(shared / weights))
    data = calibration.load(
        str(ROOT / "tests" / "data" / f"{data_name}.toml"),
        overrides={},
        default=loaded.preprocess,
        calibration_per_class=None,
        seed=0,
        folders=(),
    )
    ranges = calibration.images(data, Split.CALIBRATION, spread(len(data.samples[Split.CALIBRATION]), RANGES))
    chosen = spread(len(data.samples[Split.EVALUATION]), TESTED)
    images = calibration.images(data, Split.EVALUATION, chosen)
    labels = np.array([data.samples[Split.EVALUATION][i].label for i in chosen])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dense, qdq, nncf = (Path(folder, n) for n in ("float32.onnx", "qdq.onnx", "nncf.xml"))
        export.to_onnx(loaded.module, calibration.input_spec(data), dense)
        export.simplify(dense)
        export.save(quantize.quantize_onnx(dense, ranges, reduce_range=False), qdq)
        export.save_openvino(quantize.quantize_ir(dense, ranges).model, nncf, description={})
        onnx.checker.check_model(onnx.load(qdq))
        for kind, files in {"onnxruntime": [dense, qdq], "openvino": [dense, nncf, qdq]}.items():
            found = measure.measure(
                {file.stem: file for file in files},
                runtime=kind,
                threads=1,
                image=images[0],
                processes=processes,
            )
            ratios = {later: row["float32"] for later, row in found.ratios.items()}
            ratios = ratios or {files[-1].stem: found.ratio}
            for file in files:
                right = runtime.load(file, runtime=kind, threads=1)(images).argmax(axis=1) == labels
                ratio = ratios.get(file.stem)
                rows.append(
                    {
                        "network": name,
                        "runtime": kind,
                        "file": file.stem,
                        "ratio": asdict(ratio) if ratio else None,
                        "top1": float(right.mean()),
                        "images": len(labels),
                        "bytes": sum(part.stat().st_size for part in export.parts(file)),
                        "quality": found.quality,
                    }
                )
    return {"rows": rows, "machine": found.machine}


def table(rows: list[dict[str, Any]]) -> str:  # Any: JSON
    lines = [f"| {' | '.join(HEAD)} |", "| :-- | :-- | :-- | --: | --: | --: |"]
    for row in rows:
        ratio = row["ratio"]
        time = f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})" if ratio else "1"
        cells = (row["network"], row["runtime"], row["file"], time, f"{100 * row['top1']:.1f} %")
        lines.append(f"| {' | '.join(cells)} | {row['bytes'] / 1e6:.2f} MB |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--networks", default="resnet20,mobilenet_v2")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "int8.md")
    arguments = parser.parse_args()
    found = [bench(name, arguments.shared, arguments.processes) for name in arguments.networks.split(",")]
    rows = [row for each in found for row in each["rows"]]
    machine = found[-1]["machine"]
    about = "; ".join(f"{key}: {value}" for key, value in machine.items())
    noisy = " The machine was busy." if any(row["quality"] == "noisy" for row in rows) else ""
    text = (
        "# 8 bits: which file for which runtime\n\nWritten by scripts/bench_int8.py: "
        f"`qdq` is ONNX Runtime's static quantization, `nncf` is NNCF's IR, both from {RANGES} calibration "
        f"images; top-1 on {rows[0]['images']} evaluation images; one thread, interleaved.{noisy}\n\n"
        f"{table(rows)}\n\n{about}\n"
    )
    arguments.out.write_text(text)
    arguments.out.with_suffix(".json").write_text(
        json.dumps({"rows": rows, "machine": machine}, indent=1) + "\n"
    )
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
