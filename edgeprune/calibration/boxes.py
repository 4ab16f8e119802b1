"""Boxes of objects: COCO's JSON, one VOC XML file an image, or an array in an .npz."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from edgeprune.calibration.arrays import Place, class_names_of, images_of
from edgeprune.calibration.listing import (
    Entry,
    Listing,
    Source,
    digest_array,
    image_files,
    is_there,
    named_arrays,
)
from edgeprune.calibration.pixels import Corners, placed
from edgeprune.errors import DataError
from edgeprune.records import Box, Doubles, Preprocess
from edgeprune.untrusted import read_bytes, read_json

MOST_XML_BYTES, MOST_JSON_BYTES = 4_000_000, 2_000_000_000
MOST_GAPS = 2
"""Category numbers of COCO up to this many times their count are outputs of the network, gaps included."""
COLUMNS = 6
"""Class, x0, y0, x1, y1, ignored."""


def list_boxed(source: Source) -> Listing:
    """Return the images that a source holds, each with its boxes; raises a DataError for broken ones."""
    path, answers = source.path, source.answers
    if path.suffix.lower() == ".npz":
        return _list_npz(source)
    if not path.is_dir() or answers is None:
        raise DataError(
            f"{path}: give `source` (a folder of images) and `boxes` (COCO's .json, or a folder of VOC .xml "
            "files of the same names), or an .npz of images and boxes."
        )
    listing = _list_voc(path, answers) if answers.is_dir() else _list_coco(path, answers)
    if not listing.entries:
        raise DataError(f"{answers}: names no image in {path}.")
    return listing


def _list_coco(path: Path, answers: Path) -> Listing:
    content = _read_json(answers)
    try:
        numbers = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        files = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        found: dict[int, list[Box]] = {image: [] for image in files}
        for item in content["annotations"]:
            x, y, width, height = map(float, item["bbox"])
            name, crowd = numbers[int(item["category_id"])], bool(item.get("iscrowd", 0))
            box = _box(name, (x, y, x + width, y + height), str(answers), ignored=crowd)
            found[int(item["image_id"])].append(box)
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        raise DataError(f"{answers}: is no COCO file of boxes ({type(err).__name__}: {err}).") from err
    entries = []
    for image, boxes in found.items():
        file = path / files[image]
        if not is_there(file) or not file.resolve().is_relative_to(path.resolve()):
            raise DataError(f"{answers}: names {files[image]}, and there is no such image in {path}.")
        entries.append(_entry(file, boxes, str(answers)))
    return Listing(entries=tuple(entries), classes=_coco_classes(numbers))


def _coco_classes(numbers: dict[int, str]) -> tuple[str, ...]:
    """Class names by number, the gaps in COCO's own numbers kept: networks have outputs for them."""
    last = max(numbers, default=0)
    if min(numbers, default=0) >= 1 and last <= MOST_GAPS * len(numbers):
        return tuple(numbers.get(number, f"unused {number}") for number in range(1, last + 1))
    return tuple(numbers[number] for number in sorted(numbers))


def _read_json(path: Path) -> Any:  # Any: JSON
    try:
        return read_json(path, most=MOST_JSON_BYTES)
    except (OSError, ValueError) as err:
        raise DataError(f"{path}: cannot be read as JSON ({err}).") from err


def _list_voc(path: Path, answers: Path) -> Listing:
    entries = []
    for image in image_files(path):
        file = (answers / image.relative_to(path)).with_suffix(".xml")
        if not file.is_file():
            raise DataError(f"{image}: has no boxes; expected {file}.")
        entries.append(_entry(image, list(_voc_boxes(file)), str(file)))
    return Listing(entries=tuple(entries))


