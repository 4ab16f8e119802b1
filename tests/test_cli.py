"""The program as people and CI jobs use it: flags, output, exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console
from sample_report import sample_report
from tiny_builds import Place, measure_nothing, measured, program, settle
from typer.testing import Result

from edgeprune import report
from edgeprune.cli import app
from edgeprune.cli.app import Settings
from edgeprune.cli.doctoring import advice
from edgeprune.cli.progress import Lines
from edgeprune.records import Measurement

STAGES = ["walk", "export-dense", "export-pruned", "measure", "accuracy-dense", "accuracy-pruned", "course"]
HEAVY = ("torch", "openvino", "onnxruntime", "onnx", "numpy", "scipy", "matplotlib", "edgeprune.config")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    measure_nothing(monkeypatch)
    return settle(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, as far as reading commands look."""
    folder = tmp_path_factory.mktemp("run")
    report.write(sample_report(), folder)
    return folder


def edgeprune(*words: object) -> Result:
    """Run the program; anything but an exit is a bug."""
    found = program(*words)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


# --- build --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_build_ends_with_the_table_and_the_path(place: Place) -> None:
    found = edgeprune("build", *place.flags())
    assert found.exit_code == 0
    assert "Top-1 accuracy" in found.stdout
    assert "fits: 2.13x faster" in found.stdout
    assert found.stdout.splitlines()[-1] == f"report: {place.out / 'report.html'}"


@pytest.mark.slow
def test_a_log_gets_one_line_a_stage_and_no_bars(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.cli.progress.SECONDS_BETWEEN_LINES", float("inf"))
    first, second = (edgeprune("build", *place.flags()).stderr.splitlines() for _ in range(2))
    assert [line.partition(":")[0] for line in first] == STAGES
    assert all(" done in " in line for line in first)
    assert second == [f"{stage}: unchanged, reused" for stage in STAGES]
    assert "\x1b" not in "".join(first + second)


@pytest.mark.slow
def test_json_is_the_report_and_nothing_else(place: Place) -> None:
    found = edgeprune("build", *place.flags(), "--json")
    assert json.loads(found.stdout) == place.report()
    jsonschema.validate(json.loads(found.stdout), report.schema())
    assert found.stderr == ""


@pytest.mark.slow
def test_quiet_leaves_the_result(place: Place) -> None:
    found = edgeprune("--quiet", "build", *place.flags())
    assert found.stderr == ""
    assert "report:" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "figures", "code"),
    [
        ({"max_latency": "1us"}, measured(), 3),
        ({"max_size": "1KB"}, measured(), 3),
        ({"max_memory": "1 MB"}, measured(), 3),
        ({"max_latency": "1s", "max_size": "10MB"}, measured(), 0),
        ({"max_latency": "1us"}, measured(quality="noisy"), 4),
        ({"max_latency": "4.6ms"}, measured(), 4),
        ({"max_latency": "4.6ms", "max_size": "1KB"}, measured(), 3),
    ],
)
def test_the_exit_code_is_the_verdict(
    built: Place, monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], figures: object, code: int
) -> None:
    measure_nothing(monkeypatch, figures)  # type: ignore[arg-type]  # a Measurement
    (built.out / "stages" / "measure.json").unlink()
    found = edgeprune("build", *built.flags(**limits))
    assert found.exit_code == code
    word = {0: "fits", 3: "over", 4: "undecided"}[code]
    assert f"\n{word}: " in found.stdout
    assert built.report()["verdict"]["outcome"] == word


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with a finished run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        measure_nothing(monkeypatch)
        place = settle(tmp_path_factory.mktemp("built"))
        assert edgeprune("build", *place.flags()).exit_code == 0
        yield place


