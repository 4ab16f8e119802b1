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
from typing import IO, Any, cast

from edgeprune.errors import InputError, ModelError
from edgeprune.measure import answers, worker
from edgeprune.measure.worker import Answer, Job, Refused

log = logging.getLogger(__name__)

WORKER = Path(worker.__file__)
TIMEOUT_SECONDS = 300.0


def run(job: Job, *, program: Path = WORKER, timeout_seconds: float = TIMEOUT_SECONDS) -> Answer:
    """Do one job in a fresh process, which never outlives this call.

    Raises:
        TargetUnreachable: The runtime is not installed here.
        ModelError: The runtime refuses an artifact, crashes on it, or takes longer than the timeout.
    """
    return cast(Answer, ask(job, program=program, timeout_seconds=timeout_seconds))


# Any: what a task answers is its own.
def ask(
    job: Job,
    *,
    program: Path = WORKER,
    timeout_seconds: float = TIMEOUT_SECONDS,
    under: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Do a job of any task; `under` is a program that runs the worker, an instruction counter for example."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        exit_code = _converse(job, (*under, sys.executable, "-I", str(program)), timeout_seconds, out, err)
        err.seek(0)
        complaint = answers.last_words(err.read())
        out.seek(0)
        answer = answers.find(out.read())
    names = " and ".join(job["artifacts"])
    if answer is not None and "refused" not in answer:
        return answer
    if answer is not None:
        raise answers.refusal(job["runtime"], names, cast(Refused, answer))
    happened = f"took longer than {timeout_seconds:g} s" if exit_code is None else answers.ending(exit_code)
    raise ModelError(f"{names}: measuring with {job['runtime']} {happened}; its last words: {complaint}")


def choose_cpus(threads: int) -> list[int]:
    """Return the CPUs to measure on (see the worker); raises InputError where there are too few."""
    usable = worker.usable_cpus()
    if hasattr(os, "sched_getaffinity") and threads > usable:
        raise InputError(
            f"threads = {threads}, but only {usable} CPUs can be used here; set {usable} or less."
        )
    return worker.choose_cpus(threads)


def _converse(
    job: Job, command: tuple[str, ...], timeout_seconds: float, out: IO[bytes], err: IO[bytes]
) -> int | None:
    """Give the exit code, None after a timeout. Standard input stays open: it is the worker's lease."""
    log.debug("measuring %s", job["artifacts"])
    environment = _environment(job)
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
            with contextlib.suppress(BrokenPipeError):  # what it did not read is flushed again
                process.stdin.close()


def _environment(job: Job) -> dict[str, str]:
    """CI=true keeps OpenVINO's telemetry silent; temporary files go beside the image, and with it."""
    threads = str(job["threads"])
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    place = {"TMPDIR": str(Path(job["image"]).parent)} if job["image"] else {}
    return {**os.environ, **limits, **place, "CI": "true"}
