"""Pictures for the report: what the networks answer to a few images, where an answer is more than a class."""

from __future__ import annotations

from collections.abc import Sequence
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


def pictured(build: Build, deployed: str) -> tuple[PicturedAnswer, ...]:
    """The images whose answers fell most, and typical ones; none where an answer is one class."""
    before, after = (build.accuracies[name].per_image for name in ("dense", deployed))
    if not before or build.task.name != "segmentation":
        return ()
    inputs = {name: build.exports[name].artifact.digest for name in ("dense", deployed)}
    inputs |= {"data": images_digest(build.data, Split.EVALUATION), "deployed": deployed}

    def make() -> tuple[PicturedAnswer, ...]:
        chosen = choose(np.array(before) - np.array(after))
        images = calibration.images(build.data, Split.EVALUATION, chosen)
        answers = [
            evaluating.predictor(build, evaluating.path_of(build, name))(images).argmax(axis=1)
            for name in ("dense", deployed)
        ]
        masks = calibration.labels(build.data, Split.EVALUATION, chosen)
        return tuple(
            PicturedAnswer(
                number=number,
                names=("input", "labelled", "dense", deployed, "difference"),
                pictures=_pictures(build, image, mask, (one, other)),
                dense=before[number],
                deployed=after[number],
            )
            for number, image, mask, one, other in zip(chosen, images, masks, *answers, strict=True)
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


def _pictures(build: Build, image: Floats, mask: Labels, answers: tuple[Labels, Labels]) -> tuple[str, ...]:
    how = build.data.preprocess
    painted = [calibration.painted(image, how, shown) for shown in (None, mask, *answers)]
    return (*painted, calibration.differing(image, how, *answers))
