"""What an .npz file holds: images as uint8 or float arrays, labels as numbers or names.

Images have the shape (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1, 3 or 4 (the fourth, alpha, is left
out). Object arrays are refused: reading them would run code.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import DataError

Array = NDArray[np.generic]
Picture = Image.Image | NDArray[np.float32]
"""One image before preprocessing: bytes as a Pillow image, floats as an array (H, W, 1 or 3)."""

Purpose = Literal["calibration", "evaluation"]
ROLES: dict[Purpose, tuple[str, ...]] = {
    "calibration": ("calibration", "calib", "train", "training"),
    "evaluation": ("evaluation", "eval", "test", "testing", "val", "valid", "validation"),
}
"""Words in array names and folder names that say what images are for, best first."""

CLASS_ARRAYS = ("classes", "class_names", "label_names")
CHANNELS = (1, 3, 4)
MOST_BYTES, MOST_EXPANDED = 2**30, 100
"""An archive beyond both is taken for a decompression bomb."""
PLACE = re.compile(r"(?P<file>.+\.npz)::(?P<array>.+)::(?P<index>\d+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one image lies in an .npz file; written as `file::array::index`."""

    file: str
    array: str
    index: int

    def __str__(self) -> str:
        return f"{self.file}::{self.array}::{self.index}"


def place_of(source: str) -> Place | None:
    """Return the place that a `Sample.source` names, None for an image file."""
    found = PLACE.fullmatch(source)
    return Place(found["file"], found["array"], int(found["index"])) if found else None


def read_npz(
    path: Path, names: Sequence[str] | None = None, *, optional: Sequence[str] = ()
) -> dict[str, Array]:
    """Return the arrays with these names (None: all of them), and the optional ones that are there."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: holds a single array; save images and labels with numpy.savez.")
            held = archive.files
            wanted = held if names is None else [*names, *(name for name in optional if name in held)]
            missing = [name for name in wanted if name not in held]
            if missing:
                raise DataError(f"{path}: has no array `{missing[0]}`; it has {', '.join(held) or 'none'}.")
            assert archive.zip is not None, "open"
            check_expansion(path, archive.zip.infolist())
            return {name: archive[name] for name in wanted}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as err:
        raise DataError(
            f"{path}: cannot be read as .npz ({_one_line(err)}); save it with numpy.savez, without objects."
        ) from err


def check_expansion(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse an archive that is small on the disk and fills the memory."""
    expanded = sum(entry.file_size for entry in entries)
    if expanded > MOST_BYTES and expanded > MOST_EXPANDED * path.stat().st_size:
        raise DataError(
            f"{path}: expands to {expanded / 1e9:.1f} GB, {expanded // path.stat().st_size} times its "
            "size; if they are really images, save them with numpy.savez, without compression."
        )


def find_pair(arrays: Mapping[str, Array], purpose: Purpose, path: Path) -> tuple[str, str]:
    """Return the names of the images and the labels for a purpose, where there is one obvious pair."""
    pairs = [
        (images, labels)
        for images in arrays
        for labels in arrays
        if arrays[images].ndim in (3, 4) and _are_labels(arrays[labels])
        if len(arrays[images]) == len(arrays[labels]) and role(images) == role(labels)
    ]
    if len(pairs) == 1:
        return pairs[0]
    for wanted in (*ROLES[purpose], ""):
        fitting = [pair for pair in pairs if role(pair[0]) == wanted]
        if len(fitting) == 1:
            return fitting[0]
    held = ", ".join(f"{name} {array.dtype}{array.shape}" for name, array in arrays.items())
    raise DataError(
        f"{path}: no single pair of {purpose} images and labels among its arrays ({held}); "
        "name them with `images` and `labels` in a .toml description."
    )


def role(name: str) -> str:
    """Return the word of ROLES in an array's name, "" where there is none: `train` for `x_train`."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((word for part in ROLES.values() for word in part if word in words), "")


def images_of(arrays: Mapping[str, Array], name: str, path: Path) -> Array:
    """Return the named images as uint8 or float32, shape (N, H, W, 1 or 3)."""
    array = arrays[name]
    array = array[..., None] if array.ndim == len("NHW") else array
    if array.ndim != len("NHWC"):
        raise DataError(
            f"{path}: {name} has shape {array.shape}; images are (N, H, W), (N, H, W, C), (N, C, H, W)."
        )
    if array.shape[3] not in CHANNELS and array.shape[1] in CHANNELS:
        array = array.transpose(0, 2, 3, 1)
    if array.shape[3] not in CHANNELS or 0 in array.shape[1:]:
        raise DataError(
            f"{path}: {name} has shape {array.shape}; images have 1, 3 or 4 channels and some pixels."
        )
    array = array[..., :3]
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype != np.uint8:
        raise DataError(f"{path}: {name} is {array.dtype}; save images as uint8 (0 to 255) or as floats.")
    return array


def labels_of(arrays: Mapping[str, Array], name: str, path: Path) -> list[str]:
    """Return the named labels as text."""
    array = arrays[name]
    if not _are_labels(array):
        raise DataError(f"{path}: {name} is {array.dtype}{array.shape}; labels are (N,) integers or names.")
    return [str(label) for label in array.ravel().tolist()]


def class_names_of(arrays: Mapping[str, Array]) -> tuple[str, ...] | None:
    """Return the class names where the file holds them."""
    for name in CLASS_ARRAYS:
        if name in arrays and arrays[name].dtype.kind == "U" and arrays[name].ndim == 1:
            return tuple(arrays[name].tolist())
    return None


def picture(image: Array) -> Picture:
    """Return one image of `images_of` as what preprocessing reads."""
    if image.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))
    return image.astype(np.float32, copy=False)


def _are_labels(array: Array) -> bool:
    return array.dtype.kind in "iuU" and (array.ndim == 1 or (array.ndim > 1 and array.size == len(array)))


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split()) or type(err).__name__
