"""Builds that search for a budget, on a tiny network: what is found, cached and said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_builds import NO_PROFILE, Place, measure_nothing, measured, program, settle

import edgeprune
from edgeprune.pipeline.inputs import cpu_step
from edgeprune.records import Interval, Outcome, Target

LEAST = 0.4


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return settle(tmp_path)


@pytest.mark.slow
def test_fewer_multiply_adds_are_found(place, monkeypatch):
    measure_nothing(monkeypatch)
    dense = edgeprune.build(place.config(max_macs=10**9)).artifacts["dense"].macs
    found = edgeprune.build(place.config(max_macs=0.6 * dense, align=2))
    assert LEAST * dense < found.artifacts["pruned"].macs <= 0.6 * dense
    assert found.verdict.outcome is Outcome.FITS
    assert found.trajectory.stopped == "the budgets are met, as measured"
    assert all(width.after % 2 == 0 for width in found.widths)
    assert found.accuracy_change.drop.value < 0.1
    assert found.forecast is None, "multiply-adds are counted, not timed"
    again = edgeprune.build(place.config(max_macs=0.6 * dense, align=2))
    assert again.plan == found.plan


@pytest.mark.slow
def test_a_search_for_speed_follows_the_measurement(place, monkeypatch):
    """Time is what the file weighs; the latency model, which saw nothing, is no help."""

    def fake(artifacts: dict[str, Path], **_: Any):  # Any: keywords
        sizes = {name: _parameters(path) for name, path in artifacts.items()}
        share = sizes[list(sizes)[-1]] / sizes["dense"]
        return replace(measured(), ratio=Interval(value=share, low=share - 0.01, high=share + 0.01))

    monkeypatch.setattr("edgeprune.measure.measure", fake)
    monkeypatch.setattr("edgeprune.measure.profile", lambda files, **_: [NO_PROFILE] * len(files))
    found = edgeprune.build(place.config(speedup=1.3, align=2))
    assert found.measurement.ratio.high <= 1 / 1.3
    assert found.verdict.outcome is Outcome.FITS
    assert found.forecast is not None
    assert found.forecast.measured_ratio == found.measurement.ratio.value
    assert any(note.startswith("latency model:") for note in found.notes)
    assert (place.out / "stages" / "latency-model.json").is_file()


@pytest.mark.slow
def test_a_model_is_shown_and_kept(place, monkeypatch):
    measure_nothing(monkeypatch)
    words = ["targets", "show", "onnxruntime", f"--model=python:{place.net}:Tiny"]
    words += [f"--weights={place.weights}", f"--data={place.images}"]
    shown = program(*words)
    assert shown.exit_code == 0, shown.output
    assert "median error" in shown.output
    assert "inner.weight" in shown.output
    monkeypatch.setattr("edgeprune.measure.profile", lambda *_, **__: pytest.fail("it was measured already"))
    again = json.loads(program(*words, "--json").stdout)
    assert again["dense"] == {"stem.weight": 16, "inner.weight": 16}
    assert len(again["sweep"]) == 5


def test_the_step_of_a_cpu(monkeypatch):
    def at(features: str, **changes: Any) -> int:  # Any: fields of a target
        monkeypatch.setattr("edgeprune.measure.describe_machine", lambda: {"features": features})
        return cpu_step(Target(**{"name": "x", "runtime": "onnxruntime", **changes}))

    assert at("avx2 fma") == 8
    assert at("avx2 avx512f") == 16
    assert at("avx2 avx512f", runtime="openvino") == 8
    assert at("avx2 avx512f", host="user@device") == 8


def _parameters(path: Path) -> int:
    return sum(w.ByteSize() for w in onnx.load(path).graph.initializer)
