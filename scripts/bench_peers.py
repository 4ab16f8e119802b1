"""Peers on the same images, at the same share of parameters: Torch-Pruning, onnxsim, and model folding.

Used by `bench_methods.py` for methods named `tp-...`, `onnxsim-...` and `folding...`. Torch-Pruning
(scripts/requirements-bench.txt) groups and cuts by itself; `+bn` re-estimates every BatchNorm on the
calibration images afterwards, as we do; `+affine` takes its choice of channels and gives it our compensation
and least squares. onnxsim prunes the exported network (`bench_onnxsim.py`). `folding` ("Cut Less, Fold More")
merges similar channels of our groups; each group loses the same share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bench_onnxsim import BATCH, NORMS, Array, Finish, Maker, onnxsim
from scipy.cluster.hierarchy import fcluster, ward
from scipy.cluster.vq import kmeans2
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from edgeprune.causal.fold import Norm
    from edgeprune.pipeline.options import Labelled
    from edgeprune.pipeline.sweeping import Field
    from edgeprune.records import ChannelGroup, Curve, Ints
    from edgeprune.tasks import Kept, Task

HALVINGS = 7
"""In the search for the peer's own ratio that removes the share asked for."""
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
METHODS = ("tp-magnitude", "tp-taylor", "tp-lamp", "tp-bn-scale", "onnxsim-l2", "onnxsim-wanda", "folding")


def is_peer(method: str) -> bool:
    return method.partition("+")[0] in METHODS


def curve(field: Field, method: str) -> Curve:
    """A peer's accuracy over the share of parameters removed."""
    from edgeprune.pipeline.sweeping import judged_curve
    from edgeprune.records import CurvePoint

    name, _, extra = method.partition("+")
    task = field.images.task
    peers = {"tp": torch_pruning, "onnxsim": onnxsim, "folding": folding}
    maker, finish = peers[name.partition("-")[0]](field, name, extra)
    points, seen = [], [answers(field.analysed.module, task, field.evaluation)]
    for ratio in field.ratios:
        network, removed = nearest(maker, ratio)
        seen.append(answers(finish(network), task, field.evaluation))
        points.append(CurvePoint(asked=ratio, param_ratio=removed, mac_ratio=0.0))
    return judged_curve(method, task, field.evaluation.labels, (points, seen))


