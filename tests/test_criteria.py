"""Criteria: every one on small networks, and each against what it is defined by."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from causal_nets import case
from oracle import SPEC, tiny
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from edgeprune import criteria
from edgeprune.channels import couple, masked, trace
from edgeprune.criteria import Subject
from edgeprune.criteria.gates import active, barrier, limit, sample
from edgeprune.criteria.gradients import loss_changes
from edgeprune.criteria.integrated import attribution_sums
from edgeprune.criteria.reading import find_readings
from edgeprune.criteria.relevance import attribute
from edgeprune.errors import EdgepruneError, InputError, ModelError
from edgeprune.records import ChannelGroup, InputSpec

DEAD, SILENT, INFORMED = 0, 3, 5
"""Units of the planted network: read by nothing; always zero; alone knows the class."""
KNOW_THE_LOSS = ("gradient", "taylor", "integrated-gradients", "lrp", "i-lrp", "class-aware")
KNOW_THE_VALUES = ("activation", "variance", "taylor", "integrated-gradients", "lrp", "i-lrp", "class-aware")
SLOW = ("budget-aware",)


class Planted(nn.Module):
    """A residual inverted bottleneck with a depthwise convolution, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.expand, self.expand_norm = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.depth_norm = nn.BatchNorm2d(12)
        self.project = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 2)

    def inner(self, x: Tensor) -> Tensor:
        """What `project` reads."""
        x = torch.relu(self.norm(self.stem(x)))
        x = functional.relu6(self.expand_norm(self.expand(x)))
        return functional.relu6(self.depth_norm(self.depth(x)))

    def forward(self, x: Tensor) -> Tensor:
        stem = torch.relu(self.norm(self.stem(x)))
        scores: Tensor = self.head(torch.relu(stem + self.project(self.inner(x))).mean((2, 3)))
        return scores


def plant_(network: Planted) -> None:
    """The class is how bright the first colour is; only one unit of the residual stream looks at it."""
    for parameter in network.parameters():
        parameter.data.mul_(0.3)
    for norm in (network.norm, network.expand_norm, network.depth_norm):
        norm.weight.data.fill_(1.0)
        norm.bias.data.fill_(0.05)
    stem, head, project = network.stem, network.head, network.project
    stem.weight.data[:, 0], stem.weight.data[INFORMED] = 0.0, 0.0
    stem.weight.data[INFORMED, 0, 1, 1], stem.bias.data[INFORMED] = 1.0, 0.0
    head.weight.data.mul_(0.1)
    head.weight.data[:, INFORMED] = torch.tensor([-1.0, 1.0])
    head.bias.data[:] = torch.tensor([1.7, -1.7])
    project.weight.data.mul_(0.1)
    network.expand.weight.data[:, [DEAD]], head.weight.data[:, DEAD] = 0.0, 0.0
    for tensor in (stem.weight, stem.bias, network.norm.bias, project.weight, project.bias):
        tensor.data[SILENT] = 0.0


def subject_of(network: nn.Module, images: Tensor, labels: Tensor) -> Subject:
    traced = trace(network, InputSpec(shape=tuple(images.shape[1:])))
    return Subject(
        graph=traced.graph_module,
        groups=couple(traced).groups,
        images=images,
        labels=labels,
        module=network,
        batch=traced.batch,
    )


@cache
def planted() -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Planted().eval()
        with torch.no_grad():
            plant_(network)
        labels = torch.arange(24) % 2
        images = 0.3 * torch.randn(24, 3, 8, 8)
        images[:, 0] = (1.0 + 1.5 * labels + 0.2 * torch.randn(24))[:, None, None]
    return subject_of(network, images, labels)


@cache
def trained(name: str) -> Subject:
    """A small trained network in double precision, unit 0 of each group read by nothing."""
    found = case(name)
    return Subject(
        graph=found.graph,
        groups=found.groups,
        images=found.images,
        labels=torch.from_numpy(found.labels),
        module=found.graph,
    )


