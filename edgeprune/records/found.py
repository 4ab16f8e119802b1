"""What can be cut, and what the walk finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from edgeprune.records.asked import Bools, Doubles, Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """Where a group's units lie on one axis of one parameter or buffer."""

    parameter: str
    axis: int
    indices: Ints
    """Shape (units, copies): unit u owns `indices[u]` of this axis (flatten, heads: several copies)."""
    consumer: bool = False
    """The axis is summed over by its layer: zeroing these entries is masking the unit."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelGroup:
    """Coupled channels: `units` units, each removed from every slot or from none."""

    name: str
    """The first producer's parameter, e.g. `layer1.0.conv1.weight`."""
    units: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenAxis:
    """An axis of a parameter of which some indices may not be removed, and why."""

    parameter: str
    axis: int
    indices: int
    """How many indices of the axis are frozen."""
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """What a network makes of labelled images: a score for each image and class that is in it.

    Image by image; one score an image where images have one class.
    """

    images: Ints
    """Image of each score, ascending."""
    classes: Ints
    """Class of each score."""
    scores: Doubles
    """In [0, 1]."""
    right: Bools
    """Whether the network gets this class in this image right: only then is it asked what harms it."""
    profiles: Doubles
    """How the classes look to the network there, shape (scores, K): classes of few images are merged with
    the nearest."""


class Finding(StrEnum):
    """Verdict of one intervention (METHODS §1)."""

    CRITICAL = "critical"
    NEUTRAL = "neutral"
    DETRIMENTAL = "detrimental"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One intervention: which units were taken out together, what it did, and what was decided."""

    group: str
    units: tuple[int, ...]
    finding: Finding
    removed: bool
    effect: float
    """Causal effect ξ: mean of (σ* - σ)/σ over the images evaluated; positive: the units harm."""
    worst_z: float
    """Smallest z over the classes evaluated."""
    worst_class: int
    evaluated: int
    """Images evaluated before the verdict was sure."""
    returned: tuple[int, ...] = ()
    """Units of the group given back before this test of what is left (its `units` are then empty)."""
    note: str = ""
    joint: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Units of other groups that left (or were given back) together with these."""

    @property
    def together(self) -> dict[str, tuple[int, ...]]:
        """Group -> units that were taken out together, or given back."""
        return {self.group: self.returned or self.units, **self.joint}

    @property
    def size(self) -> int:
        """How many units were taken out together, or given back."""
        return sum(map(len, self.together.values()))

    @property
    def gain(self) -> int:
        """How many units fewer the network has after this step."""
        return -self.size if self.returned else self.size * self.removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One walk through the units that were left, and the least squares after it."""

    factor: float
    """How much further than at level α scores were allowed to fall (c-swap), or fell (c-swap-c)."""
    interventions: int
    param_ratio: float
    mac_ratio: float
    worst_z: float
    """Of the network as refitted at the end of the pass."""
    order: str = ""
    """Beyond the natural end: the order that the pass took its units in."""


ALL_CLASSES = "all classes together"
"""Name of the test of all images at once, among the names of classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The log of a walk: every intervention in order, and what they were judged against."""

    method: str
    alpha: float
    steps: tuple[Step, ...]
    class_names: tuple[str, ...]
    """Classes the test ran on, merged ones joined by `+` (few images per class)."""
    class_samples: tuple[int, ...]
    """n_k: correctly classified calibration images of each."""
    tolerance: tuple[float, ...]
    """Δ_k: how far the mean score of class k could fall before it was called significant."""
    dense_scores: tuple[float, ...]
    """Mean score of the dense network, per class."""
    final_scores: tuple[float, ...]
    """Mean score at the end of the walk, per class."""
    final_z: tuple[float, ...]
    """z of each class at the end: the network as deployed against the dense one."""
    z_limits: tuple[float, ...]
    """The z below which a class counts as significantly worse (the invariant: no final_z is)."""
    stopped: str
    """Why the walk ended."""
    compensation: str = "none"
    """What the survivors were given of the removed units: none, mean, linear or affine."""
    passes: tuple[Pass, ...] = ()
    """Of a compensated walk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitEffect:
    """What it does to each class when one unit alone is taken out of the dense network."""

    unit: int
    finding: Finding
    effect: float
    """ξ over all images of the test."""
    effects: tuple[float, ...]
    """ξ of each class; positive: the unit harms it."""
    z: tuple[float, ...]
    """z of each class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEffects:
    """One intervention for each unit of a group, every class looked at."""

    group: str
    class_names: tuple[str, ...]
    z_limits: tuple[float, ...]
    """The z below which a class counts as significantly worse: it needs the unit."""
    units: tuple[UnitEffect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPlan:
    """The units to remove, and nothing else: group name to unit numbers."""

    removed: dict[str, tuple[int, ...]]
    param_ratio: float
    channel_ratio: float
    mac_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Channels of one group before and after."""

    group: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """All that the analysis found about one network on one set of images."""

    trajectory: Trajectory
    plan: PruningPlan
    widths: tuple[Width, ...]
    findings: dict[str, dict[str, int]]
    """Group name -> units per verdict; units without one were not tested."""
    frozen: tuple[FrozenAxis, ...]
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """New weights of the layers that were refitted, in the run folder."""