@pytest.mark.slow
def test_a_settings_file_says_it_all(built: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measure_nothing(monkeypatch)
    file = built.folder / "edgeprune.toml"
    file.write_text(
        'model = "python:net.py:Tiny"\nweights = "weights.safetensors"\ndata = "images.npz"\n'
        'target = "onnxruntime"\nout = "out"\nprocesses = 2\nmax_size = "1KB"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert edgeprune("build", "-c", file).exit_code == 3
    assert edgeprune("build", "--config", file, "--max-size", "1MB").exit_code == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_build_for_real(tmp_path: Path) -> None:
    place = settle(tmp_path)
    command = ["-c", "from edgeprune.cli import main; main()", "build", *place.flags(target="openvino")]
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert [line.partition(":")[0] for line in found.stderr.splitlines()] == STAGES
    latency = place.report()["measurement"]["latency"]
    assert latency["dense"]["runs"] > 0
    assert latency["pruned"]["p50_ms"]["value"] > 0


# --- wrong usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["build", "--modle", "x"], "--model"),
        (["biuld"], "build"),
        (["build", "--mean", "a,b"], "give numbers with commas"),
        (["build", "--resize", "big"], "give pixels"),
        (["build", "--alpha", "x"], "--alpha"),
        (["build", "extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(words: list[str], wanted: str) -> None:
    found = edgeprune(*words)
    assert found.exit_code == 2
    assert wanted in found.stderr


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--max-latency", "12"], "--max-latency = '12': '12' is not a time; write a number with a unit"),
        (["--alpha", "0.7"], "--alpha = 0.7: Input should be less than 0.5"),
        (["--crop", "1x2x3"], "crop"),
        (["--resize", "0"], "resize = [0]; give [height, width] in pixels"),
        (["--mean", "0.5,0.5"], "mean has 2 values"),
        (["--std", "0"], "must not be 0"),
        (["--target", "opnvino"], "did you mean `openvino`?"),
        (["--model", "torchvision:resnet19"], "did you mean resnet1"),
        (["-c", "gone.toml"], "gone.toml: cannot be read"),
    ],
)
def test_a_wrong_value_ends_with_1_and_one_line(
    words: list[str], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = edgeprune("build", *words)
    assert found.exit_code == 1
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert wanted in found.stderr


def test_debug_shows_the_trace() -> None:
    found = program("--debug", "build", "--max-latency", "12")
    assert type(found.exception).__name__ == "ConfigError"


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeprune.pipeline.build", interrupt)
    found = edgeprune("build")
    assert found.exit_code == 130
    assert found.stderr == "interrupted; run the same command again to go on where it was\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], (*HEAVY, "pydantic")),
        (["--version"], (*HEAVY, "pydantic")),
        (["build", "--help"], HEAVY),  # Typer itself loads pydantic here
        (["targets", "--help"], HEAVY),
    ],
)
def test_help_loads_nothing_heavy(words: list[str], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom edgeprune.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"found = {{*sys.modules}} & {{*{heavy}}}\n"
        "assert not found, found"
    )
    found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_global_flags_may_stand_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeprune.cli import main

    monkeypatch.setattr(Settings, "quiet", False)  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["edgeprune", "build", "--max-latency", "12", "--quiet"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "not a time" in capsys.readouterr().err


# --- reading commands ---------------------------------------------------------------------------------


def test_report_shows_and_writes_again(finished: Path) -> None:
    (finished / "report.html").unlink()
    found = edgeprune("report", finished)
    assert found.exit_code == 0
    assert "Latency p50" in found.stdout
    assert (finished / "report.html").exists()
    assert edgeprune("report", finished / "report.json").stdout == found.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 0),
        (["--max-latency", "1ms"], 4),  # the sample was measured on a noisy machine
        (["--max-size", "1KB"], 3),
        (["--max-memory", "1GB", "--max-accuracy-drop", "5"], 0),
        (["--max-accuracy-drop", "0.1"], 3),
    ],
)
def test_gate_ends_with_the_verdict(finished: Path, words: list[str], code: int) -> None:
    found = edgeprune("gate", finished, *words)
    assert found.exit_code == code
    assert f"{ {0: 'fits', 3: 'over', 4: 'undecided'}[code] }: " in found.stdout


def test_gate_as_json(finished: Path) -> None:
    found = edgeprune("gate", finished, "--max-size", "1KB", "--json")
    verdict = json.loads(found.stdout)
    assert (found.exit_code, verdict["outcome"]) == (3, "over")
    assert {"budget", "limit", "value", "outcome", "reason"} <= verdict["checks"][0].keys()


def test_gate_wants_units(finished: Path) -> None:
    found = edgeprune("gate", finished, "--max-latency", "12")
    assert (found.exit_code, found.stderr.count("\n")) == (1, 1)


