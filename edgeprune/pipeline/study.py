"""One network on one set of images, ready for any method: compiled, with a judge, and with prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch
from scipy import stats
from torch import Tensor, fx

from edgeprune import causal, channels, compensate, tasks
from edgeprune.errors import DataError
from edgeprune.pipeline import devices
from edgeprune.pipeline.effects import effects
from edgeprune.pipeline.ledger import Ledger, Removed
from edgeprune.pipeline.needs import needs
from edgeprune.pipeline.options import Images, Journey, Labelled, PruneOptions
from edgeprune.pipeline.sharing import agreed
from edgeprune.records import Bools, ChannelGroup, Doubles, Floats, Ints, Labels, Pass, Step

Weights = Mapping[str, Tensor]
NO_FIT = compensate.Refit(weights={}, moments={})
FEWEST_ELSEWHERE, FEWEST_TOLD = 20, 5
"""Validation images below which they are not tested, and below which they do not tell networks apart."""
MOST_MOVED, FEWEST_MOVED, FORWARDS = 512, 64, 16_384
"""Images that answers are compared on, at most and at least, and over all groups together."""
TINY = 1e-9
NOT_MEASURED = compensate.Measured({}, {})


def run_pieces(
    program: causal.Program,
    task: tasks.Task,
    labelled: tuple[Sequence[causal.Values], Labels],
    weights: Weights,
    *,
    on_outputs: Callable[[Floats], None] = lambda outputs: None,
) -> tasks.Kept:
    """What a task keeps of a network's outputs for pieces of images, with the labels of all of them."""

    def run(piece: causal.Values) -> list[Tensor]:
        outputs = program.finish(piece, weights=weights)
        on_outputs(outputs.numpy())
        return [outputs]

    return _kept(program, task, labelled, run)[0]


def run_variants(
    program: causal.Program,
    task: tasks.Task,
    labelled: tuple[Sequence[causal.Values], Labels],
    weights: Weights,
    changes: Sequence[Weights],
) -> list[tasks.Kept]:
    """The same with each of some changes of the weights."""
    return _kept(program, task, labelled, partial(program.variants, weights=weights, changes=changes))


