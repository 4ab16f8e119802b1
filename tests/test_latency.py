"""The latency model: which variants are measured, what their profiles say, what the model makes of them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from pydantic import TypeAdapter
from tiny_builds import trained_net
from torch import Tensor, nn

from edgeprune import channels, latency
from edgeprune.latency.shapes import Attribution
from edgeprune.measure import worker
from edgeprune.pipeline.pruning import analyse
from edgeprune.records import InputSpec, LatencyModel, Profile, ProfiledOperator, WidthForm

UNITS = {"a": 64, "b": 64, "c": 32}
FORMS = (
    WidthForm(constant=0, copies={"a": 1}),
    WidthForm(constant=0, copies={"b": 1}),
    WidthForm(constant=0, copies={"c": 1}),
    WidthForm(constant=0, copies={"b": 1, "c": 1}),
)
SETTING = latency.Setting(runtime="onnxruntime", threads=1, step=8)


def padded(width: int, block: int) -> int:
    return -(-width // block) * block


def convolution(name: str, inputs: int, outputs: int, *, block: int) -> ProfiledOperator:
    """4 µs, and 2 ns for each multiply-add in whole blocks."""
    macs = padded(inputs, block) * padded(outputs, block) * 9 * 14 * 14
    return ProfiledOperator(
        name=name,
        kind="Conv",
        time_ms=4e-3 + 2e-6 * macs,
        shapes=((1, inputs, 14, 14), (outputs, inputs, 3, 3), (1, outputs, 14, 14)),
    )


def profile(widths: dict[str, int], *, block: int = 16) -> Profile:
    """A network of four operators, whose parts take four fifths of the whole, which adds 50 µs."""
    a, b, c = widths["a"], widths["b"], widths["c"]
    join = ((1, b, 14, 14), (1, c, 14, 14), (1, b + c, 14, 14))
    operators = (
        convolution("first", a, b, block=block),
        convolution("second", a, c, block=block),
        ProfiledOperator(name="join", kind="Concat", time_ms=1e-6 * (b + c) * 14 * 14, shapes=join),
        convolution("last", b + c, a, block=block),
    )
    total = sum(operator.time_ms for operator in operators)
    return Profile(latency_ms=total / 0.8 + 0.05, operators=operators)


def fitted(*, block: int = 16, count: int = 5) -> LatencyModel:
    widths = [UNITS, *latency.variants(UNITS, steps=dict.fromkeys(UNITS, 8), count=count)]
    return latency.fit(FORMS, widths, [profile(w, block=block) for w in widths], setting=SETTING)


@pytest.mark.parametrize("block", [8, 16])
def test_unseen_widths_are_predicted(block):
    model = fitted(block=block)
    unseen = [{"a": 8 * i, "b": 8 * j, "c": 8 * k} for i, j, k in itertools.product((3, 6), (2, 7), (1, 4))]
    predicted = latency.predict(model, unseen)
    measured = [profile(widths, block=block).latency_ms for widths in unseen]
    np.testing.assert_allclose(predicted, measured, rtol=0.04)
    assert model.error < 0.05
    assert model.block == block
    np.testing.assert_allclose(latency.predict(model, [UNITS]), profile(UNITS).latency_ms, rtol=0.02)


def test_a_wrong_profile_shows_in_the_error_of_the_sweep():
    widths = [UNITS, *latency.variants(UNITS, steps=dict.fromkeys(UNITS, 8), count=5)]
    profiles = [profile(w) for w in widths]
    profiles[2] = dataclasses.replace(profiles[2], latency_ms=3 * profiles[2].latency_ms)
    model = latency.fit(FORMS, widths, profiles, setting=SETTING)
    assert max(found.error for found in model.sweep) > 0.4


def test_a_model_is_the_same_after_json():
    model, adapter = fitted(), TypeAdapter(LatencyModel)
    again = adapter.validate_json(adapter.dump_json(model))
    assert again == model
    assert latency.predict(again, [UNITS]) == latency.predict(model, [UNITS])


def test_variants_keep_to_steps_and_tell_groups_apart():
    found = latency.variants(UNITS, steps={"a": 8, "b": 8, "c": 16}, count=6)
    assert all(w["a"] % 8 == w["b"] % 8 == w["c"] % 16 == 0 for w in found)
    assert all(0 < w[name] <= units for w in found for name, units in UNITS.items())
    patterns = {name: tuple(w[name] for w in found) for name in UNITS}
    assert patterns["a"] != patterns["b"]
    assert all(len(set(pattern)) > 1 for pattern in patterns.values())
    assert found == latency.variants(UNITS, steps={"a": 8, "b": 8, "c": 16}, count=6)


def test_a_group_of_one_step_stays_as_it_is():
    assert latency.variants({"a": 12}, steps={"a": 16}, count=2) == [{"a": 12}, {"a": 12}]


def test_axes_are_told_by_their_sizes():
    widths = [UNITS, {"a": 24, "b": 56, "c": 8}, {"a": 40, "b": 16, "c": 24}]
    found = Attribution(FORMS, widths)
    assert found.dimension((64, 24, 40)).form == 0
    assert found.dimension((96, 64, 40)).form == 3
    assert found.dimension((14, 14, 14)).form is None
    flattened = found.dimension((64 * 49, 56 * 49, 16 * 49))
    assert (flattened.form, flattened.size) == (1, 64 * 49)
    blocked = found.dimension((64, 32, 48))
    assert (blocked.form, blocked.block) == (0, 16)


def test_forms_of_a_network_give_the_sizes_of_its_parameters():
    analysed = analyse(trained_net(), InputSpec(shape=(1, 8, 8)))
    groups = {group.name: group.units for group in analysed.coupling.groups}
    widths = {name: units - 3 - number for number, (name, units) in enumerate(groups.items())}
    removed = {name: tuple(range(groups[name] - width)) for name, width in widths.items()}
    sizes = {form.size(widths) for form in channels.width_forms(analysed.coupling)}
    graph = channels.cut(analysed.coupling, removed)
    shapes = {size for parameter in graph.parameters() for size in parameter.shape}
    assert shapes - sizes <= {1, 3}  # the image's channel, the taps, the classes


class Shuffled(nn.Module):
    """Channels of two groups change places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(1, 10, 1), nn.Conv2d(10, 24, 3, groups=2)
        self.after, self.head = nn.Conv2d(24, 36, 1, groups=2), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.stem(x)).relu()
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        scores: Tensor = self.head(self.after(x).relu().mean((2, 3)))
        return scores


