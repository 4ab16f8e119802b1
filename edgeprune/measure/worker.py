"""Runs alone on the target: opens one or more artifacts, times them, and answers what it saw.

Copied to the device as it is and started as `python -I worker.py`, so it needs nothing but Python 3.9,
NumPy and the runtime's wheel. The job is one JSON line on standard input (`Job`), the answer one line on
standard output: a record separator, the word EDGEPRUNE, and JSON (`Answer` or `Refused`).
Standard input stays open as a lease: when the caller goes away, so does this process (exit code 75).
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import platform
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, TypedDict, final  # noqa: UP035 - runs as a file of its own on Python 3.9

MARK = "\x1eEDGEPRUNE "
ABANDONED = 75
PRESSURE_FILE = Path("/proc/pressure/cpu")
GOVERNOR_FILE = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
FEATURES = (
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
)

WARM_RUNS = 10
WARM_SECONDS = 0.2
STEADY_RUNS = 5
STEADY_SPREAD = 0.1
SAMPLE_MS = 1.0
"""A timed sample lasts at least this long, so that the clocks' resolution and cost do not show."""
FEWEST_ROUNDS = 5


class Job(TypedDict):
    """What to do; several artifacts are interleaved."""

    artifacts: list[str]
    runtime: str
    threads: int
    cpus: list[int]
    """The CPUs to stay on; empty: any."""
    image: str
    """An .npy file, float32, shape (1, C, H, W)."""
    rounds: int
    max_seconds: float
    """End before `rounds` are done (but not before FEWEST_ROUNDS)."""


class Run(TypedDict):
    """One artifact in this process. Sample i of every artifact was taken in round i."""

    load_ms: float
    first_ms: float
    inferences: int
    """Per timed sample; samples are averages over them."""
    wall_ms: list[float]
    cpu_ms: list[float]


@final
class Answer(TypedDict):
    """What was seen. None or absent: this system does not tell."""

    runs: list[Run]
    peak_bytes: int | None
    growth_bytes: int | None
    counters: dict[str, float]
    """How much each of `counters()` grew during the timed rounds."""
    load_average: float
    machine: dict[str, str]


@final
class Refused(TypedDict):
    """Why there is no answer; kind is `runtime` or `model`."""

    refused: str
    detail: str


class RefusalError(Exception):
    """The job cannot be done, for a reason that the caller puts into words."""

    def __init__(self, kind: str, err: Exception) -> None:
        super().__init__(" ".join(str(err).split())[:400])
        self.kind = kind


# --- the runtimes: as edgeprune/runtime sets them --------------------------------------------------------


def settings(runtime: str, threads: int) -> dict[str, str | int]:
    """Return what is set on a runtime, under its own names; a test holds it equal to edgeprune.runtime's."""
    table: dict[str, dict[str, str | int]] = {
        "openvino": {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        },
        "onnxruntime": {
            "execution_mode": "ORT_SEQUENTIAL",
            "inter_op_num_threads": 1,
            "intra_op_num_threads": threads,
            "log_severity_level": 3,
        },
    }
    return table[runtime]


def open_openvino(path: str, threads: int, image: Any) -> Callable[[], object]:  # Any: a NumPy array
    """Compile an artifact and give it its image; the result runs one inference."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    shape = model.input(0).partial_shape
    if shape[0].is_dynamic:
        shape[0] = 1
        model.reshape(shape)
    request = core.compile_model(model, "CPU", settings("openvino", threads)).create_infer_request()
    request.set_input_tensor(ov.Tensor(image))  # copies: a tensor that shares memory does not keep it alive
    infer: Callable[[], object] = request.infer
    return infer


def open_onnxruntime(path: str, threads: int, image: Any) -> Callable[[], object]:  # Any: a NumPy array
    """Start a session on an artifact and give it its image; the result runs one inference."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    for name, value in settings("onnxruntime", threads).items():
        setattr(options, name, getattr(ort.ExecutionMode, value) if isinstance(value, str) else value)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, feed)


