"""Limits as people write them, in edgeprune.toml and as flags."""

from __future__ import annotations

import tomllib

import pytest

from edgeprune import budgets, quantities
from edgeprune.errors import ConfigError
from edgeprune.records import Basis, Figure, Limit

TEXT = """
[budgets.default]
latency_p50 = "100 ms"
macs = "900 M"

[budgets.pi4]
latency_p50 = "45 ms"
latency_p90 = { max = "60 ms", level = "warn" }
latency_ratio = { max = 0.85, vs = "unpruned", confidence = 0.95 }
regression = { max = "+3 %", vs = "baseline", confidence = 0.95 }
accuracy_top1 = { min = "69.0 %", max_drop = "1.0 pp", vs = "unpruned" }
peak_memory = ["120 MB", { max = "+1 %", vs = "baseline" }]
model_size = "12 MB"
load_time = "500 ms"
first_inference = "200 ms"
class_accuracy = { max_drop = "5 points" }
unblocked_convs = 0
params = { max = "2 M", level = "off" }
"""


def limit(figure: Figure, value: float, basis: Basis = Basis.ABSOLUTE, **changes: bool) -> Limit:
    return Limit(figure=figure, basis=basis, value=pytest.approx(value), **changes)


def test_a_table_is_read_line_by_line_and_inherits():
    found = budgets.read(tomllib.loads(TEXT)["budgets"], target="pi4")
    assert found == (
        limit(Figure.LATENCY_P50, 45.0),
        limit(Figure.MACS, 9e8),
        limit(Figure.LATENCY_P90, 60.0, warns=True),
        limit(Figure.LATENCY_P50, 0.85, Basis.DENSE),
        limit(Figure.LATENCY_P50, 1.03, Basis.BASELINE),
        limit(Figure.ACCURACY, 0.69),
        limit(Figure.ACCURACY, 0.01, Basis.DENSE),
        limit(Figure.PEAK_MEMORY, 120e6),
        limit(Figure.PEAK_MEMORY, 1.01, Basis.BASELINE),
        limit(Figure.MODEL_SIZE, 12e6),
        limit(Figure.LOAD_TIME, 500.0),
        limit(Figure.FIRST_INFERENCE, 200.0),
        limit(Figure.CLASS_ACCURACY, 0.05, Basis.DENSE),
        limit(Figure.UNBLOCKED_CONVS, 0.0),
    )


def test_another_target_gets_the_default():
    found = budgets.read(tomllib.loads(TEXT)["budgets"], target="openvino")
    assert found == (limit(Figure.LATENCY_P50, 100.0), limit(Figure.MACS, 9e8))
    assert budgets.read({}, target="openvino") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency_p90 <= 12ms", limit(Figure.LATENCY_P90, 12.0)),
        ("latency_p50<=0.9 vs dense", limit(Figure.LATENCY_P50, 0.9, Basis.DENSE)),
        ("peak_memory <= +1 % vs baseline", limit(Figure.PEAK_MEMORY, 1.01, Basis.BASELINE)),
        ("accuracy_top1 >= 69 %", limit(Figure.ACCURACY, 0.69)),
        ("accuracy_top1 >= -0.5pp vs baseline", limit(Figure.ACCURACY, 0.005, Basis.BASELINE)),
        ("class_accuracy >= -5 points vs dense", limit(Figure.CLASS_ACCURACY, 0.05, Basis.DENSE)),
    ],
)
def test_a_flag_says_the_same(text, expected):
    assert budgets.parse(text) == expected


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"latncy_p50": "1 ms"}, r"\[budgets.default\] latncy_p50: no such figure; did you mean latency_p50"),
        ({"x": 1}, "the figures are latency_p50, "),
        ({"latency_p50": 45}, "45 is not a time"),
        ({"peak_memory": "45 ms"}, "'45 ms' is not a size"),
        ({"macs": "many"}, "not a number of things"),
        ({"latency_ratio": "fast"}, "not a ratio"),
        ({"latency_ratio": "+3"}, "not a ratio"),
        ({"accuracy_top1": "69 %"}, "`min` or a `max_drop`"),
        ({"accuracy_top1": {"min": 0.69}}, "not a share"),
        ({"accuracy_top1": {"max_drop": "1 %"}}, "no difference of shares"),
        ({"latency_p50": {"max_drop": "1 pp"}}, "only accuracies"),
        ({"latency_p50": {"vs": "dense"}}, "no limit in it"),
        ({"latency_p50": {"max": "1 ms", "vs": "yesterday"}}, "vs: Input should be"),
        ({"latency_p50": {"max": "1 ms", "confidence": 0.9}}, "confidence"),
        ({"latency_p50": {"mx": "1 ms"}}, "mx: Extra inputs"),
    ],
)
def test_a_wrong_line_says_where_and_what(entry, words):
    with pytest.raises(ConfigError, match=words) as caught:
        budgets.read({"default": entry}, target="pi4")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["latency_p50", "latency_p50 = 3ms", "latency_p50 < 3ms", ""])
def test_a_flag_that_is_no_limit_is_refused(text):
    with pytest.raises(ConfigError, match="write FIGURE <= VALUE"):
        budgets.parse(text)


def test_no_table_is_refused():
    with pytest.raises(ConfigError, match="not a table"):
        budgets.read({"default": 3}, target="pi4")


@pytest.mark.parametrize(
    ("text", "value"), [("85 %", 0.85), ("0.85", 0.85), (2, 2.0), ("+3 %", 1.03), ("-10%", 0.9)]
)
def test_ratios(text, value):
    assert quantities.ratio(text) == pytest.approx(value)
