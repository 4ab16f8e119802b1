"""What removing units saves."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping

from edgeprune import channels
from edgeprune.records import PruningPlan

Removed = Mapping[str, tuple[int, ...]]


ROUNDING = 1e-9
"""Of a share of the parameters."""


class Ledger:
    """What removing units saves."""

    def __init__(self, coupling: channels.Coupling) -> None:
        self.costs = channels.Costs(coupling)
        self.dense_params, self.dense_macs = self.costs.count({})
        self.sizes = {group.name: group.units for group in coupling.groups}
        self.units = sum(self.sizes.values())
        self.activations = channels.Activations(coupling)

    def of_widths(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """(parameters, multiply-adds) with so many units left of each group."""
        return self.costs.count(
            {name: tuple(range(count - widths[name])) for name, count in self.sizes.items()}
        )

    def param_ratio(self, removed: Removed) -> float:
        return 1 - self.costs.count(removed)[0] / self.dense_params

    def ratios(self, removed: Removed) -> tuple[float, float]:
        """Share of parameters and of multiply-adds removed."""
        params, macs = self.costs.count(removed)
        return 1 - params / self.dense_params, 1 - macs / self.dense_macs if self.dense_macs else 0.0

    def within(self, limit: float | None) -> Callable[[Removed], bool]:
        """Whether units may go without passing the limit on removed parameters."""
        return lambda removed: limit is None or self.param_ratio(removed) <= limit + ROUNDING

    def most(self, available: int, first: Callable[[int], Removed], limit: float) -> int:
        """How many of the first so many may go without passing the limit on removed parameters."""
        counts = range(1, available + 1)
        return bisect_right(counts, limit + ROUNDING, key=lambda count: self.param_ratio(first(count)))

    def plan(self, removed: dict[str, tuple[int, ...]]) -> PruningPlan:
        param_ratio, mac_ratio = self.ratios(removed)
        return PruningPlan(
            removed=removed,
            param_ratio=param_ratio,
            channel_ratio=sum(map(len, removed.values())) / self.units,
            mac_ratio=mac_ratio,
        )


def without(removed: Removed, other: Removed) -> dict[str, tuple[int, ...]]:
    """Group -> units of the first that are not in the second, where there are any."""
    left = {name: tuple(sorted(set(units) - set(other.get(name, ())))) for name, units in removed.items()}
    return {name: units for name, units in left.items() if units}
