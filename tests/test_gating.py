"""gate, compare and probe as a CI job and an engineer use them: flags, files, exit codes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import tiny_onnx
from sample_report import measurement, sample_report
from tiny_builds import program
from typer.testing import Result

from edgeprune import measure, report, target
from edgeprune.cli import measuring
from edgeprune.errors import TargetUnreachable
from edgeprune.measure import stairs
from edgeprune.records import Figure, Instructions, Interval, Limit, Measurement, Report, Target
from edgeprune.runfolder import parts_digest


def edgeprune(*words: object) -> Result:
    found = program(*words)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def quiet_report() -> Report:
    """Measured with both intervals of the pruned network around 4.63 ms, on this machine."""
    here = {**measure.describe_machine(), "openvino": "1"}
    return replace(
        sample_report(), measurement=replace(measurement(), quality="good", noise=(), machine=here)
    )


def run_folder(folder: Path, found: Report) -> Path:
    """A run as a build leaves it: the report, and the deployed files."""
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = {
        name: replace(artifact, digest=parts_digest(tiny_onnx.save(folder / artifact.path)))
        for name, artifact in found.artifacts.items()
    }
    report.write(replace(found, artifacts=artifacts), folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "run", quiet_report())


def never(*_: object, **__: object) -> Measurement:
    raise AssertionError("nothing is to be measured")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files of each measurement asked for; in each the second takes 1.10 times as long."""
    seen: list[list[str]] = []

    def fake(files: dict[str, Path], **settings: object) -> Measurement:
        seen.append(list(files))
        found = replace(measurement(), quality="good", ratio=Interval(value=1.1, low=1.08, high=1.12))
        p50 = Interval(value=4.6, low=4.59, high=4.61)
        latency = {name: replace(found.latency["pruned"], p50_ms=p50) for name in files}
        memory = dict.fromkeys(files, found.memory["pruned"])
        return replace(found, latency=latency, memory=memory)

    monkeypatch.setattr("edgeprune.measure.measure", fake)
    return seen


# --- gate ---------------------------------------------------------------------------------------------


def test_limits_of_every_form_are_held_together(run, tmp_path):
    settings = tmp_path / "edgeprune.toml"
    settings.write_text(
        'model = "x"\n[budgets.default]\nmodel_size = "1 KB"\n[budgets.openvino]\nmacs = "1 k"\n'
    )
    found = edgeprune("gate", run, "-c", settings, "--limit", "params <= 1 k", "--max-size", "10MB", "--json")
    verdict = json.loads(found.stdout)
    budgets = [check["budget"] for check in verdict["checks"]]
    assert found.exit_code == 3
    assert {"model size", "multiply-adds", "parameters", "latency p50"} <= set(budgets)


def test_a_deployed_file_that_was_exchanged_is_not_measured(run, monkeypatch):
    monkeypatch.setattr("edgeprune.measure.measure", never)
    tiny_onnx.save(run / "pruned.xml", batch="N")
    for words in (("gate", run, "--max-latency", "4.65ms"), ("compare", run, run)):
        found = edgeprune(*words)
        assert found.exit_code == 1
        assert "not the file that the report speaks of" in found.stderr
        assert found.stderr.count("\n") == 1


def test_a_drop_of_nothing_is_a_limit_too(run):
    found = edgeprune("gate", run, "--max-accuracy-drop", "0", "--json")
    check = next(c for c in json.loads(found.stdout)["checks"] if "accuracy" in c["budget"])
    assert check["limit"] == "0 points"


@pytest.mark.parametrize(("policy", "code"), [("fail", 4), ("warn", 0), ("pass", 0)])
def test_undecided_ends_as_the_policy_says(run, policy, code, tmp_path):
    words = ("--max-latency", "4.65ms", "--measure-more", "0", "--undecided", policy)
    found = edgeprune("gate", run, *words, "--annotations", "--junit", tmp_path / "junit.xml")
    assert found.exit_code == code
    assert ("::error title=latency p50" in found.stdout) == (policy == "fail")
    suite = ET.parse(tmp_path / "junit.xml").getroot()[0]  # noqa: S314 - our own
    assert suite.get("failures") == ("1" if policy == "fail" else "0")


