"""In memory: a network and images -> what the walk found, and the smaller network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from edgeprune import causal, channels, tasks
from edgeprune.errors import DataError, ModelError, NothingToPrune
from edgeprune.pipeline import compensated, devices, finalists, published, ranked
from edgeprune.pipeline.finite import first_broken_layer
from edgeprune.pipeline.ledger import Removed
from edgeprune.pipeline.options import Images, Journey, Labelled, PruneOptions
from edgeprune.pipeline.study import Study, Walked, run_pieces
from edgeprune.records import (
    ChannelGroup,
    Doubles,
    Finding,
    Floats,
    InputSpec,
    Ints,
    Pruning,
    Step,
    Trajectory,
    Width,
)

log = logging.getLogger(__name__)

EVALUATION_BATCH = 64
SURE = 0.01
"""Level at which a network is better than a guess."""
MORE = "--coupling-time and --coupling-memory allow it more"


@dataclass(frozen=True, slots=True, eq=False)
class Analysed:
    """A traced network with its channel groups."""

    module: nn.Module
    traced: channels.Traced
    coupling: channels.Coupling
    head_width: bool = False
    """Whether heads are cut in width; `own_rules`: whether the user gave rules."""
    own_rules: bool = False

    def logits(self, images: Floats) -> Floats:
        """Outputs of the dense network, shape (N, K)."""
        return run(self.traced.graph_module, images, batch=self.traced.batch)


DEFAULTS = PruneOptions()


def analyse(
    module: nn.Module,
    spec: InputSpec,
    options: PruneOptions = DEFAULTS,
    rules: channels.Rules = MappingProxyType({}),
) -> Analysed:
    """Trace a network and find its channel groups.

    Args:
        module: The dense network.
        spec: Its input.
        options: How heads are cut, and what coupling may take.
        rules: Rules of the user's own, for ops that have none or to overrule ours.

    Raises:
        ModelError: it does not trace, or refuses the input.
        NothingToPrune: every channel is frozen.
    """
    check_plain(module)
    traced = channels.trace(module, spec)
    bound = channels.Bound(
        seconds=options.coupling_seconds, pairs=options.coupling_bytes // channels.TIE_BYTES
    )
    coupling = channels.couple(traced, rules=rules, bound=bound, head_width=options.head_width)
    if not coupling.groups:
        reasons = channels.why_nothing(coupling)
        more = f"; {MORE}" if coupling.stopped else ""
        raise NothingToPrune(f"{type(module).__name__}: no channel can be removed: {reasons}{more}.")
    return Analysed(module, traced, coupling, options.head_width, bool(rules))


def check_plain(module: nn.Module) -> None:
    """Raise for weights that are not float32 on the CPU, where the analysis begins."""
    for name, tensor in module.named_parameters():
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            where = f"{name} is {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
            raise ModelError(f"{type(module).__name__}: {where}; give model.cpu().float().")


def run(module: nn.Module, images: Floats, *, batch: int | None = None) -> Floats:
    """Outputs of a network for images, in batches, shape (N, K)."""
    with torch.inference_mode():
        pieces = torch.split(torch.from_numpy(images), batch or EVALUATION_BATCH)
        return np.concatenate([module(piece).numpy() for piece in pieces])


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What an analysis found: the record, and the tensors of the network that change besides being cut."""

    pruning: Pruning
    weights: dict[str, Tensor]


