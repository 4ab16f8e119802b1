"""C-SWAP as METHODS.md states it, without any cleverness: the oracle of the walk.

Every intervention runs the whole masked network on all images. The formulas are written again, with scipy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from edgeprune.channels import Coupling, masked
from edgeprune.records import ChannelGroup, Ints

Removed = dict[str, tuple[int, ...]]


class ReferenceStep(NamedTuple):
    group: str
    unit: int
    finding: str
    effect: float
    z: tuple[float, ...]


@dataclass(frozen=True)
class Reference:
    """Images must be in the order of their classes, and all be classified correctly by the dense network."""

    coupling: Coupling
    images: Tensor
    labels: Ints
    alpha: float

    def scores(self, removed: Removed) -> np.ndarray:
        with torch.no_grad():
            probabilities = masked(self.coupling, removed)(self.images).softmax(1).double().numpy()
        return probabilities[np.arange(len(self.labels)), self.labels]

    def z(self, removed: Removed) -> tuple[float, ...]:
        dense, now = self.scores({}), self.scores(removed)
        classes = [self.labels == k for k in np.unique(self.labels)]
        return tuple(float(stats.ttest_ind(now[k], dense[k], equal_var=False).statistic) for k in classes)

    def quantiles(self) -> list[float]:
        normal, counts = stats.norm.isf(self.alpha), [n for n in np.bincount(self.labels) if n]
        return [float(normal if n >= 30 else stats.t.isf(self.alpha, 2 * n - 2)) for n in counts]

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
        dense, removed, steps = self.scores({}), Removed(), []
        for group in self.groups():
            for unit in order(group):
                gone = removed.get(group.name, ())
                if len(gone) == group.units - 1:
                    break
                trial = {**removed, group.name: (*gone, unit)}
                z, change = self.z(trial), (self.scores(trial) - dense) / np.maximum(dense, 1e-6)
                steps.append(ReferenceStep(group.name, unit, self.finding(z), float(change.mean()), z))
                removed = removed if steps[-1].finding == "critical" else trial
        return steps, {name: tuple(sorted(units)) for name, units in removed.items()}
