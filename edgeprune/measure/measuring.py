"""The verb of this room: which processes run, in which order, and what their answers come to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgeprune.measure import local, noise, stats, turns, worker
from edgeprune.measure.files import check_files
from edgeprune.measure.worker import Answer, Job
from edgeprune.records import Floats, Interval, Measurement
from edgeprune.scratch import scratch

log = logging.getLogger(__name__)

PAIRS = 40
"""Rounds of one interleaving process."""
STREAM_PROCESSES = 3
SEED = 2002
"""Of the bootstrap: the same samples always give the same intervals."""

RunJob = Callable[[Job], Answer]
Value = TypeVar("Value")


@dataclass(slots=True, kw_only=True)
class _Seen:
    """The answers so far, by what was asked."""

    alone: dict[str, list[Answer]]
    paired: list[Answer] = field(default_factory=list)
    streamed: dict[str, list[Answer]] = field(default_factory=dict)
    profiled: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """One process: the artifacts it runs, and how."""

    names: tuple[str, ...]
    streams: int = 0
    operators: bool = False


def measure(  # noqa: PLR0913 - keywords, and most have a default
    artifacts: Mapping[str, Path],
    *,
    runtime: str,
    threads: int,
    image: Floats,
    processes: int = 5,
    min_runs: int = 200,
    max_seconds: float = 4.0,
    streams: int = 0,
    operators: bool = False,
    cpus: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    run_job: RunJob = local.run,
) -> Measurement:
    """Return time and memory of each artifact, and the time of each over the ones before it.

    Args:
        artifacts: Name to file, the baseline first.
        image: What every inference reads, shape (C, H, W) or (1, C, H, W).
        processes: Fresh processes per artifact, and as many that interleave all of them.
        min_runs: Timed runs in each process; of artifacts under 1 ms, a run is an average over 1 ms.
        max_seconds: A process stops short of `min_runs` after this long (never below 5 runs).
        streams: So many inferences at once, in processes of their own, for the throughput; 0: none.
        operators: Whether to time each artifact's operators too.
        cpus: Where to run on the target; None: chosen on this machine.
        on_progress: Called with the processes done and their total.
        on_wait: Called when another measurement on this machine has to end first.
        run_job: Does one worker's job on the target; default: on this machine.

    Raises:
        TargetUnreachable: The runtime is not installed, or the device cannot be reached.
        InputError: A file is missing, or more threads than CPUs.
        ModelError: The runtime refuses an artifact, crashes on it or does not come to an end.
    """
    check_files(artifacts)
    chosen = local.choose_cpus(threads) if cpus is None else list(cpus)
    plan = _schedule(tuple(artifacts), processes, streams=streams, operators=operators)
    seen = _Seen(alone={name: [] for name in artifacts})
    taking_turns = turns.turn(on_wait) if run_job is local.run else contextlib.nullcontext()
    with taking_turns, scratch() as folder:
        image_file = Path(folder, "image.npy")
        np.save(image_file, np.ascontiguousarray(image.reshape(1, *image.shape[-3:]), dtype=np.float32))
        for done, turn in enumerate(plan, start=1):
            job: Job = {
                "artifacts": [str(artifacts[name].resolve()) for name in turn.names],
                "runtime": runtime,
                "threads": threads,
                "cpus": [] if turn.streams else chosen,
                "image": str(image_file),
                "rounds": min_runs if len(turn.names) == 1 else PAIRS,
                "max_seconds": max_seconds * max(1, len(turn.names) / 2),
            }
            _ask(job, turn, seen, run_job)
            if on_progress:
                on_progress(done, len(plan))
    return _summarise(seen, threads, chosen, streams)


def _ask(job: Job, turn: _Turn, seen: _Seen, run_job: RunJob) -> None:
    name = turn.names[0]
    if turn.streams:
        job["streams"] = turn.streams
        seen.streamed.setdefault(name, []).append(run_job(job))
    elif turn.operators:
        job["operators"] = True
        seen.profiled[name] = run_job(job)
    elif len(turn.names) > 1:
        seen.paired.append(run_job(job))
    else:
        seen.alone[name].append(run_job(job))


def describe_machine() -> dict[str, str]:
    """Return this machine's CPU, features, cores, kernel, governor and Python; no host or user names."""
    return worker.describe_machine()


