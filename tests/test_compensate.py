"""Compensation against plain NumPy least squares, on small networks in double precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from causal_nets import CLASSES, NETWORKS, SIZE, case
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.causal import Program, unfolded
from edgeprune.channels import couple, masked, trace
from edgeprune.compensate import (
    Layer,
    Subject,
    Survivors,
    activations,
    find_layers,
    in_order,
    measure_moments,
    reestimate,
    refit,
    working_bytes,
)
from edgeprune.compensate.layers import sampled
from edgeprune.compensate.refit import most_rows
from edgeprune.compensate.shares import RIDGE
from edgeprune.compensate.shrinkage import oas
from edgeprune.records import ChannelGroup, InputSpec

NAMES = sorted(NETWORKS)
CLOSE = {"rtol": 1e-7, "atol": 1e-9}


def subject_of(graph: torch.fx.GraphModule, groups: tuple[ChannelGroup, ...], images: Tensor) -> Subject:
    program = Program(graph)
    return Subject(program, find_layers(program), groups, images)


def subject(name: str) -> Subject:
    found = case(name)
    return subject_of(found.graph, found.groups, found.images)


def survivors(found: Subject, **rest: Any) -> Survivors:
    measured = measure_moments(found, found.program.dense)
    return Survivors(
        layers=found.layers,
        groups=found.groups,
        weights=dict(found.program.dense),
        measured=measured,
        **rest,
    )


def value_at(found: Subject, weights: dict[str, Tensor], node: torch.fx.Node) -> Tensor:
    """What a node gives for all images."""
    values = {found.program.input: found.images}
    for place in range(len(found.program.ops)):
        found.program.run_op_(values, weights=weights, place=place)
        if node in values:
            break
    return values[node]


def rows_of(found: Subject, layer: Layer) -> Tensor:
    """What a layer of the dense network reads, shape (positions, channels)."""
    return value_at(found, found.program.dense, layer.source).movedim(layer.channel_dim, -1).flatten(0, -2)


def logits(found: Subject, weights: dict[str, Tensor]) -> Tensor:
    return found.program.logits(found.program.start(found.images), weights)


# --- moments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_what_a_layer_reads(name: str) -> None:
    found = subject(name)
    measured = measure_moments(found, found.program.dense)
    for layer in found.layers.values():
        if layer.groups > 1 or layer.source is found.program.input:
            assert layer.read not in measured.sources, "depthwise, or no unit leaves: nothing is needed"
            continue
        rows = rows_of(found, layer)
        moments = measured.sources[layer.read]
        np.testing.assert_allclose(moments.mean, [rows.mean(0)], rtol=1e-9)
        np.testing.assert_allclose(moments.covariance, [np.cov(rows.T, bias=True)], atol=1e-9)


# --- survivors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_removed_unit_is_predicted_by_least_squares(name: str) -> None:
    found = subject(name)
    network = survivors(found)
    group = found.groups[0]
    units = (1, 3)
    changed = network.without({group.name: units})
    slot = next(s for s in group.slots if s.consumer and s.parameter in found.layers)
    layer = found.layers[slot.parameter]
    assert layer.groups == 1
    gone = slot.indices[list(units)].ravel()
    kept = np.setdiff1d(np.arange(found.program.dense[layer.weight].shape[1]), gone)
    rows = rows_of(found, layer)
    covariance = np.cov(rows.numpy().T, bias=True)
    share = max(RIDGE, float(oas(torch.from_numpy(covariance), len(rows))))
    covariance += share * np.diag(covariance).mean() * np.eye(len(covariance))
    shares = covariance[np.ix_(gone, kept)] @ np.linalg.inv(covariance[np.ix_(kept, kept)])
    dense = found.program.dense[layer.weight].numpy()
    expected = dense.copy()
    expected[:, kept] += np.einsum("op...,pk->ok...", dense[:, gone], shares)
    expected[:, gone] = 0
    np.testing.assert_allclose(changed[layer.weight].numpy(), expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_without_an_intercept_means_count_and_biases_stay(name: str) -> None:
    found = subject(name)
    network = survivors(found, mode="linear")
    group = found.groups[0]
    changed = network.without({group.name: (1, 3)})
    slot = next(s for s in group.slots if s.consumer and s.parameter in found.layers)
    layer = found.layers[slot.parameter]
    gone = slot.indices[[1, 3]].ravel()
    kept = np.setdiff1d(np.arange(found.program.dense[layer.weight].shape[1]), gone)
    rows = rows_of(found, layer)
    second = (rows.T @ rows / len(rows)).numpy()
    share = max(RIDGE, float(oas(torch.from_numpy(second), len(rows))))
    second += share * np.diag(second).mean() * np.eye(len(second))
    shares = second[np.ix_(gone, kept)] @ np.linalg.inv(second[np.ix_(kept, kept)])
    dense = found.program.dense[layer.weight].numpy()
    expected = dense.copy()
    expected[:, kept] += np.einsum("op...,pk->ok...", dense[:, gone], shares)
    expected[:, gone] = 0
    np.testing.assert_allclose(changed[layer.weight].numpy(), expected, **CLOSE)
    if layer.bias is not None:
        torch.testing.assert_close(changed[layer.bias], found.program.dense[layer.bias], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["affine", "linear", "mean", "none"])
def test_one_after_the_other_is_both_at_once(name: str, mode: Any) -> None:
    found = subject(name)
    together, apart = survivors(found, mode=mode), survivors(found, mode=mode)
    removed = {group.name: (0, 2) for group in found.groups}
    together.remove_(removed)
    for unit in (0, 2):
        for group in reversed(found.groups):
            apart.remove_({group.name: (unit,)})
    assert {name: set(units) for name, units in apart.removed.items()} == {
        name: set(units) for name, units in together.removed.items()
    }
    for weight, value in together.weights.items():
        torch.testing.assert_close(apart.weights[weight], value, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_asking_changes_nothing_and_is_what_removing_gives(name: str) -> None:
    found = subject(name)
    network = survivors(found)
    before = dict(network.weights)
    removed = {found.groups[-1].name: (1, 2)}
    changed = network.without(removed)
    assert all(network.weights[key] is value for key, value in before.items())
    network.remove_(removed)
    assert {key for key, value in network.weights.items() if value is not before[key]} == set(changed)
    for key, value in changed.items():
        assert torch.equal(network.weights[key], value)


def test_without_compensation_units_are_masked() -> None:
    found, reference = subject("residual"), case("residual")
    network = survivors(found, mode="none")
    removed = {group.name: (1, 4) for group in found.groups}
    network.remove_(removed)
    with torch.no_grad():
        expected = masked(reference.coupling, removed)(reference.images)
    torch.testing.assert_close(logits(found, network.weights), expected, **CLOSE)


class Twins(nn.Module):
    """Channel 5 of the first layer is twice channel 2 plus a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.second = nn.Conv2d(6, 6, 3, padding=0)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            self.first.weight[5] = 2 * self.first.weight[2]
            self.first.bias[5] = 2 * self.first.bias[2] + 1.5

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.leaky_relu(self.second(self.first(x)), 0.3).mean((2, 3)))


