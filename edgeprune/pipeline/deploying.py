"""One network -> the file that the target loads, with parity checked at every hand-over on real images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from edgeprune import channels, export, runtime
from edgeprune.copying import copied
from edgeprune.errors import ConfigError
from edgeprune.pipeline.pruning import Analysed, Found, run
from edgeprune.records import Export, Floats, InputSpec, OnnxOptions, Parity
from edgeprune.runfolder import our_version

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which hands itself over

MASKED_LIMIT = 1e-4
EXACT_LIMIT = 1e-3
FP16_LIMIT = 1e-2
"""Weights of 11 bits: their errors of 5e-4 mostly cancel out."""
FOLDER = "models"
FIXED = OnnxOptions()


def deploy(  # noqa: PLR0913  # one argument for each thing that only the build knows
    name: str,
    module: nn.Module,
    spec: InputSpec,
    *,
    root: Path,
    runtime_name: str,
    threads: int,
    simplify: bool,
    options: OnnxOptions = FIXED,
    fp16: bool = False,
    images: Floats,
    masked: Floats | None,
    saved: tuple[Path, ...],
    notes: tuple[str, ...],
) -> Export:
    """Export, simplify, convert, and compare the outputs after each.

    Args:
        name: `dense` or `pruned`.
        root: The run folder; files go to its `models/`.
        options: How the ONNX file is written.
        fp16: Store weights in 16 bits.
        images: Real images, shape (n, C, H, W).
        masked: Outputs of the dense network with the units masked: the cut one must agree. None for dense.
        saved: Files already written that belong to the record.

    Raises:
        ParityError: naming the stage after which the outputs differ.
    """
    (root / FOLDER).mkdir(exist_ok=True)
    onnx_path = root / FOLDER / f"{name}.onnx"
    expected = run(module, images, batch=1)  # as it will run, and the only size that some networks take
    compared = partial(export.parity, exact=partial(exact_outputs, module, images))
    parity: list[Parity] = []
    if masked is not None:
        parity.append(compared(f"{name}: masked -> cut out", masked, expected, limit=MASKED_LIMIT))
    found = [*notes, *export.to_onnx(module, spec, onnx_path, options)]
    exported = outputs(onnx_path, "onnxruntime", threads, images)
    parity.append(compared(f"{name}: torch -> ONNX", expected, exported))
    if simplify:
        found += export.simplify(onnx_path)
        simple = outputs(onnx_path, "onnxruntime", threads, images)
        parity.append(compared(f"{name}: torch -> simplified ONNX", expected, simple))
    params, macs = export.params_and_macs(onnx_path, spec)
    if fp16:
        found += export.to_fp16(onnx_path)
        narrow = outputs(onnx_path, "onnxruntime", threads, images)
        parity.append(compared(f"{name}: torch -> 16-bit weights", expected, narrow, limit=FP16_LIMIT))
    deployed, files = onnx_path, [*export.parts(onnx_path), *saved]
    if runtime_name == "openvino":
        deployed = onnx_path.with_suffix(".xml")
        export.to_openvino(onnx_path, deployed, fp16=fp16)
        files += [deployed, deployed.with_suffix(".bin")]
        final = outputs(deployed, runtime_name, threads, images)
        limit = FP16_LIMIT if fp16 else EXACT_LIMIT
        parity.append(compared(f"{name}: torch -> OpenVINO", expected, final, limit=limit))
    artifact = export.artifact(
        deployed, root=root, runtime=runtime_name, onnx_path=onnx_path, params=params, macs=macs, notes=found
    )
    relative = tuple(path.relative_to(root).as_posix() for path in files)
    return Export(artifact=artifact, parity=tuple(parity), files=relative, notes=tuple(found))


def exact_outputs(module: nn.Module, images: Floats) -> Floats | None:
    """What a network gives in double precision, shape (n, K); None where it cannot run in it."""
    doubled = copied(module).double()
    try:
        return run(doubled, images.astype(np.float64), batch=1)
    except RuntimeError:  # constants of the graph that stay in single precision
        return None


def outputs(path: Path, runtime_name: str, threads: int, images: Floats) -> Floats:
    """What a file gives for images on a runtime, shape (n, K)."""
    return runtime.load(path, runtime=runtime_name, threads=threads)(images)


def masked_logits(analysed: Analysed, found: Found, images: Floats) -> Floats:
    """The dense network with the units masked: what cutting them out must agree with."""
    masked = channels.masked(analysed.coupling, found.pruning.plan.removed, found.weights)
    return run(masked, images, batch=analysed.traced.batch)


def make_export(build: Build, name: str) -> Export:
    """Deploy the dense or the pruned network of a build."""
    module: nn.Module = build.network if name == "dense" else build.pruned.module
    notes: tuple[str, ...] = ()
    saved: tuple[Path, ...] = ()
    reference = None
    if name == "pruned":
        saved = build.pruned.save(build.folder.path / "pruned")
        reference = masked_logits(build.analysed, build.found, build.sample.images)
        if not build.pruned.own_class:
            notes = (f"deployed from the traced graph: {build.pruned.reason}",)
    return deploy(
        name,
        module,
        build.spec,
        root=build.folder.path,
        runtime_name=build.target.runtime,
        threads=build.target.threads,
        simplify=build.config.simplify,
        options=onnx_options(build),
        fp16=build.config.fp16 and name != "dense",
        images=build.sample.images,
        masked=reference,
        saved=saved,
        notes=notes,
    )


def onnx_options(build: Build) -> OnnxOptions:
    """How the ONNX files of a build are written, as the settings say; they say themselves what they are.

    Raises:
        ConfigError: --input-shape is not what the data give.
    """
    asked, shape = build.config.input_shape, build.spec.shape
    batch, *rest = asked or (1, *shape)
    free_size = rest[1:] == [None, None]
    if rest != [shape[0], None, None] and tuple(rest) != shape:
        given = "x".join("?" if size is None else str(size) for size in (batch, *rest))
        raise ConfigError(
            f"--input-shape {given}: the images are {'x'.join(map(str, shape))} (channels, height, width); "
            "change resize or crop, or free both sizes with ?."
        )
    # What the file itself came from, no more: the same weights give the same bytes, whatever judges them.
    provenance = {
        "edgeprune": our_version(),
        "weights": build.loaded.digest,
        "target": build.target.name,
    }
    return OnnxOptions(
        opset=build.config.opset,
        batch=batch,
        free_size=free_size,
        external=build.config.external_weights,
        description=export.describe(build.data.classes, build.data.preprocess, provenance),
    )
