"""What networks answer, painted over what they see: classes of pixels as colours, boxes with their names."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeprune.calibration.thumbnails import as_uri, picture
from edgeprune.records import IGNORED, Doubles, Floats, Labels, Preprocess

MOST_PIXELS = 240
"""Longer side of a picture."""
GOLDEN = 0.618034
"""Hues this far apart on the circle never meet again."""
COLOR_SHARE = 0.55
FONT_PIXELS = 10
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


def boxed(inputs: Floats, preprocess: Preprocess, rows: Doubles, names: Sequence[str]) -> str:
    """Return one image, shape (C, H, W), under boxes, as a data URI; small images are enlarged.

    Args:
        inputs: The image.
        preprocess: What turned it into an input.
        rows: Of each box: class, score (negative: none to tell), x0, y0, x1, y1 in pixels of the input.
        names: Of the classes.
    """
    height, width = inputs.shape[1:]
    ground = picture(inputs, preprocess, most=max(height, width)).convert("RGB")
    factor = MOST_PIXELS / max(height, width)
    if factor > 1:
        factor = float(int(factor))  # whole pixels stay whole
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    ground = ground.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR)
    pen, table, font = ImageDraw.Draw(ground), colors(len(names)), ImageFont.load_default(FONT_PIXELS)
    for kind, score, *corners in rows[np.argsort(rows[:, 1], kind="stable")].tolist():
        x0, y0, x1, y1 = (round(corner * factor) for corner in corners)
        color = tuple(table[int(kind)].tolist())
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=color, width=2)
        words = names[int(kind)] if score < 0 else f"{names[int(kind)]} {score:.2f}"
        long = round(pen.textlength(words, font=font)) + 2
        left = max(min(x0, size[0] - long - 1), 0)
        top = y0 - FONT_PIXELS - 2 if y0 >= FONT_PIXELS + 2 else y0
        pen.rectangle((left, top, left + long, top + FONT_PIXELS + 2), fill=color)
        pen.text((left + 1, top), words, fill=(0, 0, 0), font=font)
    return as_uri(ground)


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
