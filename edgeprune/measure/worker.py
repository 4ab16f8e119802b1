"""Runs alone on the target: opens one or more artifacts, times them, and answers what it saw.

Copied to the device as it is and started as `python worker.py`, so it needs nothing but Python 3.9, NumPy
and the runtime's wheel, and it is one file, however long. The job is one JSON line on standard input
(`Job`), the answer one line on standard output: a record separator, the word EDGEPRUNE, and JSON (`Answer` or
`Refused`).
Standard input stays open as a lease: when the caller goes away, so does this process (exit code 75).
No clock that can be set is read: a device that learns the time meanwhile measures on.

Tasks: `measure` (the default), `describe` the machine, `verify` files, `predict` (outputs of many images),
`shape` (of the images that a network reads),
`repeat` (inferences and nothing else, for instruction counters).
"""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, TypedDict, final  # noqa: UP035 - runs as a file of its own on Python 3.9

MARK = "\x1eEDGEPRUNE "
ABANDONED = 75
PRESSURE_FILE = Path("/proc/pressure/cpu")
CPU_FOLDER = Path("/sys/devices/system/cpu")
GOVERNOR_FILE = CPU_FOLDER / "cpu0/cpufreq/scaling_governor"
POWER_FOLDER = Path("/sys/class/powercap")
FIRMWARE_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
"""A Raspberry Pi's: bits 16 to 19 say what held the clock back since it was started."""
PROTOCOL = 1
"""Changes when an older caller would misread an answer."""
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
PROBE_BYTES = 1 << 20
PROFILED_RUNS = 20
CLOCK_MS = 0.001
"""Operators' times are told in whole microseconds, rounded down."""


class Wishes(TypedDict, total=False):
    """What a job may say beside the measurement itself."""

    task: str
    protocol: int
    lock_seconds: float
    """Wait this long for others who measure on this machine; 0: the caller sees to it."""
    streams: int
    """Run so many inferences at once for `max_seconds`, and count them: throughput, not latency."""
    operators: bool
    """Time each operator of every artifact instead of the whole."""
    digests: dict[str, str]
    """`verify`: file to SHA-256."""


class Job(Wishes):
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


class Operators(TypedDict, total=False):
    """What a run holds where the job asked for it."""

    operators: list[tuple[str, str, float]]
    """Name, kind, milliseconds: the mean of the faster half of some runs."""
    shapes: list[list[list[int]]]
    """Of each operator: the shapes of its inputs, as far as the runtime tells, and of its output last."""


class Run(Operators):
    """One artifact in this process. Sample i of every artifact was taken in round i."""

    load_ms: float
    first_ms: float
    inferences: int
    """Per timed sample; samples are averages over them."""
    wall_ms: list[float]
    cpu_ms: list[float]


class Probes(TypedDict, total=False):
    """The CPU's own speed, by a fixed piece of work."""

    probe_ms: tuple[float, float]
    """Before and after; the clock went down when it took longer after."""


@final
class Answer(Probes):
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
    """Why there is no answer; `refused` is `runtime`, `model`, `threads`, `busy`, `file` or `protocol`."""

    refused: str
    detail: str


class RefusalError(Exception):
    """The job cannot be done, for a reason that the caller puts into words."""

    def __init__(self, kind: str, err: Exception | str) -> None:
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


