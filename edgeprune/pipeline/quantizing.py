"""A verified network -> the same in 8 bits, its accuracy decided on the validation images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgeprune import calibration, export, quantize
from edgeprune.pipeline import evaluating
from edgeprune.pipeline.deploying import outputs
from edgeprune.pipeline.digests import digest, images_digest
from edgeprune.pipeline.options import PruneOptions
from edgeprune.records import Export, Floats, Quantized, Split

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which hands itself over

PARITY_LIMIT = 2.0
"""Scores in 8 bits differ, and accuracy says whether that matters; beyond this a file is broken."""
WITH_VNNI = ("avx_vnni", "avx512_vnni", "amx_int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The file of a quantized network, what it was made of, and how."""

    path: Path
    others: tuple[Path, ...]
    how: Quantized


def quantized(build: Build, source: Export) -> Export:
    """The 8-bit variant of an exported network; of the dense one `int8`, of the pruned one `pruned+int8`."""
    name = "int8" if source is build.dense_export else "pruned+int8"
    inputs = {
        "source": source.artifact.digest,
        "data": images_digest(build.data, Split.CALIBRATION, Split.VALIDATION),
        "runtime": build.runtime_digest,
        "machine": build.machine_digest,
        "settings": digest(
            {"tool": tool(build), "images": build.config.int8_images, "limit": limit_of(build)}
        ),
        "libraries": digest({library: installed(library) for library in ("nncf", "onnxruntime")}),
    }

    def make() -> Export:
        onnx_path = (build.folder.path / source.artifact.path).with_suffix(".onnx")
        written = (by_nncf if tool(build) == "nncf" else by_onnxruntime)(build, name, onnx_path)
        return described(build, name, source, written)

    return build.stage(
        f"export-{name.replace('+', '-')}", Export, inputs, make, files=lambda made: made.files
    )


def in_8_bits(build: Build, onnx_path: Path) -> Path:
    """The file of a network under trial in 8 bits, beside its .onnx; no layer goes back for accuracy."""
    ranges, path = ranging_images(build), onnx_path.with_name("int8.onnx")
    if tool(build) == "nncf":
        path = path.with_suffix(".xml")
        made = quantize.quantize_ir(onnx_path, ranges).model
        export.save_openvino(made, path, description=export.read_description(onnx_path))
        return path
    reduce_range = adds_in_16_bits(build.place.machine())
    export.save(quantize.quantize_onnx(onnx_path, ranges, reduce_range=reduce_range), path)
    return export.for_runtime(path, build.target.runtime)


def tool(build: Build) -> str:
    """Who quantizes: as asked for, or what belongs to the runtime."""
    return build.config.int8_tool or ("nncf" if build.target.runtime == "openvino" else "onnxruntime")


def limit_of(build: Build) -> float | None:
    """How much accuracy may go in all, in [0, 1]; None: any, or nothing to decide it by."""
    drop = build.config.max_accuracy_drop
    return None if drop is None or not build.data.samples[Split.VALIDATION] else drop / 100


def installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def with_room_for_int8(build: Build, options: PruneOptions) -> PruneOptions:
    """The options of the analysis; 8 bits keep what they cost the dense network, up to half the limit."""
    limit = options.max_accuracy_drop
    if not build.config.int8 or limit is None:
        return options
    how = build.dense_int8.quantized
    cost = how.drop if how is not None and how.drop is not None else 0.0
    return replace(options, max_accuracy_drop=limit - min(max(cost, 0.0), limit / 2))


# --- the two tools ------------------------------------------------------------------------------------


def by_nncf(build: Build, name: str, onnx_path: Path) -> Written:
    limit, judge = limit_of(build), None
    ranges = ranging_images(build)
    path = place(build, name, ".xml")
    if limit is not None:
        # The control starts from the float32 network of this variant; what pruning cost is gone already.
        left = limit - drop(build, onnx_path)
        judge = quantize.Judge(
            images=calibration.images(build.data, Split.VALIDATION),
            value=partial(value_of, build),
            max_drop=max(left, 0.0),
        )
    made = quantize.quantize_ir(onnx_path, ranges, judge)
    export.save_openvino(made.model, path, description=export.read_description(onnx_path))
    how = Quantized(
        method=f"NNCF {made.version}, per channel, bias correction",
        images=len(ranges),
        layers=made.layers,
        kept_float=made.kept_float,
        limit=limit,
        drop=None if limit is None else drop(build, path),
    )
    return Written(path=path, others=(path.with_suffix(".bin"),), how=how)


def value_of(build: Build, numbers: Sequence[int], outputs: Floats) -> float:
    """The metric on these of the validation images, from outputs that NNCF gives."""
    task, labels = build.task, calibration.labels(build.data, Split.VALIDATION, numbers)
    return task.value(task.answers(task.kept(outputs, labels)), task.truth(labels))