def _kept(
    program: causal.Program,
    task: tasks.Task,
    labelled: tuple[Sequence[causal.Values], Labels],
    run: Callable[[causal.Values], list[Tensor]],
) -> list[tasks.Kept]:
    """What a task keeps of each of the outputs that pieces of images have."""
    pieces, labels = labelled
    ends = np.cumsum([len(piece[program.input]) for piece in pieces])

    def kept(piece: tuple[causal.Values, Labels]) -> list[tasks.Kept]:
        return [task.kept(outputs.numpy(), piece[1]) for outputs in run(piece[0])]

    found = program.each(kept, zip(pieces, np.split(labels, ends[:-1]), strict=True))
    return [np.concatenate(each) for each in zip(*found, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Walked:
    """What a method came to."""

    steps: list[Step]
    stopped: str
    removed: dict[str, tuple[int, ...]]
    weights: Weights
    """Of the folded graph."""
    fit: compensate.Refit = NO_FIT
    passes: tuple[Pass, ...] = ()


@dataclass(eq=False)
class Study:
    """Everything that the methods share.

    Attributes:
        traced: The dense network.
        coupling: Its channel groups.
        images: Calibration and validation images.
        options: How far to go.
        program: The dense network, compiled.
        kept: What the task keeps of its outputs for the calibration images.
        journey: Who watches, and how much memory there is.
        at_once: Interventions in one run.
    """

    traced: channels.Traced
    coupling: channels.Coupling
    images: Images
    options: PruneOptions
    program: causal.Program
    kept: tasks.Kept
    journey: Journey = field(default_factory=Journey)
    judge: causal.Judge = field(init=False)
    chosen: Ints = field(init=False)
    """Calibration images that the judge looks at."""

    def __post_init__(self) -> None:
        self.task = self.images.task
        self.judge, choice = causal.make_judge(
            self.task.scored(self.kept, self.images.calibration.labels),
            self.images.names,
            alpha=self.options.alpha,
            pooled=self.options.method == "c-swap-c",
            test=self.options.test,
            combine=self.options.combine,
        )
        self.chosen = choice.images
        validation = self.images.validation
        if self.options.max_accuracy_drop is not None and (validation is None or not len(validation.labels)):
            raise DataError(
                "a limit on the accuracy drop needs validation images; give the calibration part more images."
            )
        self.groups = self.coupling.groups
        self.shards = causal.make_shards(self.judge)
        self.labels = self.images.calibration.labels[self.chosen]
        self._looked_at = self._by_shard(choice.scores)
        self.ledger = Ledger(self.coupling)
        images = self.images.calibration.images
        shard = max(shard.images.stop - shard.images.start for shard in self.shards)
        batches = self.options.method == "c-swap" and self.journey.crew.at_once == 1
        needed = needs(
            self.program,
            self.coupling,
            images,
            shard,
            replace(self.options, batch_interventions=self.options.batch_interventions if batches else 1),
            foretells=self.foretells,
        )
        self.at_once = needed.at_once
        limit = self.journey.memory_limit
        self.allowance = devices.allowance(self.program.device, limit, needed=needed.total_bytes)

    @property
    def foretells(self) -> bool:
        """Whether the walk makes forecasts: scores must be a smooth function of the outputs."""
        return self.options.foretells and isinstance(self.task, tasks.Classification)

    @cached_property
    def subject(self) -> compensate.Subject:
        """For compensation: all calibration images, whether classified correctly or not."""
        layers = compensate.find_layers(self.program)
        return compensate.Subject(self.program, layers, self.groups, self.all_images, self.allowance)

    @cached_property
    def inputs(self) -> Tensor:
        """Calibration images that the judge looks at, shape (n, C, H, W)."""
        return torch.from_numpy(self.images.calibration.images[self.chosen])

    @cached_property
    def all_images(self) -> Tensor:
        """All calibration images: moments and refit need no labels."""
        return torch.from_numpy(self.images.calibration.images)

    def replay(self, *, delta: bool = False) -> causal.Replay:
        """The dense network, ready for interventions in the order of the graph."""
        return causal.Replay(
            self.program, self.groups, self._own_images(), delta=delta, allowance=self.allowance
        )

    def _own_images(self) -> list[Tensor]:
        """The images of each shard; none where another process evaluates it."""
        owns = self.journey.crew.owns
        return [self.inputs[shard.images] if owns(shard) else self.inputs[:0] for shard in self.shards]

    @cached_property
    def _pieces(self) -> list[list[causal.Values]]:
        return [self.program.start(images) for images in self._own_images()]

    def _by_shard(self, looked_at: Bools) -> list[Bools]:
        """Of all scores of each shard's images, those that the judge looks at."""
        scored = self.task.scored(self.kept[self.chosen], self.labels)
        bounds = [shard.images.start for shard in self.shards[1:]]
        return np.split(looked_at, np.searchsorted(scored.images, bounds))

    def scores(self, shard: causal.Shard, weights: Weights) -> Doubles:
        """Scores of a shard's images under these weights of the folded graph."""
        labels = self.labels[shard.images]
        return self._judged(shard, self._run(self._pieces[shard.number], labels, weights))

    def scores_of(self, shard: causal.Shard, outputs: Floats) -> Doubles:
        """Scores of a shard's images from the network's outputs for them."""
        return self._judged(shard, self.task.kept(outputs, self.labels[shard.images]))

    def _judged(self, shard: causal.Shard, kept: tasks.Kept) -> Doubles:
        scores = self.task.scores(kept, self.labels[shard.images])
        return scores[self._looked_at[shard.number]]

    def all_scores(self, weights: Weights) -> Doubles:
        return self.examiner().all_scores(lambda shard: self.scores(shard, weights))

    def examiner(self, factor: float = 1.0) -> causal.Examiner:
        """Judges interventions; scores may fall further by a factor."""
        judge = self.judge.relaxed(factor)
        crew = self.journey.crew
        return causal.Examiner(judge, self.shards, early_exit=self.options.early_exit, crew=crew)

    @cached_property
    def accepts(self) -> Callable[[Weights], bool]:
        """Whether a network with these weights keeps the accuracy limit on the validation images."""
        limit, validation = self.options.max_accuracy_drop, self.images.validation
        if limit is None:
            return lambda weights: True
        assert validation is not None, "checked when the study began"
        seen = validation
        truth = self.task.truth(seen.labels)
        dense = self.answers(seen, self.program.dense)

        def within(weights: Weights) -> bool:
            pair = (dense, self.answers(seen, weights))
            return self.agreed(tasks.surely_within(self.task, pair, truth, limit))

        return within

    def validation_accuracy(self, weights: Weights) -> float:
        """The task's metric on the validation images; on the calibration images where there are none."""
        return self.value(self.images.judged_by[1], weights)

    def holds_elsewhere(self, weights: Weights) -> bool:
        """Whether images that no fit has seen keep their scores: a paired test of all validation images.

        An image's score is the mean of those of the classes that it shows.

        Least squares flatter the calibration images; with few images a class the test on those alone lets
        far too much go. True where there are too few validation images.
        """
        validation = self.images.validation
        if validation is None or len(validation.labels) < FEWEST_ELSEWHERE:
            return True
        change = self._by_image(validation, weights) - self._dense_elsewhere
        spread = float(change.std(ddof=1)) / len(change) ** 0.5
        limit = float(stats.t.ppf(1 - self.options.alpha, len(change) - 1))
        return self.agreed(bool(change.mean() >= -limit * spread - TINY))

    def mover(self, before: Weights, images: int = MOST_MOVED) -> Callable[[Sequence[Weights]], list[float]]:
        """Tells how far changes of weights, each alone, move answers to a few images that no fit has seen."""
        _, seen = self.images.judged_by
        if len(seen.labels) < FEWEST_TOLD:
            seen = self.images.calibration
        labels = seen.labels[:images]
        pieces = self.program.start(torch.from_numpy(seen.images[:images]))
        (base,) = run_variants(self.program, self.task, (pieces, labels), before, [{}])

        def moved(changes: Sequence[Weights]) -> list[float]:
            found = run_variants(self.program, self.task, (pieces, labels), before, changes)
            return [tasks.moved(self.task, base, kept, labels) for kept in found]

        return moved

    def agreed(self, verdict: bool) -> bool:
        """The verdict of the first of several processes."""
        return bool(agreed(self.journey.crew, verdict))

    @cached_property
    def _dense_elsewhere(self) -> Doubles:
        assert self.images.validation is not None
        return self._by_image(self.images.validation, self.program.dense)

    def _by_image(self, labelled: Labelled, weights: Weights) -> Doubles:
        """The score of each image that shows a class."""
        pieces = self.program.start(torch.from_numpy(labelled.images))
        scored = self.task.scored(self._run(pieces, labelled.labels, weights), labelled.labels)
        images, place = np.unique(scored.images, return_inverse=True)
        return np.bincount(place, weights=scored.scores) / np.bincount(place, minlength=len(images))

    def answers(self, labelled: Labelled, weights: Weights) -> tasks.Kept:
        """What the metric needs of any images under these weights of the folded graph."""
        pieces = self.program.start(torch.from_numpy(labelled.images))
        return self.task.answers(self._run(pieces, labelled.labels, weights))

    def value(self, labelled: Labelled, weights: Weights) -> float:
        """The task's metric on any images under these weights."""
        return self.task.value(self.answers(labelled, weights), labelled.labels)

    def _run(self, pieces: Sequence[causal.Values], labels: Labels, weights: Weights) -> tasks.Kept:
        """What the task keeps of the outputs, piece by piece: they may be large."""
        return run_pieces(self.program, self.task, (pieces, labels), weights)

    def describe_pass(
        self, factor: float, interventions: int, removed: Removed, worst_z: float, *, order: str = ""
    ) -> Pass:
        """The record of one pass over all layers, with what is gone after it."""
        params, macs = self.ledger.ratios(removed)
        return Pass(
            factor=factor,
            interventions=interventions,
            param_ratio=params,
            mac_ratio=macs,
            worst_z=worst_z,
            order=order,
        )

    def step(self, group: ChannelGroup) -> int:
        """Units by which a group's width changes."""
        return causal.aligned_step(group, self.options.align)

    def measure(self, weights: Weights) -> compensate.Measured:
        return compensate.measure_moments(self.subject, weights, on_progress=self.progress("moments"))

    def refit(self, weights: Weights, removed: Removed, *, rough: bool = False) -> compensate.Refit:
        """The layers fitted anew, or their BatchNorms re-estimated, as the options say."""
        if self.options.refits:
            on_progress = self.progress("least squares")
            return compensate.refit(self.subject, weights, removed, rough=rough, on_progress=on_progress)
        if not self.options.bn_reestimate:
            return NO_FIT
        norms = self.program.folded.norms
        return compensate.Refit(weights=compensate.reestimate(self.subject, norms, weights), moments={})

    def progress(self, name: str) -> Callable[[int, int], None]:
        """Tells how far something of this name is."""
        return partial(self.journey.on_progress, name)

    def effects(
        self,
        survivors: compensate.Survivors,
        ladders: Mapping[str, Sequence[compensate.Block]],
        taken: Mapping[str, int],
    ) -> dict[str, float]:
        """What the damages of each group count, measured: see `effects.effects`."""
        images = max(FEWEST_MOVED, min(MOST_MOVED, FORWARDS // max(len(ladders), 1)))
        move, on_progress = self.mover(survivors.weights, images), self.progress("effects")
        return effects(survivors, ladders, taken, move, on_progress)

    def ladders(self, survivors: compensate.Survivors) -> dict[str, list[compensate.Block]]:
        """Group -> all its units that may leave, in the order in which they can best be spared."""
        return survivors.ladders({group.name: self.step(group) for group in self.groups})

    def survivors(
        self, weights: Weights, measured: compensate.Measured, gone: Removed
    ) -> compensate.Survivors:
        """The network with these weights, ready to lose units."""
        return compensate.Survivors(
            layers=self.subject.layers,
            groups=self.groups,
            weights=dict(weights),
            measured=measured,
            gone=gone,
            mode=self.options.compensation,
        )

    @cached_property
    def dense_moments(self) -> compensate.Measured:
        return self.measure(self.program.dense)

    def compensated(self, removed: Removed) -> tuple[dict[str, Tensor], compensate.Refit]:
        """Weights of the dense network without these units, compensated as the options say, and the fit."""
        mode, dense = self.options.compensation, self.program.dense
        measured = NOT_MEASURED if mode == "none" else self.dense_moments
        survivors = self.survivors(dense, measured, {})
        survivors.remove_({name: units for name, units in removed.items() if units})
        fit = self.refit(survivors.weights, removed)
        return {**survivors.weights, **fit.weights}, fit

    def without(self, removed: Removed, weights: Weights, fit: compensate.Refit) -> fx.GraphModule:
        """The network with these units cut out, and these weights of the folded graph."""
        return channels.cut(self.coupling, removed, self.network_weights(weights, fit))

    def network_weights(self, weights: Weights, fit: compensate.Refit) -> dict[str, Tensor]:
        """What a method changed, by the names of the network's own tensors, on the CPU."""
        if self.options.only_zeroes:
            return {}  # zeros only: cutting does the same
        dense = self.program.dense
        changed = {name: value for name, value in weights.items() if value is not dense[name]}
        norms = self.program.folded.norms
        for name, norm in norms.items():
            if name in changed or norm.folded_bias in changed:
                changed |= {n: weights[n] for n in (name, norm.folded_bias)}
        tensors = causal.unfolded(norms, changed, fit.moments)
        return {name: value.cpu() for name, value in tensors.items()}
