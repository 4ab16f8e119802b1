"""From a CalibrationSet to network inputs and labels. Only what is asked for is in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.calibration.arrays import Array, Picture, Place, images_of, picture, place_of, read_npz
from edgeprune.calibration.boxes import COLUMNS, box_rows
from edgeprune.calibration.masks import decode_mask, shaped_mask
from edgeprune.calibration.pixels import output_size, preprocess_floats, preprocess_image
from edgeprune.calibration.preprocess import channels_of
from edgeprune.errors import DataError
from edgeprune.records import CalibrationSet, Floats, InputSpec, Labels, Preprocess, Sample, Split


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

    def array(self, place: Place) -> Array:
        """Return one element of an array as it is."""
        key = (place.file, place.array)
        if key not in self.arrays:
            self.arrays[key] = read_npz(Path(place.file), [place.array])[place.array]
        element: Array = self.arrays[key][place.index]
        return element


def batches(data: CalibrationSet, split: Split, *, size: int) -> Iterator[tuple[Floats, Labels]]:
    """Yield inputs (n, C, H, W) and labels in the order of the split; the last batch may be short.

    Raises a DataError for an image that does not decode or comes out in another shape than the first.
    """
    assert size > 0, "a batch holds at least one image"
    opened = Opened()
    samples = data.samples[split]
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        yield _stacked(part, data.preprocess, opened), _labels(part, data, opened)


def images(data: CalibrationSet, split: Split, indices: Sequence[int] | None = None) -> Floats:
    """Return the inputs of a split, or of these of its images, shape (N, C, H, W); N is at least 1."""
    samples = data.samples[split]
    chosen = samples if indices is None else [samples[index] for index in indices]
    return _stacked(chosen, data.preprocess, Opened())


def labels(data: CalibrationSet, split: Split, indices: Sequence[int] | None = None) -> Labels:
    """Return what a split, or these of its images, are judged against.

    Class numbers, shape (N,); masks, shape (N, H, W), IGNORED where a pixel counts for nothing; boxes, shape
    (N, M, 6): class (-1 fills up), x0, y0, x1, y1 in pixels of the input, ignored; or the numbers of an .npz.
    """
    samples = data.samples[split]
    chosen = samples if indices is None else [samples[index] for index in indices]
    return _labels(chosen, data, Opened())


def _labels(samples: Sequence[Sample], data: CalibrationSet, opened: Opened) -> Labels:
    if data.kind == "masks":
        return np.stack([_mask(sample, data, opened) for sample in samples])
    if data.kind == "boxes":
        most = max((len(sample.boxes) for split in Split for sample in data.samples[split]), default=0)
        filled = np.full((len(samples), max(most, 1), COLUMNS), -1.0)
        for place, sample in zip(filled, samples, strict=True):
            rows = box_rows(sample.boxes, _source_size(sample, opened), data.classes, data.preprocess)
            place[: len(rows)] = rows
        return filled
    if data.kind == "values":
        places = [place_of(sample.mask) for sample in samples]
        return np.stack([opened.array(place) for place in places if place is not None])
    return np.array([sample.label for sample in samples], dtype=np.int64)


def _mask(sample: Sample, data: CalibrationSet, opened: Opened) -> Labels:
    place = place_of(sample.mask)
    found = opened.array(place) if place is not None else _read(Path(sample.mask), decode=True)
    mask = decode_mask(found, sample.mask, data.code, data.classes)
    size = mask.shape
    image = _source_size(sample, opened)
    if size != image:
        raise DataError(
            f"{sample.mask}: is {size} (height, width), but its image {sample.source} is {image}."
        )
    return shaped_mask(mask, data.preprocess)


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
    height, width = _source_size(sample, opened)
    try:
        return output_size(height, width, preprocess)
    except DataError as err:
        raise DataError(f"{sample.source}: {err}") from err


def _source_size(sample: Sample, opened: Opened) -> tuple[int, int]:
    """Return the (height, width) of an image as it lies on disk."""
    place = place_of(sample.source)
    if place is not None:
        height, width = opened.image(place).shape[:2]
    else:
        width, height = _read(Path(sample.source), decode=False).size
    return height, width


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
