"""What a network costs without some of its units: counted per group, without making it."""

from __future__ import annotations

import numpy as np

from edgeprune.channels.groups import Coupling, Removed


class Costs:
    """Parameters and multiply-adds of one network for any set of removed units; asked at every step."""

    def __init__(self, coupling: Coupling) -> None:
        ties = coupling.ties
        parameters = dict(ties.traced.graph_module.named_parameters())
        row = {name: number for number, name in enumerate(parameters)}
        rank = max((p.ndim for p in parameters.values()), default=0)
        self._sizes = np.ones((len(row), rank), dtype=np.int64)
        for name, parameter in parameters.items():
            self._sizes[row[name], : parameter.ndim] = parameter.shape
        self._macs_per_entry = np.array([ties.positions.get(name, 0.0) for name in parameters])
        self._number = {group.name: number for number, group in enumerate(coupling.groups)}
        slots = [(n, s) for n, g in enumerate(coupling.groups) for s in g.slots if s.parameter in row]
        self._slot_groups = np.array([number for number, _ in slots], dtype=np.int64)
        self._slot_places = np.array([row[s.parameter] * rank + s.axis for _, s in slots], dtype=np.int64)
        self._slot_copies = np.array([s.indices.shape[1] for _, s in slots], dtype=np.int64)

    def count(self, removed: Removed) -> tuple[int, int]:
        """(parameters, multiply-adds per image) without these units, each named once.

        Buffers do not count, nor do products between activations (attention scores).
        """
        units = np.zeros(len(self._number), dtype=np.int64)
        for group, gone in removed.items():
            units[self._number[group]] = len(gone)
        lost = np.zeros(self._sizes.size, dtype=np.int64)
        np.add.at(lost, self._slot_places, self._slot_copies * units[self._slot_groups])
        entries = (self._sizes - lost.reshape(self._sizes.shape)).prod(axis=1)
        return int(entries.sum()), round(float(entries @ self._macs_per_entry))
