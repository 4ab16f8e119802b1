"""What images a folder, a .csv or an .npz holds, and under which label. Reads no pixels of image files."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np

from edgeprune.calibration.arrays import (
    CLASS_ARRAYS,
    Array,
    Place,
    Purpose,
    class_names_of,
    find_pair,
    images_of,
    labels_of,
    read_npz,
)
from edgeprune.errors import DataError
from edgeprune.records import Box, Kind
from edgeprune.untrusted import RECORD_BYTES, read_bytes

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
)
HEADERS = frozenset(
    ("path", "file", "filename", "filepath", "file_name", "image", "image_path", "image_file")
)
"""First cells that tell a header of a .csv from its first image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image as listed: its label is still text."""

    source: str
    label: str
    where: str
    """Where the label is written: a line of a .csv, a folder, an element of an array."""
    digest: str = ""
    """Filled in at once for arrays, by `digest_file` for image files."""
    answer: str = ""
    """Where the mask lies: a path, or a place in an .npz."""
    answer_digest: str = ""
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What one source holds."""

    entries: tuple[Entry, ...]
    by_folder: bool = False
    """The labels are the names of folders."""
    classes: tuple[str, ...] | None = None
    """Class names, where the source gives them in order."""
    floats: bool = False
    gray: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where images come from."""

    path: Path
    purpose: Purpose
    images: str | None = None
    labels: str | None = None
    """Names of arrays in an .npz file; None: find them."""
    kind: Kind = "classes"
    answers: Path | None = None
    """A folder of masks, or a file or folder of boxes."""


def list_images(source: Source) -> Listing:
    """Return what a source holds; raises a DataError for one without images."""
    path = source.path
    if path.is_dir():
        listing = _list_folder(path)
    else:
        readers: dict[str, Callable[[Source], Listing]] = {".csv": _list_csv, ".npz": _list_npz}
        if path.suffix.lower() not in readers:
            raise DataError(f"{path}: give a folder of images, a .csv, an .npz or a .toml description.")
        listing = readers[path.suffix.lower()](source)
    if not listing.entries:
        raise DataError(f"{path}: holds no images; {_expected(path)}.")
    return listing


def digest_file(path: Path) -> str:
    """Return the sha256 of an image file's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise DataError(
            f"{path}: cannot be read ({err.strerror}); check the file and its permissions."
        ) from err


def sub_folders(path: Path) -> list[Path]:
    """Return the folders in a folder, hidden ones left out, by name."""
    return sorted(child for child in _children(path) if child.is_dir() and not child.name.startswith("."))


def image_files(path: Path) -> list[Path]:
    """Return the images in a folder and the folders below it, hidden ones left out."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _in_hidden(file, path))
    return [file for file in files if _is_image(file)]


def _list_folder(path: Path) -> Listing:
    """One sub-folder a class; deeper folders belong to it."""
    skipped = [child for child in _children(path) if child.is_file()]
    entries: list[Entry] = []
    for folder in sub_folders(path):
        files = sorted(file for file in folder.rglob("*") if file.is_file() and not _in_hidden(file, folder))
        images = [file for file in files if _is_image(file)]
        skipped += [file for file in files if not _is_image(file)]
        if not images:
            raise DataError(f"{folder}: class folder without images; add images or remove the folder.")
        entries += [Entry(source=str(file), label=folder.name, where=str(folder)) for file in images]
    notes = []
    if skipped:
        shown = ", ".join(file.name for file in skipped[:3]) + (" ..." if skipped[3:] else "")
        notes.append(f"{path}: {len(skipped)} files that are no images of a class were skipped ({shown}).")
    return Listing(entries=tuple(entries), by_folder=True, notes=notes)


def _list_csv(source: Source) -> Listing:
    """Lines of path,label; paths are relative to the file's folder."""
    path = source.path
    return Listing(entries=tuple(_csv_entry(path, number, row) for number, row in csv_rows(path)))


def csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Lines of a .csv with their numbers, without empty ones and the header.

    Raises:
        DataError: it cannot be read.
    """
    try:
        text = StringIO(read_bytes(path, most=RECORD_BYTES).decode("utf-8-sig"), newline="")
        rows = [(number, row) for number, row in enumerate(csv.reader(text), start=1) if any(row)]
    except (OSError, ValueError, csv.Error) as err:
        raise DataError(f"{path}: cannot be read as UTF-8 .csv ({err}).") from err
    return rows[1:] if rows and rows[0][1][0].strip().lower() in HEADERS else rows


def _csv_entry(path: Path, number: int, row: Sequence[str]) -> Entry:
    where = f"{path}:{number}"
    name, label = ([cell.strip() for cell in row] + ["", ""])[:2]
    if not name or not label:
        raise DataError(f"{where}: `{','.join(row)}` has no label or no path; write path,label.")
    image = path.parent / name
    if not is_there(image):
        raise DataError(f"{where}: no such image: {image}; paths are relative to the folder of the .csv.")
    return Entry(source=str(image), label=label, where=where)


def is_there(image: Path) -> bool:
    """Say whether there is such a file; no error for what can be no name of one."""
    try:
        return image.is_file()
    except (OSError, ValueError):  # no name of a file at all: too long, or with a zero in it
        return False


def named_arrays(source: Source) -> tuple[str, str, dict[str, Array]]:
    """Names of the images and of their answers in an .npz file, and its arrays; both names must be given."""
    path = source.path
    if source.images is None or source.labels is None:
        raise DataError(f"{path}: name its arrays with `images` and `labels` in a .toml description.")
    wanted = [source.images, source.labels]
    return source.images, source.labels, read_npz(path, wanted, optional=CLASS_ARRAYS)


def _list_npz(source: Source) -> Listing:
    path = source.path
    if source.images is None or source.labels is None:
        arrays = read_npz(path)
        images_name, labels_name = find_pair(arrays, source.purpose, path)
    else:
        images_name, labels_name, arrays = named_arrays(source)
    images = images_of(arrays, images_name, path)
    labels = labels_of(arrays, labels_name, path)
    if len(images) != len(labels):
        raise DataError(
            f"{path}: {len(images)} images in {images_name}, but {len(labels)} labels in {labels_name}."
        )
    entries = tuple(
        Entry(
            source=str(Place(str(path), images_name, index)),
            label=label,
            where=str(Place(str(path), labels_name, index)),
            digest=digest_array(image, Place(str(path), images_name, index)),
        )
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    )
    return Listing(
        entries=entries,
        classes=class_names_of(arrays),
        floats=images.dtype != np.uint8,
        gray=images.shape[3] == 1,
    )


def digest_array(image: Array, place: Place) -> str:
    """Return the sha256 of an image's pixels; refuses numbers that are not finite."""
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise DataError(f"{place}: has values that are NaN or infinite; leave the image out.")
    return hashlib.sha256(f"{image.dtype}{image.shape}".encode() + image.tobytes()).hexdigest()


def _children(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError as err:
        raise DataError(
            f"{path}: cannot be listed ({err.strerror}); check the folder's permissions."
        ) from err


def _in_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts[:-1])


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _expected(path: Path) -> str:
    return "put each class into a sub-folder" if path.is_dir() else "add some"