def compile_openvino(path: str, chosen: dict[str, str | int]) -> Any:  # Any: OpenVINO's compiled model
    """Read and compile an artifact; a dynamic batch size becomes 1."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    shape = model.input(0).partial_shape
    if shape[0].is_dynamic:
        shape[0] = 1
        model.reshape(shape)
    return core.compile_model(model, "CPU", chosen)


def requests_openvino(compiled: Any, image: Any, number: int) -> list[Any]:  # Any: OpenVINO's and an array
    """Give each of some requests its image; a copy, as a tensor that shares memory does not keep it alive."""
    import openvino as ov

    requests = [compiled.create_infer_request() for _ in range(number)]
    for request in requests:
        request.set_input_tensor(ov.Tensor(image))
    return requests


def open_openvino(path: str, threads: int, image: Any) -> Callable[[], object]:  # Any: a NumPy array
    """Compile an artifact and give it its image; the result runs one inference."""
    compiled = compile_openvino(path, settings("openvino", threads))
    infer: Callable[[], object] = requests_openvino(compiled, image, 1)[0].infer
    return infer


def start_onnxruntime(path: str, threads: int, profile: str = "") -> Any:  # Any: ONNX Runtime's session
    """Start a session; `profile` is the beginning of the name of a file for its operators' times."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    for name, value in settings("onnxruntime", threads).items():
        setattr(options, name, getattr(ort.ExecutionMode, value) if isinstance(value, str) else value)
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def open_onnxruntime(path: str, threads: int, image: Any) -> Callable[[], object]:  # Any: a NumPy array
    """Start a session on an artifact and give it its image; the result runs one inference."""
    session = start_onnxruntime(path, threads)
    feed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, feed)


OPEN = {"openvino": open_openvino, "onnxruntime": open_onnxruntime}


def streams_openvino(job: Job, image: Any) -> list[Callable[[], object]]:  # Any: a NumPy array
    """Compile an artifact for several inferences at once; one request for each."""
    streams = job["streams"]
    chosen = settings("openvino", job["threads"] * streams)
    chosen.update(NUM_STREAMS=streams, PERFORMANCE_HINT="THROUGHPUT")
    compiled = compile_openvino(job["artifacts"][0], chosen)
    return [request.infer for request in requests_openvino(compiled, image, streams)]


def streams_onnxruntime(job: Job, image: Any) -> list[Callable[[], object]]:  # Any: a NumPy array
    """Start a session for each stream: one session's threads would be shared."""
    return [open_onnxruntime(job["artifacts"][0], job["threads"], image) for _ in range(job["streams"])]


STREAMS = {"openvino": streams_openvino, "onnxruntime": streams_onnxruntime}


def operators_openvino(path: str, threads: int, image: Any) -> Operators:  # Any: a NumPy array
    """Time each executed operator; its kind names the kernel too."""
    compiled = compile_openvino(path, {**settings("openvino", threads), "PERF_COUNT": "YES"})
    request = requests_openvino(compiled, image, 1)[0]
    averages: dict[tuple[str, str], list[float]] = {}
    for _ in range(PROFILED_RUNS):
        request.infer()
        for entry in request.get_profiling_info():
            if entry.status.name == "EXECUTED":
                key = (entry.node_name, f"{entry.node_type} {entry.exec_type}")
                averages.setdefault(key, []).append(entry.real_time.total_seconds() * 1000)
    times = {key: [undisturbed(found)] for key, found in averages.items()}
    shapes = {op.get_friendly_name(): shapes_openvino(op) for op in compiled.get_runtime_model().get_ops()}
    return profile(times, {key: shapes.get(key[0], []) for key in times})


def undisturbed(averages: list[float]) -> float:
    """Return the time of one run, from averages over the first run, the first two, and so on.

    OpenVINO gives such averages, in whole microseconds: one interrupted run shows in all that follow. The
    runs that took far longer than the middle one are taken out of the last average.
    """
    sums = [0.0, *(count * average for count, average in enumerate(averages, start=1))]
    runs = [after - before for before, after in zip(sums, sums[1:])]  # noqa: B905, RUF007 - Python 3.9 has neither
    middle = statistics.median(runs)
    usual = [taken for count, taken in enumerate(runs, start=1) if taken <= 2 * middle + 2 * count * CLOCK_MS]
    return max(statistics.fmean(usual), 0.0) + CLOCK_MS / 2


def shapes_openvino(op: Any) -> list[list[int]]:  # Any: OpenVINO's operator
    """Return the shapes of an executed operator's inputs, and of its output last."""
    inputs = [op.get_input_partial_shape(number) for number in range(op.get_input_size())]
    outputs = [op.get_output_partial_shape(number) for number in range(op.get_output_size())]
    return [list(shape.to_shape()) for shape in (*inputs, *outputs[:1]) if shape.is_static]


