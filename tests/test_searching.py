"""Builds that search for a budget, on a tiny network: what is found, cached and said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from sample_report import quantized_report
from tiny_builds import NO_PROFILE, Place, measure_nothing, measured, program, settle

import edgeprune
from edgeprune import gate
from edgeprune.pipeline.budgeting import MORE_PROCESSES, PROCESSES, Dense, Deployer
from edgeprune.pipeline.clocking import LONGER
from edgeprune.pipeline.inputs import cpu_step
from edgeprune.records import Basis, Budget, Figure, Interval, Limit, Outcome, Target

FINAL = 4
"""Processes of a build's own measurement."""

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

    time_is_weight(monkeypatch)
    found = edgeprune.build(place.config(speedup=1.3, align=2))
    assert found.measurement.ratio.high <= 1 / 1.3
    assert found.verdict.outcome is Outcome.FITS
    assert found.forecast is not None
    assert found.forecast.measured_ratio == found.measurement.ratio.value
    assert any(note.startswith("latency model:") for note in found.notes)
    assert (place.out / "stages" / "latency-model.json").is_file()


@pytest.mark.slow
def test_a_measurement_too_vague_to_go_by_is_taken_again_at_length(place, monkeypatch):
    """With few processes every time is told far too high: without a second look too much would go."""
    time_is_weight(monkeypatch)
    exact = edgeprune.build(place.config(speedup=1.3, align=2))
    at_length: list[int] = []
    fake = edgeprune.measure.measure

    def vague(artifacts: dict[str, Path], *, processes: int, **options: Any):  # Any: keywords
        found = fake(artifacts, processes=processes, **options)
        at_length.append(processes)
        wide = replace(found.ratio, low=0.05, high=found.ratio.value + 2)
        return replace(found, ratio=wide) if processes in (PROCESSES, FINAL) else found

    monkeypatch.setattr("edgeprune.measure.measure", vague)
    again = place.config(speedup=1.3, align=2, processes=FINAL, out=place.out.with_name("again"))
    found = edgeprune.build(again)
    assert MORE_PROCESSES in at_length
    assert at_length[-2:] == [FINAL, LONGER * FINAL]
    assert found.plan == exact.plan
    assert found.verdict.outcome is Outcome.FITS


def test_times_leave_limits_open() -> None:
    found = replace(measured(pruned_ms=4.0), ratio=Interval(value=0.7, low=0.66, high=0.74))
    assert gate.leaves_open(Budget(max_latency_ms=4.05), found, deployed="pruned")
    assert not gate.leaves_open(Budget(max_latency_ms=5.0), found, deployed="pruned")
    for share, is_open in ((0.7, True), (0.75, False), (0.6, False)):
        limit = Limit(figure=Figure.LATENCY_P50, basis=Basis.DENSE, value=share)
        assert gate.leaves_open(Budget(limits=(limit,)), found, deployed="pruned") is is_open
    other = Limit(figure=Figure.PARAMS, basis=Basis.DENSE, value=0.7)
    assert not gate.leaves_open(Budget(limits=(other,)), found, deployed="pruned")


@pytest.mark.parametrize(
    ("low", "high", "limit", "is_open"),
    [
        (0.65, 0.77, 0.75, True),
        (0.74, 0.76, 0.75, False),
        (0.70, 0.76, 0.50, False),
        (0.70, 0.76, None, False),
    ],
)
def test_what_is_measured_again(low: float, high: float, limit: float | None, is_open: bool) -> None:
    limits = {} if limit is None else {"latency": limit}
    in_8_bits = Dense(file=Path(), artifact=None, measured=None, rest={"latency": 0.5})  # type: ignore[arg-type]
    ratio = Interval(value=(low + high) / 2, low=low, high=high)
    half = Interval(value=ratio.value / 2, low=low / 2, high=high / 2)
    for found, bits in ((ratio, None), (half, Path)):
        deployer = Deployer(
            analysed=None, target=None, image=None, place=None,  # type: ignore[arg-type]
            dense=in_8_bits, timed=True, limits=limits, in_8_bits=bits,
        )  # fmt: skip
        assert deployer.is_open(found) is is_open