def test_explain_lists_widths_and_reasons(finished: Path) -> None:
    sample = sample_report()
    widths = json.loads(edgeprune("explain", finished, "--json").stdout)["layers"]
    assert [row["group"] for row in widths] == [width.group for width in sample.widths]
    assert all(row["critical"] + row["neutral"] + row["detrimental"] <= row["before"] for row in widths)
    frozen = json.loads(edgeprune("explain", finished, "--frozen", "--json").stdout)
    assert [row["reason"] for row in frozen] == [axis.reason for axis in sample.frozen]
    assert edgeprune("explain", finished).exit_code == 0
    assert edgeprune("explain", finished, "--frozen").exit_code == 0


@pytest.mark.parametrize("command", ["report", "gate", "explain"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"schema_version": "9.0"}', '{"a": 1}'])
def test_what_is_no_run_is_refused(command: str, content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    found = edgeprune(command, tmp_path)
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr.startswith(f"error: {tmp_path / 'report.json'}: ")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "gate", "explain"])
@pytest.mark.slow
def test_reading_needs_no_torch(command: str, finished: Path) -> None:
    hidden = "import sys; sys.modules['torch'] = sys.modules['openvino'] = None"
    code = f"{hidden}\nfrom edgeprune.cli import main; main()"
    words = [sys.executable, "-c", code, command, str(finished)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


# --- commands about machines --------------------------------------------------------------------------


def test_targets_are_listed_and_shown() -> None:
    names = {target["name"] for target in json.loads(edgeprune("targets", "list", "--json").stdout)}
    assert {"openvino", "onnxruntime"} <= names
    assert "openvino" in edgeprune("targets", "list").stdout
    assert json.loads(edgeprune("targets", "show", "openvino").stdout)["runtime"] == "openvino"
    assert edgeprune("targets", "show", "opnvino").exit_code == 1


def test_a_target_of_the_working_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "openvino.toml").write_text('runtime = "openvino"\nthreads = 3\n')
    assert json.loads(edgeprune("targets", "show", "openvino").stdout)["threads"] == 3


def test_doctor_says_what_to_do() -> None:
    versions: dict[str, str | None] = {"torch": "2.15.0+cpu", "torchvision": "0.29.2", "onnx": None}
    todo = advice(versions, {"governor": "powersave"}, ["loud"], room=(10**9, 10**8))
    assert [sentence.split()[0] for sentence in todo] == ["pip", "torch", "little", "little", "hold", "stop"]
    assert todo[0] == "pip install onnx"
    versions |= {"torchvision": "0.29.2+cpu", "onnx": "1.23"}
    assert advice(versions, {"governor": "performance"}, [], room=(10**11, 10**11)) == []


def test_doctor_says_what_is_here() -> None:
    found = json.loads(edgeprune("doctor", "--json").stdout)
    assert {"machine", "system", "versions", "extras", "noise", "advice"} == found.keys()
    assert all("missing" not in version for version in found["versions"].values())
    assert edgeprune("doctor").exit_code == 0