def by_onnxruntime(build: Build, name: str, onnx_path: Path) -> Written:
    limit, ranges = limit_of(build), ranging_images(build)
    reduce_range = adds_in_16_bits(build.place.machine())
    model = quantize.quantize_onnx(onnx_path, ranges, reduce_range=reduce_range)
    layers, back = len(quantize.quantized_layers(model)), None
    path = place(build, name, ".onnx")
    if limit is not None:
        back = quantize.restore(model, onnx.load(onnx_path), demand(build, path, limit, ranges))
    export.save(back.model if back else model, path)
    how = Quantized(
        method=(
            f"ONNX Runtime {version('onnxruntime')}, QDQ, per channel, bias correction"
            + (", weights in 7 bits (this CPU has no VNNI)" if reduce_range else "")
        ),
        images=len(ranges),
        layers=layers,
        kept_float=back.layers if back else (),
        limit=limit,
        drop=back.drop if back else None,
        before_fallback=back.first_drop if back else None,
    )
    deployed = export.for_runtime(path, build.target.runtime)
    others = () if deployed == path else (path, deployed.with_suffix(".bin"))
    return Written(path=deployed, others=others, how=how)


def demand(build: Build, path: Path, limit: float, images: Floats) -> quantize.Demand:
    """What a QDQ network must keep, judged on the target's runtime; `path` is where it will lie."""

    def dropped(model: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder:
            trial = Path(folder, "trial.onnx")
            trial.write_bytes(model.SerializeToString())
            return drop(build, trial)

    def on_progress(done: int, total: int) -> None:
        build.watcher.progress("int8", done, total, "layers ranked")

    return quantize.Demand(drop=dropped, limit=limit, ranking=images, on_progress=on_progress)


def adds_in_16_bits(machine: Mapping[str, str]) -> bool:
    """Whether 8-bit weights can overflow: an x86 CPU without VNNI. Arm adds in 32 bits."""
    features = machine.get("features", "").split()
    return "avx2" in features and not set(WITH_VNNI) & set(features)


def ranging_images(build: Build) -> Floats:
    """Calibration images, spread over the split, from which the ranges of activations come."""
    total = len(build.data.samples[Split.CALIBRATION])
    chosen = np.linspace(0, total - 1, min(total, build.config.int8_images)).astype(int)
    return calibration.images(build.data, Split.CALIBRATION, chosen.tolist())


def place(build: Build, name: str, suffix: str) -> Path:
    return build.folder.path / "models" / f"{name.replace('+', '-')}{suffix}"


# --- accuracy -----------------------------------------------------------------------------------------


def drop(build: Build, path: Path) -> float:
    """Accuracy lost by a file against the dense network, on the validation images."""
    dense = build.folder.path / build.dense_export.artifact.path
    inputs = {
        "artifact": build.dense_export.artifact.digest,
        "data": images_digest(build.data, Split.VALIDATION),
        "runtime": build.runtime_digest,
    }
    before = build.stage("validation-dense", float, inputs, lambda: right(build, dense))
    return before - right(build, path)


def right(build: Build, path: Path) -> float:
    """The metric on the validation images."""
    return build.task.value(*evaluating.run(build, path, Split.VALIDATION, "validation"))


# --- what was made ------------------------------------------------------------------------------------


def described(build: Build, name: str, source: Export, written: Written) -> Export:
    """The record of a quantized network; parameters and multiply-adds are those of the float32 one."""
    target, root = build.target, build.folder.path
    files = (written.path, *written.others)
    notes = fallback_notes(name, written.how)
    before, after = (
        outputs(path, target.runtime, target.threads, build.sample.images)
        for path in (root / source.artifact.path, written.path)
    )
    artifact = export.artifact(
        written.path,
        root=root,
        runtime=target.runtime,
        onnx_path=(root / source.artifact.path).with_suffix(".onnx"),
        params=source.artifact.params,
        macs=source.artifact.macs,
        notes=notes,
    )
    return Export(
        artifact=artifact,
        parity=(export.parity(f"{name}: float32 -> int8", before, after, limit=PARITY_LIMIT),),
        files=tuple(path.relative_to(root).as_posix() for path in files),
        notes=notes,
        quantized=written.how,
    )


def fallback_notes(name: str, how: Quantized) -> tuple[str, ...]:
    """What a reader should know about the accuracy."""
    if how.limit is None:
        return ()
    if how.drop is not None and how.drop > how.limit:
        return (
            f"{name}: {100 * how.drop:.2f} points lost on the validation images, over the limit of "
            f"{100 * how.limit:g}: no choice of layers in float32 keeps it",
        )
    kept = len(how.kept_float)
    return (f"{name}: {kept} of {how.layers} layers stay in float32, for the accuracy",) if kept else ()