def find_units(
    analysed: Analysed,
    images: Images,
    options: PruneOptions,
    journey: Journey | None = None,
    *,
    search: Callable[[Study, Journey], Walked] | None = None,
) -> Found:
    """Run the method: which units the network does not need.

    Args:
        analysed: The network.
        images: What it is judged by.
        options: Which method, and how far.
        journey: Who watches.
        search: In the method's place: a search for the network that a budget asks for.

    Raises:
        ModelError, DataError: the network's outputs cannot belong to these labels.
        JournalError: the recorded steps are of another walk.
    """
    journey = journey or Journey()
    study = make_study(analysed, images, options, journey)
    if search:
        walked = search(study, journey)
    else:
        walked = finalists.settled(study, walk(study, analysed.module, journey), journey)
    groups, final = study.groups, study.all_scores(walked.weights)
    pruning = Pruning(
        trajectory=make_trajectory(study, walked, final),
        plan=study.ledger.plan(walked.removed),
        widths=tuple(width(group, walked.removed) for group in groups),
        findings=count_findings(walked.steps, groups),
        frozen=analysed.coupling.frozen,
        notes=(
            *doubts(study),
            *too_few_to_vouch(study),
            *nothing_removed(walked.removed, walked.steps),
            *coupling_notes(analysed.coupling),
        ),
    )
    return Found(pruning, study.network_weights(walked.weights, walked.fit))


def found_without(study: Study, record: Pruning, removed: Removed, why: str) -> Found:
    """The network without these units of a recorded walk, compensated and refitted, and why these."""
    weights, fit = study.compensated(removed)
    nothing = "No channel was removed: the share is below one whole step of any width."
    walked = Walked(steps=[], stopped=why, removed=dict(removed), weights=weights, fit=fit)
    pruning = Pruning(
        trajectory=make_trajectory(study, walked, study.all_scores(weights)),
        plan=study.ledger.plan(dict(removed)),
        widths=tuple(width(group, removed) for group in study.groups),
        findings=record.findings,
        frozen=record.frozen,
        notes=() if removed else (nothing,),
    )
    return Found(pruning, study.network_weights(weights, fit))


def make_study(
    analysed: Analysed, images: Images, options: PruneOptions, journey: Journey | None = None
) -> Study:
    """The network compiled and run once on the calibration images.

    Raises:
        ModelError, DataError: its outputs cannot belong to these labels.
        ConfigError: there is no such device.
    """
    graph, batch = analysed.traced.graph_module, analysed.traced.batch
    device = devices.find(options.device)
    if options.device == "auto":
        log.info("the analysis runs on %s", "a GPU" if device.type == "cuda" else "the CPU: no GPU was found")
    program = causal.Program(graph, batch=batch, device=device)
    kept = dense_kept(analysed.traced, program, images)
    return Study(analysed.traced, analysed.coupling, images, options, program, kept, journey or Journey())


def walk(study: Study, module: nn.Module, journey: Journey) -> Walked:
    """The method's units, taken out one after the other as far as the options let it."""
    ledger = study.ledger
    if study.options.method == "c-swap":
        return published.walk(
            study,
            lambda step, settled, ratio: journey.on_step(step, settled, ledger.units, ratio),
            journey.recorded,
        )
    if study.options.method != "c-swap-c":
        return ranked.walk(study, module)
    return compensated.walk(
        study,
        lambda step, done, blocks, removed: journey.on_step(step, done, blocks, ledger.param_ratio(removed)),
        journey.recorded,
    )


def make_trajectory(study: Study, walked: Walked, final: Doubles) -> Trajectory:
    judge = study.judge

    def mean(scores: Doubles) -> tuple[float, ...]:
        return tuple(float(scores[images].mean()) for _, images in judge.members)

    return Trajectory(
        method=study.options.method,
        alpha=study.options.alpha,
        steps=tuple(walked.steps),
        class_names=tuple(name for name, _ in judge.members),
        class_samples=tuple(len(images) for _, images in judge.members),
        tolerance=tuple(judge.tolerance.tolist()),
        dense_scores=mean(judge.dense),
        final_scores=mean(final),
        final_z=tuple(causal.welch_z(final[images], judge.dense[images]) for _, images in judge.members),
        z_limits=tuple((-judge.quantiles).tolist()),
        stopped=walked.stopped,
        compensation=study.options.compensation,
        passes=walked.passes,
    )


def width(group: ChannelGroup, removed: Removed) -> Width:
    return Width(group=group.name, before=group.units, after=group.units - len(removed.get(group.name, ())))


