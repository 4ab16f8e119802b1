"""Small pictures of what a network sees: its inputs, turned back into pixels, as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from edgeprune.calibration.inputs import images
from edgeprune.records import CalibrationSet, Floats, Preprocess, Split

MOST_PIXELS = 96
"""Longer side of a picture."""
LOSSLESS_BELOW = 64
"""Pictures this small are kept to the pixel; larger ones are JPEG."""


def thumbnails(data: CalibrationSet, split: Split, indices: Sequence[int]) -> list[str]:
    """Return these images of a split as the network sees them, each a data URI of a few kilobytes."""
    return [as_uri(picture(inputs, data.preprocess)) for inputs in images(data, split, indices)]


def picture(inputs: Floats, preprocess: Preprocess, *, most: int = MOST_PIXELS) -> Image.Image:
    """Turn one input, shape (C, H, W), back into an image, at most so many pixels on its longer side.

    Inputs that are no pixels of 0 to 255 (arrays of floats, taken as they are) are spread over that range.
    """
    channels = inputs.transpose(1, 2, 0).astype(np.float64)
    pixels = channels * np.array(preprocess.std) + np.array(preprocess.mean)
    pixels /= preprocess.scale
    if preprocess.color == "bgr":
        pixels = pixels[:, :, ::-1]
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1 and 2 < high <= 256):  # noqa: PLR2004  # the range of bytes, and some rounding
        pixels = 255 * (pixels - low) / max(high - low, 1e-9)
    array = pixels.round().clip(0, 255).astype(np.uint8)
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.thumbnail((most, most))
    return image


def as_uri(image: Image.Image) -> str:
    """Encode an image for a page that asks nobody for anything."""
    content, small = BytesIO(), max(image.size) < LOSSLESS_BELOW
    if small:
        image.save(content, format="PNG", optimize=True)
    else:
        image.save(content, format="JPEG", quality=75)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
