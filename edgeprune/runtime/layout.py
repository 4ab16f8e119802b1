"""How ONNX Runtime lays out a network's convolutions here: a check of widths that needs no clock.

On x86-64 its fast convolutions work on blocks of channels. One with channels no multiple of 4 is left out,
with conversions around it, and is slower for it (1.1 times a plain one, 2 to 3 times a depthwise one).
Branches are joined in the blocked layout where each has whole blocks of channels; else it is left and entered
again, with conversions that can take longer than what narrower branches save.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path

from edgeprune.records import Layout
from edgeprune.runtime.artifact import does_not_open
from edgeprune.runtime.onnxruntime import import_onnxruntime, make_options
from edgeprune.scratch import scratch

BLOCKED = "com.microsoft.nchwc"
REORDERS = ("ReorderInput", "ReorderOutput")
CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")
WITH_BLOCKS = ("x86_64", "AMD64", "amd64")


def layout(path: Path, *, threads: int = 1) -> Layout:
    """Return how an .onnx file is laid out on this machine's kind of CPU.

    Raises:
        TargetUnreachable: ONNX Runtime is not installed.
        ModelError: The file does not open.
    """
    import onnx  # here: only this needs it

    ort = import_onnxruntime()
    with scratch() as folder:
        optimised = Path(folder, "optimised.onnx")
        options = make_options(ort, threads)
        options.optimized_model_filepath = str(optimised)
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as err:  # its errors have no common parent but Exception
            raise does_not_open(path, "onnxruntime", err) from err
        graph = onnx.load(optimised, load_external_data=False).graph
    return count((node.domain, node.op_type) for node in graph.node)


def count(nodes: Iterable[tuple[str, str]], *, machine: str = "") -> Layout:
    """Count the nodes of an optimised graph, each as its domain and op."""
    found = list(nodes)
    has_blocks = (machine or platform.machine()) in WITH_BLOCKS
    blocked = sum(domain == BLOCKED and op in CONVOLUTIONS for domain, op in found)
    plain = sum(domain != BLOCKED and op in CONVOLUTIONS for domain, op in found)
    return Layout(
        convolutions=blocked + plain,
        unblocked=plain if has_blocks else 0,
        reorders=sum(op in REORDERS for _, op in found),
        blocked_layout=has_blocks,
    )
