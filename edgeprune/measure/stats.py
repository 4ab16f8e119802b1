"""From raw samples to figures with intervals; pure functions of samples and a generator.

Samples of one process are alike: they share a memory layout, a CPU's mood, a minute. Intervals therefore
come from drawing processes, then samples within each drawn process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeprune.measure.worker import Answer, Run
from edgeprune.records import Interval, Latency, Memory

Samples = Sequence[NDArray[np.float64]]
"""One array per process."""

RESAMPLES = 2000
RUNS_FOR_P90 = 64
RUNS_FOR_P99 = 662
"""Runs that MLPerf's early stopping asks for."""


def median_interval(samples: Samples, *, rng: np.random.Generator) -> Interval:
    """Return the median of the pooled samples with its 95 % interval."""
    medians = [
        np.median(
            np.concatenate([_redraw(samples[i], rng) for i in rng.integers(len(samples), size=len(samples))])
        )
        for _ in range(RESAMPLES)
    ]
    tail = tail_share(len(samples))
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Interval(value=float(np.median(np.concatenate(samples))), low=float(low), high=float(high))


def tail_share(processes: int) -> float:
    """Return the share of resamples to leave out at each end for a 95 % interval over a few processes.

    Plain 2.5 % would give intervals that hold the truth in only 87-90 % of cases for five processes: the
    bootstrap knows nothing of Student's t. Hesterberg's expanded percentile puts that right
    (What Teachers Should Know About the Bootstrap, 2015, section 5.3).
    """
    from scipy.special import ndtr, stdtrit  # here: only measuring pays for it

    if processes == 1:
        return 0.025
    widened = stdtrit(processes - 1, 0.975) * np.sqrt(processes / (processes - 1))
    return float(ndtr(-widened))


def latency(runs: Sequence[Run], *, threads: int, rng: np.random.Generator) -> Latency:
    """Return the times of one artifact; one Run per process."""
    wall = [np.asarray(run["wall_ms"]) for run in runs]
    pooled = np.concatenate(wall)
    cpu_p50 = float(np.median(np.concatenate([run["cpu_ms"] for run in runs])))
    return Latency(
        p50_ms=median_interval(wall, rng=rng),
        p90_ms=float(np.quantile(pooled, 0.9)),
        p99_ms=float(np.quantile(pooled, 0.99)) if len(pooled) >= RUNS_FOR_P99 else None,
        cpu_p50_ms=cpu_p50 if threads == 1 else None,
        load_ms=float(np.median([run["load_ms"] for run in runs])),
        first_ms=float(np.median([run["first_ms"] for run in runs])),
        runs=len(pooled),
        processes=len(runs),
        threads=threads,
    )


def memory(answers: Sequence[Answer]) -> Memory | None:
    """Return one artifact's memory, the medians over processes; None where the system does not tell."""
    peaks = [answer["peak_bytes"] for answer in answers if answer["peak_bytes"] is not None]
    growths = [answer["growth_bytes"] for answer in answers if answer["growth_bytes"] is not None]
    if not peaks or not growths:
        return None
    return Memory(peak_bytes=int(np.median(peaks)), growth_bytes=int(np.median(growths)))


def ratio(answers: Sequence[Answer], *, threads: int, rng: np.random.Generator) -> Interval:
    """Return the time of the last artifact over the first's, from samples taken in the same round.

    CPU time for one thread, as it leaves out what other processes take. With several threads the waiting
    ones may spin, which CPU time counts: wall time then.
    """
    return median_interval([_pairwise(answer["runs"], threads) for answer in answers], rng=rng)


def _pairwise(runs: Sequence[Run], threads: int) -> NDArray[np.float64]:
    first, last = runs[0], runs[-1]
    if threads == 1:
        return np.divide(last["cpu_ms"], first["cpu_ms"])
    return np.divide(last["wall_ms"], first["wall_ms"])


def _redraw(samples: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return samples[rng.integers(len(samples), size=len(samples))]