def _voc_boxes(file: Path) -> Iterable[Box]:
    """VOC counts pixels from 1, and both corners belong to the object."""
    try:
        content = read_bytes(file, most=MOST_XML_BYTES).decode("utf-8-sig")
        if "<!DOCTYPE" in content or "<!ENTITY" in content:
            raise DataError(f"{file}: declares a document type or entities; remove them.")
        root = ElementTree.fromstring(content)  # noqa: S314 - without entities nothing can grow or be fetched
        for item in root.iter("object"):
            corners = [
                float(item.findtext(f"bndbox/{name}") or "") for name in ("xmin", "ymin", "xmax", "ymax")
            ]
            ignored = (item.findtext("difficult") or "0").strip() == "1"
            x0, y0, x1, y1 = corners
            yield _box(
                (item.findtext("name") or "").strip(), (x0 - 1, y0 - 1, x1, y1), str(file), ignored=ignored
            )
    except (OSError, ValueError, ElementTree.ParseError) as err:
        raise DataError(f"{file}: is no VOC file of boxes ({err}).") from err


def _box(label: str, corners: Corners, where: str, *, ignored: bool) -> Box:
    x0, y0, x1, y1 = corners
    if not all(map(math.isfinite, corners)) or x1 < x0 or y1 < y0 or not label:
        raise DataError(f"{where}: a box of `{label}` has the corners {corners}.")
    return Box(label=label, x0=x0, y0=y0, x1=x1, y1=y1, ignored=ignored)


def _entry(image: Path, boxes: Sequence[Box], where: str) -> Entry:
    digest = hashlib.sha256(repr(boxes).encode()).hexdigest()
    return Entry(source=str(image), label="0", where=where, boxes=tuple(boxes), answer_digest=digest)


def _list_npz(source: Source) -> Listing:
    path = source.path
    images_name, labels_name, arrays = named_arrays(source)
    images, rows = images_of(arrays, images_name, path), arrays[labels_name]
    names = class_names_of(arrays)
    if rows.ndim != 3 or rows.shape[::2] != (len(images), COLUMNS) or names is None:  # noqa: PLR2004
        raise DataError(
            f"{path}: {labels_name} is {rows.dtype}{rows.shape}; boxes have the shape ({len(images)}, "
            f"any, {COLUMNS}): class (-1 fills up), x0, y0, x1, y1, ignored; `classes` are their names."
        )
    entries = []
    for index, (image, own) in enumerate(zip(images, rows, strict=True)):
        place = Place(str(path), images_name, index)
        boxes = tuple(
            _box(names[int(row[0])], (row[1], row[2], row[3], row[4]), str(place), ignored=bool(row[5]))
            for row in own[own[:, 0] >= 0].tolist()
        )
        digest = hashlib.sha256(repr(boxes).encode()).hexdigest()
        entries.append(
            Entry(
                source=str(place),
                label="0",
                where=str(place),
                digest=digest_array(image, place),
                boxes=boxes,
                answer_digest=digest,
            )
        )
    floats = images.dtype != np.uint8
    return Listing(entries=tuple(entries), classes=names, floats=floats, gray=images.shape[3] == 1)


def class_names_of_boxes(listings: Sequence[Listing]) -> tuple[str, ...]:
    """Names of the classes where nothing gives their order: sorted."""
    return tuple(sorted({box.label for x in listings for entry in x.entries for box in entry.boxes}))


def box_rows(
    boxes: Sequence[Box], size: tuple[int, int], classes: Sequence[str], preprocess: Preprocess
) -> Doubles:
    """Return boxes as rows (class, x0, y0, x1, y1, ignored) in pixels of the network's input.

    Args:
        boxes: Of an image.
        size: (height, width) of the image as it lies on disk.
        classes: Their names, in order.
        preprocess: What happens to the image; boxes that it leaves outside are dropped.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    rows = []
    for box in boxes:
        x0, y0, x1, y1 = placed((box.x0, box.y0, box.x1, box.y1), size, preprocess)
        if x1 > x0 and y1 > y0:
            rows.append((numbers[box.label], x0, y0, x1, y1, float(box.ignored)))
    return np.array(rows, dtype=np.float64).reshape(-1, COLUMNS)
