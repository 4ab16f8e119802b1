"""Files made to do harm: each is refused with one line, and nothing in it runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
import tiny_onnx
import torch
from fuzzing import SUBJECTS, holds
from onnx import TensorProto, helper
from sample_report import sample_report
from tiny_builds import Place, measure_nothing, program, settle

from edgeprune import report
from edgeprune.errors import EdgepruneError, InputError, ModelError
from edgeprune.measure import openssh
from edgeprune.measure.files import check_onnx
from edgeprune.report import outputs
from edgeprune.zoo import load, programs

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*"))
NAME = "<img src=x onerror=alert(1)>|`$(touch ran)`\x1b]0;x\x07\n::error::&amp;'\"../../x"
"""A name as nobody would give it."""


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[Path], object], tuple[Path]]:
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The file that a payload would make."""
    return tmp_path / "ran"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    measure_nothing(monkeypatch)
    return settle(tmp_path)


def refused(place: Place, **flags: object) -> str:
    """Build with something hostile; give the one line that says no."""
    found = program("build", *place.flags(**flags))
    assert found.exit_code == 1, found.output
    lines = [line for line in found.stderr.splitlines() if " done in " not in line]
    assert len(lines) == 1, found.stderr
    assert not (place.folder / "ran").exists(), "the payload ran"
    return lines[0]


# --- exported programs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported() -> bytes:
    """A harmless .pt2 of a small network."""
    file = io.BytesIO()
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()).eval()
    batch = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 5, 5),), dynamic_shapes=batch), file)
    return file.getvalue()


