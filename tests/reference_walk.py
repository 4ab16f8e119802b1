"""C-SWAP as METHODS.md states it, the whole network on all images every time: the oracle of the walk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from edgeprune.channels import Coupling, masked
from edgeprune.records import ChannelGroup, Ints

Removed = dict[str, tuple[int, ...]]
ReferenceStep = tuple[str, int, str, float, tuple[float, ...]]
"""Group, unit, finding, effect, z of each class."""


@dataclass(frozen=True)
class Reference:
    """Images must be in the order of their classes, and all be classified correctly by the dense network."""

    coupling: Coupling
    images: Tensor
    labels: Ints
    alpha: float
    paired: bool = False
    pooled: bool = False
    current: bool = False

    def scores(self, removed: Removed) -> np.ndarray:
        with torch.no_grad():
            probabilities = masked(self.coupling, removed)(self.images).softmax(1).double().numpy()
        return probabilities[np.arange(len(self.labels)), self.labels]

    def z(self, removed: Removed, before: Removed | None = None) -> tuple[float, ...]:
        old, now = self.scores(before or {}), self.scores(removed)
        images = [self.labels >= 0] if self.pooled else [self.labels == k for k in np.unique(self.labels)]
        return tuple(self.statistic(now[chosen], old[chosen]) for chosen in images)

    def statistic(self, now: np.ndarray, old: np.ndarray) -> float:
        if not self.paired:
            return float(stats.ttest_ind(now, old, equal_var=False).statistic)
        change = np.where(abs(now - old) < 1e-6, 0.0, now - old)
        return float(stats.ttest_1samp(change, 0).statistic) if change.any() else 0.0

    def quantiles(self) -> list[float]:
        counts = [len(self.labels)] if self.pooled else [n for n in np.bincount(self.labels) if n]
        free = [np.inf if n >= 30 else n - 1 if self.paired else 2 * n - 2 for n in counts]
        return [float(stats.t.isf(self.alpha, f)) for f in free]

    def finding(self, z: Sequence[float]) -> str:
        signs = {int(np.sign(value)) for value, q in zip(z, self.quantiles(), strict=True) if abs(value) > q}
        return "critical" if -1 in signs else "detrimental" if 1 in signs else "neutral"

    def groups(self) -> Iterator[ChannelGroup]:
        """In the order in which the graph first sums over them."""
        waiting = sorted(self.coupling.groups, key=lambda group: group.name)
        for node in self.coupling.ties.traced.nodes:
            read = {str(source.target) for source in node.all_input_nodes if source.op == "get_attr"}
            for group in [g for g in waiting if any(s.consumer and s.parameter in read for s in g.slots)]:
                waiting.remove(group)
                yield group

    def walk(self, order: Callable[[ChannelGroup], Sequence[int]]) -> tuple[list[ReferenceStep], Removed]:
        removed, steps = Removed(), []
        for group in self.groups():
            for unit in order(group):
                gone, before = removed.get(group.name, ()), removed if self.current else {}
                if len(gone) == group.units - 1:
                    break
                trial, old = {**removed, group.name: (*gone, unit)}, self.scores(before)
                z, change = self.z(trial, before), (self.scores(trial) - old) / np.maximum(old, 1e-6)
                steps.append((group.name, unit, self.finding(z), float(change.mean()), z))
                removed = removed if self.finding(z) == "critical" else trial
        return steps, {name: tuple(sorted(units)) for name, units in removed.items()}
