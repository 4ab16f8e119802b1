"""Measuring: order of processes, timing with a fake clock, statistics, noise, and the real thing once."""

from __future__ import annotations

import ast
import base64
import dataclasses
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_onnx

from edgeprune import measure as room
from edgeprune import runtime
from edgeprune.errors import InputError, ModelError, TargetUnreachable
from edgeprune.measure import answers, local, noise, stats, turns, worker
from edgeprune.records import Interval, Throughput

IMAGE = np.zeros(tiny_onnx.IMAGE_SHAPE, np.float32)
MACHINE = {"cpu": "fake", "cores": "2", "governor": "performance"}
QUIET = {"wall_seconds": 1.0, "cpu_seconds": 1.0}
TAKES_A_TURN = """
import sys
from pathlib import Path
from edgeprune.measure import turns
with turns.turn(lambda: print("waiting", flush=True), folder=Path(sys.argv[1])):
    print("mine")
"""


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def run_of(wall_ms: list[float], cpu_ms: list[float] | None = None) -> worker.Run:
    cpu_ms = wall_ms if cpu_ms is None else cpu_ms
    return {"load_ms": 7.0, "first_ms": 3.0, "inferences": 1, "wall_ms": wall_ms, "cpu_ms": cpu_ms}


def answer_of(*runs: worker.Run, **changes: object) -> worker.Answer:
    answer: worker.Answer = {
        "runs": list(runs),
        "peak_bytes": 1000,
        "growth_bytes": 100,
        "counters": QUIET,
        "load_average": 0.1,
        "machine": MACHINE,
    }
    return answer | changes  # type: ignore[return-value]  # a test changes any key


# --- the verb ----------------------------------------------------------------------------------------------


class FakeTarget:
    """Answers jobs from a table of artifact stem to milliseconds, and keeps the jobs."""

    def __init__(self, times_ms: dict[str, float], **changes: object) -> None:
        self.times_ms, self.changes = times_ms, changes
        self.jobs: list[worker.Job] = []

    def __call__(self, job: worker.Job) -> worker.Answer:
        self.jobs.append(job)
        stems = [Path(path).stem for path in job["artifacts"]]
        runs = (run_of([self.times_ms[stem]] * job["rounds"]) for stem in stems)
        return answer_of(*runs, **self.changes)

    def order(self) -> list[str]:
        return ["+".join(Path(path).stem for path in job["artifacts"]) for job in self.jobs]


def files(folder: Path, *names: str) -> dict[str, Path]:
    for name in names:
        (folder / f"{name}.onnx").write_bytes(b"")
    return {name: folder / f"{name}.onnx" for name in names}


def test_each_artifact_alone_and_both_interleaved_in_alternating_order(tmp_path):
    target = FakeTarget({"dense": 4.0, "pruned": 3.0})
    seen: list[tuple[int, int]] = []
    result = room.measure(
        files(tmp_path, "dense", "pruned"),
        runtime="openvino",
        threads=1,
        image=IMAGE,
        processes=3,
        on_progress=lambda done, total: seen.append((done, total)),
        run_job=target,
    )
    there, back = ["dense", "pruned", "dense+pruned"], ["pruned", "dense", "dense+pruned"]
    assert target.order() == there + back + there
    assert seen == [(done, 9) for done in range(1, 10)]
    assert result.ratio == Interval(value=0.75, low=0.75, high=0.75)
    assert result.latency["pruned"].p50_ms == Interval(value=3.0, low=3.0, high=3.0)
    assert (result.latency["dense"].runs, result.latency["dense"].processes) == (600, 3)
    assert (result.latency["dense"].load_ms, result.latency["dense"].first_ms) == (7.0, 3.0)
    assert (result.memory["dense"].peak_bytes, result.memory["dense"].growth_bytes) == (1000, 100)
    assert (result.pairs, result.ratio_basis) == (3 * room.PAIRS, "cpu time")
    assert not result.ratios, "of two, one ratio says all"
    assert (result.quality, result.noise) == ("good", ())
    assert result.machine["inferences per timed run"] == "1"


