"""Least squares on what an activation lets through, against a general minimiser of the same loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from causal_nets import case
from scipy import optimize
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.causal import Program
from edgeprune.channels import trace
from edgeprune.compensate import Subject, Survivors, activations, find_layers, measure_moments, refit
from edgeprune.compensate.activations import Activation, Clamp, Rows, Smooth, activation_behind, improved
from edgeprune.compensate.least_squares import Sums, system
from edgeprune.records import InputSpec

INFINITY = float("inf")
RELU, RELU6 = Clamp(0.0, INFINITY), Clamp(0.0, 6.0)


def problem(*, rest: bool = False) -> tuple[Rows, Tensor]:
    """Rows of one group, five inputs and three outputs of which the ReLU6 cuts off much; and the start."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = normal(1, 400, 5)
    goal = 3 * torch.tanh(inputs @ normal(1, 5, 3)) + 2 * normal(1, 400, 3) + 2
    other = normal(1, 400, 3) if rest else None
    return Rows(inputs, goal, other), normal(1, 5, 3)


def loss(rows: Rows, weights: Tensor, constants: Tensor, clamp: Clamp) -> Tensor:
    """Mean square of what is missing: nothing where the activation cuts off both."""
    now = rows.inputs @ weights + constants[:, None]
    if rows.rest is not None:
        now = now + rows.rest
    missing = rows.goal - now
    missing = torch.where(rows.goal <= clamp.low, (clamp.low - now).clamp(max=0), missing)
    missing = torch.where(rows.goal >= clamp.high, (clamp.high - now).clamp(min=0), missing)
    return missing.square().mean()


def linear(rows: Rows, start: Tensor) -> tuple[activations.System, Tensor, Tensor]:
    target = rows.goal if rows.rest is None else rows.goal - rows.rest
    sums = Sums.of(rows.inputs, target)
    equations, weights = system(sums, start, 1e-9, intercept=True)
    return equations, weights, sums.constants(weights)


