"""Pictures for the report: what the networks answer to a few images, where an answer is more than a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune import calibration
from edgeprune.pipeline import evaluating
from edgeprune.pipeline.digests import images_digest
from edgeprune.records import Floats, Labels, PicturedAnswer, Split

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which asks for what is made here

STAGE = "pictures"
MOST_WORSE, MOST_TYPICAL = 3, 3
SHOWN_FROM = 0.3
"""Score from which a detection is drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A few images, what they are labelled with, and what both networks give for them."""

    images: Floats
    labels: Labels
    dense: Floats
    deployed: Floats


@dataclass(frozen=True, slots=True)
class Drawing:
    """How the answers of a task are drawn."""

    pictures: Callable[[Build, Seen], Iterator[tuple[str, ...]]]
    """One row of pictures an image: input, labelled, dense, deployed, and `more`."""
    score: str
    """What `Accuracy.per_image` is."""
    more: tuple[str, ...] = ()


def pictured(build: Build, deployed: str) -> tuple[PicturedAnswer, ...]:
    """The images whose answers fell most, and typical ones; none for a class an image or a user's task."""
    draw = DRAWN.get(build.task.name)
    before, after = (build.accuracies[name].per_image for name in ("dense", deployed))
    if not before or draw is None:
        return ()
    inputs = {name: build.exports[name].artifact.digest for name in ("dense", deployed)}
    inputs |= {"data": images_digest(build.data, Split.EVALUATION), "deployed": deployed}

    def make() -> tuple[PicturedAnswer, ...]:
        chosen = choose(np.array(before) - np.array(after))
        images = calibration.images(build.data, Split.EVALUATION, chosen)
        labels = calibration.labels(build.data, Split.EVALUATION, chosen)
        outputs = [
            evaluating.predictor(build, evaluating.path_of(build, name))(images)
            for name in ("dense", deployed)
        ]
        shown = draw.pictures(build, Seen(images, labels, *outputs))
        return tuple(
            PicturedAnswer(
                number=number,
                names=("input", "labelled", "dense", deployed, *draw.more),
                pictures=pictures,
                score=draw.score,
                dense=before[number],
                deployed=after[number],
            )
            for number, pictures in zip(chosen, shown, strict=True)
        )

    found, reused = build.folder.reuse_or_make(STAGE, tuple[PicturedAnswer, ...], inputs, make)
    build.watcher.stage(STAGE, reused=reused, seconds=build.folder.seconds[STAGE])
    return found


def choose(falls: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[int]:
    """Numbers of the images that fell most, then of those nearest to the median."""
    falls = np.asarray(falls)
    worst = np.argsort(-falls, kind="stable")[:MOST_WORSE].tolist()
    near = np.argsort(np.abs(falls - np.median(falls)), kind="stable").tolist()
    return [*worst, *[number for number in near if number not in worst][:MOST_TYPICAL]]


def masks(build: Build, seen: Seen) -> Iterator[tuple[str, ...]]:
    """The class of each pixel as colours, and where the answers differ."""
    how = build.data.preprocess
    answers = [outputs.argmax(axis=1) for outputs in (seen.dense, seen.deployed)]
    for image, mask, *both in zip(seen.images, seen.labels, *answers, strict=True):
        painted = [calibration.painted(image, how, shown) for shown in (None, mask, *both)]
        yield (*painted, calibration.differing(image, how, *both))


def boxes(build: Build, seen: Seen) -> Iterator[tuple[str, ...]]:
    """Boxes with their classes; of detections those that are at least as sure as SHOWN_FROM."""
    how, names = build.data.preprocess, build.data.classes
    answers = [build.task.kept(outputs, seen.labels) for outputs in (seen.dense, seen.deployed)]
    for image, own, *both in zip(seen.images, seen.labels, *answers, strict=True):
        labelled = np.insert(own[own[:, 0] >= 0][:, :5].astype(np.float64), 1, -1.0, axis=1)
        sure = [found[found[:, 1] >= SHOWN_FROM] for found in both]
        yield tuple(
            calibration.boxed(image, how, rows, names) for rows in (np.empty((0, 6)), labelled, *sure)
        )


DRAWN = {
    "segmentation": Drawing(masks, "mIoU", ("difference",)),
    "detection": Drawing(boxes, "matched score"),
}
"""Task -> how its answers are drawn."""