def test_the_job_says_all_the_worker_needs(tmp_path):
    kept = []

    def target(job: worker.Job) -> worker.Answer:
        kept.append(np.load(job["image"]))
        assert all(Path(path).is_absolute() for path in job["artifacts"])
        assert len(job["cpus"]) in (0, job["threads"])
        assert (job["runtime"], job["threads"], job["max_seconds"]) == ("onnxruntime", 1, 1.5)
        assert job["rounds"] == (70 if len(job["artifacts"]) == 1 else room.PAIRS)
        return answer_of(*[run_of([1.0]) for _ in job["artifacts"]])

    image = np.arange(np.prod(tiny_onnx.IMAGE_SHAPE), dtype=np.float32).reshape(1, *tiny_onnx.IMAGE_SHAPE)
    room.measure(
        files(tmp_path, "dense", "pruned"),
        runtime="onnxruntime",
        threads=1,
        image=image,
        processes=1,
        min_runs=70,
        max_seconds=1.5,
        run_job=target,
    )
    assert kept[0].dtype == np.float32
    np.testing.assert_array_equal(kept[0], image)


def test_the_ratio_is_last_over_first(tmp_path):
    target = FakeTarget({"dense": 4.0, "pruned": 3.0, "int8": 1.0})
    artifacts = files(tmp_path, "dense", "pruned", "int8")
    result = room.measure(artifacts, runtime="openvino", threads=1, image=IMAGE, processes=1, run_job=target)
    assert target.order() == ["dense", "pruned", "int8", "dense+pruned+int8"]
    assert result.ratio.value == 0.25
    ratios = {name: {over: ratio.value for over, ratio in row.items()} for name, row in result.ratios.items()}
    assert ratios == {"pruned": {"dense": 0.75}, "int8": {"dense": 0.25, "pruned": pytest.approx(1 / 3)}}


def test_one_artifact_alone_has_ratio_one(tmp_path):
    target = FakeTarget({"dense": 4.0})
    result = room.measure(
        files(tmp_path, "dense"), runtime="openvino", threads=1, image=IMAGE, processes=2, run_job=target
    )
    assert (result.pairs, result.ratio) == (0, Interval(value=1.0, low=1.0, high=1.0))


def test_unknown_memory_is_left_out(tmp_path):
    target = FakeTarget({"dense": 4.0, "pruned": 3.0}, peak_bytes=None, growth_bytes=None)
    result = room.measure(
        files(tmp_path, "dense", "pruned"), runtime="openvino", threads=1, image=IMAGE, run_job=target
    )
    assert result.memory == {}


def test_a_disturbed_measurement_is_noisy_but_a_loaded_one_is_not(tmp_path):
    def measured(**changes: object) -> tuple[str, int]:
        target = FakeTarget({"dense": 4.0, "pruned": 3.0}, **changes)
        artifacts = files(tmp_path, "dense", "pruned")
        result = room.measure(
            artifacts, runtime="openvino", threads=1, image=IMAGE, processes=1, run_job=target
        )
        return result.quality, len(result.noise)

    assert measured(counters={"wall_seconds": 1.0, "cpu_seconds": 0.6}) == ("noisy", 1)
    assert measured(load_average=5.0) == ("good", 1)


def test_what_cannot_be_measured_is_refused_before_anything_runs(tmp_path):
    target = FakeTarget({})
    with pytest.raises(InputError, match=r"gone\.onnx: no such file, so pruned cannot be measured"):
        room.measure(
            {**files(tmp_path, "dense"), "pruned": tmp_path / "gone.onnx"},
            runtime="openvino",
            threads=1,
            image=IMAGE,
            run_job=target,
        )
    if local.choose_cpus(1):
        with pytest.raises(InputError, match="threads = 100000, but only"):
            room.measure(
                files(tmp_path, "dense"), runtime="openvino", threads=100_000, image=IMAGE, run_job=target
            )
    assert target.jobs == []