def noise_now() -> tuple[str, ...]:
    """Return what would disturb a measurement on this machine right now, in words."""
    about = worker.describe_machine()
    found = noise.machine(
        load_average=worker.load_average(),
        cores=int(about["cores"]) if about["cores"].isdigit() else 1,
        governor=about["governor"],
        pressure=worker.pressure_now(),
    )
    return tuple(disturbance.sentence for disturbance in found)


def _schedule(names: tuple[str, ...], processes: int, *, streams: int, operators: bool) -> list[_Turn]:
    """Give each process's work: forwards and backwards in turn, so that drifts cancel out."""
    plan: list[_Turn] = []
    for turn in range(processes):
        plan += [_Turn(names=(name,)) for name in (names if turn % 2 == 0 else reversed(names))]
        if len(names) > 1:
            plan.append(_Turn(names=names))
    if streams:
        plan += [_Turn(names=(name,), streams=streams) for _ in range(STREAM_PROCESSES) for name in names]
    if operators:
        plan += [_Turn(names=(name,), operators=True) for name in names]
    return plan


def _summarise(seen: _Seen, threads: int, cpus: list[int], streams: int) -> Measurement:
    rng = np.random.default_rng(SEED)
    alone, paired = seen.alone, seen.paired
    latency = {
        name: stats.latency([answer["runs"][0] for answer in answers], threads=threads, rng=rng)
        for name, answers in alone.items()
    }
    ratios = _ratios(tuple(alone), paired, threads, rng)
    ratio = ratios[-1][2] if ratios else Interval(value=1.0, low=1.0, high=1.0)
    everyone = [*(answer for answers in alone.values() for answer in answers), *paired]
    found = [*noise.processes(everyone, threads=threads), *noise.spread(latency, ratio)]
    log.info("measured %s in %d processes", ", ".join(alone), len(everyone))
    return Measurement(
        latency=latency,
        memory=_known({name: stats.memory(answers) for name, answers in alone.items()}),
        ratio=ratio,
        ratio_basis="cpu time" if threads == 1 else "wall time",
        pairs=sum(len(answer["runs"][0]["wall_ms"]) for answer in paired),
        quality="noisy" if any(disturbance.serious for disturbance in found) else "good",
        noise=tuple(disturbance.sentence for disturbance in found),
        machine=_machine(everyone, cpus),
        throughput={
            name: stats.throughput([answer["runs"][0] for answer in answers], streams)
            for name, answers in seen.streamed.items()
        },
        energy_mj=_known({name: stats.energy_mj(answers) for name, answers in alone.items()}),
        operators={name: stats.operators(answer["runs"][0]) for name, answer in seen.profiled.items()},
        ratios=_table(ratios) if len(ratios) > 1 else {},
    )


def _ratios(
    names: tuple[str, ...], paired: list[Answer], threads: int, rng: np.random.Generator
) -> list[tuple[str, str, Interval]]:
    """Give the time of each artifact over each earlier one; the last entry is the last over the first."""
    if not paired:
        return []
    pairs = [(later, earlier) for later in range(len(names)) for earlier in reversed(range(later))]
    return [(names[a], names[b], stats.ratio(paired, threads=threads, rng=rng, of=(a, b))) for a, b in pairs]


def _table(ratios: list[tuple[str, str, Interval]]) -> dict[str, dict[str, Interval]]:
    found: dict[str, dict[str, Interval]] = {}
    for later, earlier, ratio in ratios:
        found.setdefault(later, {})[earlier] = ratio
    return found


def _known(figures: Mapping[str, Value | None]) -> dict[str, Value]:
    """Leave out what the system does not tell."""
    return {name: figure for name, figure in figures.items() if figure is not None}


def _machine(answers: list[Answer], cpus: list[int]) -> dict[str, str]:
    inferences = [run["inferences"] for answer in answers for run in answer["runs"]]
    return {
        **answers[0]["machine"],
        "affinity": f"CPU {', '.join(map(str, cpus))}" if cpus else "not pinned",
        "inferences per timed run": str(max(inferences)),
    }