def test_the_summary_is_added_to_the_job_s(run, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    assert edgeprune("gate", run, "--max-size", "1KB", "--summary", summary).exit_code == 3
    text = summary.read_text()
    assert text.startswith("before\n## digits-resnet on openvino: over budget")
    assert "| model size |" in text


def test_an_undecided_latency_is_measured_again(run, asked):
    found = edgeprune("gate", run, "--max-latency", "4.65ms", "--measure-more", "900")
    assert asked == [["dense", "pruned"]]
    assert found.exit_code == 0


def test_too_little_time_another_machine_or_no_files_measure_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeprune.measure.measure", never)
    words = ("--max-latency", "4.65ms", "--measure-more")
    assert edgeprune("gate", run, *words, "1").exit_code == 4
    elsewhere = replace(
        quiet_report(), measurement=replace(quiet_report().measurement, machine={"cpu": "other"})
    )
    assert edgeprune("gate", run_folder(tmp_path / "other", elsewhere), *words, "900").exit_code == 4
    (run / "dense.xml").unlink()
    assert edgeprune("gate", run, *words, "900").exit_code == 4


def test_an_undecided_latency_of_a_device_is_measured_again_there(run, asked, monkeypatch):
    """Through the same place as the build, and only if it is still the same machine."""
    machine = {"cpu": "Cortex-A76"}
    opened: list[str] = []

    @contextlib.contextmanager
    def place(target: Target, **_: object) -> Iterator[SimpleNamespace]:
        opened.append(target.host)
        yield SimpleNamespace(facts=lambda: machine, options=lambda: {"cpus": [3]}, noted=lambda found: found)

    monkeypatch.setattr("edgeprune.measure.place", place)
    there = replace(quiet_report().measurement, machine=machine)
    kept = report.read(run / "report.json")
    device = replace(kept, target=replace(kept.target, host="pi@pi5"), measurement=there)
    words = ("--max-latency", "4.65ms", "--measure-more", "900")
    report.write(device, run)
    assert edgeprune("gate", run, *words).exit_code == 0
    assert (opened, asked) == (["pi@pi5"], [["dense", "pruned"]])
    machine = {"cpu": "another"}
    assert edgeprune("gate", run, *words).exit_code == 4
    assert (len(opened), len(asked)) == (2, 1)


def test_instructions_are_counted_where_a_limit_asks_for_them(run, tmp_path, monkeypatch):
    counts = {"pruned": 102.0, "dense": 200.0, "before": 100.0}
    seen: list[str] = []

    def count(path: Path, **settings: object) -> Instructions:
        name = "before" if "main" in path.parts else path.stem
        seen.append(f"{name} {settings['counter']}")
        return Instructions(per_inference=counts[name], method="callgrind")

    monkeypatch.setattr("edgeprune.measure.instructions", count)
    monkeypatch.setattr("edgeprune.measure.perf_counts", lambda: False)
    before = run_folder(tmp_path / "main", quiet_report())
    limit = ("--limit", "instructions <= +1% vs baseline", "--baseline", before)
    assert edgeprune("gate", run, *limit).exit_code == 3
    assert sorted(seen) == ["before callgrind", "dense callgrind", "pruned callgrind"]
    assert edgeprune("gate", run, "--limit", "instructions <= 110").exit_code == 0
    seen.clear()
    edgeprune("gate", run, "--limit", "macs <= 1 G")
    assert not seen


def test_a_baseline_with_its_file_is_measured_interleaved(run, tmp_path, asked):
    before = run_folder(tmp_path / "main", quiet_report())
    words = ("--limit", "latency_p50 <= +3% vs baseline", "--measure-more", "900", "--baseline")
    found = edgeprune("gate", run, *words, before)
    assert asked == [["baseline", "pruned"]]
    assert found.exit_code == 3
    assert "1.100x" in found.stdout
    (before / "pruned.xml").unlink()
    stored = edgeprune("gate", run, *words, before / "report.json")
    assert len(asked) == 1
    assert "not interleaved" in stored.stdout


def test_limits_of_the_build_count_too(tmp_path):
    size = Limit(figure=Figure.MODEL_SIZE, value=1.0)
    found = replace(quiet_report(), budget=replace(quiet_report().budget, limits=(size,)))
    report.write(found, tmp_path)
    assert edgeprune("gate", tmp_path).exit_code == 3


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--limit", "latncy <= 3ms"], "no such figure"),
        (["-c", "gone.toml"], "cannot be read"),
        (["--baseline", "gone"], "cannot be read"),
    ],
)
def test_wrong_limits_end_with_1_and_one_line(run, words, wanted):
    found = edgeprune("gate", run, *words)
    assert (found.exit_code, found.stderr.count("\n")) == (1, 1)
    assert wanted in found.stderr