def test_measure_prints_what_was_measured(built: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def fake(artifacts: dict[str, Path], **settings: object) -> object:
        asked.append({"names": list(artifacts), **settings})
        return measured_as(list(artifacts))

    monkeypatch.setattr("edgeprune.measure.measure", fake)
    files = [built.out / "models" / f"{name}.onnx" for name in ("dense", "pruned")]
    found = edgeprune("measure", *files, "--target", "onnxruntime", "--processes", 2)
    assert found.exit_code == 0
    assert "pruned.onnx takes 0.469 times as long as dense.onnx" in " ".join(found.stdout.split())
    assert asked[0]["names"] == ["dense.onnx", "pruned.onnx"]
    assert (asked[0]["runtime"], asked[0]["processes"]) == ("onnxruntime", 2)
    one = json.loads(edgeprune("measure", files[0], "--target", "onnxruntime", "--json").stdout)
    assert one["latency"].keys() == {"dense.onnx"}


def measured_as(names: list[str]) -> Measurement:
    found = measured()
    latency, memory = (
        dict(zip(names, table.values(), strict=False)) for table in (found.latency, found.memory)
    )
    return replace(found, latency=latency, memory=memory)


WRONG_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone.onnx": (lambda path: None, "no such file"),
    "text.onnx": (lambda path: path.write_text("not a network"), "text.onnx"),
    "net.txt": (lambda path: path.write_text("not a network"), "net.txt"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_measure_refuses_what_is_no_network(tmp_path: Path, name: str, target: str) -> None:
    make, wanted = WRONG_FILES[name]
    make(tmp_path / name)
    found = edgeprune("measure", tmp_path / name, "--target", target)
    assert (found.exit_code, found.stdout) == (1, "")
    assert wanted in found.stderr
    assert found.stderr.count("\n") == 1


def test_every_command_has_help_with_an_example() -> None:
    for words in (
        ["build"],
        ["report"],
        ["gate"],
        ["explain"],
        ["prune"],
        ["sweep"],
        ["measure"],
        ["compare"],
        ["doctor"],
        ["targets", "list"],
        ["targets", "show"],
        ["targets", "probe"],
    ):
        text = edgeprune(*words, "--help").stdout
        assert f"edgeprune {' '.join(words)}" in text.replace("Usage: edgeprune", ""), words


def test_the_build_commands_of_the_readme_are_understood() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text().replace("\\\n", " ")
    commands = [line.partition("#")[0] for line in readme.splitlines() if line.startswith("edgeprune build")]
    assert commands
    for command in commands:
        found = edgeprune(*command.split()[1:], "--alpha", "9")
        assert found.exit_code == 1
        assert found.stderr.startswith(("error: --alpha = 9.0", "error: edgeprune.toml: cannot be read"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgeprune bui", {"build"}),
        ("edgeprune build --target openv", {"openvino"}),
        ("edgeprune measure --target raspberry-pi-", {"raspberry-pi-4", "raspberry-pi-5"}),
        ("edgeprune build --method c-swap", {"c-swap", "c-swap-c"}),
    ],
)
def test_a_shell_completes_names(line: str, expected: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from edgeprune.cli import main; main()"],
        env={
            **os.environ,
            "_EDGEPRUNE_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(done.stdout.split()) == expected, done.stderr


def test_a_wrong_choice_is_told_the_nearest() -> None:
    done = edgeprune("build", "--compensate", "afine")
    assert done.exit_code == 1
    assert "did you mean affine?" in done.output
    assert "?." not in edgeprune("build", "--method", "c-swp").output


def test_a_log_gets_a_line_a_minute() -> None:
    now = iter([0.0, 30.0, 61.0, 90.0, 130.0])
    console = Console(file=io.StringIO(), width=200)
    lines = Lines(console, clock=lambda: next(now))
    for done in (1, 5, 10, 20, 40):
        lines.progress("walk", done, 40, "[x] detail")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "walk: 25%, about 3 min left; [x] detail",
        "walk: 100%, about 0 min left; [x] detail",
    ]


@pytest.mark.parametrize("width", ["30", "60", "200"])
def test_narrow_terminals_lose_nothing(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("NO_COLOR", "1")
    done = edgeprune("targets", "list")
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= int(width)
    assert "\x1b[" not in done.stdout


def commands() -> list[tuple[str, Any]]:  # Any: click's own kind
    """Every command with its full name."""
    from typer.main import get_command

    found, todo = [], [("", get_command(app))]
    while todo:
        name, command = todo.pop()
        inner = getattr(command, "commands", {})
        todo += [(f"{name} {word}".strip(), one) for word, one in inner.items()]
        found += [] if inner else [(name, command)]
    return found


def test_help_shows_the_defaults_that_stand_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets with letters in them are markup where they are not escaped, and vanish."""
    monkeypatch.setenv("COLUMNS", "400")
    seen = 0
    for name, command in commands():
        shown = edgeprune(*name.split(), "--help").stdout
        for parameter in command.params:
            text = getattr(parameter, "help", None) or ""
            assert not re.search(r"(?<!\\)\[[a-z]", text), (name, parameter.name)
            for default in re.findall(r"\\\[[^\]]+\]", text):
                assert default.removeprefix("\\") in shown, (name, parameter.name)
                seen += 1
    assert seen > 10