@pytest.mark.parametrize("rest", [False, True], ids=["alone", "before a sum"])
@pytest.mark.parametrize("clamp", [RELU, RELU6, Clamp(-INFINITY, 1.0)], ids=str)
def test_many_rounds_find_what_a_general_minimiser_finds(
    clamp: Clamp, rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, start = problem(rest=rest)
    equations, weights, constants = linear(rows, start)
    monkeypatch.setattr(activations, "ROUNDS", 300)
    found = improved(equations, weights, constants, [rows.thinned(400)], clamp)

    def value_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(flat).requires_grad_(True)
        value = loss(rows, point[:15].reshape(1, 5, 3), point[15:][None], clamp)
        value.backward()
        assert point.grad is not None
        return value.item(), point.grad.numpy()

    begin = torch.cat([weights.ravel(), constants.ravel()]).numpy()
    best = optimize.minimize(value_and_slope, begin, jac=True, tol=1e-12)
    assert float(loss(rows, *found, clamp)) == pytest.approx(best.fun, rel=1e-6)
    np.testing.assert_allclose(found[0].ravel(), best.x[:15], atol=1e-4)


@pytest.mark.parametrize("rounds", [1, 2, 3, 8])
def test_no_round_makes_the_fit_worse(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, start = problem()
    equations, weights, constants = linear(rows, start)
    losses = [float(loss(rows, weights, constants, RELU))]
    for number in range(1, rounds + 1):
        monkeypatch.setattr(activations, "ROUNDS", number)
        losses.append(float(loss(rows, *improved(equations, weights, constants, [rows], RELU), RELU)))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.999 * losses[0]


@pytest.mark.parametrize(("most", "left"), [(400, 400), (399, 400), (199, 200), (130, 134), (4, 4)])
def test_rows_are_thinned_together(most: int, left: int) -> None:
    rows, _ = problem(rest=True)
    thin = rows.thinned(most)
    assert thin.rest is not None
    assert rows.rest is not None
    assert thin.inputs.shape[1] == left
    joined = torch.cat([rows.inputs, rows.goal, rows.rest], dim=2)[0]
    some = torch.cat([thin.inputs, thin.goal, thin.rest], dim=2)[0]
    assert {tuple(row) for row in some.tolist()} <= {tuple(row) for row in joined.tolist()}
    assert len({tuple(row) for row in some.tolist()}) == left


def test_pieces_are_looked_at_together() -> None:
    rows, start = problem(rest=True)
    equations, weights, constants = linear(rows, start)
    assert rows.rest is not None
    halves = (slice(90), slice(90, None))
    parts = [Rows(rows.inputs[:, half], rows.goal[:, half], rows.rest[:, half]) for half in halves]
    one, two = (improved(equations, weights, constants, pieces, RELU6) for pieces in ([rows], parts))
    torch.testing.assert_close(one, two)


class Behind(nn.Module):
    """A convolution, and what reads it."""

    def __init__(self, reader: nn.Module, *, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.reader, self.twice = nn.Conv2d(3, 4, 3), reader, twice

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        read: Tensor = self.reader(x)
        return read + x if self.twice else read


class Limit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=2)


@pytest.mark.parametrize(
    ("reader", "clamp"),
    [
        (nn.ReLU(), RELU),
        (nn.ReLU(inplace=True), RELU),
        (nn.ReLU6(), RELU6),
        (nn.Hardtanh(-2.0, 3.0), Clamp(-2.0, 3.0)),
        (nn.Hardtanh(), Clamp(-1.0, 1.0)),
        (Limit(), Clamp(-INFINITY, 2.0)),
        (nn.MaxPool2d(2), None),
    ],
    ids=str,
)
def test_what_stands_behind_a_layer(reader: nn.Module, clamp: Clamp | None) -> None:
    program = Program(trace(Behind(reader).eval(), InputSpec(shape=(3, 6, 6))).graph_module)
    assert activation_behind(find_layers(program)["conv.weight"].node) == clamp


SMOOTH = [
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.Hardswish(),
    nn.Mish(),
    nn.ELU(alpha=0.7),
    nn.LeakyReLU(0.2),
    nn.Softplus(beta=2),
    nn.Sigmoid(),
    nn.Hardsigmoid(),
    nn.Tanh(),
]


@pytest.mark.parametrize("module", SMOOTH, ids=str)
def test_smooth_activations_are_known_with_their_settings(module: nn.Module) -> None:
    program = Program(trace(Behind(module).eval(), InputSpec(shape=(3, 6, 6))).graph_module)
    found = activation_behind(find_layers(program)["conv.weight"].node)
    assert isinstance(found, Smooth)
    values = torch.linspace(-6, 6, 97)
    torch.testing.assert_close(found.function(values), module(values))
    chords = module(values).diff() / values.diff()
    assert found.steepest >= 0.99 * float(chords.abs().max())


@pytest.mark.parametrize("module", SMOOTH, ids=str)
def test_outputs_move_down_the_loss(module: nn.Module) -> None:
    """Against the slope of the whole; never further than to the goal."""
    goal, now = torch.meshgrid(*2 * [torch.linspace(-9.1, 9.3, 121, dtype=torch.float64)], indexing="ij")
    missing = Smooth.of(module).missing(goal, now)
    assert (missing.abs() <= (goal - now).abs()).all()
    place = now.clone().requires_grad_()
    (slope,) = torch.autograd.grad((module(goal) - module(place)).square().sum(), place)
    assert (missing * slope <= 0).all()
    assert (missing[slope.abs() > 1e-6] != 0).all()


def read_loss(rows: Rows, weights: Tensor, constants: Tensor, activation: Activation) -> float:
    """Mean square of what the activation gives too much or too little."""
    assert isinstance(activation, Smooth)
    now = rows.inputs @ weights + constants[:, None]
    now = now if rows.rest is None else now + rows.rest
    return float((activation.function(rows.goal) - activation.function(now)).square().mean())


@pytest.mark.parametrize("rest", [False, True], ids=["alone", "before a sum"])
@pytest.mark.parametrize("module", SMOOTH, ids=str)
def test_rounds_bring_what_is_read_closer(
    module: nn.Module, rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, start = problem(rest=rest)
    activation = Smooth.of(module)
    equations, weights, constants = linear(rows, start)
    losses = [read_loss(rows, weights, constants, activation)]
    for number in (1, 2, 3, 20):
        monkeypatch.setattr(activations, "ROUNDS", number)
        found = improved(equations, weights, constants, [rows], activation)
        losses.append(read_loss(rows, *found, activation))
    assert losses[-1] < 0.995 * losses[0]
    assert max(losses[1:]) < losses[0]


def test_what_is_read_before_the_activation_as_well_is_fitted_as_it_is() -> None:
    program = Program(trace(Behind(nn.ReLU(), twice=True).eval(), InputSpec(shape=(3, 6, 6))).graph_module)
    assert activation_behind(find_layers(program)["conv.weight"].node) is None


def refitted(name: str, removed: dict[str, tuple[int, ...]], layer: str) -> float:
    """How far what the activation behind a layer gives is from the dense network's, after the refit."""
    found = case(name)
    program = Program(found.graph)
    subject = Subject(program, find_layers(program), found.groups, found.images)
    network = Survivors(
        layers=subject.layers,
        groups=subject.groups,
        weights=dict(program.dense),
        measured=measure_moments(subject, program.dense),
    )
    network.remove_(removed)
    fit = refit(subject, network.weights, network.removed, ridge=1e-9)
    node = subject.layers[layer].node
    reader = next(iter(node.users))
    if activation_behind(node) is None:
        (reader,) = reader.users
    values = {"dense": program.dense, "now": {**network.weights, **fit.weights}}
    outputs = [output_of(program, found.images, weights, reader) for weights in values.values()]
    return float(functional.mse_loss(*outputs))


def output_of(program: Program, images: Tensor, weights: dict[str, Tensor], node: torch.fx.Node) -> Tensor:
    values = {program.input: images}
    for place, op in enumerate(program.ops):
        program.run_op_(values, weights=weights, place=place)
        if op.node is node:
            break
    return values[node]


def test_what_the_network_reads_comes_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a layer before a ReLU, and of one that completes a sum before one."""
    net = case("residual")
    group = next(g for g in net.groups if any(s.parameter == "outer.weight" for s in g.slots if s.consumer))
    with_rounds = refitted("residual", {group.name: (0, 3, 5)}, "outer.weight")
    monkeypatch.setattr(activations, "ROUNDS", 0)
    assert with_rounds < 0.99 * refitted("residual", {group.name: (0, 3, 5)}, "outer.weight")