@cache
def tiny_subject(name: str) -> Subject:
    """A tiny network with random statistics, traced in single precision and run in double."""
    network, _ = tiny(name)
    traced = trace(network, SPEC)
    traced.graph_module.double()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, *SPEC.shape, generator=generator, dtype=torch.float64)
    return Subject(
        graph=traced.graph_module,
        groups=couple(traced).groups,
        images=images,
        labels=torch.tensor([0, 1, 2, 3]),
        module=network,
        batch=traced.batch,
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "planted": planted,
    "encoder_layer_of_torch": lambda: tiny_subject("encoder_layer_of_torch"),
}


def marked(names: tuple[str, ...]) -> list[Any]:  # Any: pytest does not export the type
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


def group(subject: Subject, name: str) -> ChannelGroup:
    return next(group for group in subject.groups if group.name == name)


# all of them ------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_methods() -> None:
    assert (
        *("magnitude-l1", "magnitude-l2", "bn-scale", "random", "activation", "variance", "gradient"),
        *("taylor", "integrated-gradients", "lrp", "i-lrp", "class-aware", "budget-aware"),
    ) == criteria.NAMES


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="nose is no criterion; choose one of magnitude-l1"):
        criteria.score("nose", planted())


@pytest.mark.parametrize("network", SUBJECTS)
@pytest.mark.parametrize("name", marked(criteria.NAMES))
def test_every_unit_gets_a_finite_score_and_the_same_again(name: str, network: str) -> None:
    subject = SUBJECTS[network]()
    seen: list[tuple[int, int]] = []
    watched = dataclasses.replace(subject, on_progress=lambda done, total: seen.append((done, total)))
    scores = criteria.score(name, watched, seed=3)
    assert {group: len(values) for group, values in scores.items()} == {
        group.name: group.units for group in subject.groups
    }
    for values in scores.values():
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
        assert len(np.unique(values)) > 1 or name in ("bn-scale", "class-aware")
    assert all(done <= total for done, total in seen)
    assert not seen or seen[-1][0] == seen[-1][1]
    again = criteria.score(name, subject, seed=3)
    assert all(np.array_equal(values, again[group]) for group, values in scores.items())


@pytest.mark.parametrize("name", marked(("random", "budget-aware")))
def test_another_seed_gives_other_scores(name: str) -> None:
    one, other = (criteria.score(name, planted(), seed=seed) for seed in (0, 1))
    assert not any(np.array_equal(one[group], other[group]) for group in one)


@pytest.mark.parametrize("name", marked((*KNOW_THE_LOSS, "budget-aware")))
def test_a_unit_that_nothing_reads_comes_last(name: str) -> None:
    for subject in (trained("residual"), trained("depthwise"), trained("concat")):
        for values in criteria.score(name, subject).values():
            assert values[0] <= np.median(values)
            assert values[0] == values.min() or name == "budget-aware"  # others may do harm


@pytest.mark.parametrize("name", KNOW_THE_VALUES)
def test_a_unit_that_is_always_zero_comes_last(name: str) -> None:
    values = criteria.score(name, planted())["stem.weight"]
    order = np.argsort(values, kind="stable")
    assert (
        SILENT in (order[:2] if name in KNOW_THE_LOSS else order[:1]).tolist()
    )  # the dead one lies there, too


@pytest.mark.parametrize("name", marked((*KNOW_THE_LOSS, "activation", "variance", "budget-aware")))
def test_a_unit_that_alone_knows_the_class_comes_first(name: str) -> None:
    values = criteria.score(name, planted())["stem.weight"]
    assert values.argmax() == INFORMED
    assert np.sum(values == values.max()) == 1


@pytest.mark.parametrize("name", ["activation", "variance", "gradient", "taylor", "lrp"])
def test_one_image_at_a_time_gives_the_same(name: str) -> None:
    together = criteria.score(name, planted())
    single = criteria.score(name, dataclasses.replace(planted(), batch=1))
    for group_name, values in together.items():
        np.testing.assert_allclose(single[group_name], values, rtol=1e-3, atol=1e-6)