def test_the_axis_of_convolution_groups_keeps_its_size() -> None:
    analysed = analyse(Shuffled().eval(), InputSpec(shape=(1, 8, 8)))
    units = {group.name: group.units for group in analysed.coupling.groups}
    assert list(units.values()) == [5, 6, 18], "six units of the second layer, four channels each"
    forms = channels.width_forms(analysed.coupling)
    assert {form.size(units) for form in forms} == {10, 5, 24, 12, 36}
    less = {name: width // 2 for name, width in units.items()}
    assert {(form.size(units), form.size(less)) for form in forms} >= {(24, 12), (12, 6)}


def test_an_interrupted_run_is_taken_out_of_running_averages():
    runs = [0.0423] * 20
    runs[0] += 0.1  # the first is cold
    runs[7] += 4.0
    sums = np.cumsum(runs)
    averages = [int(1000 * total / count) / 1000 for count, total in enumerate(sums, start=1)]
    assert worker.undisturbed(averages) == pytest.approx(0.0423, abs=0.001)
    assert averages[-1] > 0.2


def test_activations_alive_at_once():
    """The first layer's 16 maps of 8x8 and the second's 16 of 4x4: normalisation and ReLU work in place."""
    analysed = analyse(trained_net(), InputSpec(shape=(1, 8, 8)))
    activations = channels.Activations(analysed.coupling)
    widths = {group.name: group.units for group in analysed.coupling.groups}
    assert activations.peak(widths) == 16 * 64 + 16 * 16
    assert activations.peak({**widths, "stem.weight": 5}) == 5 * 64 + 16 * 16
    assert activations.peak({**widths, "inner.weight": 3}) == 16 * 64 + 64, "the image and the first layer"
    rest = 64 + 16 * 16 + 16 + 3  # the image, the second layer, the mean and the head
    assert activations.total(widths) == 2 * 16 * 64 + rest, "the first layer before and after its norm"