def twins() -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Twins()
        images = torch.randn(40, 3, 6, 6).double()
    traced = trace(network, InputSpec(shape=(3, 6, 6)))
    traced.graph_module.double()
    return subject_of(traced.graph_module, couple(traced).groups, images)


def test_a_channel_that_others_tell_leaves_first_and_is_not_missed() -> None:
    found = twins()
    network = survivors(found)
    first, *_, last = network.ladders({g.name: 1 for g in found.groups})["first.weight"]
    assert set(first.units) <= {0, 1, 2, 3, 4, 5}
    assert first.damage < 0.01 * last.damage
    network.remove_({first.group: first.units})
    torch.testing.assert_close(
        logits(found, network.weights), logits(found, found.program.dense), rtol=0.02, atol=0.02
    )
    zeroed = survivors(found, mode="none")
    zeroed.remove_({first.group: first.units})
    loss = (logits(found, zeroed.weights) - logits(found, found.program.dense)).abs().max()
    assert loss > 10 * (logits(found, network.weights) - logits(found, found.program.dense)).abs().max()


def test_damage_is_the_share_of_the_output_that_is_lost() -> None:
    """For a layer of one tap without a residual sum: measured against what its output really loses."""
    found = subject("depthwise")
    layer = found.layers["project.weight"]
    group = next(g for g in found.groups if any(s.parameter == layer.weight for s in g.slots))
    network = survivors(found)
    block = network.ladders({g.name: 1 for g in found.groups})[group.name][0]
    assert len(block.units) == 1
    dense = value_at(found, found.program.dense, layer.node)
    network.remove_({block.group: block.units})
    lost = value_at(found, network.weights, layer.node) - dense
    measured = float(
        lost.var(dim=(0, 2, 3), correction=0).sum() / dense.var(dim=(0, 2, 3), correction=0).sum()
    )
    assert block.damage == pytest.approx(measured, rel=0.02, abs=1e-6)