# each against its definition --------------------------------------------------------------------------


def test_magnitudes_are_norms_of_what_produces_a_unit() -> None:
    network = planted().module
    assert isinstance(network, Planted)
    weights = [network.expand.weight, network.depth.weight]
    rows = torch.cat([weight.detach().double().flatten(1) for weight in weights], dim=1).abs().numpy()
    l1, l2 = (criteria.score(f"magnitude-{norm}", planted()) for norm in ("l1", "l2"))
    np.testing.assert_allclose(l1["expand.weight"], rows.sum(axis=1))
    np.testing.assert_allclose(l2["expand.weight"], np.sqrt((rows**2).sum(axis=1)))


def test_bn_scale_is_the_mean_size_of_the_scales() -> None:
    network = copy.deepcopy(planted().module)
    assert isinstance(network, Planted)
    network.expand_norm.weight.data = -torch.arange(12.0)
    network.depth_norm.weight.data = torch.arange(12.0) + 1
    found = criteria.score("bn-scale", subject_of(network, planted().images, planted().labels))
    np.testing.assert_allclose(found["expand.weight"], np.arange(12) + 0.5)


def test_bn_scale_says_when_there_are_none() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.AdaptiveAvgPool2d(1))
    subject = subject_of(network.append(nn.Flatten()), planted().images, planted().labels)
    with pytest.raises(ModelError, match="no BatchNorm scales"):
        criteria.score("bn-scale", subject)