@pytest.mark.parametrize("text", ["budgets = 3", "[budgets"])
def test_wrong_files_of_limits_are_refused(run, text, tmp_path):
    (tmp_path / "b.toml").write_text(text)
    assert edgeprune("gate", run, "-c", tmp_path / "b.toml").exit_code == 1


# --- compare ------------------------------------------------------------------------------------------


def test_two_files_are_compared(tmp_path, asked):
    files = [tiny_onnx.save(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    found = edgeprune("compare", *files)
    assert found.exit_code == 0
    assert asked == [["a.onnx", "b.onnx"]]
    assert "slower: b.onnx than a.onnx (ratio 1.100, 95 % interval 1.080 to 1.120)" in found.stdout
    as_json = json.loads(edgeprune("compare", *files, "--json").stdout)
    assert as_json["sentence"].startswith("slower")


def test_a_file_with_itself_and_runs_with_each_other(run, tmp_path, asked):
    file = tiny_onnx.save(tmp_path / "a.onnx")
    edgeprune("compare", file, file)
    assert asked[-1] == [f"{file} (1)", f"{file} (2)"]
    found = edgeprune("compare", run, run / "report.json")
    assert asked[-1] == ["run", "report.json"]
    assert "98.33 %" in found.stdout


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.99, 1.01, "equal"), (0.9, 0.95, "faster"), (0.9, 1.01, "not known")]
)
def test_a_comparison_in_words(low, high, word):
    found = replace(measurement(), ratio=Interval(value=(low + high) / 2, low=low, high=high))
    assert measuring.in_words(found, ["a", "b"]).startswith(word)


def test_networks_that_read_other_sizes_are_not_compared(tmp_path, monkeypatch):
    shapes = {"a": (3, 8, 8), "b": (3, 16, 16)}
    monkeypatch.setattr("edgeprune.measure.Place.image_shape", lambda _, file: shapes[file.stem])
    found = edgeprune("compare", tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert found.exit_code == 1
    assert "b.onnx: reads 3x16x16 images, but" in found.stderr


def test_memory_that_nobody_tells_is_unknown(tmp_path, monkeypatch):
    def fake(files: dict[str, Path], **_: object) -> Measurement:
        found = measurement()
        return replace(found, latency=dict.fromkeys(files, found.latency["pruned"]), memory={})

    monkeypatch.setattr("edgeprune.measure.measure", fake)
    found = edgeprune("measure", tiny_onnx.save(tmp_path / "a.onnx"))
    assert found.exit_code == 0
    assert "unknown" in found.stdout


# --- probe --------------------------------------------------------------------------------------------


def stepped(*_: object, **__: object) -> tuple[int, dict[int, float]]:
    return 8, {64: 1.0, 56: 0.88, 60: 1.0}


def test_probing_writes_a_profile_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeprune.measure.step", stepped)
    words = ("targets", "probe", "mine", "--out", tmp_path, "--runtime", "onnxruntime", "--threads", "2")
    found = edgeprune(*words)
    assert found.exit_code == 0, found.stderr
    profile = target.load("mine", folders=[tmp_path])
    assert (profile.runtime, profile.align, profile.threads, profile.host) == ("onnxruntime", 8, 2, "")
    assert profile.arch
    assert (profile.memory_bytes or 0) > 0
    assert (
        "# Time of a width over that of 64: 56: 0.88, 60: 1.00, 64: 1.00"
        in (tmp_path / "mine.toml").read_text()
    )
    again = edgeprune(*words)
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)
    assert edgeprune(*words, "--force").exit_code == 0


