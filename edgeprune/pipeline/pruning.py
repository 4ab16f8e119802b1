"""In memory: a network and images -> what the walk found, and the smaller network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune import causal, channels, criteria, tasks
from edgeprune.errors import DataError, ModelError, NothingToPrune
from edgeprune.records import (
    ChannelGroup,
    Finding,
    Floats,
    InputSpec,
    Ints,
    Pruning,
    PruningPlan,
    Step,
    Trajectory,
    Width,
)

Removed = Mapping[str, tuple[int, ...]]

EVALUATION_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Images as the network reads them, shape (N, C, H, W), float32, and labels, shape (N,)."""

    images: Floats
    labels: Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """What the analysis looks at; `validation` decides on the accuracy limit."""

    calibration: Labelled
    names: Sequence[str]
    """Class names."""
    validation: Labelled | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """How far the analysis goes."""

    alpha: float = 0.05
    """Level of the causal test."""
    group_test: int = 64
    """Most units tested at once; 1 is the published walk."""
    early_exit: bool = True
    """Stop a test as soon as its verdict is sure."""
    align: int = 8
    """Widths are multiples of this; 1 leaves them as the walk gives them."""
    max_param_ratio: float | None = None
    """Remove at most this share of the parameters, in [0, 1]."""
    max_accuracy_drop: float | None = None
    """Absolute, in [0, 1], on the validation images."""


@dataclass(frozen=True, slots=True, eq=False)
class Analysed:
    """A traced network with its channel groups."""

    module: nn.Module
    traced: channels.Traced
    coupling: channels.Coupling

    def logits(self, images: Floats) -> Floats:
        """Outputs of the dense network, shape (N, K)."""
        return run(self.traced.graph_module, images, batch=self.traced.batch)


def analyse(module: nn.Module, spec: InputSpec) -> Analysed:
    """Trace a network and find its channel groups.

    Raises:
        ModelError: it does not trace, or refuses the input.
        NothingToPrune: every channel is frozen.
    """
    check_plain(module)
    traced = channels.trace(module, spec)
    coupling = channels.couple(traced)
    if not coupling.groups:
        reasons = channels.why_nothing(coupling)
        raise NothingToPrune(f"{type(module).__name__}: no channel can be removed: {reasons}.")
    return Analysed(module, traced, coupling)


def check_plain(module: nn.Module) -> None:
    """Raise for weights that are not float32 on the CPU, where the analysis runs."""
    for name, tensor in module.named_parameters():
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            where = f"{name} is {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
            raise ModelError(f"{type(module).__name__}: {where}; give model.cpu().float().")


def run(module: nn.Module, images: Floats, *, batch: int | None = None) -> Floats:
    """Outputs of a network for images, in batches, shape (N, K)."""
    with torch.inference_mode():
        pieces = torch.split(torch.from_numpy(images), batch or EVALUATION_BATCH)
        return np.concatenate([module(piece).numpy() for piece in pieces])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Journey:
    """What a walk takes along besides the network: an interrupted one's steps, and who watches.

    `on_step` is called with the step, the units settled, all units, and the share of parameters removed.
    """

    recorded: Sequence[Step] = ()
    on_step: Callable[[Step, int, int, float], None] = lambda step, settled, units, param_ratio: None


