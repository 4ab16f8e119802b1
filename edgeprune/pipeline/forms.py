"""Other forms of the deployed network, each compared with it where they are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edgeprune import export, runtime, zoo
from edgeprune.calibration.pixels import preprocess_image
from edgeprune.errors import ConfigError
from edgeprune.pipeline.deploying import outputs
from edgeprune.pipeline.digests import digest
from edgeprune.records import Artifact, Decoding, Export, Floats, Parity, Report
from edgeprune.runtime import openvino

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which hands itself over

FOLDER = "forms"
OWN_LIMIT = 1e-3
EXACT_BOXES = 1e-3
FRAME_LIMIT = 0.05
"""Resizing rounds pixels to whole numbers, now and then to another one than Pillow."""
FRAMES = 4
FOR_THIS_CPU = ("optimized", "compiled")


def with_forms(build: Build, report: Report) -> Report:
    """A report with the other forms that were asked for."""
    made = {name: form(build, name) for name in asked(build)}
    parity = (line for export_ in made.values() for line in export_.parity)
    forms = {name: export_.artifact for name, export_ in made.items()}
    return replace(report, forms=forms, parity=(*report.parity, *parity))


def asked(build: Build) -> list[str]:
    """Names of the forms; on another machine than this one, not the one made for its CPU."""
    names = list(build.config.forms)
    here = next((name for name in names if name in FOR_THIS_CPU), None)
    if build.target.host and here:
        raise ConfigError(
            f"--form {here} is made for the CPU of this machine, and the target is another one; run "
            "`edgeprune build` there, or leave it out."
        )
    return [*names, *(["frame"] if build.config.frame else [])]


def form(build: Build, name: str) -> Export:
    """One form, as a stage."""
    deployed = build.exports[build.deployed].artifact
    config = build.config
    inputs = {
        "deployed": deployed.digest,
        "machine": build.machine_digest,
        "runtime": build.runtime_digest,
        "settings": digest({"frame": config.frame, "end": config.frame_output}),
    }

    def make() -> Export:
        (build.folder.path / FOLDER).mkdir(exist_ok=True)
        source = verified(build)
        path = build.folder.path / FOLDER / f"{build.deployed.replace('+', '-')}-{name}"
        made = {"frame": framed, "boxes": boxed, "compiled": compiled}.get(name)
        return made(build, source, path) if made else own(build, source, path, name)

    return build.stage(f"form-{name}", Export, inputs, make, files=lambda made: made.files)


def verified(build: Build) -> Path:
    """The ONNX file of the deployed network."""
    path = (build.folder.path / build.exports[build.deployed].artifact.path).with_suffix(".onnx")
    if not path.is_file():
        raise ConfigError(
            "other forms are made from an ONNX file, and NNCF writes OpenVINO's alone; "
            "give --int8-tool onnxruntime, or leave them out."
        )
    return path


def own(build: Build, source: Path, path: Path, name: str) -> Export:
    """ONNX Runtime's own form: `ort`, or `optimized` for this CPU."""
    path = path.with_suffix(".ort" if name == "ort" else ".onnx")
    export.to_ort(source, path, for_this_cpu=name == "optimized")
    threads, images = build.target.threads, build.sample.images
    before, after = (outputs(file, "onnxruntime", threads, images) for file in (source, path))
    parity = export.parity(f"{build.deployed}: ONNX -> {name}", before, after, limit=OWN_LIMIT)
    return described(build, path, source, parity, "onnxruntime")


def compiled(build: Build, source: Path, path: Path) -> Export:
    """OpenVINO's compiled network, for this CPU."""
    path, threads, images = path.with_suffix(".blob"), build.target.threads, build.sample.images
    with export.staged(path) as place:
        openvino.write_compiled(source, place, threads)
    before, after = (outputs(file, "openvino", threads, images) for file in (source, path))
    parity = export.parity(f"{build.deployed}: ONNX -> compiled", before, after, limit=OWN_LIMIT)
    return described(build, path, source, parity, "openvino")


