"""Budgets of a deployed network as goals of a search: what widths cost, and what the target says they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeprune import export, latency, measure
from edgeprune.pipeline import finding
from edgeprune.pipeline.descent import Descent, Point
from edgeprune.pipeline.ledger import Ledger, Removed
from edgeprune.pipeline.options import SEARCHED, Journey
from edgeprune.pipeline.pruning import Analysed
from edgeprune.pipeline.study import Study, Walked
from edgeprune.records import (
    Artifact,
    Basis,
    Floats,
    Interval,
    LatencyModel,
    Limit,
    Measurement,
    Step,
    Target,
)
from edgeprune.scratch import scratch

RESOURCES = dict(zip(SEARCHED, ("latency", "memory", "size", "params", "macs"), strict=True))
BYTES = 4
WEIGHTS_HELD = 2
"""How often a running network holds its weights, before anything is measured: as read, and repacked."""
PROCESSES, RUNS, SECONDS = 3, 100, 2.0
"""Of a trial's measurement; the final one takes what the settings say."""
MORE_PROCESSES, CLEAR = 9, 0.03
"""Of a trial that could be on either side of the limit, its interval being wider than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """The dense network as deployed and measured."""

    file: Path
    artifact: Artifact
    measured: Measurement | None
    rest: Mapping[str, float] = field(default_factory=dict)
    """Resource -> the share that 8 or 16 bits leave of it; a search is for what is missing beyond that."""

    @property
    def figures(self) -> dict[str, float]:
        """Resource -> what it takes, in the unit of a limit; what the system does not tell is missing."""
        known = {
            "size": float(self.artifact.size_bytes),
            "params": float(self.artifact.params),
            "macs": float(self.artifact.macs),
        }
        if self.measured is not None:
            known["latency"] = self.measured.latency["dense"].p50_ms.value
            if "dense" in self.measured.memory:
                known["memory"] = float(self.measured.memory["dense"].peak_bytes)
        return known

    def shares(self, limits: Sequence[Limit]) -> dict[str, float]:
        """Resource -> largest share of the dense network's: of those it does not keep in as few bits."""
        shares: dict[str, float] = {}
        for limit in limits:
            name = RESOURCES[limit.figure]
            known = self.figures.get(name)
            if known is None and (limit.basis is Basis.ABSOLUTE or name == "memory"):
                continue  # this system does not tell it: the gate says so
            share = limit.value if limit.basis is Basis.DENSE else limit.value / (known or 1.0)
            share /= self.rest.get(name, 1.0)
            if share < 1:
                shares[name] = min(share, shares.get(name, 1.0))
        return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What widths cost, predicted: see `descent.Costs`."""

    ledger: Ledger
    model: LatencyModel | None
    dense: Dense

    def __call__(self, widths: Sequence[Mapping[str, int]]) -> dict[str, NDArray[np.float64]]:
        counts = np.array([self.ledger.of_widths(each) for each in widths], dtype=np.float64)
        lost = self.ledger.dense_params - counts[:, 0]
        figures = self.dense.figures
        costs = {
            "params": counts[:, 0] / self.ledger.dense_params,
            "macs": counts[:, 1] / max(self.ledger.dense_macs, 1),
            "size": 1 - BYTES * lost / figures["size"],
        }
        if "memory" in figures:
            peaks = np.array([self.ledger.activations.peak(each) for each in [self.ledger.sizes, *widths]])
            spared = WEIGHTS_HELD * lost + peaks[0] - peaks[1:]
            costs["memory"] = 1 - BYTES * spared / figures["memory"]
        if self.model is not None:
            dense = float(latency.predict(self.model, [self.model.dense])[0])
            costs["latency"] = latency.predict(self.model, widths) / dense
        return costs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deployer:
    """Exports a network under trial and measures it beside the dense one."""

    analysed: Analysed
    target: Target
    dense: Dense
    image: Floats
    place: measure.Place
    timed: bool
    """Whether a budget is on what only a measurement tells."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Resource -> largest share of the dense network's in as many bits."""
    in_8_bits: Callable[[Path], Path] | None = None
    """Makes the file that is deployed of an exported one; `Dense.rest` is what it leaves of the dense one."""

    def confirm(self, study: Study, point: Point) -> dict[str, Interval]:
        """Each resource's share of the dense network's in as many bits, as `finding.Confirm`."""
        graph = study.without(point.removed, point.weights, point.fit)
        with scratch() as folder:
            path = Path(folder, "trial.onnx")
            export.to_onnx(graph, self.analysed.traced.spec, path)
            params, macs = export.params_and_macs(path)
            path = (self.in_8_bits or partial(export.for_runtime, runtime=self.target.runtime))(path)
            parts = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
            size = sum(part.stat().st_size for part in parts)
            measured = self._measure(path) if self.timed else None
        figures = self.dense.figures
        now = {"size": size, "params": params, "macs": macs}
        if measured is not None and "memory" in figures and "pruned" in measured.memory:
            now["memory"] = measured.memory["pruned"].peak_bytes
        exact = {name: value / figures[name] for name, value in now.items() if figures[name]}
        shares = {name: Interval(value=share, low=share, high=share) for name, share in exact.items()}
        if measured is not None:
            shares["latency"] = measured.ratio
        return {name: self._over_rest(name, share) for name, share in shares.items()}

    def _over_rest(self, name: str, share: Interval) -> Interval:
        rest = self.dense.rest.get(name, 1.0) if self.in_8_bits else 1.0
        return Interval(value=share.value / rest, low=share.low / rest, high=share.high / rest)

    def _measure(self, path: Path) -> Measurement:
        """Beside the dense network, at greater length where that leaves open whether a limit is kept."""
        found = self._timed(path, PROCESSES)
        return self._timed(path, MORE_PROCESSES) if self.is_open(found.ratio) else found

    def is_open(self, ratio: Interval) -> bool:
        """Whether a latency over the dense network's is too vague to tell which way to go from it."""
        share, limit = self._over_rest("latency", ratio), self.limits.get("latency")
        width = share.high - share.low
        return limit is not None and width > CLEAR and abs(share.value - limit) < width

    def _timed(self, path: Path, processes: int) -> Measurement:
        return measure.measure(
            {"dense": self.dense.file, "pruned": path},
            runtime=self.target.runtime,
            threads=self.target.threads,
            image=self.image,
            processes=processes,
            min_runs=RUNS,
            max_seconds=SECONDS,
            **self.place.options(),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Budgeted:
    """A search for a budget, ready to run on a study: see `pruning.find_units`."""

    shares: Mapping[str, float]
    """Resource -> largest share of the dense network's; none: the fastest network of a given accuracy."""
    model: LatencyModel | None
    deployer: Deployer

    def walk(self, study: Study, journey: Journey) -> Walked:
        def on_step(step: Step, removed: Removed) -> None:
            ratio = study.ledger.param_ratio(removed)
            gone = sum(map(len, removed.values()))
            journey.on_step(step, gone, study.ledger.units, ratio)

        costs = Predicted(ledger=study.ledger, model=self.model, dense=self.deployer.dense)
        descent = Descent(study, costs, on_step)
        for step in journey.recorded:
            descent.steps.append(step)
            on_step(step, {})
        start = descent.resumed(finding.net_removal(journey.recorded))
        search = finding.Search(study, descent, lambda point: self.deployer.confirm(study, point))
        point, why = search.within(start, self.shares) if self.shares else search.fastest(start)
        return finding.result(study, descent, point, why)
