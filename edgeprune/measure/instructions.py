"""CPU instructions of one inference: the same figure on a busy machine as on an idle one.

Two runs that differ by a few inferences are counted; the difference leaves out imports and loading. Good for
noticing a change, not for predicting a time: instructions differ in what they cost.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeprune.errors import EdgepruneError
from edgeprune.measure import local
from edgeprune.measure.worker import Job
from edgeprune.records import Floats, Instructions
from edgeprune.scratch import scratch

FEWER, MORE = 1, 3
TIMEOUT_SECONDS = 1800.0


def instructions(
    path: Path, *, runtime: str, image: Floats, counter: str | None = None
) -> Instructions | None:
    """Return the instructions of one inference with one thread; None where nothing here can count them.

    Args:
        counter: `perf` (at once) or `callgrind` (minutes); None: perf where the CPU lets it count, else none.
    """
    method = counter or ("perf" if perf_counts() else None)
    if method is None or not shutil.which("perf" if method == "perf" else "valgrind"):
        return None
    with scratch() as folder:
        image_file = Path(folder, "image.npy")
        np.save(image_file, np.ascontiguousarray(image.reshape(1, *image.shape[-3:]), dtype=np.float32))
        counts = [
            _count(_job(path, runtime, image_file, repeats), method, Path(folder, f"count{repeats}"))
            for repeats in (FEWER, MORE)
        ]
    if counts[0] is None or counts[1] is None:
        return None
    return Instructions(per_inference=(counts[1] - counts[0]) / (MORE - FEWER), method=method)


def perf_counts() -> bool:
    """Say whether perf is here and this CPU (or its host) lets it count instructions."""
    perf = shutil.which("perf")
    if perf is None:
        return False
    with scratch() as folder:
        out = folder / "count"
        words = [*_perf(perf, out), sys.executable, "-c", ""]
        done = subprocess.run(words, capture_output=True, check=False)  # noqa: S603 - our own words
        return done.returncode == 0 and read_perf(out.read_text(encoding="utf-8")) is not None


def read_perf(text: str) -> float | None:
    """Return the count of `perf stat -x,`; None where it says <not supported>."""
    found = re.search(r"^(\d+),[^,]*,instructions", text, re.MULTILINE)
    return float(found[1]) if found else None


def read_callgrind(text: str) -> float | None:
    """Return the sum in a file that callgrind wrote."""
    found = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    return float(found[1]) if found else None


def _perf(perf: str, out: Path) -> Sequence[str]:
    return (perf, "stat", "-x,", "-e", "instructions:u", "-o", str(out), "--")


def _count(job: Job, method: str, out: Path) -> float | None:
    if method == "perf":
        under = tuple(_perf("perf", out))
    else:
        under = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}")
    try:
        local.ask(job, under=under, timeout_seconds=TIMEOUT_SECONDS)
        text = out.read_text(encoding="utf-8", errors="replace")
    except (OSError, EdgepruneError):
        return None
    return read_perf(text) if method == "perf" else read_callgrind(text)


def _job(path: Path, runtime: str, image: Path, repeats: int) -> Job:
    return {
        "task": "repeat",
        "artifacts": [str(path.resolve())],
        "runtime": runtime,
        "threads": 1,
        "cpus": [],
        "image": str(image),
        "rounds": repeats,
        "max_seconds": 0.0,
    }