def rewritten(
    archive: bytes, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None
) -> bytes:
    """The archive with its parts changed, and more of them."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in (more or {}).items():
            new.writestr(f"{root}/{name}", content)
    return made.getvalue()


def edit_graph(change: Callable[[str], str]) -> Callable[[bytes, Path], bytes]:
    def spoil(archive: bytes, _: Path) -> bytes:
        def edit(name: str, content: bytes) -> bytes:
            if not name.endswith("models/model.json"):
                return content
            text = change(content.decode())
            assert text != content.decode(), "the program has changed its form: nothing was spoiled"
            return text.encode()

        return rewritten(archive, edit)

    return spoil


def pickled_inputs(archive: bytes, proof: Path) -> bytes:
    return rewritten(archive, lambda name, content: torch_file(proof) if "sample_inputs" in name else content)


def torch_file(proof: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"x": Payload(proof)}, file)
    return file.getvalue()


def pickled_weights(archive: bytes, proof: Path) -> bytes:
    def change(name: str, content: bytes) -> bytes:
        if "weights/weight_" in name:
            return torch_file(proof)
        if name.endswith("model_weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return content

    return rewritten(archive, change)


def pickled_constant(archive: bytes, proof: Path) -> bytes:
    constant = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("model_constants_config.json"):
            return json.dumps({"config": {"c": constant}}).encode()
        return content

    more = {"data/constants/opaque_obj_0": pickle.dumps(Payload(proof))}
    return rewritten(archive, change, more)


EXECUTED = r"__import__('pathlib').Path('ran').touch()"
PROGRAMS: dict[str, Callable[[bytes, Path], bytes]] = {
    "pickled sample inputs": pickled_inputs,
    "pickled weights": pickled_weights,
    "a pickled constant": pickled_constant,
    "compiled code": lambda archive, _: rewritten(
        archive, lambda _, content: content, {"data/aotinductor/model/x.so": b"\x7fELF"}
    ),
    "a size that is code": edit_graph(
        lambda text: re.sub(r'("expr_str": )"[^"]*"', lambda found: f'{found[1]}"{EXECUTED}"', text)
    ),
    "a size that calls SymPy": edit_graph(
        lambda text: re.sub(r'("expr_str": )"[^"]*"', lambda found: f'{found[1]}"sympify(s0)"', text)
    ),
    "an operation of torch.hub": edit_graph(
        lambda text: re.sub(r'"torch\.ops\.aten\.\w+\.\w+"', '"torch.hub.load"', text)
    ),
    "an operation that loads a library": edit_graph(
        lambda text: re.sub(r'"torch\.ops\.aten\.\w+\.\w+"', '"torch.ops.load_library"', text)
    ),
    "inputs of a class to import": edit_graph(lambda text: text.replace("builtins.tuple", "antigravity.fly")),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_exported_program_runs_nothing(name, exported, tmp_path, proof, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pt2"
    path.write_bytes(PROGRAMS[name](exported, proof))
    with pytest.raises(ModelError, match=r"net\.pt2: refused: loading it could run code") as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    assert not proof.exists()


def test_a_harmless_exported_program_loads(exported, tmp_path):
    (tmp_path / "net.pt2").write_bytes(exported)
    assert load(str(tmp_path / "net.pt2")).module(torch.zeros(3, 1, 5, 5)).shape == (3, 18)


def test_the_payload_would_run_if_it_were_loaded(exported, tmp_path, proof):
    """Else the tests above would hold whatever is done."""
    for spoil in (pickled_weights, pickled_inputs):
        with contextlib.suppress(Exception):  # what comes out is no network
            torch.export.load(io.BytesIO(spoil(exported, proof)))
        assert proof.exists()
        proof.unlink()


def test_two_parts_of_one_name_are_refused(exported):
    with zipfile.ZipFile(io.BytesIO(exported)) as archive:
        names = archive.namelist()
    made = io.BytesIO(exported)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(made, "a") as archive:
        archive.writestr(names[0], b"x")
    with pytest.raises(programs.RefusedError, match="two parts have one name"):
        programs.check(made.getvalue())


# --- paths that lead out ------------------------------------------------------------------------------


def external(folder: Path, location: str) -> Path:
    """A network whose weights lie in another file."""
    path = tiny_onnx.save(folder / "net.onnx")
    model = onnx.load(path)
    [weights] = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.bin", "a/../../secret.bin", "link/x"])
def test_weights_of_an_onnx_file_stay_in_its_folder(location, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "net"
    (folder / "a").mkdir(parents=True)
    (folder / "link").symlink_to("/etc")
    found = program("measure", external(folder, location), "--target", "onnxruntime")
    assert found.exit_code == 1
    assert "refused: it reads weights from" in found.stderr
    assert found.stderr.count("\n") == 1


def test_weights_beside_an_onnx_file_are_its_own(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(48))
    check_onnx(external(tmp_path, "w.bin"))


def test_weights_hidden_in_a_branch_are_found(tmp_path):
    outside = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], ["y"], value=outside)
    branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model = onnx.load(tiny_onnx.save(tmp_path / "net.onnx"))
    model.graph.node.add().CopyFrom(
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    )
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="outside of its folder"):
        check_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("path", ["/etc/passwd", "../../x.onnx"])
def test_a_report_speaks_of_files_beside_it_only(path, tmp_path):
    found = sample_report()
    artifacts = {**found.artifacts, "pruned": replace(found.artifacts["pruned"], path=path)}
    report.write(replace(found, artifacts=artifacts), tmp_path)
    with pytest.raises(InputError, match="leads out of the folder"):
        report.read(tmp_path / "report.json")


@pytest.mark.parametrize("name", ["/dev/zero", "../../../../etc/passwd"])
def test_a_stage_record_that_names_files_elsewhere_is_made_again(name, place):
    assert program("build", *place.flags()).exit_code == 0
    record = place.out / "stages" / "export-dense.json"
    content = json.loads(record.read_text())
    content["files"] = {name: "0" * 64}
    record.write_text(json.dumps(content))
    assert program("build", *place.flags()).exit_code == 0
    assert name not in record.read_text()


# --- bombs --------------------------------------------------------------------------------------------


def bomb_png() -> bytes:
    """A few bytes that decode to 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (60_000).to_bytes(4, "big") * 2
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x00\x00\x00\x00") + pixels + chunk(b"IEND", b"")
    )


def test_an_image_of_absurd_size_is_refused(place):
    folder = place.folder / "photos" / "a"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(bomb_png() + bytes([number]))
    assert "pixels; scale it down" in refused(place, data=str(place.folder / "photos"), color="gray")


def test_an_array_that_expands_a_thousandfold_is_refused(place):
    with zipfile.ZipFile(place.images, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("x", (3000, 1000, 1000)), ("y", (3000,))):
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "|u1" if name == "x" else "<i8", "fortran_order": False, "shape": shape}
            )
            with archive.open(f"{name}.npy", "w") as file:
                file.write(header.getvalue())
                block = bytes(10**6)
                for _ in range(1500 if name == "x" else 0):
                    file.write(block)
                if name == "y":
                    file.write(bytes(8 * 3000))
    assert "expands to" in refused(place)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.toml", b"a = " + b"[" * 100_000, "nested too deeply"),
        ("s.toml", b"a = 1\n" * 1_000_000, "larger than 4 MiB"),
        ("s.toml", b"\xff\xfe", "not valid TOML"),
    ],
    ids=["deep", "large", "not text"],
)
def test_settings_that_would_take_for_ever_are_refused(name, content, words, place):
    (place.folder / name).write_bytes(content)
    assert words in refused(place, config=str(place.folder / name))