def answers(network: Callable[[torch.Tensor], Any], task: Task, images: Labelled) -> Kept:
    """What the metric needs of a network's outputs."""
    kept = []
    with torch.inference_mode():
        for some in np.array_split(np.arange(len(images.labels)), -(-len(images.labels) // BATCH)):
            outputs = np.asarray(network(torch.from_numpy(images.images[some])))
            kept.append(task.kept(outputs, images.labels[some]))
    return task.answers(np.concatenate(kept))


def nearest(maker: Maker, ratio: float) -> tuple[Any, float]:
    """The network that comes nearest to a share of the parameters from below."""
    low, high, best = 0.0, 1.0, maker(0.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = maker(middle)
        if found[1] <= ratio:
            low, best = middle, (found if found[1] >= best[1] else best)
        else:
            high = middle
    return best


# --- Torch-Pruning ------------------------------------------------------------------------------------


def torch_pruning(
    field: Field, name: str, extra: str, *, round_to: int | None = None
) -> tuple[Maker, Finish]:
    import torch_pruning as tp

    module = field.analysed.module
    calibration = field.images.calibration
    images, labels = torch.from_numpy(calibration.images), torch.from_numpy(calibration.labels)
    importance = {
        "tp-magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "tp-taylor": tp.importance.GroupTaylorImportance,
        "tp-lamp": lambda: tp.importance.LAMPImportance(p=2),
        "tp-bn-scale": tp.importance.BNScaleImportance,
    }[name]
    whole = sum(parameter.numel() for parameter in module.parameters())
    last = [layer for layer in module.modules() if isinstance(layer, LAYERS)][-1]
    place = next(path for path, layer in module.named_modules() if layer is last)
    heads = [layer.num_heads for layer in module.modules() if isinstance(layer, nn.MultiheadAttention)]
    if heads and round_to is None:
        round_to = max(heads)  # other widths of attention it makes, but cannot run

    gradients = gradients_of(module, images, labels) if name == "tp-taylor" else {}

    def pruner_of(ratio: float) -> tuple[nn.Module, Any]:
        network = copy.deepcopy(module).eval()
        for path, parameter in network.named_parameters():
            parameter.requires_grad_(True)
            parameter.grad = gradients[path].clone() if gradients else None
        pruner = tp.pruner.MetaPruner(
            network,
            images[:1],
            importance=importance(),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            round_to=round_to,
            ignored_layers=[network.get_submodule(place)],
        )
        return network, pruner

    if extra == "affine":
        return with_our_compensation(field, pruner_of)

    def make(ratio: float) -> tuple[nn.Module, float]:
        network, pruner = pruner_of(ratio)
        if ratio:
            pruner.step()
        return network, 1 - sum(parameter.numel() for parameter in network.parameters()) / whole

    def finish(network: nn.Module) -> nn.Module:
        if extra == "bn":
            reestimate_(network, images)
        return network

    return make, finish


def with_our_compensation(
    field: Field, pruner_of: Callable[[float], tuple[nn.Module, Any]]
) -> tuple[Maker, Finish]:
    """Torch-Pruning's choice of channels, taken out as our methods take theirs."""
    from edgeprune.pipeline.pruning import make_study

    study = make_study(field.analysed, field.images, field.base)

    def make(ratio: float) -> tuple[dict[str, tuple[int, ...]], float]:
        cut = channels_cut(*pruner_of(ratio)) if ratio else {}
        removed = {group.name: units_cut(group, cut) for group in study.groups}
        return removed, study.ledger.param_ratio(removed)

    def finish(removed: dict[str, tuple[int, ...]]) -> Callable[[torch.Tensor], Any]:
        weights, _ = study.compensated(removed)
        return lambda batch: study.program.logits(study.program.start(batch), weights)

    return make, finish


def channels_cut(network: nn.Module, pruner: Any) -> dict[str, set[int]]:
    """Weight -> the output channels that Torch-Pruning would cut, all of them of the whole network."""
    names = {layer: path for path, layer in network.named_modules()}
    found: dict[str, set[int]] = {}
    for group in list(pruner.step(interactive=True)):
        for dep, channels in group:
            layer = dep.target.module
            if isinstance(layer, LAYERS) and pruner.DG.is_out_channel_pruning_fn(dep.handler):
                found.setdefault(f"{names[layer]}.weight", set()).update(map(int, channels))
    return found


def units_cut(group: ChannelGroup, cut: Mapping[str, set[int]]) -> tuple[int, ...]:
    """The units of one of our groups all of whose channels are cut in a layer that makes them; never all."""
    gone = {
        unit
        for slot in group.slots
        if not slot.consumer and slot.parameter in cut
        for unit, channels in enumerate(np.reshape(slot.indices, (group.units, -1)).tolist())
        if cut[slot.parameter].issuperset(channels)
    }
    return tuple(sorted(gone)[: group.units - 1])


def gradients_of(module: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the cross entropy of all images, by the names of the parameters."""
    from edgeprune.records import IGNORED

    network = copy.deepcopy(module).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    for some, theirs in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        functional.cross_entropy(
            network(some), theirs.long(), reduction="sum", ignore_index=IGNORED
        ).backward()
    return {path: p.grad for path, p in network.named_parameters() if p.grad is not None}


def reestimate_(network: nn.Module, images: torch.Tensor) -> None:
    """Give every BatchNorm the statistics of the pruned network on these images."""
    norms = [layer for layer in network.modules() if isinstance(layer, NORMS)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    with torch.inference_mode():
        for some in images.split(BATCH):
            network(some)
    for layer in norms:
        layer.eval()


# --- folding ------------------------------------------------------------------------------------------


def folding(field: Field, name: str, extra: str) -> tuple[Maker, Finish]:
    from edgeprune import compensate
    from edgeprune.pipeline.pruning import make_study

    study = make_study(field.analysed, field.images, field.base)

    def make(ratio: float) -> tuple[dict[str, int], float]:
        kept = {group.name: max(1, round(group.units * (1 - ratio))) for group in study.groups}
        removed = {group.name: tuple(range(kept[group.name], group.units)) for group in study.groups}
        return kept, study.ledger.param_ratio(removed)

    def finish(kept: dict[str, int]) -> Callable[[torch.Tensor], Any]:
        weights, norms = dict(study.program.dense), study.program.folded.norms
        for group in study.groups:
            if kept[group.name] < group.units:
                fold_(weights, group, kept[group.name], norms)
        if extra == "bn":
            weights = {**weights, **compensate.reestimate(study.subject, norms, weights)}
        return lambda batch: study.program.logits(study.program.start(batch), weights)

    return make, finish


def fold_(
    weights: dict[str, torch.Tensor], group: ChannelGroup, kept: int, norms: Mapping[str, Norm]
) -> None:
    """Merge a group's units into so many: means where they are made, sums where they are read."""
    made = [
        (s.parameter, s.axis, s.indices) for s in group.slots if not s.consumer and s.parameter in weights
    ]
    made += [(norms[name].folded_bias, 0, indices) for name, _, indices in made if name in norms]
    rows = [
        weights[name].movedim(axis, 0)[torch.from_numpy(indices)].flatten(1).double()
        for name, axis, indices in made
    ]
    members = clusters(torch.cat(rows, dim=1).numpy(), kept)
    for name, axis, indices in made:
        weights[name] = merged(weights[name], axis, indices, members, mean=True)
    for slot in group.slots:
        if slot.consumer:
            weights[slot.parameter] = merged(
                weights[slot.parameter], slot.axis, slot.indices, members, mean=False
            )


def clusters(points: Array, count: int) -> list[Ints]:
    """Members of so many clusters: k-means from Ward's (k-means++ takes hours for 1,280 channels)."""
    first = fcluster(ward(points), count, "maxclust")
    means = np.stack([points[first == number].mean(axis=0) for number in np.unique(first)])
    _, found = kmeans2(points, means, minit="matrix", missing="warn")
    members = [np.flatnonzero(found == number) for number in np.unique(found)]
    while len(members) < count:  # one came out empty
        largest = max(range(len(members)), key=lambda number: len(members[number]))
        members += [members[largest][-1:]]
        members[largest] = members[largest][:-1]
    return members


def merged(
    weight: torch.Tensor, axis: int, indices: Ints, members: Sequence[Ints], *, mean: bool
) -> torch.Tensor:
    """A weight whose first unit of each cluster stands for all of them; the others are zero."""
    result = weight.clone()
    for some in members:
        places = torch.from_numpy(indices[some])  # (units, copies)
        parts = torch.stack([weight.index_select(axis, place) for place in places])
        result.index_fill_(axis, places.ravel(), 0.0)
        result.index_copy_(axis, places[0], parts.mean(dim=0) if mean else parts.sum(dim=0))
    return result