OPEN = {"openvino": open_openvino, "onnxruntime": open_onnxruntime}


# --- the job -----------------------------------------------------------------------------------------------


def work(job: Job) -> Answer:
    """Load, warm up and time the artifacts of a job."""
    if job["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpus"])
    image, versions = start(job)
    reset_peak()
    bare_bytes = peak_bytes()
    infers: list[Callable[[], object]] = []
    runs: list[Run] = []
    for path in job["artifacts"]:
        infer, run = open_artifact(job, path, image)
        run["inferences"] = math.ceil(SAMPLE_MS / warm_up(infer, job["max_seconds"] / 4))
        infers.append(infer)
        runs.append(run)
    gc.disable()
    before = counters()
    take_rounds(job, infers, runs)
    grown = {name: value - before[name] for name, value in counters().items() if name in before}
    peak = peak_bytes()
    return {
        "runs": runs,
        "peak_bytes": peak,
        "growth_bytes": None if peak is None or bare_bytes is None else peak - bare_bytes,
        "counters": grown,
        "load_average": load_average(),
        "machine": {**describe_machine(), **versions},
    }


def start(job: Job) -> tuple[Any, dict[str, str]]:  # Any: a NumPy array, which is imported here
    """Import what the job needs; gives the image and the versions of what was imported."""
    try:
        import numpy as np

        runtime = __import__(job["runtime"])
    except ImportError as err:
        raise RefusalError("runtime", err) from err
    return np.load(job["image"]), {job["runtime"]: runtime.__version__, "numpy": np.__version__}


def open_artifact(job: Job, path: str, image: Any) -> tuple[Callable[[], object], Run]:  # Any: a NumPy array
    """Open an artifact and run it once, both timed."""
    begin = time.perf_counter_ns()
    try:
        infer = OPEN[job["runtime"]](path, job["threads"], image)
        opened = time.perf_counter_ns()
        infer()
    except Exception as err:  # the runtimes' errors have no common parent
        raise RefusalError("model", err) from err
    ran = time.perf_counter_ns()
    run: Run = {
        "load_ms": (opened - begin) / 1e6,
        "first_ms": (ran - opened) / 1e6,
        "inferences": 1,
        "wall_ms": [],
        "cpu_ms": [],
    }
    return infer, run


def warm_up(infer: Callable[[], object], max_seconds: float) -> float:
    """Run until the times are steady, or for `max_seconds`; gives the last ones' median in milliseconds."""
    begin = time.perf_counter()
    times: list[float] = []
    while not times or not is_warm(times, time.perf_counter() - begin, max_seconds):
        times.append(sample(infer, 1)[0])
    return statistics.median(times[-STEADY_RUNS:])


def is_warm(times: list[float], seconds: float, max_seconds: float) -> bool:
    """Say whether the warm-up may end: long enough, and the last times are close together."""
    if seconds >= max_seconds:
        return True
    if len(times) < WARM_RUNS or seconds < WARM_SECONDS:
        return False
    last = times[-STEADY_RUNS:]
    middle = statistics.median(last)
    return all(abs(each - middle) <= STEADY_SPREAD * middle for each in last)


def take_rounds(job: Job, infers: list[Callable[[], object]], runs: list[Run]) -> None:
    """Append one sample of each artifact a round to `runs`; every second round goes backwards (ABBA)."""
    begin = time.perf_counter()
    for done in range(job["rounds"]):
        if done >= FEWEST_ROUNDS and time.perf_counter() - begin >= job["max_seconds"]:
            return
        order = list(zip(infers, runs))  # noqa: B905 - Python 3.9 has no strict zip
        for infer, run in order if done % 2 == 0 else reversed(order):
            if len(order) > 1:
                infer()  # not timed: brings this artifact's weights back into the caches
            wall_ms, cpu_ms = sample(infer, run["inferences"])
            run["wall_ms"].append(wall_ms)
            run["cpu_ms"].append(cpu_ms)


