"""What reads files that others wrote, one subject each; scripts/fuzz.py feeds them.

A subject takes bytes and reads them as the program would. Right is a result, or an error that ends the
program with one line: EdgepruneError or OSError. Anything else is a find, kept in tests/hostile/corpus.
A new reader is one line in SUBJECTS.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_onnx
from PIL import Image
from sample_report import sample_report

from edgeprune import calibration, gate, report, target
from edgeprune.budgets import parse
from edgeprune.config import make_config
from edgeprune.errors import EdgepruneError, RunFolderError
from edgeprune.measure import answers, openssh, worker
from edgeprune.measure.files import check_onnx
from edgeprune.records import Accuracy, Kind, Split, Step
from edgeprune.runfolder import Journal, RunFolder, read_stage, whole_lines

MOST_MEMORY = 2 * 2**30
MOST_SECONDS = 10
EXPECTED = (EdgepruneError, OSError)


@dataclass(frozen=True)
class Subject:
    """One reader."""

    read: Callable[[bytes, Path], object]
    """Reads what the bytes say; files go into the folder."""
    seeds: Callable[[], list[bytes]]
    """Valid inputs to start from."""
    words: tuple[bytes, ...] = ()
    """What is put in here and there."""
    slow: bool = False
    """Takes milliseconds: gets a smaller share of the inputs."""


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# --- readers ------------------------------------------------------------------------------------------


def read_settings(content: bytes, folder: Path) -> object:
    return make_config({}, file=written(folder, "edgeprune.toml", content)).budget


def read_profile(content: bytes, folder: Path) -> object:
    return target.load(str(written(folder, "t.toml", content)), folders=())


def read_description(content: bytes, folder: Path) -> object:
    images(folder)
    return calibration.load(str(written(folder, "d.toml", content)))


def read_csv(content: bytes, folder: Path) -> object:
    images(folder)
    return calibration.load(str(written(folder, "list.csv", content)))


def read_npz(content: bytes, folder: Path) -> object:
    data = calibration.load(str(written(folder, "images.npz", content)))
    return calibration.images(data, Split.CALIBRATION, [0])


def read_folder(content: bytes, folder: Path) -> object:
    """One image of a folder is what was given; its name too."""
    images(folder)
    written(folder / "photos" / "b", f"odd.{'png' if content[:1] == bytes([0x89]) else 'jpg'}", content)
    data = calibration.load(str(folder / "photos"), overrides={"resize": [8, 8]})
    return [calibration.images(data, split) for split in Split if data.samples[split]]


def images(folder: Path) -> None:
    """Six images in two folders, once."""
    if not (folder / "photos").exists():
        for number in range(6):
            place = folder / "photos" / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")


def read_coco(content: bytes, folder: Path) -> object:
    written(folder, "boxes.json", content)
    return described(folder, '[calibration]\nsource = "photos"\nboxes = "boxes.json"\n', "boxes")


def read_voc(content: bytes, folder: Path) -> object:
    """One image's boxes are what was given."""
    for number in range(6):
        place = folder / "boxes" / "ab"[number % 2] / f"{number}.xml"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if number == 0 else voc_seeds()[0])
    return described(folder, '[calibration]\nsource = "photos"\nboxes = "boxes"\n', "boxes")


def read_masks(content: bytes, folder: Path) -> object:
    written(folder, "masks.csv", content)
    return described(folder, 'classes = ["a", "b"]\n[calibration]\nsource = "masks.csv"\n', "masks")


def described(folder: Path, text: str, kind: Kind) -> object:
    images(folder)
    return calibration.load(str(written(folder, "d.toml", text.encode())), kind=kind)


def read_limit(content: bytes, folder: Path) -> object:
    return parse(content.decode(errors="replace"))


def read_host(content: bytes, folder: Path) -> object:
    return openssh.Address.parse(content.decode(errors="replace"))


def read_report(content: bytes, folder: Path) -> object:
    found = report.read(written(folder, "report.json", content))
    gate.judge_report(found, found.budget, baseline=found)
    report.summary_rows(found)
    return report.write(found, folder / "again")


