"""Rendered scenes: textured shapes that overlap, before a textured ground with clutter. Nothing is stored.

The same seed gives the same pixels: every draw comes from one seeded generator, and only NumPy is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Array = NDArray[Any]  # Any: of several kinds
Where = NDArray[np.bool_]
Corners = tuple[int, float, float, float, float]
"""Class, x0, y0, x1, y1."""

SCENE_CLASSES = ("ground", "disk", "square", "triangle", "cross")
SIDE = 64
MOST_SHAPES, MOST_CLUTTER = 4, 6
SMALLEST, LARGEST = 9.0, 19.0
"""Half the extent of a shape, in pixels."""
LEAST_SHOWN = 0.4
"""Share of a shape that others may not hide; a shape hidden further is taken away."""
COARSE = 5
"""Side of the grids that textures are interpolated from."""
NOISE = 9.0
"""Standard deviation of the noise of each pixel, of 255."""
CALIBRATION, TEST = (1, 160), (2, 200)
"""Seed and number of images of each part; networks are trained on other seeds."""
WIDE_SIDE = 96
SHAPES_CALIBRATION, SHAPES_TEST = (3, 160), (4, 200)
"""The same of the example of detection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """Images with what is in them.

    Attributes:
        images: Shape (N, side, side, 3).
        masks: Class of each pixel, shape (N, side, side).
        boxes: Of each image: class, x0, y0, x1, y1 of the shown part of each shape.
    """

    images: Pixels
    masks: Pixels
    boxes: tuple[tuple[Corners, ...], ...]


def draw_scenes(seed: int, count: int, *, side: int = SIDE) -> Scenes:
    """Draw so many scenes; larger ones hold more shapes of the same size."""
    generator = np.random.default_rng([seed, side])
    drawn = [_scene(generator, side) for _ in range(count)]
    return Scenes(
        images=np.stack([image for image, _, _ in drawn]),
        masks=np.stack([mask for _, mask, _ in drawn]),
        boxes=tuple(boxes for _, _, boxes in drawn),
    )


def write_scenes(path: Path) -> Path:
    """Write the images and masks of the example of segmentation as an .npz; gives `path`."""
    calibration, test = draw_scenes(*CALIBRATION), draw_scenes(*TEST)
    arrays = {"calibration_y": calibration.masks, "test_y": test.masks}
    return _written(path, (calibration, test), arrays, SCENE_CLASSES)


def write_shapes(path: Path) -> Path:
    """Write the images and boxes of the example of detection as an .npz; gives `path`."""
    parts = [draw_scenes(*part, side=WIDE_SIDE) for part in (SHAPES_CALIBRATION, SHAPES_TEST)]
    rows = [box_labels(part.boxes) for part in parts]
    return _written(path, parts, {"calibration_y": rows[0], "test_y": rows[1]}, SCENE_CLASSES[1:])


def box_labels(boxes: Sequence[Sequence[Corners]]) -> Grid:
    """Boxes of images as rows of class, x0, y0, x1, y1, 0, shape (N, most, 6); class -1 fills up.

    The ground is no object: the first shape is class 0.
    """
    rows = np.full((len(boxes), max(map(len, boxes)), 6), -1.0)
    for place, own in zip(rows, boxes, strict=True):
        for number, (kind, *corners) in enumerate(own):
            place[number] = (kind - 1, *corners, 0)
    return rows