def sample(infer: Callable[[], object], inferences: int) -> tuple[float, float]:
    """Return the wall and the process CPU time of one inference, in milliseconds, averaged over some."""
    wall_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    for _ in range(inferences):
        infer()
    cpu_ns = time.process_time_ns() - cpu_ns
    wall_ns = time.perf_counter_ns() - wall_ns
    return wall_ns / 1e6 / inferences, cpu_ns / 1e6 / inferences


# --- the machine: each fact only where the system tells it -------------------------------------------------


def reset_peak() -> None:
    """Let the peak of resident memory begin anew (Linux; elsewhere it stays as it is)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int | None:
    """Return the peak of this process's resident memory since the last `reset_peak`."""
    for line in read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def counters() -> dict[str, float]:
    """Return what only ever grows: clocks, and signs that others use this CPU."""
    found = {"wall_seconds": time.perf_counter(), "cpu_seconds": time.process_time()}
    with contextlib.suppress(ImportError):
        import resource

        found["involuntary_switches"] = float(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)
    for line in read(PRESSURE_FILE).splitlines():
        if line.startswith("some "):
            found["pressure_seconds"] = float(line.rpartition("total=")[2]) / 1e6
    ticks = read(Path("/proc/stat")).partition("\n")[0].split()
    if len(ticks) > 8:  # noqa: PLR2004 - cpu user nice system idle iowait irq softirq steal
        found["ticks"] = float(sum(map(int, ticks[1:9])))
        found["stolen_ticks"] = float(ticks[8])
    for line in cgroup_cpu_stat().splitlines():
        if line.startswith("nr_throttled "):
            found["throttled_periods"] = float(line.split()[1])
    return found


def cgroup_cpu_stat() -> str:
    """Return cpu.stat of this process's cgroup (version 2), empty when there is none."""
    own = read(Path("/proc/self/cgroup")).rpartition("0::/")[2].partition("\n")[0]
    return read(Path("/sys/fs/cgroup", own, "cpu.stat"))


def pressure_now() -> float | None:
    """Return the share of the last ten seconds in which some process waited for a CPU."""
    text = read(PRESSURE_FILE)
    return float(text.partition("avg10=")[2].split()[0]) / 100 if "avg10=" in text else None


def load_average() -> float:
    """Return the load average of the last minute, 0 where there is none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def describe_machine() -> dict[str, str]:
    """Return what a reader needs to compare figures: CPU, features, cores, kernel, governor, Python."""
    facts = cpu_facts()
    features = (facts.get("flags") or facts.get("Features") or "").split()
    board = read(Path("/proc/device-tree/model")).strip("\0\n ")
    return {
        "cpu": facts.get("model name") or board or platform.processor() or platform.machine(),
        "features": " ".join(name for name in FEATURES if name in features) or "unknown",
        "cores": str(os.cpu_count() or "unknown"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "governor": read(GOVERNOR_FILE).strip() or "unknown",
        "python": platform.python_version(),
    }


def cpu_facts() -> dict[str, str]:
    """Return the first processor's lines of /proc/cpuinfo."""
    facts: dict[str, str] = {}
    for line in read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def read(path: Path) -> str:
    """Return a small system file, empty when it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- the conversation --------------------------------------------------------------------------------------


def end_with_caller() -> None:
    """Wait for the end of standard input, then leave at once."""
    while os.read(0, 4096):
        pass
    os._exit(ABANDONED)


def main() -> None:
    """Do the one job that standard input names."""
    job: Job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=end_with_caller, daemon=True).start()
    answer: Answer | Refused
    try:
        answer = work(job)
    except RefusalError as err:
        answer = {"refused": err.kind, "detail": str(err)}
    sys.stdout.write(f"\n{MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
