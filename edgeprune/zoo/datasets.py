"""torchvision data set on disk -> .npz file that room calibration reads."""

from __future__ import annotations

import difflib
import inspect
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from edgeprune.errors import DataError

Pair = tuple[NDArray[np.uint8], NDArray[np.int64]]
READ_ERRORS = (RuntimeError, OSError, ImportError, ValueError, TypeError, EOFError, pickle.UnpicklingError)
"""What torchvision's data sets raise for files that are missing, damaged or of another kind."""


def torchvision_data(name: str, root: Path, out: Path) -> Path:
    """Write a torchvision data set as arrays train_x, train_y, test_x, test_y and classes; gives `out`.

    Images are uint8, shape (N, H, W) or (N, H, W, 3). Nothing is downloaded. The data set's own reader is
    used, and for some sets (CIFAR) that is pickle, behind a checksum.

    Raises:
        DataError: unknown data set, not under `root`, damaged, images of several sizes, no labels.
    """
    make = _find_dataset(name)
    try:
        parts = {part: make(root, **_arguments(make, name, part)) for part in ("train", "test")}
        arrays = {part: _arrays(dataset, name) for part, dataset in parts.items()}
    except READ_ERRORS as err:
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise DataError(
            f"{root}: cannot read {name}: {reason}; put the data set there as torchvision stores it."
        ) from err
    labels = np.concatenate([arrays["train"][1], arrays["test"][1]])
    classes = getattr(parts["train"], "classes", None) or [str(label) for label in range(labels.max() + 1)]
    _write(out, arrays, classes)
    return out


# torchvision is untyped: a data set is made by a callable and gives (PIL image, label).
def _find_dataset(name: str) -> Callable[..., Iterable[tuple[object, int]]]:
    if name in datasets.__all__:
        found: Callable[..., Iterable[tuple[object, int]]] = getattr(datasets, name)
        return found
    close = difflib.get_close_matches(name, datasets.__all__, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise DataError(f"{name}: torchvision has no such data set{hint}")


def _arguments(make: Callable[..., object], name: str, part: str) -> dict[str, object]:
    """How this data set is asked for one of its parts."""
    known = inspect.signature(make).parameters
    if "train" in known:
        return {"train": part == "train"}
    if "split" in known:
        return {"split": part}
    raise DataError(f"{name}: has no train and test part; save its images as a folder with one per class.")


def _arrays(dataset: Iterable[tuple[object, int]], name: str) -> Pair:
    images, labels = zip(*dataset, strict=True)
    pixels = [np.asarray(image) for image in images]
    shapes = {image.shape for image in pixels}
    if len(shapes) > 1:
        raise DataError(f"{name}: images have {len(shapes)} different sizes; use an image folder instead.")
    return np.stack(pixels).astype(np.uint8), np.asarray(labels, dtype=np.int64)


def _write(out: Path, arrays: dict[str, Pair], classes: Iterable[str]) -> None:
    """All of the file or nothing of it."""
    (train_x, train_y), (test_x, test_y) = arrays["train"], arrays["test"]
    part = out.with_name(f"{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez_compressed(
                file,
                train_x=train_x,
                train_y=train_y,
                test_x=test_x,
                test_y=test_y,
                classes=np.asarray(list(classes)),
            )
        part.replace(out)
    except OSError as err:
        raise DataError(f"{out}: cannot be written: {err.strerror}; choose another folder.") from err