def dense_kept(traced: channels.Traced, program: causal.Program, images: Images) -> tasks.Kept:
    """What the task keeps of the dense network's outputs for the calibration images.

    Raises:
        ModelError, DataError: the outputs cannot belong to these labels.
    """
    labels, task = images.calibration.labels, images.task
    pieces = program.start(torch.from_numpy(images.calibration.images))
    first = program.logits(pieces[:1], program.dense).numpy()
    task.check(first, labels, images.names)
    broken: list[bool] = []

    def look(outputs: Floats) -> None:
        broken.extend(not np.isfinite(each).all() for each in outputs)

    kept = run_pieces(program, task, (pieces, labels), program.dense, on_outputs=look)
    if any(broken):
        layer = first_broken_layer(traced, torch.from_numpy(images.calibration.images), broken.index(True))
        raise ModelError(
            f"the dense network gives NaN or Inf for {sum(broken)} of {len(labels)} calibration images"
            f"{f', first in {layer}' if layer else ''}; check the weights and the preprocessing."
        )
    if isinstance(task, tasks.Classification):
        answers: Ints = task.answers(kept)
        if order := tasks.other_order(answers, labels.astype(np.int64), images.names, first.shape[1]):
            raise DataError(f"{order} in the description of the data.")
    return kept


def count_findings(steps: Sequence[Step], groups: Sequence[ChannelGroup]) -> dict[str, dict[str, int]]:
    """Units per verdict and group; a set of several that a class needs says nothing about each of them."""
    last = {
        (group, unit): step.finding
        for step in steps
        if step.units and (step.finding is not Finding.CRITICAL or step.size == 1)
        for group, units in step.together.items()
        for unit in units
    }
    counts = {group.name: dict.fromkeys(map(str, Finding), 0) for group in groups}
    for (group, _), finding in last.items():
        counts[group][finding] += 1
    return counts


def doubts(study: Study) -> tuple[str, ...]:
    """What makes the dense network look broken: it is right no more often than who always names one class."""
    if not isinstance(study.task, tasks.Classification):
        return ()
    labels = study.images.calibration.labels
    right, most = int((study.task.answers(study.kept) == labels).sum()), int(np.bincount(labels).max())
    guess = most / len(labels)
    if guess == 1 or stats.binomtest(right, len(labels), guess, alternative="greater").pvalue <= SURE:
        return ()
    return (
        f"the dense network gets {right} of {len(labels)} calibration images right, no more than it would by "
        "always naming one class: check mean, std, color, size and the order of the labels.",
    )


def too_few_to_vouch(study: Study) -> tuple[str, ...]:
    """That a limit on accuracy asks for more validation images than there are."""
    limit, validation = study.options.max_accuracy_drop, study.images.validation
    if limit is None or validation is None or not isinstance(study.task, tasks.Classification):
        return ()
    given, wanted = len(validation.labels), tasks.enough_for(limit)
    drop = f"{100 * limit:g} point{'s' * (100 * limit != 1)}"
    if given >= wanted:
        return ()
    return (
        f"{given} validation images are too few to vouch for a drop of {drop}: less than half of that may "
        f"show in them, if anything; give {wanted} or more.",
    )


def nothing_removed(removed: Removed, steps: Sequence[Step]) -> tuple[str, ...]:
    if any(removed.values()):
        return ()
    gone = (
        "each group's removable units were too few for a whole step of the width"
        if any(step.removed and step.units for step in steps)
        else "every unit is critical to some class"
    )
    return (f"No channel was removed: {gone}.",)


def coupling_notes(coupling: channels.Coupling) -> tuple[str, ...]:
    """Ops without a rule, and why the answer is partial where it is."""
    unknown = [
        f"op without a coupling rule: {op}, {count} times; the channels it reads are frozen"
        for op, count in sorted(coupling.unknown_ops.items())
    ]
    if not coupling.stopped:
        return tuple(unknown)
    return (f"{coupling.stopped}: a part of the network stays as it is; {MORE}.", *unknown)


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