def framed(build: Build, source: Path, path: Path) -> Export:
    """The network with the processing of images inside, compared on frames of noise."""
    frame = build.config.frame
    assert frame is not None
    end = ending(build)
    made, scores = path.with_suffix(".onnx"), path.with_name(f".tmp-{path.name}.onnx")
    export.with_processing(source, scores, build.data.preprocess, frame=frame, end="scores")
    deployed = made
    if build.target.runtime == "openvino":
        deployed = made.with_suffix(".xml")
        export.to_openvino(scores, deployed)
    found = deployed if deployed != made else scores
    pictures = frames(build, frame)
    inputs = np.stack(
        [preprocess_image(Image.fromarray(one.squeeze()), build.data.preprocess) for one in pictures]
    )
    before = outputs(source, "onnxruntime", build.target.threads, inputs)
    after = outputs(found, build.target.runtime, build.target.threads, pictures)
    parity = export.parity(f"{build.deployed}: ours -> processing inside", before, after, limit=FRAME_LIMIT)
    scores.unlink()
    export.with_processing(source, made, build.data.preprocess, frame=frame, end=end)
    if deployed != made:
        export.to_openvino(made, deployed)
    return described(build, deployed, made, parity, build.target.runtime)


def ending(build: Build) -> export.End | Decoding:
    """What a network with the processing of images inside gives; a detector: its boxes where they fit in."""
    if build.config.task == "detection":
        return zoo.decoding(build.loaded.module, build.spec) or "scores"
    return build.config.frame_output


def boxed(build: Build, source: Path, path: Path) -> Export:
    """The detector with its post-processing inside, compared with the detector's own on real images."""
    decoding = zoo.decoding(build.loaded.module, build.spec) if build.config.task == "detection" else None
    if decoding is None:
        raise ConfigError(
            "--form boxes: only the post-processing of an SSD fits in a file; leave it out, and see "
            "docs/tasks.md for the step in Python."
        )
    made = path.with_suffix(".onnx")
    export.with_boxes(source, made, decoding)
    deployed = made
    if build.target.runtime == "openvino":
        deployed = made.with_suffix(".xml")
        export.to_openvino(made, deployed)
    setting, images = (build.target.runtime, build.target.threads), build.sample.images
    network = build.folder.path / build.exports[build.deployed].artifact.path
    expected = build.task.kept(outputs(network, *setting, images), build.sample.labels)
    predict = runtime.load(deployed, runtime=setting[0], threads=setting[1])
    found = np.stack(
        [aligned(rows, predict(image[None])) for rows, image in zip(expected, images, strict=True)]
    )
    parity = export.parity(f"{build.deployed}: scores -> boxes inside", expected, found, limit=EXACT_BOXES)
    return described(build, deployed, made, parity, build.target.runtime)


def aligned(rows: Floats, found: Floats) -> Floats:
    """For each detection the nearest one of its class among those found, whose order may be another."""
    result = np.full_like(rows, -1.0)
    for place, row in zip(result, rows, strict=True):
        same = found[found[:, 0] == row[0]]
        if len(same):
            place[:] = same[np.abs(same - row).max(axis=1).argmin()]
    return result


def frames(build: Build, frame: tuple[int, int]) -> Floats:
    """Coarse noise as a camera would give it: uint8 values, shape (n, height, width, channels)."""
    channels = 1 if build.data.preprocess.color == "gray" else 3
    rng, sides = np.random.default_rng(0), (max(2, frame[0] // 8), max(2, frame[1] // 8))
    coarse = rng.integers(0, 256, (FRAMES, *sides, channels), dtype=np.uint8)
    pictures = [
        Image.fromarray(one.squeeze()).resize(frame[::-1], Image.Resampling.BICUBIC) for one in coarse
    ]
    return np.stack([np.asarray(picture).reshape(*frame, channels) for picture in pictures])


def described(build: Build, path: Path, source: Path, parity: Parity, runtime: str) -> Export:
    """The record of a form; parameters and multiply-adds are those of the deployed network."""
    root, deployed = build.folder.path, build.exports[build.deployed].artifact
    artifact: Artifact = export.artifact(
        path,
        root=root,
        runtime=runtime,
        onnx_path=source,
        params=deployed.params,
        macs=deployed.macs,
    )
    files = dict.fromkeys(
        (*export.parts(path), *(export.parts(source) if source.parent == path.parent else ()))
    )
    return Export(
        artifact=artifact,
        parity=(parity,),
        files=tuple(file.relative_to(root).as_posix() for file in files),
    )