def find_units(
    analysed: Analysed,
    images: Images,
    options: PruneOptions,
    journey: Journey | None = None,
) -> Pruning:
    """Run the walk: which units the network does not need.

    Raises:
        ModelError, DataError: the network's outputs cannot belong to these labels.
    """
    journey = journey or Journey()
    calibration = images.calibration
    logits = analysed.logits(calibration.images)
    check_outputs(logits, calibration.labels, images.names)
    softmax = tasks.probabilities(logits)
    judge, chosen = causal.make_judge(softmax, calibration.labels, images.names, alpha=options.alpha)
    shards = causal.make_shards(judge)
    inputs, labels = torch.from_numpy(calibration.images[chosen]), calibration.labels[chosen]
    traced, groups = analysed.traced, analysed.coupling.groups
    stretches = [shard.images for shard in shards]
    replay = causal.Replay(traced.graph_module, groups, inputs, stretches, batch=traced.batch)
    ledger = Ledger(analysed.coupling)

    def scores(shard: causal.Shard, group: ChannelGroup | None, units: Sequence[int]) -> tasks.Doubles:
        outputs = replay.outputs(shard.number, group, units).numpy()
        return tasks.true_class_scores(outputs, labels[shard.images])

    def on_step(step: Step, settled: int) -> None:
        journey.on_step(step, settled, ledger.units, ledger.param_ratio(replay.removed))

    walker = causal.Walker(
        network=replay,
        scores=scores,
        judge=judge,
        order=ascending_magnitude(analysed),
        rules=causal.Rules(group_test=options.group_test, early_exit=options.early_exit, align=options.align),
        within=ledger.within(options.max_param_ratio),
        accepts=accuracy_guard(analysed, replay, images.validation, options.max_accuracy_drop),
        on_step=on_step,
    )
    steps, stopped = causal.walk(walker, groups, shards, journey.recorded)
    final = np.concatenate([scores(shard, None, ()) for shard in shards])
    return Pruning(
        trajectory=make_trajectory(judge, options.alpha, final, steps, stopped),
        plan=ledger.plan(replay.removed),
        widths=tuple(width(group, replay.removed) for group in groups),
        findings=count_findings(steps, groups),
        frozen=analysed.coupling.frozen,
        notes=(*nothing_removed(replay.removed, steps), *unknown_ops(analysed.coupling)),
    )


class Ledger:
    """What removing units saves."""

    def __init__(self, coupling: channels.Coupling) -> None:
        self.costs = channels.Costs(coupling)
        self.dense_params, self.dense_macs = self.costs.count({})
        self.units = sum(group.units for group in coupling.groups)

    def param_ratio(self, removed: Removed) -> float:
        return 1 - self.costs.count(removed)[0] / self.dense_params

    def within(self, limit: float | None) -> Callable[[Removed], bool]:
        """Whether units may go without passing the limit on removed parameters."""
        return lambda removed: limit is None or self.param_ratio(removed) <= limit

    def plan(self, removed: dict[str, tuple[int, ...]]) -> PruningPlan:
        params, macs = self.costs.count(removed)
        return PruningPlan(
            removed=removed,
            param_ratio=1 - params / self.dense_params,
            channel_ratio=sum(map(len, removed.values())) / self.units,
            mac_ratio=1 - macs / self.dense_macs if self.dense_macs else 0.0,
        )


def ascending_magnitude(analysed: Analysed) -> Callable[[ChannelGroup], list[int]]:
    """Units of a group, the weakest first."""
    parameters = dict(analysed.traced.graph_module.named_parameters())

    def order(group: ChannelGroup) -> list[int]:
        ranks = np.argsort(criteria.magnitude(group, parameters), kind="stable")
        return [int(unit) for unit in ranks]

    return order


def make_trajectory(
    judge: causal.Judge, alpha: float, final: tasks.Doubles, steps: Sequence[Step], stopped: str
) -> Trajectory:
    def mean(scores: tasks.Doubles) -> tuple[float, ...]:
        return tuple(float(scores[c.images].mean()) for c in judge.classes)

    return Trajectory(
        method="c-swap",
        alpha=alpha,
        steps=tuple(steps),
        class_names=tuple(c.name for c in judge.classes),
        class_samples=tuple(len(c.images) for c in judge.classes),
        tolerance=tuple(judge.tolerance.tolist()),
        dense_scores=mean(judge.dense),
        final_scores=mean(final),
        final_z=tuple(judge.z(number, final[c.images]) for number, c in enumerate(judge.classes)),
        z_limits=tuple((-judge.quantiles).tolist()),
        stopped=stopped,
    )