def operators_onnxruntime(path: str, threads: int, image: Any) -> Operators:  # Any: a NumPy array
    """Time each kernel."""
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        session = start_onnxruntime(path, threads, str(Path(folder, "profile")))
        for _ in range(PROFILED_RUNS):
            session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str], list[float]] = {}
    shapes: dict[tuple[str, str], list[list[int]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["name"][: -len("_kernel_time")], event["args"]["op_name"])
            times.setdefault(key, []).append(event["dur"] / 1000)
            shapes[key] = shapes_onnxruntime(event["args"])
    return profile(times, shapes)


def shapes_onnxruntime(told: dict[str, Any]) -> list[list[int]]:  # Any: as ONNX Runtime writes it
    """Return the shapes of a kernel's inputs, and of its output last; repacked weights are missing."""
    tensors = [*told.get("input_type_shape", []), *told.get("output_type_shape", [])[:1]]
    return [shape for tensor in tensors for shape in tensor.values()]


def profile(
    times: dict[tuple[str, str], list[float]], shapes: dict[tuple[str, str], list[list[int]]]
) -> Operators:
    """Return what the runs of each operator come to: what disturbs a run only makes it longer."""
    faster = {key: sorted(taken)[: (len(taken) + 1) // 2] for key, taken in times.items()}
    return {
        "operators": [(*key, statistics.fmean(taken)) for key, taken in faster.items()],
        "shapes": [shapes[key] for key in faster],
    }


OPERATORS = {"openvino": operators_openvino, "onnxruntime": operators_onnxruntime}


def predict_openvino(path: str, threads: int, images: Any) -> list[Any]:  # Any: NumPy arrays
    """Return one output for each image."""
    request = compile_openvino(path, settings("openvino", threads)).create_infer_request()
    return [request.infer([image[None]])[0].copy() for image in images]


def predict_onnxruntime(path: str, threads: int, images: Any) -> list[Any]:  # Any: NumPy arrays
    """Return one output for each image."""
    session = start_onnxruntime(path, threads)
    name = session.get_inputs()[0].name
    return [session.run(None, {name: image[None]})[0] for image in images]


PREDICT = {"openvino": predict_openvino, "onnxruntime": predict_onnxruntime}


# --- the job -----------------------------------------------------------------------------------------------


def work(job: Job) -> Answer:
    """Load, warm up and time the artifacts of a job."""
    if job["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpus"])
    image, versions = start(job)
    probe_before = probe()
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
    if job.get("streams"):
        count_streams(job, image, runs[0])
    elif job.get("operators"):
        for path, run in zip(job["artifacts"], runs):  # noqa: B905 - Python 3.9 has no strict zip
            told = OPERATORS[job["runtime"]](path, job["threads"], image)
            run["operators"], run["shapes"] = told["operators"], told["shapes"]
    else:
        take_rounds(job, infers, runs)
    grown = {name: value - before[name] for name, value in counters().items() if name in before}
    peak = peak_bytes()
    return {
        "runs": runs,
        "peak_bytes": peak,
        "growth_bytes": None if peak is None or bare_bytes is None else peak - bare_bytes,
        "counters": grown,
        "load_average": load_average(),
        "machine": {
            **describe_machine(),
            **versions,
            "settings": said(settings(job["runtime"], job["threads"])),
        },
        "probe_ms": (probe_before, probe()),
    }


def start(job: Job) -> tuple[Any, dict[str, str]]:  # Any: a NumPy array, which is imported here
    """Import what the job needs; gives the image and the versions of what was imported."""
    runtime = import_runtime(job["runtime"])
    import numpy as np

    return np.load(job["image"]), {job["runtime"]: runtime.__version__, "numpy": np.__version__}


def import_runtime(name: str) -> Any:  # Any: a module
    """Import a runtime, and NumPy. The runtimes' telemetry stays off: it would also leave a file behind."""
    os.environ.update(ORT_DISABLE_TELEMETRY="1", CI="true")
    try:
        import numpy  # noqa: F401 - to see whether it is there

        return __import__(name)
    except ImportError as err:
        raise RefusalError("runtime", err) from err


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


def said(chosen: dict[str, str | int]) -> str:
    """Return settings on one line."""
    return ", ".join(f"{name}={value}" for name, value in chosen.items())


def count_streams(job: Job, image: Any, run: Run) -> None:  # Any: a NumPy array
    """Run several inferences at once; `run` gets how many ended, and the time that it took."""
    infers = STREAMS[job["runtime"]](job, image)
    done = [0] * len(infers)
    for infer in infers:
        infer()
    begin = time.perf_counter()

    def keep_running(stream: int) -> None:
        while time.perf_counter() - begin < job["max_seconds"]:
            infers[stream]()
            done[stream] += 1

    threads = [threading.Thread(target=keep_running, args=(stream,)) for stream in range(len(infers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run["inferences"], run["wall_ms"] = sum(done), [1000 * (time.perf_counter() - begin)]


def probe() -> float:
    """Return the CPU time of a fixed piece of work, in milliseconds: it grows when the clock goes down."""
    work_piece = bytes(PROBE_BYTES)
    times = []
    for _ in range(5):
        begin = time.process_time_ns()
        hashlib.sha256(work_piece).digest()
        times.append((time.process_time_ns() - begin) / 1e6)
    return min(times)


# --- other tasks -------------------------------------------------------------------------------------------


def verify(job: Job) -> dict[str, Any]:
    """Say which files are not what the caller sent."""
    wrong = [name for name, digest in job["digests"].items() if file_digest(Path(name)) != digest]
    if wrong:
        raise RefusalError("file", f"arrived damaged: {', '.join(wrong)}")
    return {"verified": len(job["digests"])}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, empty when it is not there."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def predict(job: Job) -> dict[str, Any]:
    """Run the artifact on each image of `image`, (n, C, H, W); gives the outputs as bytes of float32."""
    images, versions = start(job)
    import numpy as np

    try:
        outputs = PREDICT[job["runtime"]](job["artifacts"][0], job["threads"], images)
    except Exception as err:  # the runtimes' errors have no common parent
        raise RefusalError("model", err) from err
    values = np.ascontiguousarray(np.concatenate(outputs), dtype=np.float32)
    return {
        "shape": list(values.shape),
        "outputs": base64.b64encode(values.tobytes()).decode("ascii"),
        "versions": versions,
    }


def shape(job: Job) -> dict[str, Any]:
    """Say what the artifact reads: how many inputs, and the sizes of the first; None where one is free."""
    import_runtime(job["runtime"])
    try:
        sizes = INPUTS[job["runtime"]](job["artifacts"][0])
    except Exception as err:  # the runtimes' errors have no common parent
        raise RefusalError("model", err) from err
    return {"inputs": len(sizes), "shape": sizes[0] if sizes else []}


def inputs_openvino(path: str) -> list[list[Any]]:  # Any: a number or None
    """Return the sizes of each input."""
    import openvino as ov

    inputs = ov.Core().read_model(path).inputs
    return [
        [None if size.is_dynamic else size.get_length() for size in each.partial_shape] for each in inputs
    ]


def inputs_onnxruntime(path: str) -> list[list[Any]]:  # Any: a number or None
    """Return the sizes of each input."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # computes nothing yet
    options.log_severity_level = 3
    inputs = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).get_inputs()
    return [[size if isinstance(size, int) else None for size in each.shape] for each in inputs]


INPUTS = {"openvino": inputs_openvino, "onnxruntime": inputs_onnxruntime}


def repeat(job: Job) -> dict[str, Any]:
    """Run `rounds` inferences and nothing else: two such runs differ by inferences alone."""
    image, _ = start(job)
    infer = OPEN[job["runtime"]](job["artifacts"][0], job["threads"], image)
    for _ in range(job["rounds"]):
        infer()
    return {"repeated": job["rounds"]}


def describe(job: Job) -> dict[str, Any]:
    """Say what this machine is and has; asks for nothing but Python."""
    runtimes = {}
    for name in ("numpy", *OPEN):
        with contextlib.suppress(metadata.PackageNotFoundError):
            runtimes[name] = metadata.version(name)
    return {
        "machine": describe_machine(),
        "runtimes": runtimes,
        "arch": platform.machine(),
        "python": list(sys.version_info[:3]),
        "glibc": " ".join(platform.libc_ver()).strip(),
        "memory_bytes": memory_bytes(),
        "free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        "cpus": usable_cpus(),
        "chosen_cpus": choose_cpus(job["threads"]),
        "load_average": load_average(),
        "pressure": pressure_now(),
    }


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_cpus(threads: int) -> list[int]:
    """Return the CPUs to measure on: the fastest, one per core first, and not CPU 0 where there is a choice.

    CPU 0 serves most interrupts. Empty where the system does not let a process choose; all where there are
    too few.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(sorted(os.sched_getaffinity(0), key=desirability)[-threads:])


def desirability(cpu: int) -> tuple[int, bool, int]:
    """Return what orders the CPUs, the best last."""
    folder = CPU_FOLDER / f"cpu{cpu}"
    top_khz = read(folder / "cpufreq" / "cpuinfo_max_freq").strip()
    siblings = read(folder / "topology" / "thread_siblings_list").strip()
    first_sibling = siblings.replace("-", ",").partition(",")[0]
    return int(top_khz or 0), first_sibling in ("", str(cpu)), cpu


def memory_bytes() -> int | None:
    """Return the machine's memory."""
    for line in read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


@contextlib.contextmanager
def turn(seconds: float) -> Any:  # Any: a context manager of nothing
    """Wait until nobody else measures on this machine, then keep others waiting."""
    if not seconds:
        yield
        return
    lock = open_lock(Path(tempfile.gettempdir()))
    try:
        if lock is not None and not take(lock, seconds):
            raise RefusalError("busy", f"another measurement has not ended within {seconds:g} s")
        yield
    finally:
        if lock is not None:
            os.close(lock)


def open_lock(folder: Path) -> int | None:
    """Open what all who measure here lock: the folder for temporary files itself, so nothing is left."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def take(lock: int, seconds: float) -> bool:
    """Lock for this process; the kernel lets go when it ends. False when it took too long."""
    try:
        import fcntl
    except ImportError:
        return True
    begin = time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() - begin >= seconds:
                return False
            time.sleep(0.1)
        else:
            return True


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
    return {**found, **heat()}


def heat() -> dict[str, float]:
    """Return the energy taken, and how often heat or a weak supply held the clock back."""
    found = {}
    packages = [read(path / "energy_uj").strip() for path in sorted(POWER_FOLDER.glob("intel-rapl:?"))]
    if packages and all(packages):
        found["energy_joules"] = sum(map(int, packages)) / 1e6
    cores = [read(path).strip() for path in CPU_FOLDER.glob("cpu*/thermal_throttle/core_throttle_count")]
    if any(cores):
        found["heat_throttles"] = float(sum(int(count) for count in cores if count))
    firmware = read(FIRMWARE_THROTTLED).strip()
    if firmware:
        found["firmware_throttles"] = float(bin(int(firmware, 16) >> 16 & 0xF).count("1"))
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


def limit_memory() -> None:
    """Let a network that asks for more memory than there is fail here, and take nothing else with it."""
    total = memory_bytes()
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        if total is not None:
            most = resource.getrlimit(resource.RLIMIT_DATA)[1]
            limit = total if most == resource.RLIM_INFINITY else min(most, total)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def main() -> None:
    """Do the one job that standard input names."""
    job: Job = json.loads(sys.stdin.buffer.readline())
    limit_memory()
    threading.Thread(target=end_with_caller, daemon=True).start()
    answer: object
    try:
        if job.get("protocol", PROTOCOL) != PROTOCOL:
            raise RefusalError("protocol", f"this worker speaks version {PROTOCOL}")
        with turn(job.get("lock_seconds", 0.0)):
            answer = TASKS[job.get("task", "measure")](job)
    except RefusalError as err:
        answer = {"refused": err.kind, "detail": str(err)}
    sys.stdout.write(f"\n{MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()


TASKS: dict[str, Callable[[Job], object]] = {
    "measure": work,
    "describe": describe,
    "verify": verify,
    "predict": predict,
    "shape": shape,
    "repeat": repeat,
}


if __name__ == "__main__":
    main()
