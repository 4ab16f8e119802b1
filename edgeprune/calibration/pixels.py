"""From a decoded image to a network input, equal to torchvision's transforms.

Resize is Pillow's (antialiased), as in torchvision on PIL images; the centre crop rounds as torchvision's
and pads with zeros where the image is smaller. EXIF orientation and alpha are ignored, as by its loader.
One difference: 16-bit images keep their upper 8 bits (Pillow's own conversion turns them white).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import DataError
from edgeprune.records import Floats, Preprocess

MOST_PIXELS = 100_000_000
"""A resized or padded image larger than this is refused."""

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R 601-2, the weights that Pillow uses for gray."""


def preprocess_image(image: Image.Image, preprocess: Preprocess) -> Floats:
    """Return one image as a network input, shape (C, H, W).

    `mean` and `std` are in the order of the network's channels: blue first for color = bgr.
    """
    shaped = reshaped(_in_color(image, preprocess.color), preprocess)
    pixels = np.asarray(shaped, dtype=np.float32)
    return _normalize(pixels.reshape(*pixels.shape[:2], -1), preprocess)


def preprocess_floats(pixels: Floats, preprocess: Preprocess) -> Floats:
    """Return one image of shape (H, W, 1 or 3) as a network input, shape (C, H, W).

    The values are taken as they are (`scale` is 1 unless someone set it); resizing does not round them.
    """
    if preprocess.color == "gray" and pixels.shape[2] > 1:
        pixels = (pixels @ LUMA)[:, :, None]
    planes = [
        np.asarray(reshaped(Image.fromarray(np.ascontiguousarray(plane)), preprocess))
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    if preprocess.color != "gray" and len(planes) == 1:
        planes *= 3
    return _normalize(np.stack(planes, axis=2), preprocess)


def output_size(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """Return (height, width) of the network input that an image of this size gives."""
    if preprocess.resize is not None:
        height, width = _resized(height, width, preprocess.resize)
    if preprocess.crop is not None:
        height, width = preprocess.crop
    return (width, height) if preprocess.rotate in (90, 270) else (height, width)


def _in_color(image: Image.Image, color: str) -> Image.Image:
    """Return the image in mode RGB or L."""
    if image.mode in ("I", "F"):
        raise DataError(f"mode {image.mode} (32 bits a pixel) has no known range; save it with 8 or 16 bits.")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    rgb = image.convert("RGB")
    return rgb.convert("L") if color == "gray" else rgb


def reshaped(
    image: Image.Image, preprocess: Preprocess, resampling: Image.Resampling | None = None
) -> Image.Image:
    """Resize, crop and rotate; any Pillow mode."""
    if preprocess.resize is not None:
        height, width = _resized(image.height, image.width, preprocess.resize)
        if (width, height) != image.size:
            image = image.resize(
                (width, height), RESAMPLING[preprocess.interpolation] if resampling is None else resampling
            )
    if preprocess.crop is not None:
        height, width = preprocess.crop
        top, left = _margin(image.height, height), _margin(image.width, width)
        image = image.crop((left, top, left + width, top + height))
    return image.transpose(TURNS[preprocess.rotate]) if preprocess.rotate else image


Corners = tuple[float, float, float, float]


def placed(box: Corners, size: tuple[int, int], preprocess: Preprocess) -> Corners:
    """Return where a box (x0, y0, x1, y1) of an image of some (height, width) is in the input."""
    x0, y0, x1, y1 = box
    height, width = size
    if preprocess.resize is not None:
        new_height, new_width = _resized(height, width, preprocess.resize)
        x0, x1 = x0 * new_width / width, x1 * new_width / width
        y0, y1 = y0 * new_height / height, y1 * new_height / height
        height, width = new_height, new_width
    if preprocess.crop is not None:
        top, left = _margin(height, preprocess.crop[0]), _margin(width, preprocess.crop[1])
        x0, y0, x1, y1 = x0 - left, y0 - top, x1 - left, y1 - top
        height, width = preprocess.crop
    x0, x1 = (min(max(x, 0.0), float(width)) for x in (x0, x1))
    y0, y1 = (min(max(y, 0.0), float(height)) for y in (y0, y1))
    for _ in range(preprocess.rotate // 90):  # counter-clockwise: right becomes top
        x0, y0, x1, y1 = y0, width - x1, y1, width - x0
        height, width = width, height
    return x0, y0, x1, y1


def _resized(height: int, width: int, resize: tuple[int, ...]) -> tuple[int, int]:
    """Return (height, width) after the resize; one number is the shorter side, the other one rounds down."""
    if len(resize) > 1:
        return resize[0], resize[1]
    side = resize[0]
    longer = int(side * max(height, width) / min(height, width))
    if side * longer > MOST_PIXELS:
        raise DataError(
            f"{width}x{height} pixels with the shorter side resized to {side} would be {side}x{longer}; "
            "leave the image out, or give `resize` as [height, width]."
        )
    return (side, longer) if height <= width else (longer, side)


def _margin(side: int, crop: int) -> int:
    """Return where a centred crop starts; negative where the image is smaller. Rounds half to even."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


def _normalize(pixels: NDArray[np.float32], preprocess: Preprocess) -> Floats:
    """From (H, W, C) pixels to (C, H, W) inputs."""
    if preprocess.color == "bgr":
        pixels = pixels[:, :, ::-1]
    mean = np.array(preprocess.mean, dtype=np.float32)
    std = np.array(preprocess.std, dtype=np.float32)
    scaled = (pixels * np.float32(preprocess.scale) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