def width(group: ChannelGroup, removed: Removed) -> Width:
    return Width(group=group.name, before=group.units, after=group.units - len(removed.get(group.name, ())))


def check_outputs(logits: Floats, labels: Ints, names: Sequence[str]) -> None:
    """Raise where the network's outputs cannot belong to these labels."""
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ModelError(
            f"the dense network gives NaN or Inf for {bad} of {len(logits)} calibration images; "
            "check the weights and the preprocessing."
        )
    if logits.ndim != 2:  # noqa: PLR2004  # (images, classes)
        raise ModelError(
            f"the network gives outputs of shape {logits.shape[1:]} per image, not one score per class."
        )
    if labels.max() >= len(names):
        raise DataError(f"label {labels.max()} has no name: there are {len(names)} class names.")
    if labels.max() >= logits.shape[1]:
        name = names[labels.max()]
        raise DataError(
            f"label {labels.max()} ({name}) is out of range: the network has {logits.shape[1]} outputs; "
            "check the data description's classes, or the weights."
        )


def accuracy_guard(
    analysed: Analysed, replay: causal.Replay, validation: Labelled | None, limit: float | None
) -> Callable[[], bool]:
    """Whether the current network keeps the accuracy limit on the validation images."""
    if limit is None:
        return lambda: True
    if validation is None or not len(validation.labels):
        raise DataError(
            "a limit on the accuracy drop needs validation images; give the calibration part more images."
        )
    dense = top1(analysed.logits(validation.images), validation.labels)
    pieces = torch.split(torch.from_numpy(validation.images), EVALUATION_BATCH)

    def accepts() -> bool:
        logits = np.concatenate([replay.full(piece).numpy() for piece in pieces])
        return dense - top1(logits, validation.labels) <= limit

    return accepts


def top1(logits: Floats, labels: Ints) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def count_findings(steps: Sequence[Step], groups: Sequence[ChannelGroup]) -> dict[str, dict[str, int]]:
    """Units per verdict and group; a refused set of several says nothing about each of them."""
    single = [step for step in steps if step.removed or len(step.units) == 1]
    last = {(step.group, unit): step.finding for step in single for unit in step.units}
    counts = {group.name: dict.fromkeys(map(str, Finding), 0) for group in groups}
    for (group, _), finding in last.items():
        counts[group][finding] += 1
    return counts


def nothing_removed(removed: Removed, steps: Sequence[Step]) -> tuple[str, ...]:
    if any(removed.values()):
        return ()
    gone = (
        "each group's removable units were too few for a whole step of the width"
        if any(step.removed and step.units for step in steps)
        else "every unit is critical to some class"
    )
    return (f"No channel was removed: {gone}.",)


def unknown_ops(coupling: channels.Coupling) -> tuple[str, ...]:
    return tuple(
        f"op without a coupling rule: {op}, {count} times; the channels it reads are frozen"
        for op, count in sorted(coupling.unknown_ops.items())
    )


def as_labelled(pair: tuple[Floats | Tensor, Ints | Tensor]) -> Labelled:
    """Arrays or tensors as the analysis reads them.

    Raises:
        DataError: they are no images with labels.
    """
    images, labels = (
        value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value) for value in pair
    )
    if images.ndim != 4 or labels.shape != images.shape[:1] or not labels.size:  # noqa: PLR2004  # (N, C, H, W)
        raise DataError(f"images {images.shape} and labels {labels.shape}: give (N, C, H, W) and (N,).")
    if images.dtype.kind != "f":
        raise DataError(f"images are {images.dtype}; give floats, scaled as the network was trained with.")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(f"labels are {labels.dtype} from {labels.min()}; give whole numbers from 0.")
    return Labelled(images=images.astype(np.float32, copy=False), labels=labels.astype(np.int64, copy=False))