@pytest.mark.slow
def test_8_bits_that_keep_a_budget_leave_the_channels_to_the_test(place, monkeypatch):
    time_is_weight(monkeypatch)
    free = edgeprune.build(place.config(int8=True, align=2))
    found = edgeprune.build(place.config(int8=True, align=2, speedup=1.3))
    assert found.measurement.ratio.high <= 1 / 1.3
    assert found.plan == free.plan
    assert found.forecast is None
    assert any("8 bits alone keep the budgets" in note for note in found.notes)


@pytest.mark.slow
def test_a_search_goes_on_from_what_8_bits_leave(place, monkeypatch):
    timed = time_is_weight(monkeypatch)
    edgeprune.build(place.config(int8=True))
    alone = _weight(place.out / "models" / "int8.onnx") / _weight(place.out / "models" / "dense.onnx")
    found = edgeprune.build(place.config(int8=True, align=2, speedup=1.4 / alone))
    assert found.measurement.ratio.high <= alone / 1.4, "that of the network in 8 bits"
    assert found.verdict.outcome is Outcome.FITS
    assert found.trajectory.stopped == "the budgets are met, as measured"
    assert not any("8 bits alone" in note for note in found.notes)
    assert {"int8.onnx", "pruned-int8.onnx"} <= {path.name for path in timed}
    assert (place.out / "stages" / "measure-int8.json").is_file()


@pytest.mark.slow
def test_8_bits_count_towards_a_size(place, monkeypatch):
    measure_nothing(monkeypatch, replace(quantized_report().measurement, quality="good", noise=()))
    alone = edgeprune.build(place.config(int8=True)).artifacts["int8"].size_bytes
    found = edgeprune.build(place.config(int8=True, align=2, max_size=f"{0.85 * alone:.0f}B"))
    assert found.artifacts["pruned+int8"].size_bytes <= 0.85 * alone
    assert found.trajectory.stopped == "the budgets are met, as measured"
    assert found.artifacts["pruned"].params > 0.4 * found.artifacts["dense"].params


@pytest.mark.slow
def test_16_bits_count_towards_a_size(place, monkeypatch):
    measure_nothing(monkeypatch)
    dense = edgeprune.build(place.config()).artifacts["dense"]
    half = 2 * dense.params
    kept = edgeprune.build(place.config(fp16=True, max_size=f"{dense.size_bytes - 0.9 * half:.0f}B"))
    assert kept.verdict.outcome is Outcome.FITS
    assert kept.trajectory.stopped != "the budgets are met, as measured", "16 bits alone keep it"
    found = edgeprune.build(
        place.config(fp16=True, align=2, max_size=f"{dense.size_bytes - 1.3 * half:.0f}B")
    )
    assert found.artifacts["pruned"].size_bytes <= dense.size_bytes - 1.3 * half
    assert found.trajectory.stopped == "the budgets are met, as measured"
    assert found.artifacts["pruned"].params > 0.5 * dense.params


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


def time_is_weight(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A file's latency is the bytes of its weights; return the files that were timed."""
    timed: list[Path] = []

    def fake(artifacts: dict[str, Path], **_: Any):  # Any: keywords
        timed.extend(artifacts.values())
        sizes = {name: _weight(path) for name, path in artifacts.items()}
        share = sizes[list(sizes)[-1]] / sizes["dense"]
        base = quantized_report().measurement if len(artifacts) == 4 else measured()
        ratio = Interval(value=share, low=share - 0.01, high=share + 0.01)
        return replace(base, ratio=ratio, quality="good", noise=())

    monkeypatch.setattr("edgeprune.measure.measure", fake)
    monkeypatch.setattr("edgeprune.measure.profile", lambda files, **_: [NO_PROFILE] * len(files))
    return timed


def _weight(path: Path) -> int:
    return sum(w.ByteSize() for w in onnx.load(path).graph.initializer)