class Grouped(nn.Module):
    """A convolution in two groups: either half of its outputs sees either half of the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 6, 1)
        self.grouped = nn.Conv2d(12, 8, 1, groups=2)
        self.head = nn.Linear(14, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([torch.relu(self.grouped(x)), torch.relu(self.other(x))], 1)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def grouped() -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Grouped()
        images = torch.randn(30, 3, SIZE, SIZE).double()
    traced = trace(network.eval(), InputSpec(shape=(3, SIZE, SIZE)))
    traced.graph_module.double()
    return subject_of(traced.graph_module, couple(traced).groups, images)


def test_channels_of_a_grouped_convolution_are_predicted_by_those_of_their_group() -> None:
    found = grouped()
    layer, stem = found.layers["grouped.weight"], found.groups[0]
    assert (stem.units, layer.groups) == (6, 2), "a channel of either half is one unit"
    network = survivors(found)
    changed = network.without({stem.name: (1, 4)})
    dense, halves = found.program.dense, np.split(rows_of(found, layer).numpy(), 2, axis=1)
    kept, gone = [0, 2, 3, 5], [1, 4]
    for half, rows in enumerate(halves):
        covariance = np.cov(rows.T, bias=True)
        share = max(RIDGE, float(oas(torch.from_numpy(covariance), len(rows))))
        covariance += share * np.diag(covariance).mean() * np.eye(6)
        shares = covariance[np.ix_(gone, kept)] @ np.linalg.inv(covariance[np.ix_(kept, kept)])
        outputs = slice(half * 4, half * 4 + 4)
        mine = dense["grouped.weight"][outputs, :, 0, 0].numpy()
        new = changed["grouped.weight"][outputs, :, 0, 0].numpy()
        np.testing.assert_allclose(new[:, kept], mine[:, kept] + mine[:, gone] @ shares, **CLOSE)
        assert not new[:, gone].any()
        means = rows.mean(axis=0)
        constants = mine[:, gone] @ (means[gone] - shares @ means[kept])
        bias = (
            changed["grouped.bias"][half * 4 : half * 4 + 4] - dense["grouped.bias"][half * 4 : half * 4 + 4]
        )
        np.testing.assert_allclose(bias, constants, **CLOSE)


def test_damage_to_a_grouped_convolution_is_the_share_of_its_output_that_is_lost() -> None:
    found = grouped()
    layer, stem = found.layers["grouped.weight"], found.groups[0]
    stem = replace(stem, slots=tuple(s for s in stem.slots if s.parameter != "other.weight"))
    found = replace(found, groups=(stem, *found.groups[1:]))
    blocks = survivors(found).ladders({group.name: 1 for group in found.groups})[stem.name]
    assert len(blocks) == stem.units - 1
    damages = [block.damage for block in blocks]
    assert damages == sorted(damages)
    dense = value_at(found, found.program.dense, layer.node)
    for count in (1, 3):
        network, total = survivors(found), sum(damages[:count])
        network.remove_({stem.name: [unit for block in blocks[:count] for unit in block.units]})
        lost = value_at(found, network.weights, layer.node) - dense
        share = lost.var(dim=(0, 2, 3), correction=0).sum() / dense.var(dim=(0, 2, 3), correction=0).sum()
        assert total == pytest.approx(float(share), rel=0.1), "but for the ridge"


def test_nothing_is_measured_of_depthwise_layers_nor_counted() -> None:
    needs = []
    for groups in (1, 64):
        network = nn.ConvTranspose2d(64, 64, 3, padding=1, groups=groups)
        program = Program(trace(network, InputSpec(shape=(64, 2, 2))).graph_module)
        needs.append(working_bytes(find_layers(program).values(), program.dense, piece=1, threads=1))
    assert needs[1] < 0.1 * needs[0]
    assert needs[0] > 3 * 8 * 64**2, "sum, covariance and inverse in double precision"


def test_units_of_a_grouped_convolution_leave_one_after_the_other_or_at_once() -> None:
    found = grouped()
    together, apart = survivors(found), survivors(found)
    removed = {group.name: (0, 2) for group in found.groups}
    together.remove_(removed)
    for unit in (2, 0):
        for group in found.groups:
            apart.remove_({group.name: (unit,)})
    for weight, value in together.weights.items():
        torch.testing.assert_close(apart.weights[weight], value, **CLOSE)
    fit = refit(found, together.weights, removed)
    plain = survivors(found, mode="none")
    plain.remove_(removed)
    dense = logits(found, found.program.dense)
    losses = [
        float((logits(found, weights) - dense).square().mean())
        for weights in (plain.weights, together.weights, {**together.weights, **fit.weights})
    ]
    assert losses[2] < losses[1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [1, 2, 4])
def test_blocks_leave_whole_steps_and_every_group_something(name: str, step: int) -> None:
    found = subject(name)
    blocks = in_order(survivors(found).ladders({group.name: step for group in found.groups}))
    for group in found.groups:
        mine = [block for block in blocks if block.group == group.name]
        left = group.units
        for block in mine:
            left -= len(block.units)
            assert left % step == 0
            assert left >= step
        units = [unit for block in mine for unit in block.units]
        assert len(set(units)) == len(units)
        assert left == min(group.units, step) or not mine


def test_dead_channels_and_two_images_give_finite_weights() -> None:
    found = replace(subject("concat"), images=case("concat").images[:2])
    network = survivors(found)
    network.remove_({group.name: tuple(range(group.units - 1)) for group in found.groups})
    assert all(torch.isfinite(value).all() for value in network.weights.values())
    again = refit(found, network.weights, network.removed)
    assert all(torch.isfinite(value).all() for value in again.weights.values())


# --- refit --------------------------------------------------------------------------------------------


def removed_half(found: Subject) -> dict[str, tuple[int, ...]]:
    return {group.name: tuple(range(0, group.units, 2)) for group in found.groups}


@pytest.mark.parametrize("name", NAMES)
def test_the_refitted_network_is_closer_to_the_dense_one(name: str) -> None:
    found = subject(name)
    plain, network = survivors(found, mode="none"), survivors(found)
    for one in (plain, network):
        one.remove_(removed_half(found))
    fit = refit(found, network.weights, network.removed)
    dense = logits(found, found.program.dense)
    losses = [
        float((logits(found, weights) - dense).square().mean())
        for weights in (plain.weights, network.weights, {**network.weights, **fit.weights})
    ]
    assert losses[2] < 0.7 * losses[1]
    assert losses[2] < 0.3 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_rough_fit_tells_better_networks_from_worse_ones(name: str) -> None:
    """It is closer to the dense network than none, but it does not come from as many positions."""
    found = subject(name)
    network = survivors(found)
    network.remove_(removed_half(found))
    dense, seen = logits(found, found.program.dense), []
    rough = refit(found, network.weights, network.removed, rough=True)
    for fit in (rough, refit(found, network.weights, network.removed)):
        assert fit.weights.keys() == rough.weights.keys()
        seen.append(float((logits(found, {**network.weights, **fit.weights}) - dense).square().mean()))
    assert max(seen) < 0.8 * float((logits(found, network.weights) - dense).square().mean())


def test_a_rough_fit_looks_at_fewer_positions_but_enough() -> None:
    for unknowns in (9, 160, 576, 4608):
        assert 8 * unknowns <= most_rows(unknowns, rough=True) <= most_rows(unknowns)
    assert most_rows(576, rough=True) < most_rows(576) / 5


def test_a_refitted_layer_is_the_least_squares_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against numpy.linalg.lstsq on unfolded patches, with next to no ridge; no round for the ReLU."""
    monkeypatch.setattr(activations, "ROUNDS", 0)
    found = subject("residual")
    network = survivors(found)
    group = next(g for g in found.groups if any(s.parameter == "outer.weight" for s in g.slots if s.consumer))
    removed = {group.name: (0, 3, 5)}
    network.remove_(removed)
    fit = refit(found, network.weights, removed, ridge=1e-12)
    layer = found.layers["outer.weight"]
    source = value_at(found, network.weights, layer.source)
    kept = [c for c in range(source.shape[1]) if c not in (0, 3, 5)]
    rows = functional.unfold(source[:, kept], (3, 3), padding=1).transpose(1, 2).flatten(0, 1).numpy()
    target = value_at(found, found.program.dense, layer.node).flatten(2).transpose(1, 2).flatten(0, 1).numpy()
    solution, *_ = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], target, rcond=None)
    expected = solution[:-1].T.reshape(target.shape[1], len(kept), 3, 3)
    np.testing.assert_allclose(fit.weights["outer.weight"][:, kept], expected, atol=1e-5)
    assert not fit.weights["outer.weight"][:, [0, 3, 5]].any()
    np.testing.assert_allclose(fit.weights[str(layer.bias)], solution[-1], atol=1e-5)


