"""Networks that differ in their widths, on the target: each as a whole, and operator by operator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgeprune.measure import local, turns
from edgeprune.measure.worker import Answer, Job, Run
from edgeprune.records import Floats, Profile, ProfiledOperator
from edgeprune.scratch import scratch

ROUNDS = 40


def profile(  # noqa: PLR0913 - keywords with defaults
    artifacts: Sequence[Path],
    *,
    runtime: str,
    threads: int,
    image: Floats,
    max_seconds: float = 10.0,
    cpus: list[int] | None = None,
    run_job: Callable[[Job], Answer] = local.run,
) -> list[Profile]:
    """Return the profile of each artifact; they are timed in turn, in one process, against the first.

    Args:
        artifacts: Files, the dense network first.
        image: What every inference reads, shape (C, H, W).
        max_seconds: For the times of the whole networks, all together.
        cpus: Where to run on the target; None: chosen on this machine.
        run_job: Does one worker's job on the target.

    Raises:
        TargetUnreachable, ModelError: as `measure`.
    """
    taking_turns = turns.turn() if run_job is local.run else contextlib.nullcontext()
    with taking_turns, scratch() as folder:
        file = Path(folder, "image.npy")
        np.save(file, np.ascontiguousarray(image.reshape(1, *image.shape[-3:]), dtype=np.float32))
        job: Job = {
            "artifacts": [str(path.resolve()) for path in artifacts],
            "runtime": runtime,
            "threads": threads,
            "cpus": local.choose_cpus(threads) if cpus is None else cpus,
            "image": str(file),
            "rounds": ROUNDS,
            "max_seconds": max_seconds,
        }
        timed = run_job(job)["runs"]
        profiled = run_job({**job, "operators": True})["runs"]
    latencies = against_first(timed, threads)
    return [
        Profile(latency_ms=ms, operators=operators(run)) for ms, run in zip(latencies, profiled, strict=True)
    ]


def against_first(runs: Sequence[Run], threads: int) -> list[float]:
    """Latencies in milliseconds: the first's own, the others by the median of pairwise ratios."""
    times = [np.asarray(run["cpu_ms"] if threads == 1 else run["wall_ms"]) for run in runs]
    own = float(np.quantile(times[0], 0.25))
    return [own * float(np.median(each / times[0])) for each in times]


def operators(run: Run) -> tuple[ProfiledOperator, ...]:
    """Return a run's operators with their shapes, in the order in which they ran."""
    found = zip(run.get("operators", []), run.get("shapes", []), strict=True)
    return tuple(
        ProfiledOperator(name=name, kind=kind, time_ms=time_ms, shapes=tuple(tuple(s) for s in shapes))
        for (name, kind, time_ms), shapes in found
    )
