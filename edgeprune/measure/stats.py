"""From raw samples to figures with intervals; pure functions of samples and a generator.

Samples of one process are alike: they share a memory layout, a CPU's mood, a minute. Intervals therefore
come from drawing processes, then samples within each drawn process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeprune.measure.worker import Answer, Run
from edgeprune.records import Interval, Latency, Memory, OperatorTime, Throughput

Samples = Sequence[NDArray[np.float64]]
"""One array per process."""

RESAMPLES = 2000
RUNS_FOR_P90 = 64
RUNS_FOR_P99 = 662
"""Runs that MLPerf's early stopping asks for."""


def median_interval(samples: Samples, *, rng: np.random.Generator) -> Interval:
    """Return the median of the pooled samples with its 95 % interval."""
    return quantile_intervals(samples, (0.5,), rng=rng)[0]


def quantile_intervals(
    samples: Samples, shares: tuple[float, ...], *, rng: np.random.Generator
) -> tuple[Interval, ...]:
    """Return some quantiles of the pooled samples with their 95 % intervals."""
    processes = len(samples)
    drawn = np.array(
        [
            _quantiles(np.concatenate([_redraw(samples[i], rng) for i in chosen]), shares)
            for chosen in rng.integers(processes, size=(RESAMPLES, processes))
        ]
    )
    tail = tail_share(processes)
    lows, highs = np.quantile(drawn, [tail, 1 - tail], axis=0)
    values = np.quantile(np.concatenate(samples), shares)
    return tuple(
        Interval(value=float(value), low=float(low), high=float(high))
        for value, low, high in zip(values, lows, highs, strict=True)
    )


def _quantiles(values: NDArray[np.float64], shares: tuple[float, ...]) -> NDArray[np.float64]:
    """As np.quantile, which takes several times as long for a few hundred values."""
    places = np.asarray(shares) * (len(values) - 1)
    return np.asarray(np.interp(places, np.arange(len(values)), np.sort(values)))


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
    p50, p90 = quantile_intervals(wall, (0.5, 0.9), rng=rng)
    return Latency(
        p50_ms=p50,
        p90_ms=p90.value,
        p90_interval_ms=p90 if len(pooled) >= RUNS_FOR_P90 else None,
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


def energy_mj(answers: Sequence[Answer]) -> float | None:
    """Return the energy of one inference, the whole CPU's; None where the system does not tell."""
    joules = [answer["counters"].get("energy_joules", 0.0) for answer in answers]
    inferences = [answer["runs"][0]["inferences"] * len(answer["runs"][0]["wall_ms"]) for answer in answers]
    # A counter that went round has grown by less than nothing.
    each = [
        1000 * spent / count for spent, count in zip(joules, inferences, strict=True) if spent > 0 and count
    ]
    return float(np.median(each)) if each else None


def throughput(runs: Sequence[Run], streams: int) -> Throughput:
    """Return the inferences per second of several streams, the median over processes."""
    rates = [1000 * run["inferences"] / run["wall_ms"][0] for run in runs]
    return Throughput(per_second=float(np.median(rates)), streams=streams)


def operators(run: Run) -> tuple[OperatorTime, ...]:
    """Return the operators of one run, the longest first."""
    found = [
        OperatorTime(name=name, kind=kind, time_ms=float(time_ms))
        for name, kind, time_ms in run.get("operators", [])
    ]
    return tuple(sorted(found, key=lambda operator: -operator.time_ms))


def ratio(
    answers: Sequence[Answer], *, threads: int, rng: np.random.Generator, of: tuple[int, int] = (-1, 0)
) -> Interval:
    """Return the time of one artifact over another's, the last over the first's, from the same rounds.

    CPU time for one thread, as it leaves out what other processes take. With several threads the waiting
    ones may spin, which CPU time counts: wall time then.
    """
    return median_interval([_pairwise(answer["runs"], threads, of) for answer in answers], rng=rng)


def _pairwise(runs: Sequence[Run], threads: int, of: tuple[int, int]) -> NDArray[np.float64]:
    last, first = (runs[which] for which in of)
    if threads == 1:
        return np.divide(last["cpu_ms"], first["cpu_ms"])
    return np.divide(last["wall_ms"], first["wall_ms"])


def _redraw(samples: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return samples[rng.integers(len(samples), size=len(samples))]
