"""From a CalibrationSet to network inputs and labels. Only what is asked for is in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.calibration.arrays import Array, Picture, Place, images_of, picture, place_of, read_npz
from edgeprune.calibration.pixels import output_size, preprocess_floats, preprocess_image
from edgeprune.calibration.preprocess import channels_of
from edgeprune.errors import DataError
from edgeprune.records import CalibrationSet, Floats, InputSpec, Ints, Preprocess, Sample, Split


@dataclass(frozen=True, slots=True)
class Opened:
    """The arrays of .npz files opened so far: each is read once."""

    arrays: dict[tuple[str, str], Array] = field(default_factory=dict)

    def image(self, place: Place) -> Array:
        """Return one image, shape (H, W, 1 or 3)."""
        key = (place.file, place.array)
        if key not in self.arrays:
            path = Path(place.file)
            self.arrays[key] = images_of(read_npz(path, [place.array]), place.array, path)
        if place.index >= len(self.arrays[key]):
            raise DataError(
                f"{place}: no such image; the file has changed since it was listed, load it again."
            )
        image: Array = self.arrays[key][place.index]
        return image


def batches(data: CalibrationSet, split: Split, *, size: int) -> Iterator[tuple[Floats, Ints]]:
    """Yield inputs (n, C, H, W) and labels (n,) in the order of the split; the last batch may be short.

    Raises a DataError for an image that does not decode or comes out in another shape than the first.
    """
    assert size > 0, "a batch holds at least one image"
    opened = Opened()
    samples = data.samples[split]
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        labels = np.array([sample.label for sample in part], dtype=np.int64)
        yield _stacked(part, data.preprocess, opened), labels


def images(data: CalibrationSet, split: Split, indices: Sequence[int] | None = None) -> Floats:
    """Return the inputs of a split, or of these of its images, shape (N, C, H, W); N is at least 1."""
    samples = data.samples[split]
    chosen = samples if indices is None else [samples[index] for index in indices]
    return _stacked(chosen, data.preprocess, Opened())


def input_spec(data: CalibrationSet) -> InputSpec:
    """Return the shape that every image comes out in; decodes none.

    Raises a DataError that names the first image that differs, or whose header cannot be read.
    """
    opened = Opened()
    first: tuple[str, tuple[int, int]] | None = None
    for sample in (sample for split in Split for sample in data.samples[split]):
        size = _output_size(sample, data.preprocess, opened)
        first = first or (sample.source, size)
        if size != first[1]:
            raise DataError(_differs(sample.source, size, *first))
    assert first is not None, "load gives no empty sets"
    return InputSpec(shape=(channels_of(data.preprocess), *first[1]))


def _stacked(samples: Sequence[Sample], preprocess: Preprocess, opened: Opened) -> Floats:
    """Return the inputs in one array, filled image by image."""
    assert samples, "at least one image"
    first = _input(samples[0], preprocess, opened)
    stacked = np.empty((len(samples), *first.shape), dtype=np.float32)
    stacked[0] = first
    for index, sample in enumerate(samples[1:], start=1):
        pixels = _input(sample, preprocess, opened)
        if pixels.shape != first.shape:
            raise DataError(_differs(sample.source, pixels.shape[1:], samples[0].source, first.shape[1:]))
        stacked[index] = pixels
    return stacked


def _input(sample: Sample, preprocess: Preprocess, opened: Opened) -> Floats:
    image = _picture(sample, opened)
    try:
        if isinstance(image, np.ndarray):
            return preprocess_floats(image, preprocess)
        return preprocess_image(image, preprocess)
    except (DataError, ValueError, OSError, MemoryError) as err:
        raise DataError(f"{sample.source}: {err}") from err


def _picture(sample: Sample, opened: Opened) -> Picture:
    place = place_of(sample.source)
    if place is not None:
        return picture(opened.image(place))
    return _read(Path(sample.source), decode=True)


def _output_size(sample: Sample, preprocess: Preprocess, opened: Opened) -> tuple[int, int]:
    """Return the (height, width) that an image will come out in."""
    place = place_of(sample.source)
    if place is not None:
        height, width = opened.image(place).shape[:2]
    else:
        width, height = _read(Path(sample.source), decode=False).size
    try:
        return output_size(height, width, preprocess)
    except DataError as err:
        raise DataError(f"{sample.source}: {err}") from err


def _read(path: Path, *, decode: bool) -> Image.Image:
    """Return an image, its pixels decoded or only its size known; refuses absurdly large ones."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; the next line is about size
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if decode:
                    image.load()
                return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise DataError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS} pixels; scale it down.") from err
    except Exception as err:  # Pillow's decoders raise errors of many kinds on damaged files
        reason = " ".join(str(err).split())
        raise DataError(f"{path}: cannot be decoded ({reason}); replace it or leave it out.") from err


def _differs(source: str, size: tuple[int, ...], first: str, first_size: tuple[int, ...]) -> str:
    return (
        f"{source}: comes out as {size} (height, width), but {first} as {first_size}; "
        "set `crop` or `resize` to [height, width] in [preprocess]."
    )