def test_probing_wants_a_runtime_that_is_there():
    from edgeprune.cli.probing import choose_runtime

    assert choose_runtime({"runtimes": {"onnxruntime": "1"}}, None, "x") == "onnxruntime"
    with pytest.raises(
        TargetUnreachable, match="x: openvino is missing; run there: pip install openvino numpy"
    ):
        choose_runtime({"runtimes": {"onnxruntime": "1"}}, "openvino", "x")
    with pytest.raises(TargetUnreachable, match="onnxruntime is missing"):
        choose_runtime({"runtimes": {}}, None, "x")


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({48: 0.80, 56: 0.88, 60: 1.00, 62: 1.15, 63: 1.16}, 8),
        ({48: 0.80, 56: 1.00, 60: 1.00, 62: 1.00, 63: 1.00}, 16),
        ({48: 0.75, 56: 0.87, 60: 0.94, 62: 0.97, 63: 0.985}, 1),
        ({48: 0.75, 56: 0.87, 60: 0.95, 62: 1.02, 63: 0.98}, 4),
    ],
    ids=["AVX2", "AVX-512", "none", "4"],
)
def test_the_step_is_the_smallest_that_saves_time(ratios, expected):
    assert stairs.choose({64: 1.0, **ratios}) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_the_stairs_can_be_measured(name):
    found, ratios = measure.step(runtime=name, max_seconds=0.2)
    assert found in stairs.STEPS
    assert set(ratios) == {64, 48, 56, 60, 62, 63}


# --- instructions -------------------------------------------------------------------------------------


def test_counts_are_read():
    from edgeprune.measure import instructions as room  # the function of that name hides the module

    module = sys.modules["edgeprune.measure.instructions"]
    assert room is module.instructions
    assert module.read_perf("# started\n123,,instructions:u,100\n") == 123.0
    assert module.read_perf("<not supported>,,instructions:u,0\n") is None
    assert module.read_callgrind("version: 1\nsummary: 456\n\ntotals: 456\n") == 456.0
    assert module.read_callgrind("") is None


def test_instructions_are_a_difference(tmp_path, monkeypatch):
    module = sys.modules["edgeprune.measure.instructions"]
    monkeypatch.setattr(module, "_count", lambda job, *_: 1000.0 + 50.0 * job["rounds"])
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    image = np.zeros(tiny_onnx.IMAGE_SHAPE, np.float32)
    net = tiny_onnx.save(tmp_path / "net.onnx")
    found = measure.instructions(net, runtime="onnxruntime", image=image, counter="callgrind")
    assert found is not None
    assert (found.per_inference, found.method) == (50.0, "callgrind")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert measure.instructions(net, runtime="onnxruntime", image=image) is None


def test_a_counter_runs_the_worker(tmp_path):
    """A program in the place of valgrind: it runs what follows it, and the worker answers."""
    from edgeprune.measure import local, ssh

    counter = tmp_path / "counter"
    counter.write_text('#!/bin/sh\ntouch "$0.was-here"\nexec "$@"\n')
    counter.chmod(0o755)
    assert "machine" in local.ask(ssh.worker_job("describe"), under=(str(counter),))
    assert (tmp_path / "counter.was-here").exists()
