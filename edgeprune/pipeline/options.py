"""What an analysis is asked for: images, limits, and who watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeprune.records import Floats, Ints, Step

Compensation = Literal["none", "mean", "affine"]
Allocation = Literal["global", "uniform"]


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

    method: str = "c-swap-c"
    """c-swap-c: compensated, in global order; c-swap: as published; or a criterion's name."""
    compensate: Compensation | None = None
    """What survivors get of the removed units; None: affine for c-swap-c, else none."""
    bn_reestimate: bool = False
    """Re-estimate BatchNorm statistics at the end (affine compensation does so anyway)."""
    allocation: Allocation = "global"
    """Of a criterion: one order over all layers, or the same share of every group."""
    seed: int = 0
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

    @property
    def compensation(self) -> Compensation:
        return self.compensate or ("affine" if self.method == "c-swap-c" else "none")

    @property
    def asks_for_more(self) -> bool:
        """Whether a limit asks to go on beyond the natural end."""
        return self.max_param_ratio is not None or self.max_accuracy_drop is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Journey:
    """What a walk takes along besides the network: an interrupted one's steps, and who watches.

    `on_step` is called with the step, the units settled, all units, and the share of parameters removed.
    """

    recorded: Sequence[Step] = ()
    on_step: Callable[[Step, int, int, float], None] = lambda step, settled, units, param_ratio: None
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Of a criterion: what is done, and of how much."""