def _written(
    path: Path, parts: Sequence[Scenes], labels: Mapping[str, Array], classes: Sequence[str]
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    arrays = {
        "calibration_x": parts[0].images,
        "test_x": parts[1].images,
        **labels,
        "classes": np.array(classes),
    }
    with part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    part.replace(path)
    return path


def _scene(generator: np.random.Generator, side: int) -> tuple[Pixels, Pixels, tuple[Corners, ...]]:
    image, owner = _texture(generator, side), np.full((side, side), -1)
    for _ in range(generator.integers(MOST_CLUTTER * side // SIDE + 1)):
        image = np.where(_streak(generator, side)[..., None], _texture(generator, side), image)
    kinds: list[tuple[int, int]] = []
    for number in range(generator.integers(1, MOST_SHAPES * side // SIDE + 1)):
        kind = int(generator.integers(1, len(SCENE_CLASSES)))
        inside = _placed(generator, side, SHAPES[kind - 1])
        hidden = [((owner == other) & ~inside).sum() for other in range(number)]
        whole = [area for _, area in kinds]
        if any(left < LEAST_SHOWN * area for left, area in zip(hidden, whole, strict=True)):
            kinds.append((0, 0))  # it would hide another one: left out
            continue
        image = np.where(inside[..., None], _texture(generator, side, striped=True), image)
        owner[inside] = number
        kinds.append((kind, int(inside.sum())))
    mask = np.array([kind for kind, _ in kinds] + [0], dtype=np.uint8)[owner]
    noisy = image + generator.normal(0, NOISE, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), mask, tuple(_boxes(owner, kinds))


def _boxes(owner: NDArray[np.int64], kinds: list[tuple[int, int]]) -> list[Corners]:
    found = []
    for number, (kind, _) in enumerate(kinds):
        rows, columns = np.nonzero(owner == number)
        if kind and len(rows):
            x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            found.append((kind, float(x0), float(y0), float(x1), float(y1)))
    return found


def _texture(generator: np.random.Generator, side: int, *, striped: bool = False) -> Grid:
    """Smooth colours, shape (side, side, 3), sometimes with stripes."""
    coarse = generator.uniform(30, 225, 3) + generator.normal(0, 25, (COARSE, COARSE, 3))
    places = np.linspace(0, COARSE - 1, side)
    low = np.minimum(places.astype(np.int64), COARSE - 2)
    share = (places - low)[:, None, None]
    rows = coarse[low] * (1 - share) + coarse[low + 1] * share
    columns = np.moveaxis(rows, 1, 0)
    smooth = np.moveaxis(columns[low] * (1 - share) + columns[low + 1] * share, 0, 1)
    if striped and generator.random() < 0.5:  # noqa: PLR2004  # half of them
        x, _ = _axes(generator, side)
        waves = np.sin(x * generator.uniform(0.5, 1.2))[..., None]
        smooth = smooth + waves * generator.normal(0, 30, 3)
    return np.asarray(smooth)


def _axes(generator: np.random.Generator, side: int) -> tuple[Grid, Grid]:
    """Coordinates of the pixels in a system that is turned at random about the middle."""
    turn = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x


def _streak(generator: np.random.Generator, side: int) -> Where:
    """A thin line or a speck: clutter."""
    x, y = _axes(generator, side)
    reach = side / 2 - 4
    x, y = x - generator.uniform(-reach, reach), y - generator.uniform(-reach, reach)
    thick, long = generator.uniform(0.6, 1.6), generator.uniform(2, 14)
    return np.asarray((np.abs(x) < thick) & (np.abs(y) < long))


def _placed(generator: np.random.Generator, side: int, shape: Callable[[Grid, Grid], Where]) -> Where:
    """A shape of any size, turned, anywhere that leaves most of it in the image."""
    size = generator.uniform(SMALLEST, LARGEST)
    x, y = _axes(generator, side)
    at = generator.uniform(-side / 2 + size * 0.8, side / 2 - size * 0.8, 2)
    return shape((x - at[0]) / size, (y - at[1]) / size)


def _triangle(x: Grid, y: Grid) -> Where:
    return np.asarray((y < 0.7) & (y > -0.8 + 1.7 * np.abs(x)))  # noqa: PLR2004


def _cross(x: Grid, y: Grid) -> Where:
    near, far = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    return np.asarray((near < 0.3) & (far < 0.9))  # noqa: PLR2004


SHAPES: tuple[Callable[[Grid, Grid], Where], ...] = (
    lambda x, y: x**2 + y**2 < 0.7,  # noqa: PLR2004
    lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.75,  # noqa: PLR2004
    _triangle,
    _cross,
)
