"""Runs the worker in fresh processes on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from edgeprune.errors import InputError, ModelError, TargetUnreachable
from edgeprune.measure import worker
from edgeprune.measure.worker import Answer, Job, Refused

log = logging.getLogger(__name__)

WORKER = Path(worker.__file__)
TIMEOUT_SECONDS = 300.0
CPU_FOLDER = Path("/sys/devices/system/cpu")
STDERR_LINES = 5


def run(job: Job, *, program: Path = WORKER, timeout_seconds: float = TIMEOUT_SECONDS) -> Answer:
    """Do one job in a fresh process, which never outlives this call.

    Raises:
        TargetUnreachable: The runtime is not installed here.
        ModelError: The runtime refuses an artifact, crashes on it, or takes longer than the timeout.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        exit_code = _converse(job, program, timeout_seconds, out, err)
        last_words = _tail(err)
        answer = _find_answer(out)
    names = " and ".join(job["artifacts"])
    if answer is not None and "refused" not in answer:
        return answer
    if answer is not None:
        raise _refusal(job["runtime"], names, answer)
    happened = f"took longer than {timeout_seconds:g} s" if exit_code is None else _ending(exit_code)
    raise ModelError(f"{names}: measuring with {job['runtime']} {happened}; its last words: {last_words}")


def choose_cpus(threads: int) -> list[int]:
    """Return the CPUs to measure on: the fastest, one per core first, and not CPU 0 where there is a choice.

    CPU 0 serves most interrupts. Empty where the system does not let a process choose.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    allowed = os.sched_getaffinity(0)
    if threads > len(allowed):
        raise InputError(
            f"threads = {threads}, but only {len(allowed)} CPUs can be used here; set {len(allowed)} or less."
        )
    return sorted(sorted(allowed, key=_desirability)[-threads:])


def _desirability(cpu: int) -> tuple[int, bool, int]:
    folder = CPU_FOLDER / f"cpu{cpu}"
    top_khz = worker.read(folder / "cpufreq" / "cpuinfo_max_freq").strip()
    siblings = worker.read(folder / "topology" / "thread_siblings_list").strip()
    first_sibling = siblings.replace("-", ",").partition(",")[0]
    return int(top_khz or 0), first_sibling in ("", str(cpu)), cpu


def _converse(job: Job, program: Path, timeout_seconds: float, out: IO[bytes], err: IO[bytes]) -> int | None:
    """Give the exit code, None after a timeout. Standard input stays open: it is the worker's lease."""
    command = [sys.executable, "-I", str(program)]
    log.debug("measuring %s", job["artifacts"])
    environment = _environment(job["threads"])
    with subprocess.Popen(  # noqa: S603 - our own file, no shell
        command, stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment
    ) as process:
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # ended before it read the job: the exit code tells
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
            return process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()


def _environment(threads: int) -> dict[str, str]:
    """CI=true keeps OpenVINO's telemetry silent."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **limits, "CI": "true"}


def _find_answer(out: IO[bytes]) -> Answer | Refused | None:
    out.seek(0)
    for line in out.read().decode(errors="replace").split("\n"):
        if line.startswith(worker.MARK):
            answer: Answer | Refused = json.loads(line.removeprefix(worker.MARK))
            return answer
    return None


def _refusal(runtime: str, names: str, answer: Refused) -> TargetUnreachable | ModelError:
    if answer["refused"] == "runtime":
        return TargetUnreachable(
            f"{runtime} cannot be imported here ({answer['detail']}); run: pip install {runtime}"
        )
    return ModelError(f"{names}: {runtime} cannot run it ({answer['detail']}); export the network again.")


def _ending(exit_code: int) -> str:
    return f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"


def _tail(err: IO[bytes]) -> str:
    err.seek(0)
    lines = err.read().decode(errors="replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-STDERR_LINES:]) or "none"
