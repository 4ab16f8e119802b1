"""In memory: a network and images -> what the walk found, and the smaller network."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeprune import causal, channels, criteria, surgery, tasks
from edgeprune.errors import DataError, InputError, ModelError, NothingToPrune
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

log = logging.getLogger(__name__)

Removed = Mapping[str, tuple[int, ...]]

PLAN_FORMAT = "edgeprune-plan/1"
EVALUATION_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Images as the network reads them, shape (N, C, H, W), float32, and labels, shape (N,)."""

    images: Floats
    labels: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """How far the analysis goes."""

    alpha: float = 0.05
    rules: causal.Rules = field(default_factory=causal.Rules)
    max_param_ratio: float | None = None
    max_accuracy_drop: float | None = None
    """Absolute, in [0, 1], on the validation images."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrunedModel:
    """The smaller network, and why it is as it is.

    Attributes:
        module: In evaluation mode, ready to run, fine-tune, export or prune again.
        own_class: Whether `module` is of the dense network's class; else it is the traced graph.
        reason: Why it is the graph.
        kept: Parameter or buffer -> axis -> indices of the dense network that stayed.
    """

    module: nn.Module
    own_class: bool
    reason: str
    pruning: Pruning
    spec: InputSpec
    kept: dict[str, dict[int, Tensor]]

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write pruned.pt2 (loads without the class), plan.json and weights.safetensors.

        `edgeprune.load(folder, dense_module)` makes the pruned module again from a fresh dense one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        plan = {
            "format": PLAN_FORMAT,
            "input_shape": self.spec.shape,
            "plan": asdict(self.pruning.plan),
            "kept": {n: {str(a): i.tolist() for a, i in axes.items()} for n, axes in self.kept.items()},
        }
        paths = (folder / "plan.json", folder / "weights.safetensors", folder / "pruned.pt2")
        paths[0].write_text(json.dumps(plan, indent=1))
        save_file({k: v.contiguous().clone() for k, v in self.module.state_dict().items()}, paths[1])
        torch.export.save(torch.export.export(self.module, (torch.zeros(1, *self.spec.shape),)), paths[2])
        return paths


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
    traced = channels.trace(module, spec)
    coupling = channels.couple(traced)
    if not coupling.groups:
        raise NothingToPrune(f"{type(module).__name__}: no channel can be removed: {why_nothing(coupling)}.")
    return Analysed(module, traced, coupling)


def why_nothing(coupling: channels.Coupling) -> str:
    """The freeze reasons, most frequent first."""
    counts: dict[str, int] = {}
    for axis in coupling.frozen:
        counts[axis.reason] = counts.get(axis.reason, 0) + axis.indices
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return "; ".join(f"{reason} ({count})" for reason, count in ranked) or "it has no layers with channels"


def run(module: nn.Module, images: Floats, *, batch: int | None = None) -> Floats:
    """Outputs of a network for images, in batches, shape (N, K)."""
    with torch.inference_mode():
        pieces = torch.split(torch.from_numpy(images), batch or EVALUATION_BATCH)
        return np.concatenate([module(piece).numpy() for piece in pieces])


def find_units(
    analysed: Analysed,
    calibration: Labelled,
    names: Sequence[str],
    options: PruneOptions,
    *,
    validation: Labelled | None = None,
    recorded: Sequence[Step] = (),
    on_step: Callable[[Step, int, int, float], None] = lambda step, settled, units, param_ratio: None,
) -> Pruning:
    """Run the walk.

    Args:
        validation: Decides on `max_accuracy_drop`.
        recorded: Steps of an interrupted walk.
        on_step: Called with the step, the units settled, all units, and the share of parameters removed.
    """
    logits = analysed.logits(calibration.images)
    check_outputs(logits, calibration.labels, names)
    judge, chosen = causal.make_judge(
        tasks.probabilities(logits), calibration.labels, names, alpha=options.alpha
    )
    shards = causal.make_shards(judge)
    inputs, labels = torch.from_numpy(calibration.images[chosen]), calibration.labels[chosen]
    groups = analysed.coupling.groups
    replay = causal.Replay(
        analysed.traced.graph_module, groups, inputs, [s.images for s in shards], batch=analysed.traced.batch
    )

    def scores(shard: causal.Shard, group: ChannelGroup | None, units: Sequence[int]) -> tasks.Doubles:
        outputs = replay.outputs(shard.number, group, units).numpy()
        return tasks.true_class_scores(outputs, labels[shard.images])

    costs = channels.Costs(analysed.coupling)
    dense_params, dense_macs = costs.count({})
    total = sum(group.units for group in groups)

    def param_ratio(removed: Removed) -> float:
        return 1 - costs.count(removed)[0] / dense_params

    def stepped(step: Step, settled: int) -> None:
        on_step(step, settled, total, param_ratio(replay.removed))

    limit = options.max_param_ratio
    parameters = dict(analysed.traced.graph_module.named_parameters())
    walker = causal.Walker(
        network=replay,
        scores=scores,
        judge=judge,
        order=lambda group: np.argsort(criteria.magnitude(group, parameters), kind="stable").tolist(),
        rules=options.rules,
        within=lambda removed: limit is None or param_ratio(removed) <= limit,
        accepts=accuracy_guard(analysed, replay, validation, options.max_accuracy_drop),
        on_step=stepped,
    )
    steps, stopped = causal.walk(walker, groups, shards, recorded)
    final = np.concatenate([scores(shard, None, ()) for shard in shards])
    params, macs = costs.count(replay.removed)
    plan = PruningPlan(
        removed=replay.removed,
        param_ratio=1 - params / dense_params,
        channel_ratio=sum(map(len, replay.removed.values())) / total,
        mac_ratio=1 - macs / dense_macs if dense_macs else 0.0,
    )
    trajectory = Trajectory(
        method="c-swap",
        alpha=options.alpha,
        steps=tuple(steps),
        class_names=tuple(c.name for c in judge.classes),
        class_samples=tuple(len(c.images) for c in judge.classes),
        tolerance=tuple(judge.tolerance.tolist()),
        dense_scores=tuple(float(judge.dense[c.images].mean()) for c in judge.classes),
        final_scores=tuple(float(final[c.images].mean()) for c in judge.classes),
        stopped=stopped,
    )
    return Pruning(
        trajectory=trajectory,
        plan=plan,
        widths=tuple(
            Width(group=g.name, before=g.units, after=g.units - len(plan.removed.get(g.name, ())))
            for g in groups
        ),
        findings=count_findings(steps, groups),
        frozen=analysed.coupling.frozen,
        notes=unknown_ops(analysed.coupling),
    )


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


def unknown_ops(coupling: channels.Coupling) -> tuple[str, ...]:
    return tuple(
        f"op without a coupling rule: {op}, {count} times; the channels it reads are frozen"
        for op, count in sorted(coupling.unknown_ops.items())
    )


def make_pruned(analysed: Analysed, pruning: Pruning) -> PrunedModel:
    """Cut the units out."""
    removed = pruning.plan.removed
    graph = channels.cut(analysed.coupling, removed)
    kept = channels.kept_indices(analysed.coupling, removed)
    traced = analysed.traced
    operated = surgery.operate(analysed.module, kept, graph, traced.spec, batch=traced.batch)
    return PrunedModel(
        module=operated.module,
        own_class=operated.own_class,
        reason=operated.reason,
        pruning=pruning,
        spec=traced.spec,
        kept=kept,
    )


def prune(
    model: nn.Module,
    calibration: tuple[Floats | Tensor, Ints | Tensor],
    *,
    class_names: Sequence[str] | None = None,
    validation: tuple[Floats | Tensor, Ints | Tensor] | None = None,
    options: PruneOptions | None = None,
) -> PrunedModel:
    """Remove the channels that a causal analysis shows a classifier does not need (C-SWAP).

    Args:
        model: Trained network; gives class scores (N, K) for images (N, C, H, W). Untouched.
        calibration: Preprocessed images (N, C, H, W) and labels (N,): not the ones you evaluate on.
        class_names: For the log; default: the numbers.
        validation: Images and labels that decide on `options.max_accuracy_drop`.
        options: How far to go.

    Raises:
        ModelError, DataError, NothingToPrune: with what to do about it.
    """
    labelled = as_labelled(calibration)
    analysed = analyse(model, InputSpec(shape=labelled.images.shape[1:]))
    names = class_names or [str(k) for k in range(int(labelled.labels.max()) + 1)]
    pruning = find_units(
        analysed,
        labelled,
        names,
        options or PruneOptions(),
        validation=None if validation is None else as_labelled(validation),
    )
    return make_pruned(analysed, pruning)


def as_labelled(pair: tuple[Floats | Tensor, Ints | Tensor]) -> Labelled:
    images, labels = (value.numpy() if isinstance(value, Tensor) else np.asarray(value) for value in pair)
    if images.ndim != 4 or len(images) != len(labels):  # noqa: PLR2004  # (N, C, H, W)
        raise DataError(f"images {images.shape} and labels {labels.shape}: give (N, C, H, W) and (N,).")
    return Labelled(images=images.astype(np.float32, copy=False), labels=labels.astype(np.int64, copy=False))


def load(folder: Path | str, model: nn.Module) -> nn.Module:
    """Make a saved pruned network again from a dense one; runs no code from the files.

    Args:
        folder: Holds plan.json and weights.safetensors, as `PrunedModel.save` wrote them.
        model: A dense network; its weights do not matter. Untouched.

    Raises:
        InputError: the plan is damaged, or of another network (the first difference is named).
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / "plan.json").read_text())
        if content["format"] != PLAN_FORMAT:
            raise InputError(f"{folder / 'plan.json'}: format {content['format']!r} is not {PLAN_FORMAT}.")
        removed = {
            str(name): tuple(int(u) for u in units) for name, units in content["plan"]["removed"].items()
        }
        spec = InputSpec(shape=tuple(content["input_shape"]))
        weights = load_file(folder / "weights.safetensors")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InputError(f"{folder}: no readable plan: {err}; save the pruned network again.") from err
    analysed = analyse(model, spec)
    groups = {group.name: group.units for group in analysed.coupling.groups}
    for name, units in removed.items():
        if name not in groups or max(units, default=0) >= groups[name]:
            raise InputError(
                f"{folder / 'plan.json'}: made for another network: no units {name} {max(units)}."
            )
    graph = channels.cut(analysed.coupling, removed)
    kept = channels.kept_indices(analysed.coupling, removed)
    module = surgery.operate(model, kept, graph, spec, batch=analysed.traced.batch).module
    missing = module.load_state_dict(weights, strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        first = (*missing.missing_keys, *missing.unexpected_keys)[0]
        raise InputError(f"{folder / 'weights.safetensors'}: made for another network: {first} does not fit.")
    return module