def test_activation_and_variance_are_those_of_numpy() -> None:
    network = planted().module
    assert isinstance(network, Planted)
    values = network.inner(planted().images).detach().double().numpy()
    mean, spread = (criteria.score(name, planted())["expand.weight"] for name in ("activation", "variance"))
    np.testing.assert_allclose(mean, np.abs(values).mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(spread, values.var(axis=(0, 2, 3)), rtol=1e-6)


READERS = (
    *("plain", "residual", "depthwise", "grouped_same_index", "grouped_after_concat", "transposed"),
    *("shared_conv", "concat", "flatten", "mm", "matmul_parameter", "transposed_matrix", "einsum"),
    *("einsum_heads", "attention", "attention_of_torch", "repeat", "folded_batch", "squeeze_excite"),
    "written_channels",
)


@pytest.mark.parametrize("name", READERS)
def test_taylor_is_the_first_order_change_of_the_loss(name: str) -> None:
    """The oracle knows nothing of inputs: it turns down the weights by which a unit is read."""
    subject = tiny_subject(name)
    changes, scores = loss_changes(subject), criteria.score("taylor", subject)
    for found in subject.groups:
        expected = np.array([loss_turned_down(subject, found, unit) for unit in range(found.units)])
        np.testing.assert_allclose(changes[found.name], expected, rtol=1e-5, atol=1e-8)
        length = np.linalg.norm(expected)
        np.testing.assert_allclose(scores[found.name], np.abs(expected) / length, rtol=1e-4, atol=1e-6)


def loss_turned_down(subject: Subject, found: ChannelGroup, unit: int, *, step: float = 1e-5) -> float:
    """-dL/ds for all that reads a unit scaled by 1 - s, by central differences."""
    tensors = {**dict(subject.graph.named_parameters()), **dict(subject.graph.named_buffers())}
    losses = []
    for factor in (1 - step, 1 + step):
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        for slot in (slot for slot in found.slots if slot.consumer):
            index = torch.from_numpy(slot.indices[unit])
            part = tensors[slot.parameter].data.index_select(slot.axis, index)
            tensors[slot.parameter].data.index_copy_(slot.axis, index, part * factor)
        with torch.no_grad():
            pieces = torch.split(subject.images, subject.batch or len(subject.images))
            logits = torch.cat([subject.graph(piece) for piece in pieces])
        losses.append(float(functional.cross_entropy(logits, subject.labels)))
        for name, tensor in tensors.items():
            tensor.data.copy_(before[name])
    return (losses[1] - losses[0]) / (2 * step)


@pytest.mark.parametrize(("name", "steps", "tolerance"), [("residual", 4, 1e-9), ("plain", 256, 0.02)])
def test_integrated_gradients_are_complete(name: str, steps: int, tolerance: float) -> None:
    """Units that cut the network share out the rise from the zero image: exactly at the linear head."""
    subject = tiny_subject(name)
    with torch.no_grad():
        rise = subject.graph(subject.images) - subject.graph(torch.zeros_like(subject.images))
    expected = float(rise.gather(1, subject.labels[:, None]).sum())
    cut = heads_only(subject) if name == "residual" else subject  # plain: one layer alone reads the stem
    assert attribution_sums(cut, steps=steps)["stem.weight"].sum() == pytest.approx(expected, rel=tolerance)


def heads_only(subject: Subject) -> Subject:
    """The groups, read by the head alone."""
    kept = tuple(
        dataclasses.replace(found, slots=tuple(s for s in found.slots if s.parameter == "head.weight"))
        for found in subject.groups
    )
    return dataclasses.replace(subject, groups=tuple(found for found in kept if found.slots))


def test_class_aware_counts_the_classes_that_a_unit_matters_to() -> None:
    values = criteria.score("class-aware", planted())["stem.weight"]
    assert values[INFORMED] == pytest.approx(2.0, abs=1e-5)
    assert values[DEAD] == 0.0
    assert values.min() >= 0


# relevance --------------------------------------------------------------------------------------------


@cache
def residual_network() -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-18 with statistics that fit its weights, as training gives."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, images = resnet18(num_classes=10), torch.randn(6, 3, 32, 32)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.2)
        nn.init.zeros_(network.fc.bias)
        with torch.no_grad():
            network.train()(torch.randn(32, 3, 32, 32))
            labels = network.eval()(images).argmax(dim=1)
    return network, images, labels


@pytest.mark.slow
def test_relevance_is_conserved() -> None:
    """One unit of relevance enters; a tool in wide use returned 6.7e17 for such a network."""
    subject = subject_of(*residual_network())
    readings = find_readings(subject.graph, subject.groups)
    found = attribute(subject, readings, subject.images, subject.labels)
    np.testing.assert_allclose(found.image.sum(dim=(1, 2, 3)), 1.0, atol=0.03)
    layers = {str(layer.all_input_nodes[1].target): value for layer, value in found.layers.items()}
    arrives = {name: float(value.sum()) / len(subject.images) for name, value in layers.items()}
    assert arrives["fc.weight"] == pytest.approx(1.0, abs=0.03)
    for stage in ("layer2", "layer3", "layer4"):
        total = arrives[f"{stage}.0.conv1.weight"] + arrives[f"{stage}.0.downsample.0.weight"]
        assert total == pytest.approx(1.0, abs=0.03)
    assert all(float(value.abs().sum()) / len(subject.images) < 20 for value in layers.values())


@pytest.mark.slow
def test_relevance_is_that_of_zennit_by_modules() -> None:
    """The same rules, put on the modules of a network that zennit knows how to canonise."""
    from zennit.composites import LayerMapComposite, layer_map_base
    from zennit.rules import Epsilon, ZPlus
    from zennit.torchvision import ResNetCanonizer
    from zennit.types import Convolution

    network, images, labels = residual_network()
    subject = subject_of(network, images, labels)
    found = attribute(subject, find_readings(subject.graph, subject.groups), images, labels).image
    rules = [*layer_map_base(), (Convolution, ZPlus(zero_params=["bias"])), (nn.Linear, Epsilon())]
    composite = LayerMapComposite(layer_map=rules, canonizers=[ResNetCanonizer()])
    pixels = images.clone().requires_grad_()
    with composite.context(network) as canonised:
        start = functional.one_hot(labels, 10).float()
        (expected,) = torch.autograd.grad(canonised(pixels), pixels, grad_outputs=start)
    error = (found - expected).norm() / expected.norm()
    assert float(error) < 1e-3


@pytest.mark.parametrize(
    "name", ["encoder_layer_of_torch", "attention_fused", "transformer_block", "depthwise"]
)
def test_relevance_does_not_explode(name: str) -> None:
    subject = tiny_subject(name)
    sums = {name: values.sum() for name, values in criteria.score("lrp", subject).items()}
    assert all(total < 100 * len(subject.images) for total in sums.values()), sums


@pytest.mark.parametrize(
    "name", ["depthwise", "attention", "group_norm", "batch_norm_no_affine", "dense_block", "rms_norm"]
)
def test_the_network_computes_the_same_under_the_rules(name: str) -> None:
    from edgeprune.criteria.propagation import Propagation

    subject = tiny_subject(name)
    propagation = Propagation(subject.graph, (), lambda layer, value: value)
    images = subject.images[: subject.batch].clone().requires_grad_()
    torch.testing.assert_close(propagation.run(images), subject.graph(images))
    propagation.forget()


def test_an_op_without_a_relevance_rule_is_named() -> None:
    with pytest.raises(ModelError, match=r"lrp: no relevance rule for aten\.cumsum") as caught:
        criteria.score("lrp", tiny_subject("no_rule"))
    assert "\n" not in str(caught.value)


def test_a_network_that_no_relevance_enters_is_refused() -> None:
    with pytest.raises(ModelError, match="a softmax on the way"):
        criteria.score("lrp", tiny_subject("softmax"))


@pytest.mark.parametrize("name", ["lrp", "i-lrp"])
def test_without_zennit_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edgeprune.criteria.propagation", raising=False)
    monkeypatch.setitem(sys.modules, "zennit.core", None)
    with pytest.raises(EdgepruneError, match=r"edgeprune\[lrp\]"):
        criteria.score(name, planted())


def test_iterative_relevance_ranks_all_units_and_leaves_one_of_each_group() -> None:
    scores = criteria.score("i-lrp", planted())
    units = sum(found.units for found in planted().groups)
    assert sorted(np.concatenate(list(scores.values())).tolist()) == list(range(units))
    assert {max(values) for values in scores.values()} == set(range(units - len(scores), units))


@pytest.mark.slow
def test_iterative_relevance_looks_at_what_is_left() -> None:
    """The oracle masks a copy of the network and asks lrp again; here a round removes one unit."""
    subject = planted()
    coupling = couple(trace(subject.module, InputSpec(shape=(3, 8, 8))))
    ranks = criteria.score("i-lrp", subject)
    removed: dict[str, list[int]] = {name: [] for name in ranks}
    for rank in range(sum(map(len, ranks.values())) - len(ranks)):
        gone = {name: tuple(units) for name, units in removed.items() if units}
        scores = criteria.score("lrp", dataclasses.replace(subject, graph=masked(coupling, gone)))
        waiting = []
        for name, values in scores.items():
            left = [unit for unit in range(len(values)) if unit not in removed[name]]
            strongest = max(left, key=lambda unit: (values[unit], -unit))
            waiting += [(values[unit], name, unit) for unit in left if unit != strongest]
        lowest = min(value for value, _, _ in waiting)
        (chosen,) = ((name, unit) for _, name, unit in waiting if ranks[name][unit] == rank)
        assert scores[chosen[0]][chosen[1]] == pytest.approx(lowest, rel=1e-4, abs=1e-6)
        removed[chosen[0]].append(chosen[1])


# gates ------------------------------------------------------------------------------------------------


def test_gates_follow_the_hard_concrete_distribution() -> None:
    log_alpha = torch.tensor(0.5).expand(200_000)
    drawn = sample(log_alpha, torch.Generator().manual_seed(0))
    assert float((drawn > 0).double().mean()) == pytest.approx(float(active(log_alpha[0])), abs=0.005)
    assert drawn.min() == 0
    assert drawn.max() == 1


def test_the_barrier_rises_without_a_jump() -> None:
    kept = torch.linspace(0.3, 0.9, 6001, dtype=torch.float64)
    values = barrier(kept, 0.5)
    assert (values[kept <= 0.4] == 0).all()
    assert (values.diff() >= 0).all()
    assert values.diff().max() < 0.5
    assert float(barrier(torch.tensor(0.45), 0.5)) == pytest.approx(0.5, rel=1e-5)  # v = 1/2
    assert [limit(0.0, 0.3), limit(1.0, 0.3)] == pytest.approx([1.0, 0.3])


@pytest.mark.slow
def test_the_gates_end_within_the_budget() -> None:
    for share in (0.3, 0.7):
        gates = criteria.score("budget-aware", planted(), kept_share=share)
        kept = [float(active(torch.from_numpy(values)).mean()) for values in gates.values()]
        assert min(kept) < share + 0.1
        assert np.mean(kept) == pytest.approx(share, abs=0.2)


# a user's own -----------------------------------------------------------------------------------------


def by_number(units: Sequence[ChannelGroup], replay: object, calibration: object) -> dict[str, Tensor]:
    return {found.name: torch.arange(found.units) for found in units}


def no_outputs(removed: Mapping[str, Sequence[int]]) -> Tensor:
    raise AssertionError("nobody asked")


def test_a_criterion_of_the_users_own_may_run_the_network() -> None:
    subject, asked = planted(), []

    def by_change(units: Sequence[ChannelGroup], replay: Any, calibration: Any) -> dict[str, list[float]]:
        assert calibration.images is subject.images
        assert calibration.labels is subject.labels
        assert replay.graph is subject.graph
        return {g.name: [float(replay({g.name: [u]}).sum()) for u in range(g.units)] for g in units}

    def outputs(removed: Mapping[str, Sequence[int]]) -> Tensor:
        asked.append(removed)
        return torch.full((2, 3), float(len(asked)))

    scores = criteria.user_scores(by_change, subject, outputs)
    units = sum(group.units for group in subject.groups)
    assert len(asked) == units
    assert scores[subject.groups[-1].name][-1] == 6 * units


def test_a_criterion_of_the_users_own() -> None:
    scores = criteria.user_scores(by_number, planted(), no_outputs)
    assert scores["expand.weight"].tolist() == list(range(12))
    assert scores["expand.weight"].dtype == np.float64


BAD: dict[str, tuple[Callable[..., object], str]] = {
    "raises": (lambda *given: 1 / 0, "ZeroDivisionError: division by zero"),
    "no dictionary": (lambda *given: [1.0], "gives list; give a dictionary"),
    "unknown group": (lambda *given: by_number(*given) | {"nose": [1.0]}, "nose, which is no group"),
    "missing group": (lambda *given: {}, "no scores for 2 groups, stem.weight among them"),
    "wrong shape": (
        lambda *given: by_number(*given) | {"stem.weight": np.zeros((8, 1))},
        r"shape \(8, 1\); .*\(8,\)",
    ),
    "no numbers": (
        lambda *given: by_number(*given) | {"stem.weight": ["much"] * 8},
        "the scores are no numbers",
    ),
    "not finite": (lambda *given: by_number(*given) | {"stem.weight": [np.nan] * 8}, "8 of 8 scores are NaN"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_with_a_criterion_of_the_users_own_is_said_in_one_line(kind: str) -> None:
    function, message = BAD[kind]
    with pytest.raises(InputError, match=message) as caught:
        criteria.user_scores(function, planted(), no_outputs)
    assert "\n" not in str(caught.value)


def test_scores_that_are_not_finite_are_refused() -> None:
    subject = dataclasses.replace(planted(), images=planted().images * float("nan"))
    with pytest.raises(InputError, match="NaN"):
        criteria.score("taylor", subject)


def test_an_output_that_is_no_row_of_class_scores_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    subject = subject_of(network, planted().images, planted().labels)
    with pytest.raises(ModelError, match="one score per class"):
        criteria.score("taylor", subject)
    assert criteria.score("variance", subject)
