"""What an analysis is asked for: images, limits, and who watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from edgeprune import tasks
from edgeprune.config import BuildConfig
from edgeprune.pipeline.sharing import Alone, Crew
from edgeprune.records import Basis, Budget, Figure, Floats, Labels, Limit, Split, Step

Compensation = Literal["none", "mean", "linear", "affine"]
Allocation = Literal["global", "uniform"]
Counted = Literal["units", "params", "macs", "both"]
Price = Literal["auto"] | Counted
Test = Literal["welch", "paired"]
Combine = Literal["any-class", "pooled"]
Reference = Literal["dense", "current"]
Order = Literal["magnitude", "random"]


Progress = Callable[[str, int, int], None]
"""What is under way besides interventions, how much of it is done, and of how much."""


def silent(name: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Images as the network reads them, shape (N, C, H, W), float32, and labels, as many."""

    images: Floats
    labels: Labels
    """Class numbers, shape (N,), or what the task reads."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """What the analysis looks at; `validation` decides on the accuracy limit."""

    calibration: Labelled
    names: Sequence[str]
    """Class names."""
    validation: Labelled | None = None
    task: tasks.Task = field(default_factory=tasks.Classification)

    @property
    def judged_by(self) -> tuple[Split, Labelled]:
        """The validation images, or the calibration images where there are none."""
        if self.validation is not None and len(self.validation.labels):
            return Split.VALIDATION, self.validation
        return Split.CALIBRATION, self.calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """How far the analysis goes."""

    method: str = "c-swap-c"
    """c-swap-c: compensated, in global order; c-swap: as published; or a criterion's name."""
    compensate: Compensation | None = None
    """What survivors get of the removed units; None: affine for c-swap-c, else none."""
    refit: bool = True
    """With affine: sequential least squares of every layer behind a removal, a map per tap, at the end."""
    bn_reestimate: bool = False
    """Re-estimate BatchNorm statistics at the end (affine compensation does so anyway)."""
    allocation: Allocation = "global"
    """Of a criterion: one order over all layers, or the same share of every group."""
    price: Price = "auto"
    """Of c-swap-c: what the damage of a unit is divided by for the order of removal; auto: nothing up to the
    natural end, and beyond it whichever of several orders answers best, pass by pass."""
    seed: int = 0
    """Of what is random: some criteria, and the order `random`."""
    alpha: float = 0.05
    """Level of the causal test."""
    test: Test = "welch"
    """Two samples, or (paired) the differences image by image."""
    combine: Combine = "any-class"
    """Each class on its own, or (pooled) all images in one test: the poster's general inference."""
    reference: Reference = "dense"
    """Of c-swap: what an intervention is compared with."""
    order: Order = "magnitude"
    """Of c-swap: of units within a layer."""
    group_test: int = 64
    """Most units tested at once; 1 is the published walk."""
    early_exit: bool = True
    """Stop a test as soon as its verdict is sure."""
    device: str = "cpu"
    """Where the analysis runs: cpu, cuda, cuda:N, or auto for a GPU where there is one."""
    batch_interventions: int | None = None
    """Of c-swap: interventions evaluated in one run; None: 1 on a CPU, as many as fit on a GPU."""
    align: int = 8
    """Widths are multiples of this; 1 leaves them as the walk gives them."""
    head_width: bool = False
    """Cut attention heads in width, all of a layer by as much, instead of whole."""
    coupling_seconds: float = 600.0
    """What is not coupled by then stays as it is."""
    coupling_bytes: int = 800_000_000
    """The same for the memory of the ties."""
    max_param_ratio: float | None = None
    """Remove at most this share of the parameters, in [0, 1]."""
    max_accuracy_drop: float | None = None
    """Absolute, in [0, 1], on the validation images."""
    limits: tuple[Limit, ...] = ()
    """What the deployed network may cost; a build searches for the network that does."""

    @property
    def compensation(self) -> Compensation:
        return self.compensate or ("affine" if self.method == "c-swap-c" else "none")

    @property
    def counted(self) -> Counted | None:
        """What the order of removal counts as saved; None: nobody said."""
        return None if self.price == "auto" else self.price

    @property
    def refits(self) -> bool:
        """Whether layers are fitted anew at the end."""
        return self.refit and self.compensation == "affine"

    @property
    def only_zeroes(self) -> bool:
        """Whether survivors keep their weights."""
        return self.compensation == "none" and not self.bn_reestimate

    @property
    def searches(self) -> bool:
        """Whether a build looks for the network that a budget asks for, instead of a natural end."""
        free = self.method == "c-swap-c" and self.compensation == "affine" and self.max_param_ratio is None
        return free and (bool(self.limits) or self.max_accuracy_drop is not None)

    @property
    def foretells(self) -> bool:
        """Whether the walk asks forecasts which classes come first: a first look takes fewer images then.

        Batched interventions are to look at the same images, so there is none with them, nor on a GPU.
        """
        plain = self.method == "c-swap" and self.early_exit and self.reference == "dense"
        return plain and self.batch_interventions in (None, 1) and self.device == "cpu"

    @property
    def asks_for_more(self) -> bool:
        """Whether a limit asks to go on beyond the natural end."""
        return self.max_param_ratio is not None or self.max_accuracy_drop is not None


HOW = ("device", "batch_interventions")
"""Options that change how fast a result is found, and besides `foretells` not what it is (rounding apart)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Journey:
    """What a walk takes along besides the network: an interrupted one's steps, and who watches.

    `on_step` is called with the step, the units settled, all units, and the share of parameters removed.
    """

    recorded: Sequence[Step] = ()
    on_step: Callable[[Step, int, int, float], None] = lambda step, settled, units, param_ratio: None
    on_progress: Progress = silent
    memory_limit: int | None = None
    """Of the whole process, bytes; None: half of what the machine has."""
    crew: Crew = field(default_factory=Alone)
    """Who evaluates interventions."""


SEARCHED = (
    Figure.LATENCY_P50,
    Figure.PEAK_MEMORY,
    Figure.MODEL_SIZE,
    Figure.PARAMS,
    Figure.MACS,
)
"""Figures that units are removed for."""


def asked_limits(budget: Budget) -> tuple[Limit, ...]:
    """The lines of a budget that say what a network may cost; those that only warn are not searched for."""
    own = {
        Figure.LATENCY_P50: budget.max_latency_ms,
        Figure.PEAK_MEMORY: budget.max_memory_bytes,
        Figure.MODEL_SIZE: budget.max_size_bytes,
    }
    flags = [Limit(figure=figure, value=float(value)) for figure, value in own.items() if value is not None]
    lines = [
        limit
        for limit in budget.limits
        if limit.figure in SEARCHED and limit.basis is not Basis.BASELINE and not limit.warns
    ]
    return (*flags, *lines)


def asked_options(config: BuildConfig, *, align: int, budget: Budget) -> PruneOptions:
    """The options of an analysis as the user's settings give them."""
    drop = config.max_accuracy_drop
    names = {field.name for field in fields(PruneOptions)} & set(BuildConfig.model_fields)
    given = {name: getattr(config, name) for name in sorted(names)}
    if config.coupling_time is not None:
        given["coupling_seconds"] = config.coupling_time / 1000
    if config.coupling_memory is not None:
        given["coupling_bytes"] = config.coupling_memory
    return PruneOptions(
        **{**given, "align": align, "max_accuracy_drop": None if drop is None else drop / 100},
        limits=asked_limits(budget) if config.method == "c-swap-c" else (),
    )
