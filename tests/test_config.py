"""Settings: edgeprune.toml and flags, quantities with units, and what is said about wrong ones."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.cli.building import build
from edgeprune.config import BuildConfig, make_config
from edgeprune.errors import ConfigError
from edgeprune.quantities import BYTES, MILLISECONDS, quantity

ONLY_IN_THE_FILE = {"budgets"}
NOT_SETTINGS = {"config", "json_output"}
"""Parameters of the command that say how to read and print."""


def write(folder: Path, text: str) -> Path:
    path = folder / "edgeprune.toml"
    path.write_text(text)
    return path


# --- twins --------------------------------------------------------------------------------------------


def test_every_flag_of_build_has_a_twin_in_the_file() -> None:
    asked = set(inspect.signature(build).parameters) - NOT_SETTINGS
    assert asked == set(BuildConfig.model_fields) - ONLY_IN_THE_FILE


def test_the_file_says_what_flags_say(tmp_path: Path) -> None:
    flags: dict[str, object] = {
        "model": "torchvision:resnet18",
        "alpha": 0.01,
        "early_exit": False,
        "max_latency": "12ms",
        "max_size": "1.5 MB",
        "resize": (256,),
        "crop": (224, 224),
        "mean": (0.5, 0.5, 0.5),
        "rotate": 90,
    }
    lines = (
        'model = "torchvision:resnet18"\nalpha = 0.01\nearly_exit = false\nmax_latency = "12ms"\n'
        'max_size = "1.5 MB"\nresize = [256]\ncrop = [224, 224]\nmean = [0.5, 0.5, 0.5]\nrotate = 90\n'
    )
    assert make_config({}, file=write(tmp_path, lines)) == make_config(flags)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'alpha = 0.01\ntarget = "onnxruntime"\nsimplify = true\n')
    config = make_config({"alpha": 0.2, "simplify": False, "seed": None}, file=file)
    assert (config.alpha, config.target, config.simplify, config.seed) == (0.2, "onnxruntime", False, 0)


def test_one_number_is_a_list_of_one(tmp_path: Path) -> None:
    config = make_config({}, file=write(tmp_path, "resize = 256\ncrop = 224\nmean = 0.5\nstd = 0.5\n"))
    assert config.preprocess == {"resize": (256,), "crop": (224,), "mean": (0.5,), "std": (0.5,)}


# --- paths --------------------------------------------------------------------------------------------


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    for name in ("w.pth", "mine.toml", "photos.csv", "net.py"):
        (tmp_path / name).touch()
    lines = (
        'model = "python:net.py:make"\nweights = "w.pth"\ndata = "photos.csv"\ntarget = "mine.toml"\n'
        'out = "runs/1"\n'
    )
    config = make_config({}, file=write(tmp_path, lines))
    assert config.model == f"python:{tmp_path / 'net.py'}:make"
    assert config.weights == str(tmp_path / "w.pth")
    assert config.data == str(tmp_path / "photos.csv")
    assert config.target == str(tmp_path / "mine.toml")
    assert config.out == tmp_path / "runs" / "1"


def test_an_exported_program_in_the_file_is_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").touch()
    assert make_config({}, file=write(tmp_path, 'model = "net.pt2"\n')).model == str(tmp_path / "net.pt2")


def test_names_stay_names(tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    lines = 'model = "python:nets:make"\nweights = "DEFAULT"\ndata = "imagenet"\ntarget = "openvino"\n'
    config = make_config({}, file=write(tmp_path, lines))
    assert (config.model, config.weights) == ("python:nets:make", "DEFAULT")
    assert (config.data, config.target) == ("imagenet", "openvino")


def test_paths_in_flags_are_relative_to_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    config = make_config({"weights": "w.pth", "out": "here"}, file=write(tmp_path, 'weights = "v.pth"\n'))
    assert (config.weights, config.out) == ("w.pth", Path("here"))


# --- quantities ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("12ms", 12.0), ("12 ms", 12.0), (" 0.5 s ", 500.0), ("250us", 0.25), (".5MS", 0.5), ("12.5ms", 12.5)],
)
def test_times(text: str, milliseconds: float) -> None:
    assert quantity("time", text) == pytest.approx(milliseconds)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1.5 MB", 1_500_000),
        ("120MB", 120_000_000),
        ("1KiB", 1024),
        ("2 gb", 2e9),
        ("7B", 7),
        ("3mib", 3 * 2**20),
    ],
)
def test_sizes(text: str, size_bytes: float) -> None:
    assert quantity("size", text) == size_bytes


@given(st.floats(1e-3, 1e6), st.sampled_from(sorted(MILLISECONDS)), st.sampled_from(["", " "]))
def test_a_time_is_its_number_times_its_unit(number: float, unit: str, space: str) -> None:
    assert quantity("time", f"{number:.6f}{space}{unit}") == pytest.approx(
        float(f"{number:.6f}") * MILLISECONDS[unit]
    )


@pytest.mark.parametrize("text", ["12", "", "ms", "12 MB", "-3ms", "1,5ms", "12 parsecs", "1e3ms", 12, 12.5])
def test_a_time_without_a_unit_of_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"not a time; write a number with a unit, like 12ms \(us, ms, s\)"):
        quantity("time", text)


@pytest.mark.parametrize("text", ["12", "12ms", "5 Mbit", 5_000_000])
def test_a_size_without_a_unit_of_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=f"like 120MB \\({', '.join(BYTES)}\\)"):
        quantity("size", text)


def test_budgets_in_the_units_of_the_records() -> None:
    config = make_config(
        {"max_latency": "1.2 s", "max_memory": "120MB", "max_size": "1.5KB", "max_accuracy_drop": 1.5}
    )
    assert config.budget.max_latency_ms == 1200
    assert config.budget.max_memory_bytes == 120_000_000
    assert config.budget.max_size_bytes == 1500
    assert config.budget.max_accuracy_drop == pytest.approx(0.015)


# --- what is wrong, where, and what to do -------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ('max_latancy = "12ms"', "max_latancy: no such setting; did you mean max_latency?"),
        ('max-latency = "12ms"', "max-latency: no such setting; did you mean max_latency?"),
        ("alhpa = 0.1", "alhpa: no such setting; did you mean alpha?"),
        ("qqq = 1", "qqq: no such setting; see edgeprune build --help"),
        ("max_latency = 12", "max_latency = 12: 12 is not a time; write a number with a unit, like 12ms"),
        ('max_latency = "0ms"', "max_latency = '0ms': Input should be greater than 0"),
        ("alpha = 0.7", "alpha = 0.7: Input should be less than 0.5"),
        ('alpha = "much"', "alpha = 'much': Input should be a valid number"),
        ("max_param_ratio = 1.5", "max_param_ratio = 1.5: Input should be less than or equal to 1"),
        ("max_accuracy_drop = -1", "max_accuracy_drop = -1: Input should be greater than or equal to 0"),
        ("max_accuracy_drop = nan", "max_accuracy_drop = nan: Input should be"),
        ('color = "grey"', "color = 'grey': did you mean gray? It is one of rgb, bgr, gray."),
        ('method = "magic"', "method = 'magic': no such method; there are c-swap-c, c-swap,"),
        ("processes = 1", "processes = 1: Input should be greater than or equal to 2"),
        ("crop = 0.5", "crop = 0.5: Input should be a valid integer"),
        ("mean = [0.5, 'a']", "mean = 'a': Input should be a valid number"),
        ("[alpha]\nx = 1", "alpha = {'x': 1}: "),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, setting: str, wanted: str) -> None:
    file = write(tmp_path, f"{setting}\n")
    with pytest.raises(ConfigError) as caught:
        make_config({}, file=file)
    assert str(caught.value).startswith(f"{file}: {wanted}")
    assert "\n" not in str(caught.value)


def test_a_wrong_flag_is_named_as_a_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--max-latency = '12': '12' is not a time"):
        make_config({"max_latency": "12"}, file=write(tmp_path, 'max_latency = "1ms"\n'))


@pytest.mark.parametrize("content", [b"alpha = ", b"\xff\xfe", b"alpha = 1\nalpha = 2\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "edgeprune.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"edgeprune\.toml: not valid TOML"):
        make_config({}, file=file)


@pytest.mark.parametrize("name", ["gone.toml", ""])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .*check the path"):
        make_config({}, file=tmp_path / name)
