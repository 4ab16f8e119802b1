"""Target profiles: found by name or path, checked strictly."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from edgeprune import target
from edgeprune.errors import TargetError
from edgeprune.records import Target

SHIPPED = Path(__file__).parent.parent / "targets"


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_profile_says_all_but_the_name():
    said = {"name", *target.Profile.model_fields} - {"memory"} | {"memory_bytes"}
    assert said == {field.name for field in fields(Target)}


def test_every_field_is_documented():
    text = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert [name for name in target.Profile.model_fields if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("name", ["raspberry-pi-4", "raspberry-pi-5", "jetson-cpu", "imx8", "aarch64"])
def test_boards_are_of_their_kind_and_wait_for_a_host(name):
    found = target.load(name, folders=[SHIPPED])
    assert (found.arch, found.host) == ("aarch64", "")
    assert found.align == 8


def test_memory_has_a_unit_and_a_configuration_lies_beside_the_profile(tmp_path):
    text = 'runtime = "openvino"\nmemory = "512 MiB"\nssh_config = "ssh"\nhost = "pi@pi5"\n'
    found = target.load(str(write(tmp_path, "board", text)), folders=[])
    assert found.memory_bytes == 512 * 2**20
    assert found.ssh_config == str(tmp_path / "ssh")
    assert found.host == "pi@pi5"


@pytest.mark.parametrize(
    ("name", "runtime", "align"),
    [
        ("openvino", "openvino", 8),
        ("onnxruntime", "onnxruntime", 0),
        ("onnxruntime-avx512", "onnxruntime", 16),
    ],
)
def test_the_shipped_targets(name, runtime, align):
    found = target.load(name, folders=[SHIPPED])
    assert (found.name, found.runtime, found.threads, found.align) == (name, runtime, 1, align)
    assert found.description


def test_every_shipped_file_is_a_target():
    names = [found.name for found in target.available([SHIPPED])]
    assert names == sorted(path.stem for path in SHIPPED.glob("*.toml"))


def test_the_first_folder_wins(tmp_path):
    write(tmp_path, "openvino", 'runtime = "openvino"\nthreads = 4\nalign = 16')
    folders = [tmp_path, SHIPPED, tmp_path / "missing"]
    assert target.load("openvino", folders=folders).threads == 4
    by_name = {found.name: found for found in target.available(folders)}
    assert by_name["openvino"].align == 16
    assert by_name["onnxruntime"].align == 0


def test_defaults_are_the_records(tmp_path):
    write(tmp_path, "board", 'runtime = "onnxruntime"')
    assert target.load("board", folders=[tmp_path]) == Target(name="board", runtime="onnxruntime")


def test_a_path_needs_no_folder(tmp_path):
    path = write(tmp_path, "board", 'runtime = "onnxruntime"')
    assert target.load(str(path), folders=[]).name == "board"


def test_an_unknown_name_gets_suggestions(tmp_path):
    for name in ("zero", "openvino"):
        write(tmp_path, name, 'runtime = "openvino"')
    with pytest.raises(TargetError, match=r"did you mean `openvino`\? Known: openvino, zero\. A path to"):
        target.load("opnvino", folders=[tmp_path])
    with pytest.raises(TargetError, match=r"unknown target `x`; Known: none"):
        target.load("x", folders=[])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("threads = 1", "`runtime`: Field required"),
        ('runtime = "openvno"', "`runtime`: Input should be 'openvino' or 'onnxruntime'"),
        ('runtime = "openvino"\nalgn = 8', "unknown key `algn`, did you mean `align`"),
        ('runtime = "openvino"\nspeed = 8', "unknown key `speed`, the keys are runtime, description"),
        ('runtime = "openvino"\nthreads = 0', "`threads`: Input should be greater than or equal to 1"),
        ('runtime = "openvino"\nalign = "8"', "`align`: Input should be a valid integer"),
        ('runtime = "openvino"\nthreads = true', "`threads`: Input should be a valid integer"),
        ('runtime = "openvino"\nmemory = 512', "`memory`: Value error, 512 is not a size"),
        ("runtime = ", "not a TOML file"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path, text, complaint):
    write(tmp_path, "board", text)
    with pytest.raises(TargetError) as caught:
        target.load("board", folders=[tmp_path])
    assert "board.toml: " in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TargetError, match="No such file"):
        target.load(str(tmp_path / "none.toml"), folders=[])
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(TargetError, match="not a TOML file"):
        target.load(str(binary), folders=[])
