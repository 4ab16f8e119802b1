"""What networks answer, painted over what they see: classes of pixels as colours."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.calibration.thumbnails import as_uri, picture
from edgeprune.records import IGNORED, Floats, Labels, Preprocess

MOST_PIXELS = 240
"""Longer side of a picture."""
GOLDEN = 0.618034
"""Hues this far apart on the circle never meet again."""
COLOR_SHARE = 0.55
DIFFERENT = (230, 30, 60)


def painted(inputs: Floats, preprocess: Preprocess, mask: Labels | None = None) -> str:
    """Return one image, shape (C, H, W), under the colours of a mask of any size, as a data URI."""
    ground = picture(inputs, preprocess, most=MOST_PIXELS).convert("RGB")
    return as_uri(ground if mask is None else _blended(ground, mask, colors(int(mask.max()) + 1)))


def differing(inputs: Floats, preprocess: Preprocess, one: Labels, other: Labels) -> str:
    """Return one image in gray, with the pixels on which two answers differ in red."""
    ground = picture(inputs, preprocess, most=MOST_PIXELS).convert("L").convert("RGB")
    different = np.where(one == other, IGNORED, 0)
    return as_uri(_blended(ground, different, np.array([DIFFERENT], dtype=np.uint8)))


def colors(count: int) -> NDArray[np.uint8]:
    """Return a colour for each class, the same for the same class in every picture, shape (count, 3)."""
    found = [colorsys.hsv_to_rgb(k * GOLDEN % 1, 0.8 if k % 2 else 0.55, 0.95) for k in range(max(count, 1))]
    return (np.array(found) * 255).astype(np.uint8)


def _blended(ground: Image.Image, mask: Labels, table: NDArray[np.uint8]) -> Image.Image:
    coded = Image.fromarray(mask.astype(np.int32) - IGNORED)
    numbers = np.asarray(coded.resize(ground.size, Image.Resampling.NEAREST)) + IGNORED
    pixels = np.asarray(ground).astype(np.float64)
    mixed = (1 - COLOR_SHARE) * pixels + COLOR_SHARE * table[np.maximum(numbers, 0)]
    shown = np.where((numbers == IGNORED)[..., None], pixels, mixed)
    return Image.fromarray(shown.round().astype(np.uint8))
