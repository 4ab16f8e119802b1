"""Which widths pay on a machine: a few small networks that differ in one width, timed in turn.

Convolution kernels work on blocks of channels. A width between two blocks costs as much as the upper one, or
more; the step is the smallest one whose multiples all save about what they leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgeprune.measure import local
from edgeprune.measure.worker import Answer, Job
from edgeprune.scratch import scratch

WIDEST = 64
STEPS = (16, 8, 4, 2, 1)
SIDE = 28
LAYERS = 6
ROUNDS = 40
LEAST_SAVED = 0.5
"""Of the time that the channels left out would take in proportion."""


def step(
    *,
    runtime: str,
    threads: int = 1,
    cpus: list[int] | None = None,
    max_seconds: float = 6.0,
    run_job: Callable[[Job], Answer] = local.run,
) -> tuple[int, dict[int, float]]:
    """Return the step of widths, and the time of each width tried over that of the widest."""
    with scratch() as folder:
        widths = [WIDEST, *(WIDEST - each for each in STEPS)]
        files = [write_network(Path(folder, f"w{width}.onnx"), width) for width in widths]
        image = Path(folder, "image.npy")
        np.save(image, np.random.default_rng(0).random((1, WIDEST, SIDE, SIDE), dtype=np.float32))
        answer = run_job(
            {
                "artifacts": [str(file) for file in files],
                "runtime": runtime,
                "threads": threads,
                "cpus": local.choose_cpus(threads) if cpus is None else cpus,
                "image": str(image),
                "rounds": ROUNDS,
                "max_seconds": max_seconds,
            }
        )
    clock = "cpu_ms" if threads == 1 else "wall_ms"
    times = [np.asarray(run[clock]) for run in answer["runs"]]  # type: ignore[literal-required]  # one of two
    ratios = {width: float(np.median(time / times[0])) for width, time in zip(widths, times, strict=True)}
    return choose(ratios), ratios


def choose(ratios: Mapping[int, float]) -> int:
    """Return the smallest step down from the widest that still saves time, as all larger ones do."""
    chosen = STEPS[0]
    for each in STEPS:
        if ratios[WIDEST - each] > 1 - LEAST_SAVED * each / WIDEST:
            break
        chosen = each
    return chosen


def write_network(path: Path, width: int, *, layers: int = LAYERS) -> Path:
    """Write some 3x3 convolutions, every second with as many channels as `width`, as in residual blocks."""
    import onnx  # here: only probing pays for it
    from onnx import TensorProto, helper, numpy_helper

    assert width == WIDEST or layers % 2 == 0, "the last one gives what the first one reads"
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "image"
    for layer in range(layers):
        sizes = (width, WIDEST) if layer % 2 == 0 else (WIDEST, width)
        values = rng.normal(0.0, 0.05, size=(*sizes, 3, 3)).astype(np.float32)
        name = f"layer{layer}"
        weights.append(numpy_helper.from_array(values, f"{name}_weight"))
        nodes.append(helper.make_node("Conv", [last, f"{name}_weight"], [f"{name}_sum"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"{name}_sum"], [name]))
        last = name
    shape = [1, WIDEST, SIDE, SIDE]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "stairs", [image], [result], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
