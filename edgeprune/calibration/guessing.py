"""What a data set's images are labelled with, and a description of a folder that has none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.calibration.arrays import read_npz
from edgeprune.calibration.description import Description, describe
from edgeprune.calibration.listing import image_files, sub_folders
from edgeprune.calibration.masks import MASK_SUFFIXES
from edgeprune.errors import DataError
from edgeprune.records import Kind
from edgeprune.untrusted import read_json

IMAGES = ("images", "jpegimages", "image", "imgs", "img")
MASKS = ("masks", "labels", "segmentationclass", "annotations", "annot", "mask")
BOXES = ("annotations", "boxes", "labels", "xml")
MOST_JSON_BYTES = 2_000_000_000
MOST_LOOKED_AT = 50
"""Masks that are opened to see which numbers they hold."""
VOID = 255
MASK_DIMENSIONS, BOX_COLUMNS = 3, 6


def guess_kind(data: str, folders: Sequence[Path]) -> Kind:
    """What images are labelled with: masks or boxes where the data says so, else one class each."""
    found = describe(data, folders)
    part = found.keys.calibration
    if part.masks or part.boxes:
        return "masks" if part.masks else "boxes"
    return _kind_of_arrays(found) if part.source.lower().endswith(".npz") else "classes"


def _kind_of_arrays(found: Description) -> Kind:
    """By the shape of the labels: (N, H, W) are masks, (N, boxes, 6) are boxes."""
    part = found.keys.calibration
    if part.labels is None:
        return "classes"
    [source, *_] = found.sources("classes")
    labels = read_npz(source.path, [part.labels])[part.labels]
    if labels.ndim != MASK_DIMENSIONS:
        return "classes"
    boxes = labels.shape[2] == BOX_COLUMNS and labels.dtype.kind == "f"
    return "boxes" if boxes else "masks"


def describe_folder(folder: Path) -> str | None:
    """A description, as TOML, of a folder that holds images beside their masks or boxes; None: it does not.

    Known are `images` or `JPEGImages` beside `masks` or `SegmentationClass` (PNG files of the same names),
    beside `Annotations` (VOC's .xml files), or beside COCO's .json file, there or in `annotations`.
    """
    places = {child.name.lower(): child for child in sub_folders(folder)}
    images = next((places[name] for name in IMAGES if name in places), None)
    if images is None:
        return None
    for place in (folder, *(places[name] for name in BOXES if name in places)):
        for file in sorted(place.glob("*.json")):
            if _is_coco(file):
                return _written(images, "boxes", file)
    for name in BOXES:
        if name in places and next(places[name].glob("*.xml"), None):
            return _written(images, "boxes", places[name])
    for name in MASKS:
        masks = places.get(name)
        if masks and any(file.suffix.lower() in MASK_SUFFIXES for file in masks.iterdir()):
            return _written(images, "masks", masks, names=_mask_classes(masks))
    return None


def _is_coco(file: Path) -> bool:
    try:
        content = read_json(file, most=MOST_JSON_BYTES)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _mask_classes(masks: Path) -> list[str]:
    """A name for each number in the masks; pictures of colours need more than that, and a reader says so."""
    highest = 1
    for file in image_files(masks)[:MOST_LOOKED_AT]:
        try:
            with Image.open(file) as mask:
                numbers = np.asarray(mask)
        except OSError as err:
            raise DataError(f"{file}: cannot be read as a mask ({err}).") from err
        if numbers.ndim == 2:  # noqa: PLR2004  # numbers, or of a palette
            highest = max(highest, int(numbers[numbers != VOID].max(initial=0)))
    return [f"class {number}" for number in range(highest + 1)]


def _written(images: Path, kind: str, answers: Path, *, names: Sequence[str] | None = None) -> str:
    lines = ["# Written by `edgeprune init`; half of the images are set aside for evaluation."]
    if names is not None:
        lines.append(f"classes = {json.dumps(names)} # numbers 0, 1, ... of the masks: give their names")
        lines.append(f"ignore = [{VOID}] # numbers that count for nothing")
    where = (json.dumps(str(place.resolve()), ensure_ascii=False) for place in (images, answers))
    lines += ["", "[calibration]", f"source = {next(where)}", f"{kind} = {next(where)}"]
    return "\n".join(lines) + "\n"