@pytest.mark.parametrize("flag", ["config", "target", "data", "weights"])
def test_a_pipe_is_not_waited_for(flag, place):
    name = {"config": "p.toml", "target": "p.toml", "data": "p.csv", "weights": "p.pth"}[flag]
    os.mkfifo(place.folder / name)
    refused(place, **{flag: str(place.folder / name)})


def test_a_deep_report_is_refused(tmp_path):
    (tmp_path / "report.json").write_text('{"schema_version": "1.0", "x": ' + "[" * 100_000)
    found = program("report", tmp_path)
    assert found.exit_code == 1
    assert found.stderr.count("\n") == 1


# --- names --------------------------------------------------------------------------------------------


def test_names_are_only_text_in_every_output(tmp_path):
    found = sample_report()
    named = replace(
        found,
        classes=(NAME, *found.classes[1:]),
        notes=(NAME,),
        provenance=replace(found.provenance, model=NAME),
        verdict=replace(found.verdict, checks=(replace(found.verdict.checks[0], reason=NAME, budget=NAME),)),
    )
    report.write(named, tmp_path)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<img src=x" not in page + text
    assert "onerror" in page
    assert "\n::error" not in text
    suite = ET.fromstring(outputs.junit(named.verdict, suite=NAME))  # noqa: S314 - our own
    assert "onerror" in suite[0].attrib["name"]
    for line in outputs.github_annotations(named.verdict):
        assert "\n" not in line
    assert "<img src=x" not in outputs.summary(named.verdict, title=NAME)


def test_messages_command_no_terminal(tmp_path):
    found = program("gate", tmp_path / "a\x1b]0;x\x07\nb")
    assert found.exit_code == 1
    assert "\x1b" not in found.stderr and "\x07" not in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["-oProxyCommand=touch ran", "a;touch ran", "$(touch ran)", "a\nb", "a b"])
def test_a_host_is_no_command(host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        openssh.Address.parse(host)
    net = tiny_onnx.save(tmp_path / "net.onnx")
    assert program("measure", net, "--target", "onnxruntime", f"--host={host}").exit_code == 1
    assert not (tmp_path / "ran").exists()


# --- what once broke a reader -------------------------------------------------------------------------


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_broke_a_reader_is_kept_out(path, tmp_path):
    subject = SUBJECTS[path.name.rpartition(".")[0].replace("-", " ")]
    holds(subject, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_reader_reads_what_is_right(name, tmp_path):
    """Else the fuzzer would only see inputs that are refused at the door."""
    subject = SUBJECTS[name]
    read = 0
    for seed in subject.seeds():
        try:
            subject.read(seed, tmp_path)
        except EdgepruneError:
            continue
        read += 1
    assert read


def test_a_small_file_takes_little_memory_whatever_it_may_hold(tmp_path: Path) -> None:
    """Labels of COCO may be 2 GB; a read of that many bytes takes them at once."""
    from edgeprune.untrusted import PIECE_BYTES, read_bytes

    file = tmp_path / "labels.json"
    file.write_bytes(content := bytes(range(256)) * (PIECE_BYTES // 100))
    tracemalloc.start()
    try:
        assert read_bytes(file, most=2_000_000_000) == content
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content)
    finally:
        tracemalloc.stop()
    assert read_bytes(file, most=len(content)) == content
    with pytest.raises(ValueError, match="larger than 2 MiB"):
        read_bytes(file, most=len(content) - 1)


@pytest.mark.slow
def test_the_fuzzer_finds_a_reader_that_breaks(tmp_path):
    code = """
import json, sys
sys.path.insert(0, "scripts")
import fuzz
from fuzzing import Subject
from pathlib import Path
fuzz.CORPUS = Path(sys.argv[1])
found = fuzz.fuzz("x", Subject(lambda content, _: json.loads(content), lambda: [b"{}"]), 50, Path("."))
assert "Error" in found.broke, found
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=root)
    assert [path.name.partition(".")[0] for path in tmp_path.iterdir()] == ["x"]


def test_settings_are_read_as_before():
    """The guard in front of TOML changes nothing of what it lets through."""
    from edgeprune.untrusted import bounded

    text = 'a = 1\n[b]\nc = ["x"]\n'
    assert bounded(tomllib.loads, text) == {"a": 1, "b": {"c": ["x"]}}
