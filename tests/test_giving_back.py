"""No deployed network is slower than the dense one: widths go back to wider steps until it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_builds import Place, measured, settle

import edgeprune
from edgeprune.records import Interval, Measurement

STEP = 2


def inner_width(file: Path) -> int:
    """Channels of the second convolution, as deployed."""
    weights = [w for w in onnx.load(file).graph.initializer if len(w.dims) == 4]
    return int(weights[-1].dims[0])


def slow_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Measurements find widths that are no multiple of this slower than dense; gives the widths measured."""
    seen: list[int] = []

    def fake(artifacts: dict[str, Path], **_: Any) -> Measurement:  # Any: keywords
        seen.append(inner_width(artifacts["pruned"]))
        ratio = 1.2 if seen[-1] % step else 0.9
        interval = Interval(value=ratio, low=ratio - 0.05, high=ratio + 0.05)
        return replace(measured(), ratio=interval)

    monkeypatch.setattr("edgeprune.measure.measure", fake)
    return seen


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return settle(tmp_path)


@pytest.mark.slow
def test_widths_go_back_to_a_step_that_is_not_slower(place, monkeypatch):
    seen = slow_at(monkeypatch, 4)
    config = place.config(align=STEP, alpha=1e-9, max_param_ratio=0.35)
    found = edgeprune.build(config)
    assert len(seen) == 2, "the walk's plan should not be a multiple of 4 by itself"
    assert seen[0] % 4 != 0
    widths = {width.group: width.after for width in found.widths}
    assert all(after % 4 == 0 for after in widths.values())
    assert inner_width(place.out / found.artifacts["pruned"].path) == seen[-1] == widths["inner.weight"]
    assert any("slower than dense" in note for note in found.notes)
    assert found.plan.param_ratio > 0
    before = dict(place.lasting())
    again = edgeprune.build(config)
    assert len(seen) == 2, "a second build has nothing to measure"
    assert again.plan == found.plan
    assert place.lasting() == before


@pytest.mark.slow
def test_nothing_is_removed_where_no_step_helps(place, monkeypatch):
    seen = slow_at(monkeypatch, 1000)
    found = edgeprune.build(place.config(align=8, max_param_ratio=0.3))
    assert found.plan.removed == {}
    assert found.plan.param_ratio == 0
    assert all(width.after == width.before for width in found.widths)
    assert inner_width(place.out / found.artifacts["pruned"].path) == 16
    assert seen[-1] == 16
    predictions = [np.array(found.accuracy[name].predictions) for name in ("dense", "pruned")]
    assert (predictions[0] == predictions[1]).all()