class Tiles(nn.Module):
    """A transposed convolution whose tiles do not overlap, behind channels that are far from zero."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 5, 2, 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        tiles: Tensor = self.up(torch.relu(self.first(x) + 2.0))
        return tiles


def tiles(*, bias: bool) -> tuple[Subject, dict[str, tuple[int, ...]]]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Tiles(bias=bias).eval()
        images = torch.randn(40, 3, 6, 6).double()
    traced = trace(network, InputSpec(shape=(3, 6, 6)))
    traced.graph_module.double()
    groups = couple(traced).groups
    return subject_of(traced.graph_module, groups, images), {groups[0].name: (1, 4, 6)}


@pytest.mark.parametrize("bias", [True, False])
def test_tiles_of_a_transposed_convolution_are_fitted_by_least_squares(bias: bool) -> None:
    found, removed = tiles(bias=bias)
    walked = survivors(found)
    walked.remove_(removed)
    weights = refit(found, walked.weights, removed, ridge=1e-12).weights
    [layer] = [layer for layer in found.layers.values() if layer.transposed]
    source = value_at(found, dict(found.program.dense), layer.source)
    target = value_at(found, dict(found.program.dense), layer.node)
    stay = [channel for channel in range(8) if channel not in removed[next(iter(removed))]]
    x = source[:, stay].movedim(1, -1).reshape(-1, len(stay)).numpy()
    constant = found.program.dense[layer.bias][:, None, None] if layer.bias else 0.0
    blocks = (target - constant).unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 1, 3, 5)
    y = blocks.reshape(-1, 5 * 2 * 2).numpy()
    expected = np.linalg.lstsq(x, y, rcond=None)[0].reshape(len(stay), 5, 2, 2)
    np.testing.assert_allclose(weights[layer.weight][stay].numpy(), expected, rtol=1e-5, atol=1e-7)
    assert (weights[layer.weight][list(removed[next(iter(removed))])] == 0).all()


@pytest.mark.parametrize("bias", [True, False])
def test_no_tap_of_a_transposed_convolution_is_shifted(bias: bool) -> None:
    """No bias can make good for a constant that each tap lacks in its own measure: it comes in shares."""
    found, removed = tiles(bias=bias)
    walked = survivors(found)
    walked.remove_(removed)
    [layer] = [layer for layer in found.layers.values() if layer.transposed]
    before = value_at(found, dict(found.program.dense), layer.node)
    after = value_at(found, walked.weights, layer.node)
    shift = (after - before).unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean(dim=(0, 2, 4))
    assert float(shift.abs().max()) < 0.05 * float(before.std())


def test_a_layer_before_a_sum_makes_up_for_the_other_branch() -> None:
    """The stem loses a channel: `outer` reads the same stem and is asked for what the sum lacks."""
    found = subject("residual")
    group = next(g for g in found.groups if g.name.startswith("stem"))
    network = survivors(found)
    network.remove_({group.name: (1, 2)})
    fit = refit(found, network.weights, network.removed)
    layer = found.layers["outer.weight"]
    (total,) = layer.node.users
    dense = value_at(found, found.program.dense, total)
    refitted = value_at(found, {**network.weights, **fit.weights}, total)
    without = {name: value for name, value in fit.weights.items() if not name.startswith("outer")}
    left_alone = value_at(found, {**network.weights, **without}, total)
    alive = [c for c in range(dense.shape[1]) if c not in (1, 2)]
    assert (refitted - dense)[:, alive].square().mean() < (left_alone - dense)[:, alive].square().mean()


def test_unchanged_layers_keep_their_weights() -> None:
    found = subject("depthwise")
    last = found.groups[-1]
    network = survivors(found)
    network.remove_({last.name: (1,)})
    fit = refit(found, network.weights, network.removed)
    assert "stem.weight" not in fit.weights
    assert any(name.startswith("head") for name in fit.weights)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_itself_takes_the_new_weights(name: str) -> None:
    """Folded weights given back to convolutions and BatchNorms: the same outputs as the folded graph."""
    found, reference = subject(name), case(name)
    network = survivors(found)
    network.remove_(removed_half(found))
    fit = refit(found, network.weights, network.removed)
    final = {**network.weights, **fit.weights}
    dense, norms = found.program.dense, found.program.folded.norms
    changed = {key: value for key, value in final.items() if value is not dense[key]}
    for weight, norm in norms.items():
        if weight in changed or norm.folded_bias in changed:
            changed |= {key: final[key] for key in (weight, norm.folded_bias)}
    tensors = unfolded(norms, changed, fit.moments)
    with torch.no_grad():
        result = masked(reference.coupling, network.removed, tensors)(reference.images)
    torch.testing.assert_close(result, logits(found, final), rtol=1e-4, atol=1e-4)


# --- BatchNorm re-estimation --------------------------------------------------------------------------


def test_reestimated_channels_vary_as_the_dense_ones() -> None:
    found = subject("depthwise")
    network = survivors(found, mode="none")
    network.remove_({group.name: (1, 3) for group in found.groups[:2]})
    norms = found.program.folded.norms
    weights = {**network.weights, **reestimate(found, norms, network.weights)}
    assert norms
    for name in norms:
        node = found.layers[name].node
        dense, current = (value_at(found, w, node) for w in (found.program.dense, weights))
        torch.testing.assert_close(current.mean((0, 2, 3)), dense.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
        before, after = dense.std((0, 2, 3)), current.std((0, 2, 3))
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)


# --- shrinkage ----------------------------------------------------------------------------------------


def test_many_samples_ask_for_no_ridge_and_few_for_much() -> None:
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((30, 30))
    ridges = []
    for rows in (20, 200, 20_000):
        table = generator.standard_normal((rows, 30)) @ mixing
        ridges.append(float(oas(torch.from_numpy(np.cov(table.T, bias=True)), rows)))
    assert ridges[0] > 5 * ridges[1] > 50 * ridges[2] > 0
    assert ridges[2] < 2e-3


@pytest.mark.parametrize("width", [7, 14, 28, 32, 56, 112])
@pytest.mark.parametrize("thin", [2, 7, 8, 14, 28, 56, 112])
def test_no_column_of_an_image_is_looked_at_more_than_others(width: int, thin: int) -> None:
    """Steps of `thin` would meet the first column alone where one is a multiple of the other."""
    places = torch.arange(width * width)[None]
    found = sampled(places, thin)[0]
    assert len(found) == -(-width * width // thin)
    assert found.equal(sampled(places, thin)[0])
    columns = np.bincount(found % width, minlength=width)
    spread = np.sqrt(len(found) / width)
    assert abs(columns - len(found) / width).max() <= 5 * spread + 1
