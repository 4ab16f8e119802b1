"""One network -> the file that the target loads, with parity checked at every hand-over on real images."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgeprune import export, runtime
from edgeprune.pipeline.pruning import run
from edgeprune.records import Export, Floats, InputSpec, Parity

MASKED_LIMIT = 1e-4
FOLDER = "models"


def deploy(  # noqa: PLR0913  # one argument for each thing that only the build knows
    name: str,
    module: nn.Module,
    spec: InputSpec,
    *,
    root: Path,
    runtime_name: str,
    threads: int,
    simplify: bool,
    images: Floats,
    masked: Floats | None,
    saved: tuple[Path, ...],
    notes: tuple[str, ...],
) -> Export:
    """Export, simplify, convert, and compare the outputs after each.

    Args:
        name: `dense` or `pruned`.
        root: The run folder; files go to its `models/`.
        images: Real images, shape (n, C, H, W).
        masked: Outputs of the dense network with the units masked: the cut one must agree. None for dense.
        saved: Files already written that belong to the record.

    Raises:
        ParityError: naming the stage after which the outputs differ.
    """
    (root / FOLDER).mkdir(exist_ok=True)
    onnx_path = root / FOLDER / f"{name}.onnx"
    expected = run(module, images, batch=1)  # as it will run, and the only size that some networks take
    parity: list[Parity] = []
    if masked is not None:
        parity.append(export.parity(f"{name}: masked -> cut out", masked, expected, limit=MASKED_LIMIT))
    found = [*notes, *export.to_onnx(module, spec, onnx_path)]
    parity.append(
        export.parity(f"{name}: torch -> ONNX", expected, outputs(onnx_path, "onnxruntime", threads, images))
    )
    if simplify:
        found += export.simplify(onnx_path)
        simple = outputs(onnx_path, "onnxruntime", threads, images)
        parity.append(export.parity(f"{name}: torch -> simplified ONNX", expected, simple))
    deployed, files = onnx_path, [onnx_path, *saved]
    if runtime_name == "openvino":
        deployed = onnx_path.with_suffix(".xml")
        export.to_openvino(onnx_path, deployed)
        files += [deployed, deployed.with_suffix(".bin")]
        final = outputs(deployed, runtime_name, threads, images)
        parity.append(export.parity(f"{name}: torch -> OpenVINO", expected, final))
    params, macs = export.params_and_macs(onnx_path)
    artifact = export.artifact(
        deployed, root=root, runtime=runtime_name, onnx_path=onnx_path, params=params, macs=macs, notes=found
    )
    relative = tuple(path.relative_to(root).as_posix() for path in files)
    return Export(artifact=artifact, parity=tuple(parity), files=relative, notes=tuple(found))


def outputs(path: Path, runtime_name: str, threads: int, images: Floats) -> Floats:
    """What a file gives for images on a runtime, shape (n, K)."""
    return runtime.load(path, runtime=runtime_name, threads=threads)(images)
