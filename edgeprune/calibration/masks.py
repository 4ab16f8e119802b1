"""Masks: a class number for each pixel, in PNG files (of numbers, of a palette or of colours) or an .npz."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.calibration.arrays import (
    Array,
    Place,
    class_names_of,
    images_of,
)
from edgeprune.calibration.listing import (
    Entry,
    Listing,
    Source,
    csv_rows,
    digest_array,
    digest_file,
    image_files,
    is_there,
    named_arrays,
)
from edgeprune.calibration.pixels import reshaped
from edgeprune.errors import DataError
from edgeprune.records import IGNORED, Labels, MaskCode, Preprocess

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Formats that keep every pixel's number."""


def list_masked(source: Source) -> Listing:
    """Return the images that a source holds, each with its mask; raises a DataError for one without."""
    path = source.path
    if path.suffix.lower() == ".npz":
        return _list_npz(source)
    if source.kind == "values":
        raise DataError(f"{path}: labels that are numbers come in an .npz; save them beside the images.")
    if path.suffix.lower() == ".csv":
        listing = Listing(entries=tuple(_csv_entries(path)))
    elif path.is_dir() and source.answers is not None:
        listing = Listing(entries=tuple(_folder_entries(path, source.answers)))
    else:
        raise DataError(
            f"{path}: give `source` (a folder of images) and `masks` (a folder of masks of the same names), "
            "a .csv of image,mask, or an .npz of images and masks."
        )
    if not listing.entries:
        raise DataError(f"{path}: holds no images; add some.")
    return listing


def _folder_entries(path: Path, masks: Path) -> list[Entry]:
    """Each image with the mask of the same name, in the same sub-folder."""
    entries = []
    for image in image_files(path):
        stem = masks / image.relative_to(path).with_suffix("")
        found = [place for suffix in MASK_SUFFIXES if (place := stem.with_name(stem.name + suffix)).is_file()]
        if not found:
            raise DataError(f"{image}: has no mask; expected {stem}.png.")
        entries.append(_entry(image, found[0], str(found[0])))
    return entries


def _csv_entries(path: Path) -> list[Entry]:
    """Lines of image,mask; paths are relative to the file's folder."""
    entries = []
    for number, row in csv_rows(path):
        image, mask = ([cell.strip() for cell in row] + ["", ""])[:2]
        if not image or not mask:
            raise DataError(f"{path}:{number}: `{','.join(row)}` has no image or no mask; write image,mask.")
        for name in (image, mask):
            if not is_there(path.parent / name):
                raise DataError(f"{path}:{number}: no such file: {path.parent / name}.")
        entries.append(_entry(path.parent / image, path.parent / mask, f"{path}:{number}"))
    return entries


def _entry(image: Path, mask: Path, where: str) -> Entry:
    return Entry(source=str(image), label="0", where=where, answer=str(mask), answer_digest=digest_file(mask))


def _list_npz(source: Source) -> Listing:
    path = source.path
    images_name, labels_name, arrays = named_arrays(source)
    images, masks = images_of(arrays, images_name, path), arrays[labels_name]
    wanted, kinds = (images.shape[:3], "iu") if source.kind == "masks" else (images.shape[:1], "iufb")
    if masks.dtype.kind not in kinds or masks.shape[: len(wanted)] != wanted:
        what = "masks are integers" if source.kind == "masks" else "labels are numbers"
        raise DataError(
            f"{path}: {labels_name} is {masks.dtype}{masks.shape}; {what} of shape {wanted}, as the images "
            f"in {images_name}."
        )
    entries = []
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        here, there = (str(Place(str(path), name, index)) for name in (images_name, labels_name))
        digest = hashlib.sha256(mask.tobytes()).hexdigest()
        place = Place(str(path), images_name, index)
        entries.append(
            Entry(
                source=here,
                label="0",
                where=there,
                digest=digest_array(image, place),
                answer=there,
                answer_digest=digest,
            )
        )
    return Listing(
        entries=tuple(entries),
        classes=class_names_of(arrays),
        floats=images.dtype != np.uint8,
        gray=images.shape[3] == 1,
    )


def decode_mask(found: Image.Image | Array, where: str, code: MaskCode, classes: Sequence[str]) -> Labels:
    """Return class numbers, shape (H, W), int16; IGNORED where a pixel counts for nothing.

    Raises a DataError for a number or colour that stands for no class.
    """
    if code.colors:
        return _of_colors(found, where, code)
    pixels = np.asarray(found)
    if pixels.ndim != 2:  # noqa: PLR2004  # (height, width)
        raise DataError(
            f"{where}: is a picture in colours; give the class of each as `colors` in the description, or "
            "save class numbers."
        )
    numbers = pixels.astype(np.int64)
    ignored = np.isin(numbers, code.ignore)
    wrong = ~ignored & ((numbers < 0) | (numbers >= len(classes)))
    if wrong.any():
        raise DataError(
            f"{where}: a pixel is {numbers[wrong][0]}, but {len(classes)} classes have the numbers 0 to "
            f"{len(classes) - 1}; list what counts for nothing as `ignore`."
        )
    return np.where(ignored, IGNORED, numbers).astype(np.int16)


def _of_colors(found: Image.Image | Array, where: str, code: MaskCode) -> Labels:
    picture = found if isinstance(found, Image.Image) else Image.fromarray(np.asarray(found, dtype=np.uint8))
    pixels = np.asarray(picture.convert("RGB")).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    mask = np.full(pixels.shape, IGNORED, dtype=np.int16)
    for number, color in enumerate(code.colors):
        mask[pixels == np.dot(color, (1 << 16, 1 << 8, 1))] = number
    return mask


def shaped_mask(mask: Labels, preprocess: Preprocess) -> Labels:
    """Return a mask resized (nearest pixel), cropped and turned as its image; what is added is IGNORED."""
    shifted = Image.fromarray(mask.astype(np.int32) - IGNORED)  # a crop beyond the border adds zeros
    found = np.asarray(reshaped(shifted, preprocess, Image.Resampling.NEAREST))
    return (found + IGNORED).astype(np.int16)