def test_throughput_and_operators_come_from_processes_of_their_own(tmp_path):
    target = FakeTarget({"dense": 4.0, "pruned": 3.0})
    result = room.measure(
        files(tmp_path, "dense", "pruned"),
        runtime="openvino",
        threads=1,
        image=IMAGE,
        processes=1,
        streams=2,
        operators=True,
        run_job=target,
    )
    kinds = [(job.get("streams", 0), job.get("operators", False)) for job in target.jobs]
    assert kinds == [(0, False)] * 3 + [(2, False)] * 2 * room.STREAM_PROCESSES + [(0, True)] * 2
    assert all(job["cpus"] == [] for job in target.jobs if job.get("streams"))
    assert result.throughput["pruned"] == Throughput(per_second=1000 / 3.0, streams=2)
    assert result.operators == {"dense": (), "pruned": ()}


def test_a_measurement_waits_for_its_turn(tmp_path):
    waits: list[int] = []
    with turns.turn(folder=tmp_path):
        holder = subprocess.Popen(
            [sys.executable, "-c", TAKES_A_TURN, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "waiting\n"
    assert holder.communicate(timeout=60)[0] == "mine\n"
    with turns.turn(lambda: waits.append(1), folder=tmp_path):
        pass
    assert waits == []


def test_a_turn_that_cannot_be_had_is_a_warning(tmp_path, caplog):
    with turns.turn(folder=tmp_path / "missing"):
        assert "other measurements may run at once" in caplog.text


def test_the_worker_gives_up_when_its_turn_does_not_come(tmp_path, monkeypatch):
    monkeypatch.setattr(worker.tempfile, "gettempdir", lambda: str(tmp_path))
    with (
        turns.turn(folder=tmp_path),
        pytest.raises(worker.RefusalError, match="another measurement"),
        worker.turn(0.01),
    ):
        pass
    with worker.turn(0.01), worker.turn(0.0):
        pass


# --- statistics --------------------------------------------------------------------------------------------


def test_the_interval_holds_the_median_and_repeats_itself():
    samples = [rng().normal(10.0, 1.0, size=100) + shift for shift in (0.0, 0.1, -0.1)]
    first, second = (stats.median_interval(samples, rng=rng()) for _ in range(2))
    assert first == second
    assert first.low < first.value < first.high
    assert first.value == np.median(np.concatenate(samples))


def test_processes_that_disagree_widen_the_interval_however_many_samples_they_have():
    calm = [np.full(1000, 10.0)] * 5
    moody = [np.full(1000, level) for level in (9.0, 9.5, 10.0, 10.5, 11.0)]
    calm_interval, moody_interval = (stats.median_interval(s, rng=rng()) for s in (calm, moody))
    assert calm_interval.low == calm_interval.high
    assert moody_interval.high - moody_interval.low >= 1.5


@pytest.mark.slow
def test_the_interval_holds_the_truth_in_95_of_100_cases(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 500)
    held, cases = 0, 100
    generator = rng()
    for _ in range(cases):
        moods = generator.normal(0.0, 0.01, size=(5, 1))
        samples = 1.0 + moods + 0.01 * generator.normal(size=(5, 30))
        found = stats.median_interval(list(samples), rng=generator)
        held += found.low <= 1.0 <= found.high
    assert held >= 95


def test_few_processes_leave_out_less_of_the_tails():
    shares = [stats.tail_share(processes) for processes in (2, 5, 20, 1000)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.025, rel=0.01)
    assert stats.tail_share(5) == pytest.approx(0.00095, rel=0.01)
    assert stats.tail_share(1) == 0.025


def test_the_ratio_comes_from_samples_of_one_round():
    drifting = [1.0, 2.0, 4.0, 8.0]
    dense, pruned = run_of(drifting), run_of([0.8 * each for each in drifting])
    assert stats.ratio([answer_of(dense, pruned)], threads=1, rng=rng()).low == pytest.approx(0.8)


@pytest.mark.parametrize(("threads", "expected"), [(1, 0.5), (2, 0.9)])
def test_one_thread_is_compared_by_cpu_time_and_several_by_wall_time(threads, expected):
    answer = answer_of(run_of([10.0] * 3, [10.0] * 3), run_of([9.0] * 3, [5.0] * 3))
    assert stats.ratio([answer], threads=threads, rng=rng()).value == expected
    latency = stats.latency([answer["runs"][1]], threads=threads, rng=rng())
    assert latency.cpu_p50_ms == (5.0 if threads == 1 else None)
    assert latency.p50_ms.value == 9.0


@pytest.mark.parametrize(("runs", "has_p99"), [(661, False), (662, True)])
def test_a_p99_needs_662_runs(runs, has_p99):
    latency = stats.latency([run_of(list(np.arange(float(runs))))], threads=1, rng=rng())
    assert (latency.p99_ms is not None) == has_p99
    assert latency.p90_ms == pytest.approx(0.9 * (runs - 1))


@pytest.mark.parametrize(("runs", "has_interval"), [(63, False), (64, True)])
def test_a_p90_has_an_interval_from_64_runs_on(runs, has_interval):
    times = rng().normal(10.0, 1.0, size=(3, runs))
    found = stats.latency([run_of(list(row)) for row in times[:1]], threads=1, rng=rng()).p90_interval_ms
    assert (found is not None) == has_interval
    wide = stats.latency([run_of(list(row)) for row in times], threads=1, rng=rng())
    assert wide.p90_interval_ms is not None
    assert wide.p50_ms.high < wide.p90_interval_ms.low < wide.p90_ms < wide.p90_interval_ms.high


def test_energy_is_of_one_inference_and_unknown_without_a_meter():
    metered = answer_of(run_of([1.0] * 10), counters={"energy_joules": 2.0})
    assert stats.energy_mj([metered, metered]) == 200.0
    assert stats.energy_mj([answer_of(run_of([1.0]))]) is None
    assert stats.energy_mj([answer_of(run_of([1.0]), counters={"energy_joules": -9.0})]) is None


def test_operators_come_longest_first():
    run = run_of([1.0]) | {"operators": [("a", "Conv", 1.0), ("b", "Gemm", 3.0)]}
    assert [operator.name for operator in stats.operators(run)] == ["b", "a"]


# --- noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counters", "words"),
    [
        ({"wall_seconds": 2.0, "cpu_seconds": 1.3}, "had a CPU only 65% of the time"),
        ({**QUIET, "involuntary_switches": 120.0}, "interrupted it 120 times a second"),
        ({**QUIET, "pressure_seconds": 0.4}, "waited for a CPU 40% of the time"),
        ({**QUIET, "stolen_ticks": 3.0, "ticks": 100.0}, "host took 3.0% of the CPU time"),
        ({**QUIET, "throttled_periods": 2.0}, "CPU limit held it back"),
        ({**QUIET, "heat_throttles": 2.0}, "held the CPU's clock back"),
        ({**QUIET, "firmware_throttles": 1.0}, "held the CPU's clock back"),
    ],
)
def test_each_disturbance_has_a_sentence(counters, words):
    found = noise.processes([answer_of(counters=counters)] * 2, threads=1)
    assert [words in disturbance.sentence for disturbance in found] == [True]
    assert found[0].serious


def test_a_quiet_machine_has_none():
    quiet = {
        **QUIET,
        "involuntary_switches": 5.0,
        "pressure_seconds": 0.01,
        "stolen_ticks": 0.0,
        "ticks": 9.0,
    }
    assert noise.processes([answer_of(counters=quiet)], threads=1) == []
    assert noise.processes([answer_of(counters={"wall_seconds": 1.0, "cpu_seconds": 1.9})], threads=2) == []
    assert noise.processes([answer_of(counters={})], threads=1) == []


def test_a_cpu_that_slows_down_is_noticed():
    def drifted(*afters: float) -> list[str]:
        answers = [answer_of(probe_ms=(1.0, after)) for after in afters]
        return [disturbance.sentence for disturbance in noise.processes(answers, threads=1)]

    assert drifted(1.2, 1.1, 1.0) == ["the CPU got 10% slower while it ran: heat, or its turbo"]
    assert drifted(1.02, 0.9, 3.0) == []


@pytest.mark.parametrize("threads", [2, 4])
def test_cpu_share_means_nothing_for_several_threads(threads):
    assert noise.processes([answer_of(counters={**QUIET, "cpu_seconds": 0.5})], threads=threads) == []


def test_the_machine_alone_can_be_judged():
    found = noise.machine(load_average=3.2, cores=2, governor="powersave", pressure=None)
    assert [disturbance.serious for disturbance in found] == [False, False]
    assert "load average 3.2 on 2 cores" in found[0].sentence
    assert "`powersave`" in found[1].sentence
    assert noise.machine(load_average=1.0, cores=2, governor="unknown", pressure=0.0) == []


def test_wide_figures_and_few_runs_are_told():
    wide = stats.latency([run_of([1.0] * 30), run_of([2.0] * 30)], threads=1, rng=rng())
    found = noise.spread({"dense": wide}, Interval(value=1.0, low=0.9, high=1.1))
    assert [disturbance.sentence.split(":")[0] for disturbance in found] == [
        "the latency ratio is only known to 10% either way",
        "dense",
        "dense",
    ]
    narrow = stats.latency([run_of([1.0] * 64)], threads=1, rng=rng())
    assert noise.spread({"dense": narrow}, Interval(value=1.0, low=0.97, high=1.03)) == []


def test_the_doctor_gets_words_and_no_names():
    machine = room.describe_machine()
    assert {"cpu", "features", "cores", "kernel", "governor", "python"} == set(machine)
    assert socket.gethostname() not in " ".join(machine.values()).split()
    assert all(isinstance(sentence, str) for sentence in room.noise_now())


# --- the worker, with a fake clock -------------------------------------------------------------------------


class FakeClock:
    """Stands in for `time`; inferences move it. CPU time runs at half the wall's pace."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = 0
        self.calls: list[str] = []
        monkeypatch.setattr(
            worker,
            "time",
            SimpleNamespace(
                perf_counter=lambda: self.ns / 1e9,
                perf_counter_ns=lambda: self.ns,
                process_time_ns=lambda: self.ns // 2,
            ),
        )

    def infer(self, name: str, *times_ms: float) -> Callable[[], None]:
        """Give an inference that lasts the times in turn, over and over."""
        turns = itertools.cycle(times_ms)

        def infer() -> None:
            self.calls.append(name)
            self.ns += int(next(turns) * 1e6)

        return infer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def job_of(**changes: object) -> worker.Job:
    job: worker.Job = {
        "artifacts": ["net.onnx"],
        "runtime": "openvino",
        "threads": 1,
        "cpus": [],
        "image": "image.npy",
        "rounds": 4,
        "max_seconds": 4.0,
    }
    return job | changes  # type: ignore[return-value]  # a test changes any key


def test_a_sample_is_an_average_in_milliseconds(clock):
    assert worker.sample(clock.infer("a", 2.0, 4.0), 2) == (3.0, 1.5)


@pytest.mark.parametrize(
    ("times_ms", "runs"),
    [
        ((50.0,), worker.WARM_RUNS),
        ((1.0,), 200),
        ((10.0, 20.0, 10.0), 67),
    ],
    ids=["ten runs", "0.2 seconds", "never steady: the cap"],
)
def test_warming_up_takes_ten_runs_and_some_time_and_steadiness(clock, times_ms, runs):
    cap_seconds = 0.9
    worker.warm_up(clock.infer("a", *times_ms), cap_seconds)
    assert len(clock.calls) == pytest.approx(runs, abs=1)


def test_warming_up_a_slow_network_runs_it_at_least_once(clock):
    assert worker.warm_up(clock.infer("a", 9000.0), 1.0) == 9000.0
    assert clock.calls == ["a"]


def test_interleaving_goes_there_and_back_with_one_untimed_call_each(clock):
    infers = [clock.infer("a", 100.0, 2.0), clock.infer("b", 100.0, 1.0)]
    runs = [run_of([], []), run_of([], [])]
    worker.take_rounds(job_of(rounds=2), infers, runs)
    assert "".join(clock.calls) == "aabb" + "bbaa"
    assert (runs[0]["wall_ms"], runs[1]["wall_ms"]) == ([2.0, 2.0], [1.0, 1.0])
    assert runs[0]["cpu_ms"] == [1.0, 1.0]


def test_one_artifact_needs_no_untimed_calls(clock):
    run = run_of([], [])
    worker.take_rounds(job_of(rounds=7), [clock.infer("a", 2.0)], [run])
    assert len(clock.calls) == len(run["wall_ms"]) == 7


def test_time_runs_out_but_never_below_five_rounds(clock):
    slow, fast = run_of([], []), run_of([], [])
    worker.take_rounds(job_of(rounds=200, max_seconds=1.0), [clock.infer("a", 600.0)], [slow])
    worker.take_rounds(job_of(rounds=200, max_seconds=1.0), [clock.infer("a", 100.0)], [fast])
    assert (len(slow["wall_ms"]), len(fast["wall_ms"])) == (worker.FEWEST_ROUNDS, 10)


def test_streams_are_counted_together(clock, monkeypatch):
    monkeypatch.setitem(worker.STREAMS, "fake", lambda job, image: [clock.infer("a", 10.0)] * job["streams"])
    run = run_of([], [])
    worker.count_streams(job_of(runtime="fake", streams=1, max_seconds=0.1), IMAGE, run)
    assert (run["inferences"], run["wall_ms"]) == (10, [pytest.approx(100.0)])
    assert stats.throughput([run], 1).per_second == pytest.approx(100.0)


# --- the worker's own facts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(worker.OPEN))
@pytest.mark.parametrize("threads", [1, 4])
def test_the_worker_sets_a_runtime_as_the_room_does(name, threads):
    assert worker.settings(name, threads) == runtime.settings(name, threads)


def test_both_know_the_same_runtimes():
    assert set(worker.OPEN) == set(runtime.RUNTIMES)


def test_the_worker_stands_alone_on_python_3_9():
    tree = ast.parse(local.WORKER.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "openvino", "onnxruntime"}


def test_no_clock_is_read_that_can_be_set():
    text = local.WORKER.read_text(encoding="utf-8")
    assert "time.time(" not in text
    assert "datetime" not in text


def test_energy_and_heat_are_read_where_they_are(tmp_path, monkeypatch):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "energy_uj").write_text("2500000\n", encoding="ascii")
    throttle = tmp_path / "cpu1" / "thermal_throttle"
    throttle.mkdir(parents=True)
    (throttle / "core_throttle_count").write_text("3\n", encoding="ascii")
    (tmp_path / "get_throttled").write_text("50005\n", encoding="ascii")
    monkeypatch.setattr(worker, "POWER_FOLDER", tmp_path)
    monkeypatch.setattr(worker, "CPU_FOLDER", tmp_path)
    monkeypatch.setattr(worker, "FIRMWARE_THROTTLED", tmp_path / "get_throttled")
    assert worker.heat() == {"energy_joules": 2.5, "heat_throttles": 3.0, "firmware_throttles": 2.0}


def test_damaged_files_are_named(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"1")
    digests = {str(good): worker.file_digest(good)}
    assert worker.verify(job_of(digests=digests)) == {"verified": 1}
    with pytest.raises(worker.RefusalError, match="bad"):
        worker.verify(job_of(digests={**digests, str(bad): "00"}))


def test_counters_only_grow_and_memory_has_a_peak():
    before, after = worker.counters(), worker.counters()
    assert before.keys() == after.keys()
    assert all(after[name] >= before[name] for name in before)
    assert (worker.peak_bytes() or 1) > 0


def test_involuntary_switches_are_told_apart_from_voluntary_ones(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_nivcsw=7, ru_nvcsw=99))
    assert worker.counters()["involuntary_switches"] == 7.0


@pytest.mark.parametrize(
    ("text", "share"), [("some avg10=12.50 avg60=0.1 avg300=0 total=7\n", 0.125), ("", None)]
)
def test_pressure_is_read_as_a_share(tmp_path, monkeypatch, text, share):
    (tmp_path / "cpu").write_text(text, encoding="utf-8")
    monkeypatch.setattr(worker, "PRESSURE_FILE", tmp_path / "cpu")
    assert worker.pressure_now() == share
    assert ("pressure_seconds" in worker.counters()) == bool(text)


# --- processes ---------------------------------------------------------------------------------------------


def program(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_answer_is_found_among_other_lines_and_the_job_arrives(tmp_path):
    talkative = program(
        tmp_path,
        "import json, os, sys\n"
        "job = json.loads(sys.stdin.readline())\n"
        "print('Welcome to this device')\n"
        "seen = {'job': job, 'threads': os.environ['OMP_NUM_THREADS'], 'ci': os.environ['CI']}\n"
        f"print({worker.MARK!r} + json.dumps(seen))\n"
        "print('Goodbye')\n",
    )
    job = job_of(threads=3)
    seen: object = local.run(job, program=talkative)
    assert seen == {"job": job, "threads": "3", "ci": "true"}


@pytest.mark.parametrize(
    ("code", "words"),
    [(132, "instruction that this CPU does not have"), (-4, "instruction"), (137, "out of memory"), (7, "7")],
)
def test_an_ending_says_what_it_means(code, words):
    assert words in answers.ending(code)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("runtime", TargetUnreachable, "run: pip install openvino"),
        ("threads", InputError, "fewer threads"),
        ("busy", TargetUnreachable, "try again"),
        ("file", TargetUnreachable, "try again"),
        ("model", ModelError, "export the network again"),
    ],
)
def test_each_refusal_has_its_error(kind, error, words):
    found = answers.refusal("openvino", "net.onnx", {"refused": kind, "detail": "what"})
    assert type(found) is error
    assert words in str(found)


def test_half_an_answer_is_none():
    assert answers.find(f"{worker.MARK}{{'a".encode()) is None
    assert answers.find(b"nothing\n") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys; sys.exit('no memory')", "ended with exit code 1; its last words: no memory"),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"was ended by signal 9 \(out of memory\?\); its last words: none",
        ),
        ("import time; time.sleep(60)", "took longer than 0.1 s"),
    ],
    ids=["crash", "killed", "timeout"],
)
def test_no_answer_names_the_artifact_and_the_last_words(tmp_path, text, words):
    with pytest.raises(ModelError, match=rf"net\.onnx: measuring with openvino {words}"):
        local.run(job_of(), program=program(tmp_path, text), timeout_seconds=0.1 if "sleep" in text else 60.0)


def test_a_worker_that_ends_before_it_reads_its_job_is_told_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(local.json, "dumps", lambda job: time.sleep(0.5) or "{}")  # it has ended by then
    with pytest.raises(ModelError, match="ended with exit code 3"):
        local.run(job_of(), program=program(tmp_path, "import os; os._exit(3)"))


def test_only_the_last_lines_of_a_long_complaint_are_told(tmp_path):
    with pytest.raises(ModelError, match=r"its last words: 5 \| 6 \| 7 \| 8 \| 9$"):
        local.run(job_of(), program=program(tmp_path, "import sys; sys.exit('\\n'.join('0123456789'))"))


def test_an_interrupt_leaves_no_process_behind(tmp_path, monkeypatch):
    started: list[subprocess.Popen[bytes]] = []
    really_wait = subprocess.Popen.wait

    def wait(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            return really_wait(process)
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        local.run(job_of(), program=program(tmp_path, "import time; time.sleep(60)"))
    assert started[0].returncode == -9


def test_the_worker_leaves_when_its_caller_is_gone():
    code = f"import runpy; runpy.run_path({str(local.WORKER)!r})['end_with_caller']()"
    ended = subprocess.run([sys.executable, "-I", "-c", code], input=b"", check=False)
    assert ended.returncode == worker.ABANDONED


def test_a_missing_runtime_is_told_with_the_command_to_get_it():
    with pytest.raises(TargetUnreachable, match="run: pip install not_a_runtime"):
        local.run(job_of(runtime="not_a_runtime"))


def test_cpus_are_the_fastest_then_whole_cores_then_late_ones(tmp_path, monkeypatch):
    siblings = {0: "0,4", 1: "1", 2: "2-3", 3: "2-3", 4: "0,4"}
    for cpu, shown in siblings.items():
        core = tmp_path / f"cpu{cpu}"
        (core / "cpufreq").mkdir(parents=True)
        (core / "topology").mkdir()
        top_khz = 900 if cpu == 1 else 2000
        (core / "cpufreq" / "cpuinfo_max_freq").write_text(f"{top_khz}\n", encoding="ascii")
        (core / "topology" / "thread_siblings_list").write_text(f"{shown}\n", encoding="ascii")
    monkeypatch.setattr(worker, "CPU_FOLDER", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(siblings), raising=False)
    assert local.choose_cpus(1) == [2]
    assert local.choose_cpus(2) == [0, 2]
    assert local.choose_cpus(5) == [0, 1, 2, 3, 4]


def test_a_system_without_affinity_is_not_pinned(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert local.choose_cpus(64) == []


# --- the real thing ----------------------------------------------------------------------------------------


def real_job(folder: Path, artifact: Path, name: str) -> worker.Job:
    np.save(folder / "image.npy", IMAGE[None])
    return job_of(artifacts=[str(artifact)], runtime=name, image=str(folder / "image.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_two_real_networks_from_end_to_end(name, tmp_path):
    artifacts = {
        "dense": tiny_onnx.save(tmp_path / "dense.onnx", batch="n"),
        "pruned": tiny_onnx.save(tmp_path / "pruned.onnx"),
    }
    result = room.measure(artifacts, runtime=name, threads=1, image=IMAGE, processes=1, min_runs=5)
    assert set(result.latency) == set(result.memory) == {"dense", "pruned"}
    assert result.latency["dense"].runs == 5
    assert result.latency["dense"].p50_ms.value > 0
    assert result.latency["dense"].load_ms > 0
    assert 0 < result.memory["dense"].growth_bytes < result.memory["dense"].peak_bytes
    assert (result.pairs, result.ratio_basis) == (room.PAIRS, "cpu time")
    assert {name, "numpy", "cpu"} <= set(result.machine)
    assert int(result.machine["inferences per timed run"]) > 1
    assert dataclasses.asdict(result)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_streams_and_operators_of_a_real_network(name, tmp_path):
    job = real_job(tmp_path, tiny_onnx.save(tmp_path / "net.onnx"), name)
    streamed = local.run({**job, "streams": 2, "max_seconds": 0.05})
    assert streamed["runs"][0]["inferences"] > 2
    profiled = local.run({**job, "operators": True})
    assert any("Conv" in kind for _, kind, _ in profiled["runs"][0]["operators"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_the_worker_predicts_as_the_room_does(name, tmp_path):
    images = rng().normal(size=(3, *tiny_onnx.IMAGE_SHAPE)).astype(np.float32)
    job = real_job(tmp_path, tiny_onnx.save(tmp_path / "net.onnx"), name)
    np.save(tmp_path / "images.npy", images)
    answer = local.ask({**job, "task": "predict", "image": str(tmp_path / "images.npy")})
    outputs = np.frombuffer(base64.b64decode(answer["outputs"]), np.float32).reshape(answer["shape"])
    np.testing.assert_allclose(outputs, tiny_onnx.expected(images), rtol=1e-4, atol=1e-6)


def test_the_worker_describes_a_machine_without_any_runtime(tmp_path):
    about = local.ask(job_of(task="describe"))
    assert {"machine", "runtimes", "arch", "python", "glibc", "memory_bytes", "cpus"} <= set(about)


def test_another_protocol_is_refused():
    with pytest.raises(TargetUnreachable, match="speaks version 1"):
        local.ask(job_of(task="describe", protocol=99))


def test_the_worker_too_makes_a_dynamic_batch_one_image(tmp_path, monkeypatch):
    shapes = tiny_onnx.watch_openvino(monkeypatch)
    worker.open_openvino(str(tiny_onnx.save(tmp_path / "net.onnx", batch="n")), 1, IMAGE[None])
    assert shapes == ["[1,3,8,8]"]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_broken_artifact_is_named(name, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(ModelError, match=rf"broken\.onnx: {name} cannot run it") as caught:
        local.run(real_job(tmp_path, broken, name))
    assert "\n" not in str(caught.value)
