"""Measures artifacts on the target's CPU: time, memory, and how far the figures can be trusted.

Absolute times come from fresh processes that run one artifact; the ratio from processes that interleave
the first artifact and the last, because both then meet the same disturbances.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgeprune.errors import InputError
from edgeprune.measure import local, noise, stats, worker
from edgeprune.measure.worker import Answer, Job
from edgeprune.records import Floats, Interval, Measurement

log = logging.getLogger(__name__)

PAIRS = 40
"""Rounds of one interleaving process."""
SEED = 2002
"""Of the bootstrap: the same samples always give the same intervals."""

RunJob = Callable[[Job], Answer]


def measure(  # noqa: PLR0913 - keywords, and most have a default
    artifacts: Mapping[str, Path],
    *,
    runtime: str,
    threads: int,
    image: Floats,
    processes: int = 5,
    min_runs: int = 200,
    max_seconds: float = 4.0,
    on_progress: Callable[[int, int], None] | None = None,
    run_job: RunJob = local.run,
) -> Measurement:
    """Return time and memory of each artifact, and the time of the last over the first.

    Args:
        artifacts: Name to file, the baseline first.
        image: What every inference reads, shape (C, H, W) or (1, C, H, W).
        processes: Fresh processes per artifact, and as many that interleave first and last.
        min_runs: Timed runs in each process; of artifacts under 1 ms, a run is an average over 1 ms.
        max_seconds: A process stops short of `min_runs` after this long (never below 5 runs).
        on_progress: Called with the processes done and their total.
        run_job: Does one worker's job on the target; default: on this machine.

    Raises:
        TargetUnreachable: The runtime is not installed.
        InputError: A file is missing, or more threads than CPUs.
        ModelError: The runtime refuses an artifact, crashes on it or does not come to an end.
    """
    _check_files(artifacts)
    cpus = local.choose_cpus(threads)
    alone: dict[str, list[Answer]] = {name: [] for name in artifacts}
    paired: list[Answer] = []
    plan = _schedule(tuple(artifacts), processes)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        image_file = Path(folder, "image.npy")
        np.save(image_file, np.ascontiguousarray(image.reshape(1, *image.shape[-3:]), dtype=np.float32))
        for done, names in enumerate(plan, start=1):
            job: Job = {
                "artifacts": [str(artifacts[name].resolve()) for name in names],
                "runtime": runtime,
                "threads": threads,
                "cpus": cpus,
                "image": str(image_file),
                "rounds": min_runs if len(names) == 1 else PAIRS,
                "max_seconds": max_seconds,
            }
            answers = alone[names[0]] if len(names) == 1 else paired
            answers.append(run_job(job))
            if on_progress:
                on_progress(done, len(plan))
    return _summarise(alone, paired, threads, cpus)


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


def _check_files(artifacts: Mapping[str, Path]) -> None:
    for name, path in artifacts.items():
        if not path.is_file():
            raise InputError(f"{path}: no such file, so {name} cannot be measured; export it first.")


def _schedule(names: tuple[str, ...], processes: int) -> list[tuple[str, ...]]:
    """Give the artifacts of each process: forwards and backwards in turn, so that drifts cancel out."""
    plan: list[tuple[str, ...]] = []
    for turn in range(processes):
        plan += [(name,) for name in (names if turn % 2 == 0 else reversed(names))]
        if len(names) > 1:
            plan.append((names[0], names[-1]))
    return plan


def _summarise(
    alone: Mapping[str, list[Answer]], paired: list[Answer], threads: int, cpus: list[int]
) -> Measurement:
    rng = np.random.default_rng(SEED)
    latency = {
        name: stats.latency([answer["runs"][0] for answer in answers], threads=threads, rng=rng)
        for name, answers in alone.items()
    }
    ratio = (
        stats.ratio(paired, threads=threads, rng=rng) if paired else Interval(value=1.0, low=1.0, high=1.0)
    )
    everyone = [*(answer for answers in alone.values() for answer in answers), *paired]
    found = [*noise.processes(everyone, threads=threads), *noise.spread(latency, ratio)]
    memory = {name: stats.memory(answers) for name, answers in alone.items()}
    known = {name: figures for name, figures in memory.items() if figures is not None}
    log.info("measured %s in %d processes", ", ".join(alone), len(everyone))
    return Measurement(
        latency=latency,
        memory=known,
        ratio=ratio,
        ratio_basis="cpu time" if threads == 1 else "wall time",
        pairs=sum(len(answer["runs"][0]["wall_ms"]) for answer in paired),
        quality="noisy" if any(disturbance.serious for disturbance in found) else "good",
        noise=tuple(disturbance.sentence for disturbance in found),
        machine=_machine(everyone, cpus),
    )


def _machine(answers: list[Answer], cpus: list[int]) -> dict[str, str]:
    inferences = [run["inferences"] for answer in answers for run in answer["runs"]]
    return {
        **answers[0]["machine"],
        "affinity": f"CPU {', '.join(map(str, cpus))}" if cpus else "not pinned",
        "inferences per timed run": str(max(inferences)),
    }