def read_record(content: bytes, folder: Path) -> object:
    """As a finished stage, and as one that may be reused."""
    (folder / "run" / "stages").mkdir(parents=True, exist_ok=True)
    (folder / "run" / ".lock").touch()
    written(folder / "run" / "stages", "accuracy.json", content)
    with RunFolder.open(folder / "run") as run:
        run.reuse_or_make("accuracy", Accuracy, {"data": "1"}, lambda: sample_report().accuracy["dense"])
    written(folder / "run" / "stages", "accuracy.json", content)
    return read_stage(folder / "run", "accuracy", Accuracy)


def read_journal(content: bytes, folder: Path) -> object:
    journal = Journal(written(folder, "walk.jsonl", content), Step, {"a": "1"})
    if len(whole_lines(folder / "walk.jsonl")) != 1 + len(journal.read()):
        raise AssertionError("what was read is not what is kept")
    return journal.read()


def read_plan(content: bytes, folder: Path) -> object:
    from edgeprune.pipeline.saving import read_saved, removed_units

    (folder / "weights.safetensors").write_bytes(weights_seeds()[0])
    written(folder, "plan.json", content)
    saved = read_saved(folder)
    return removed_units(saved, coupling(), folder)


@cache
def coupling() -> Any:  # Any: the coupling of a tiny network, imported where it is needed
    from tiny_builds import trained_net

    from edgeprune.pipeline.pruning import analyse
    from edgeprune.records import InputSpec

    return analyse(trained_net(), InputSpec(shape=(1, 8, 8))).coupling


def read_weights(content: bytes, folder: Path) -> object:
    from edgeprune.zoo.weights import read_state

    name = "w.pth" if content[:2] == b"PK" else "w.safetensors"
    return read_state(written(folder, name, content))


def read_program(content: bytes, folder: Path) -> object:
    """What is looked at before torch reads a .pt2; torch itself would take seconds for each."""
    from edgeprune.zoo import programs

    try:
        programs.check(content)
    except (programs.RefusedError, ValueError, KeyError, zipfile.BadZipFile, EOFError, NotImplementedError):
        return None  # `load` makes one error of them
    return content


def read_answer(content: bytes, folder: Path) -> object:
    return answers.find(content)


def read_network(content: bytes, folder: Path) -> object:
    """Each runtime in a process of its own, as `measure` does: what ends that process is told in words."""
    path = written(folder, "net.onnx", content)
    check_onnx(path)
    for runtime in ("onnxruntime", "openvino"):
        ask_apart(path, runtime)
    return path


def ask_apart(path: Path, runtime: str) -> None:
    child = os.fork()
    if not child:
        code = 70
        try:
            silence()
            limit_memory(MOST_MEMORY)
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            job = {"runtime": runtime, "artifacts": [str(path)]}
            worker.shape(job)  # type: ignore[arg-type]  # the parts of a job that this task reads
            code = 0
        except worker.RefusalError:
            code = 0
        except BaseException:  # a find: the parent says so
            code = 71
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGPROF:
        raise AssertionError(f"{runtime} took longer than {MOST_SECONDS} s")
    if status > 0:
        raise AssertionError(f"{runtime}: the worker itself failed on it")
    if status < 0:
        print(answers.ending(status), end="\r", file=sys.stderr)


def silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def limit_memory(more: int) -> None:
    """Let this process have so many bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, most))


# --- what they are fed --------------------------------------------------------------------------------


def settings_seeds() -> list[bytes]:
    return [
        b'model = "torchvision:resnet18"\nweights = "w.pth"\nmax_latency = "12 ms"\nalign = 8\nseed = 3\n',
        b'[budgets.default]\nlatency_p50 = { max = "45 ms", level = "warn" }\nmacs = "900 M"\n'
        b'accuracy_top1 = { min = "69 %", max_drop = "1 pp", vs = "dense" }\n',
        b'mean = [0.1, 0.2, 0.3]\nstd = 0.5\nresize = [8, 8]\nmethod = "lrp"\nout = "o"\n',
    ]


def profile_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(__file__).parents[1].glob("targets/*.toml"))]


def description_seeds() -> list[bytes]:
    return [
        b'name = "x"\nclasses = ["a", "b"]\n[calibration]\nsource = "photos"\nper_class = 2\n'
        b"[preprocess]\nresize = 8\ncrop = [8, 8]\nmean = [0.5]\n",
        b'classes_file = "d.toml"\n[calibration]\nsource = "photos"\n'
        b'[evaluation]\nsource = "photos"\nlimit = 3\n',
    ]


def csv_seeds() -> list[bytes]:
    rows = "".join(f"photos/{'ab'[n % 2]}/{n}.png,{'ab'[n % 2]}\n" for n in range(6))
    return [rows.encode(), f"path,label\n{rows}".encode(), rows.replace("\n", "\r\n").encode("utf-8-sig")]


def coco_seeds() -> list[bytes]:
    files = [f"{'ab'[number % 2]}/{number}.png" for number in range(6)]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(files)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"image_id": number, "category_id": 1 + number % 2 * 2, "bbox": [1, 1, 3, 3.5], "iscrowd": 0}
            for number in range(6)
        ],
    }
    return [json.dumps(content).encode()]


@cache
def voc_seeds() -> list[bytes]:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
    text = f"<annotation><object><name>cat</name><difficult>0</difficult>{box}</object></annotation>"
    return [text.encode(), f'<?xml version="1.0"?>\n{text}'.encode()]


def masks_seeds() -> list[bytes]:
    rows = [f"photos/{'ab'[n % 2]}/{n}.png,photos/{'ab'[n % 2]}/{n}.png" for n in range(6)]
    return ["\n".join(rows).encode()]


def npz_seeds() -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        for dtype in (np.uint8, np.float32):
            file = io.BytesIO()
            x = (np.arange(12 * 4 * 4) % 200).reshape(12, 4, 4).astype(dtype)
            save(file, x=x, y=np.arange(12) % 2)
            found.append(file.getvalue())
    return found


def picture_seeds() -> list[bytes]:
    found = []
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8))
    for kind, mode in (
        ("PNG", "RGB"),
        ("JPEG", "RGB"),
        ("PNG", "P"),
        ("GIF", "P"),
        ("TIFF", "RGB"),
        ("BMP", "1"),
    ):
        file = io.BytesIO()
        picture.convert(mode).save(file, kind)
        found.append(file.getvalue())
    return found


def report_seeds() -> list[bytes]:
    from edgeprune.report.files import to_json

    return [to_json(sample_report()).encode()]


def record_seeds() -> list[bytes]:
    from dataclasses import asdict

    stage = {
        "stage": "accuracy",
        "edgeprune": "0.1.0",
        "inputs": {"data": "1"},
        "files": {"stages/accuracy.json": "0"},
        "made_utc": "2026-01-01",
        "seconds": 1.0,
        "record": asdict(sample_report().accuracy["dense"]),
    }
    return [json.dumps(stage).encode(), json.dumps({**stage, "files": {}}).encode()]


def journal_seeds() -> list[bytes]:
    from edgeprune.runfolder import our_version, to_json

    header = to_json({"edgeprune": our_version(), "inputs": {"a": "1"}})
    steps = [to_json(step) for step in sample_report().trajectory.steps]
    return [b"\n".join([header, *steps]) + b"\n"]


def plan_seeds() -> list[bytes]:
    from edgeprune import channels

    removed = {"inner.weight": [8, 9, 10]}
    kept = channels.kept_indices(coupling(), removed)
    plan = {
        "format": "edgeprune-plan/1",
        "input_shape": [1, 8, 8],
        "plan": {"removed": removed},
        "kept": {name: {axis: left.tolist() for axis, left in axes.items()} for name, axes in kept.items()},
    }
    return [json.dumps(plan).encode()]


@cache
def weights_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    state = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}
    file = io.BytesIO()
    torch.save(state, file)
    return [save(state), file.getvalue()]


@cache
def program_seeds() -> list[bytes]:
    import torch

    file = io.BytesIO()
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten())
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 5, 5),), dynamic_shapes=shapes), file)
    return [file.getvalue()]


@cache
def network_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        one = tiny_onnx.save(Path(folder, "a.onnx")).read_bytes()
        two = tiny_onnx.save(Path(folder, "b.onnx"), batch="n").read_bytes()
        return [one, two, tiny_onnx.save_two_inputs(Path(folder, "c.onnx")).read_bytes()]


JSON = (
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b'"x"',
    b"[]",
    b"{}",
    b"[" * 3000,
    b'"../../x"',
    b'"\\u0000"',
    b"9" * 5000,
)
TOML = (
    b"= 1\n",
    b"[",
    b"[[",
    b"{",
    b'"',
    b"nan",
    b"-inf",
    b"1979-05-27",
    b"'''",
    b"\x00",
    b"[" * 3000,
    b"\\u0000",
)
SUBJECTS = {
    "settings": Subject(read_settings, settings_seeds, TOML),
    "target profile": Subject(read_profile, profile_seeds, (*TOML, b'"4 GiB"', b"memory = ")),
    "data description": Subject(
        read_description, description_seeds, (*TOML, b'"photos"', b'"/dev/zero"'), slow=True
    ),
    "limit": Subject(read_limit, lambda: [b"latency_p90 <= 12ms", b"accuracy_top1 >= -1pp vs dense"]),
    "host": Subject(
        read_host, lambda: [b"pi@pi5", b"user@device:2222"], (b"-oProxyCommand=", b"$(x)", b"\n")
    ),
    "report": Subject(read_report, report_seeds, JSON, slow=True),
    "stage record": Subject(read_record, record_seeds, JSON),
    "journal": Subject(read_journal, journal_seeds, JSON),
    "plan": Subject(read_plan, plan_seeds, JSON),
    "worker's answer": Subject(read_answer, lambda: [f'x\n{worker.MARK}{{"runs": [1]}}\n'.encode()], JSON),
    "csv": Subject(read_csv, csv_seeds, (b",", b'"', b"\x00", b"../", b"a" * 300, b"/dev/zero"), slow=True),
    "COCO": Subject(read_coco, coco_seeds, (*JSON, b"1e400", b'"/etc/passwd"'), slow=True),
    "VOC": Subject(
        read_voc, voc_seeds, (b"<!DOCTYPE a [", b"<!ENTITY", b"&a;", b"nan", b"<a>" * 9999), slow=True
    ),
    "masks": Subject(read_masks, masks_seeds, (b",", b'"', b"\x00", b"../", b"a" * 300), slow=True),
    "npz": Subject(read_npz, npz_seeds, (b"(9999999, 9999999)", b"|O", b"<U9999999"), slow=True),
    "image folder": Subject(read_folder, picture_seeds, (b"\xff\xff\xff\xff", b"IDAT", b"IHDR"), slow=True),
    "weights": Subject(read_weights, weights_seeds, JSON),
    "exported program": Subject(read_program, program_seeds, JSON),
    "ONNX": Subject(read_network, network_seeds, (b"\xff\xff\xff\xff\x0f", b"Loop", b"If"), slow=True),
}


def mutated(seed: bytes, words: tuple[bytes, ...], chance: random.Random) -> bytes:
    """A valid input with a few things wrong: bytes flipped, parts cut out, doubled, or other words put in."""
    content = bytearray(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice((1, 1, 2, 4, 16, 200)))
        match chance.randrange(6):
            case 0:
                content[start:end] = chance.randbytes(end - start)
            case 1:
                del content[start:end]
            case 2:
                content[start:start] = content[start:end]
            case 3 if words:
                content[start:end] = chance.choice(words)
            case 4:
                content[start:end] = chance.choice(
                    (b"-1", b"0", b"99999999999999999999", b"1e308", b"0.0", b"")
                )
            case _:
                del content[chance.choice((start, len(content))) :]
    return bytes(content)


def holds(subject: Subject, content: bytes, folder: Path) -> None:
    """Read; right is a result, or an error of one line."""
    try:
        subject.read(content, folder)
    except EXPECTED as err:
        if isinstance(err, EdgepruneError) and not str(err).strip():
            raise AssertionError("an error without words") from err
        if isinstance(err, RunFolderError) and "cannot be written" in str(err):
            raise AssertionError(str(err)) from err
