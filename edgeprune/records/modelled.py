"""How long networks of other widths will take: what was profiled, and the model that was fitted to it."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthForm:
    """How many indices an axis has for given widths of the groups: a constant and so many for each unit."""

    constant: int
    copies: dict[str, float]
    """Group name -> indices of the axis that go with a unit of it; on average, where only some lie there."""

    def size(self, widths: dict[str, int]) -> int:
        return round(self.constant + sum(copies * widths[group] for group, copies in self.copies.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledOperator:
    """One operator as the runtime ran it."""

    name: str
    kind: str
    time_ms: float
    shapes: tuple[Shape, ...]
    """Of its inputs, as far as the runtime tells, and of its output last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One network on the target: its time as a whole, and its operators, timed one by one."""

    latency_ms: float
    operators: tuple[ProfiledOperator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One axis of an operator's tensor, as a function of the groups' widths."""

    size: int
    """In the dense network."""
    form: int | None = None
    """Number of the width form that it is proportional to; None: always the same."""
    block: int = 1
    """The runtime rounds the form up to whole blocks of this many channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorModel:
    """The time of one operator: a constant part, and parts proportional to what it works on."""

    name: str
    kind: str
    dense_ms: float
    shapes: tuple[tuple[Dimension, ...], ...]
    constant_ms: float
    per_mac_ns: float
    per_padded_mac_ns: float
    """Of multiply-adds with all channels rounded up to whole blocks."""
    per_element_ns: float
    """Of the tensors that it reads and writes, in whole blocks, weights apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A network of other widths, measured, and predicted by a model that has not seen it."""

    widths: dict[str, int]
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        """|predicted - measured| / measured."""
        return abs(self.predicted_ms - self.measured_ms) / self.measured_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the latency model said of the network that was then deployed, and how good it is on others."""

    predicted_ratio: float
    """Latency over the dense network's."""
    measured_ratio: float
    error: float
    """Median of |predicted - measured| / measured over the sweep."""
    sweep: tuple[Prediction, ...]
    """Variants of other widths, each predicted by the model without it."""

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"latency model: {self.predicted_ratio:.3f} of the dense network's time predicted, "
            f"{self.measured_ratio:.3f} measured; median error over {len(self.sweep)} other networks "
            f"{self.error:.1%}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Latency of a network on one target, for any widths of its channel groups."""

    runtime: str
    threads: int
    step: int
    """The widths that it was fitted on are multiples of this."""
    block: int
    """Channels that the kernels work on at once, as the times tell."""
    dense: dict[str, int]
    """Group name -> its width in the dense network."""
    dense_ms: float
    forms: tuple[WidthForm, ...]
    operators: tuple[OperatorModel, ...]
    scale: float
    """Of the sum of the operators' times, for the latency of the whole."""
    overhead_ms: float
    """What is added to it."""
    sweep: tuple[Prediction, ...]
    """Every pruned variant that was measured, predicted by the model without it."""

    @property
    def error(self) -> float:
        """Median error over the sweep."""
        errors = sorted(found.error for found in self.sweep)
        middle = len(errors) // 2
        if not errors:
            return 0.0
        return errors[middle] if len(errors) % 2 else (errors[middle - 1] + errors[middle]) / 2
