"""What a report shows besides: networks along the trajectory, and images whose answer changed."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_builds import measure_nothing, settle

import edgeprune
from edgeprune import report
from edgeprune.calibration.pixels import preprocess_image
from edgeprune.calibration.thumbnails import as_uri, picture
from edgeprune.pipeline.telling import MOST_CHANGED, choose_changed
from edgeprune.records import Preprocess, Report


def decode(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(BytesIO(base64.b64decode(content)))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        measure_nothing(patch)
        return edgeprune.build(settle(folder).config())


@pytest.mark.slow
def test_the_course_goes_from_dense_to_chosen(found: Report) -> None:
    first, *between, last = found.candidates
    assert (first.param_ratio, first.mac_ratio, first.chosen) == (0, 0, False)
    assert last.chosen
    assert last.param_ratio == found.plan.param_ratio
    ratios = [candidate.param_ratio for candidate in found.candidates]
    assert ratios == sorted(set(ratios))
    assert between or len(found.plan.removed) == 1
    assert {candidate.split for candidate in found.candidates} == {"validation"}
    assert {candidate.images for candidate in found.candidates} == {30}


@pytest.mark.slow
def test_only_what_was_measured_has_a_latency(found: Report) -> None:
    times = [candidate.latency_ms for candidate in found.candidates]
    latency = found.measurement.latency
    assert (times[0], times[-1]) == (latency["dense"].p50_ms.value, latency["pruned"].p50_ms.value)
    assert set(times[1:-1]) <= {None}


@pytest.mark.slow
def test_changed_images_are_those_whose_answer_changed(found: Report) -> None:
    dense, pruned = (found.accuracy[name].predictions for name in ("dense", "pruned"))
    changed = [number for number in range(len(dense)) if dense[number] != pruned[number]]
    assert {image.number for image in found.changed} <= set(changed)
    assert len(found.changed) == min(len(changed), MOST_CHANGED)
    for image in found.changed:
        assert (image.dense, image.deployed) == (dense[image.number], pruned[image.number])
        assert decode(image.picture).size == (8, 8)


def test_lost_images_come_first_and_classes_in_turn() -> None:
    labels = [0, 0, 0, 1, 1, 2]
    before = [0, 0, 0, 1, 0, 2]
    after = [1, 1, 0, 0, 1, 2]
    assert choose_changed(labels, before, after) == [0, 3, 1, 4]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=60))
def test_at_most_so_many_are_chosen_and_all_of_them_changed(images: list[tuple[int, int, int]]) -> None:
    labels, before, after = ([image[k] for image in images] for k in range(3))
    chosen = choose_changed(labels, before, after)
    changed = [number for number, (_, a, b) in enumerate(images) if a != b]
    assert len(chosen) == len(set(chosen)) == min(len(changed), MOST_CHANGED)
    assert set(chosen) <= set(changed)
    gained = [number for number in changed if after[number] == labels[number]]
    assert not gained or set(gained) & set(chosen)


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_a_picture_is_what_went_in(color: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    preprocess = Preprocess(color=color, mean=(0.4,), std=(0.2,))  # type: ignore[arg-type]  # a literal
    shown = decode(as_uri(picture(preprocess_image(Image.fromarray(pixels), preprocess), preprocess)))
    expected = np.asarray(Image.fromarray(pixels).convert("L")) if color == "gray" else pixels
    assert np.abs(np.asarray(shown).astype(int) - expected).max() <= 1


def test_a_large_picture_becomes_small() -> None:
    noise = np.random.default_rng(0).random((3, 512, 300)).astype(np.float32)
    uri = as_uri(picture(noise, Preprocess()))
    assert max(decode(uri).size) == 96
    assert len(uri) < 10_000


def test_floats_of_any_range_can_be_seen() -> None:
    inputs = np.linspace(-3, 40, 64, dtype=np.float32).reshape(1, 8, 8)
    shown = np.asarray(decode(as_uri(picture(inputs, Preprocess(scale=1.0)))))
    assert (shown.min(), shown.max()) == (0, 255)


@pytest.mark.slow
def test_the_pictures_survive_report_json(found: Report, tmp_path: Path) -> None:
    paths = report.write(found, tmp_path)
    assert report.read(paths[0]).changed == found.changed
