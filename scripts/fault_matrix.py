#!/usr/bin/env python3
"""Each stage of a build, and in it each fault: the next build completes, with the same result.

    scripts/fault_matrix.py                  # every stage and fault, some minutes
    scripts/fault_matrix.py --stages walk measure --faults SIGKILL EACCES

Faults: SIGKILL and SIGTERM while a stage is at work, and again between writing its record and putting it in
place; ENOSPC, a memory disk that fills up as the stage works (needs root); EACCES, folders that may not be
written any more (a build of root gives its privileges up); a record cut in half, one half renamed, and files
of a stage cut short.
Prints a table; exits with 1 where a cell is not green.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

STAGES = ("walk", "export-dense", "export-pruned", "accuracy-dense", "accuracy-pruned", "measure", "report")
DISK_KIB = 65_536
SECONDS = 300
KILLED, ENDED, REFUSED = -signal.SIGKILL, 130, 1
SETTINGS = {"group_test": 1, "align": 1}
"""A walk with many steps."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens to a build, and when."""

    stage: str
    happens: Callable[[Path], None]
    """Is given the run folder."""
    late: bool = False
    """Between writing the stage's record and putting it in place, not while it is at work."""


# --- a build in a process of its own ------------------------------------------------------------------


def build(place: Any, trouble: Trouble | None = None, *, plain: bool = False) -> tuple[int, str]:
    """Build in a child of this process, which has imported all of it; gives exit code and output."""
    said = Path(tempfile.gettempdir(), f"said-{os.getpid()}")  # not on a disk that is full
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            code = _build_here(place, trouble, plain, said)
        finally:
            os._exit(code)
    status = wait(child)
    text = said.read_text()
    said.unlink()
    return status, text


def give_up_privileges() -> None:
    """Let permissions hold for root too: without capabilities it may only what a file's owner may."""
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def wait(child: int) -> int:
    begin = time.monotonic()
    while time.monotonic() - begin < SECONDS:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise RuntimeError(f"a build did not end within {SECONDS} s")


def _build_here(place: Any, trouble: Trouble | None, plain: bool, said: Path) -> int:
    from edgeprune import cli

    if plain:
        give_up_privileges()
    os.chdir(place.folder)
    tempfile.tempdir = os.environ["TMPDIR"] = str(place.folder / "tmp")
    Path(tempfile.tempdir).mkdir(exist_ok=True)
    if trouble is None or trouble.stage != "measure":
        measure_nothing()
    if trouble is not None:
        watch(trouble, place.out)
    sys.argv[1:] = ["--quiet", "build", *place.flags(**SETTINGS)]
    with said.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            return 70
    return 0


def measure_nothing() -> None:
    """Times are no part of what is compared, and take the longest."""
    from tiny_builds import measured

    import edgeprune.measure

    edgeprune.measure.measure = lambda *_, **__: measured()


def watch(trouble: Trouble, out: Path) -> None:
    """Let it happen: once, in its stage."""
    from edgeprune import runfolder
    from edgeprune.report import files

    waiting = [trouble]

    def now() -> None:
        if waiting:
            waiting.pop().happens(out)

    if trouble.stage == "report":
        write = files.replace_file

        def replace_file(path: Path, text: str) -> Path:
            if not trouble.late or path.name == "report.html":  # one of three is in place already
                now()
            return write(path, text)

        files.replace_file = replace_file
        return
    record = f"{trouble.stage}.json"
    if trouble.late:
        rename = Path.replace

        def replace(self: Path, target: Path) -> Path:
            if Path(target).name == record:
                now()
            return rename(self, target)

        Path.replace = replace  # type: ignore[method-assign, assignment]
        return
    reuse_or_make = runfolder.RunFolder.reuse_or_make

    def patched(self: Any, stage: str, kind: Any, inputs: Any, make: Any, **more: Any) -> Any:
        def made() -> Any:
            at_work = MOMENTS.get(stage)
            if at_work is None:
                now()
            else:
                at_work(now)
            return make()

        return reuse_or_make(self, stage, kind, inputs, made if stage == trouble.stage else make, **more)

    runfolder.RunFolder.reuse_or_make = patched  # type: ignore[method-assign]


def after_steps(now: Callable[[], None]) -> None:
    """In a walk: when some steps are in the journal."""
    from edgeprune.runfolder import Journal

    append, steps = Journal.append, []

    def counted(self: Any, entry: Any) -> None:
        steps.append(entry)
        if len(steps) == 6:  # noqa: PLR2004 - some
            now()
        append(self, entry)

    Journal.append = counted  # type: ignore[method-assign]


def between_files(now: Callable[[], None]) -> None:
    """In an export: when the first of its files is about to be put in place."""
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if Path(target).suffix == ".onnx":
            now()
        return rename(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


def during_processes(now: Callable[[], None]) -> None:
    """In a measurement: while a worker runs."""
    from edgeprune.measure import local

    ask = local.answers.find
    local.answers.find = lambda output: (now(), ask(output))[1]


MOMENTS = {
    "walk": after_steps,
    "export-dense": between_files,
    "export-pruned": between_files,
    "measure": during_processes,
}


# --- faults -------------------------------------------------------------------------------------------


def send(number: signal.Signals) -> Callable[[Path], None]:
    return lambda _: os.kill(os.getpid(), number)


def fill(out: Path) -> None:
    """Take what is left of the disk."""
    with (out.parent / "filler").open("wb") as file:
        try:
            while True:
                file.write(bytes(4096))
                file.flush()
        except OSError:
            pass


def lock_up(out: Path) -> None:
    for folder in (out, *(path for path in out.rglob("*") if path.is_dir())):
        folder.chmod(0o500)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k,mode=1777", "tmpfs", str(folder)]
    subprocess.run(words, check=True, capture_output=True)  # noqa: S603 - our own words
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607 - our own words


class Matrix:
    """The cells, and what an undisturbed build gives."""

    def __init__(self, folder: Path) -> None:
        from tiny_builds import settle

        self.settle, self.folder, self.number = settle, folder, 0
        self.whole = settle(folder / "whole")
        code, said = build(self.whole)
        assert code == 0, said
        self.expected = self.result(self.whole)

    def result(self, place: Any) -> dict[str, object]:
        """What of a build has to be the same: the report but for times, and every file that was made."""
        from edgeprune.runfolder import file_digest

        files = [path for name in ("models", "pruned") for path in sorted((place.out / name).rglob("*"))]
        digests = {str(p.relative_to(place.out)): file_digest(p) for p in files if p.suffix != ".pt2"}
        return {**place.lasting(), "files": digests}

    def fresh(self, above: Path | None = None) -> Any:
        self.number += 1
        return self.settle((above or self.folder) / f"cell{self.number}")

    def copy(self) -> Any:
        from tiny_builds import Place

        self.number += 1
        folder = self.folder / f"cell{self.number}"
        shutil.copytree(self.whole.folder, folder)
        return Place(folder)

    def completed(self, place: Any) -> str:
        """Build again; empty where that gives what an undisturbed build gives."""
        code, said = build(place)
        if code:
            return f"the next build ended with {code}: {said.strip()[-300:]}"
        got = self.result(place)
        differing = [name for name in self.expected if got.get(name) != self.expected[name]]
        left = [
            path.name
            for path in place.out.rglob("*")
            if path.name.startswith(".tmp") or ".tmp" in path.suffix
        ]
        return "; ".join([*(f"{name} differs" for name in differing), *(f"{name} is left" for name in left)])

    # --- columns ---

    def signalled(self, stage: str, number: signal.Signals, code: int) -> str:
        for late in (False, True):
            place = self.fresh()
            ended, said = build(place, Trouble(stage=stage, happens=send(number), late=late))
            if ended != code:
                return f"ended with {ended}, not {code}: {said.strip()[-300:]}"
            if code == ENDED and len(said.strip().splitlines()) != 1:
                return f"said more than one line: {said.strip()[-300:]}"
            if code == ENDED and (left := [path.name for path in (place.folder / "tmp").iterdir()]):
                return f"left {', '.join(left)}"
            if problem := self.completed(place):
                return problem
            shutil.rmtree(place.folder)
        return ""

    def full(self, stage: str) -> str:
        self.number += 1
        with small_disk(self.folder / f"disk{self.number}") as disk:
            place = self.fresh(disk)
            ended, said = build(place, Trouble(stage=stage, happens=fill))
            (disk / "filler").unlink(missing_ok=True)
            (place.folder / "filler").unlink(missing_ok=True)
            if problem := one_line(ended, said):
                return problem
            return self.completed(place)

    def forbidden(self, stage: str) -> str:
        place = self.fresh()
        ended, said = build(place, Trouble(stage=stage, happens=lock_up), plain=True)
        for path in (place.out, *place.out.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        if problem := one_line(ended, said):
            return problem
        return self.completed(place)

    def truncated(self, stage: str) -> str:
        for spoil in (cut, half_renamed, cut_files):
            place = self.copy()
            spoil(place.out, stage)
            if problem := self.completed(place):
                return f"{spoil.__name__}: {problem}"
            shutil.rmtree(place.folder)
        return ""


def one_line(ended: int, said: str) -> str:
    lines = said.strip().splitlines()
    if ended != REFUSED or len(lines) != 1 or not lines[0].startswith("error: "):
        return f"ended with {ended}: {said.strip()[-400:]}"
    return ""


def record_of(out: Path, stage: str) -> Path:
    return out / "report.json" if stage == "report" else out / "stages" / f"{stage}.json"


def cut(out: Path, stage: str) -> None:
    record = record_of(out, stage)
    record.write_bytes(record.read_bytes()[: record.stat().st_size // 2])


def half_renamed(out: Path, stage: str) -> None:
    record = record_of(out, stage)
    name = f".{record.name}.tmp" if stage == "report" else f".tmp-{record.name}"
    record.with_name(name).write_bytes(record.read_bytes()[:100])
    record.write_bytes(b"")


def cut_files(out: Path, stage: str) -> None:
    """The files of a stage, and a walk's journal in the middle of a line."""
    journal = out / "stages" / f"{stage}.jsonl"
    record = record_of(out, stage)
    names = json.loads(record.read_text()).get("files", []) if stage != "report" else ["report.html"]
    files = [*(out / name for name in names), *([journal] if journal.is_file() else [])]
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if journal.is_file():
        record.unlink()


COLUMNS: dict[str, Callable[[Matrix, str], str]] = {
    "SIGKILL": lambda matrix, stage: matrix.signalled(stage, signal.SIGKILL, KILLED),
    "SIGTERM": lambda matrix, stage: matrix.signalled(stage, signal.SIGTERM, ENDED),
    "ENOSPC": Matrix.full,
    "truncated": Matrix.truncated,
    "EACCES": Matrix.forbidden,
}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--faults", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    asked = parser.parse_args(words)
    import torch

    import edgeprune.measure
    import edgeprune.pipeline  # noqa: F401 - once, for all the builds

    torch.set_num_threads(1)
    problems = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)
        matrix = Matrix(Path(folder))
        print(f"{'':16}" + "".join(f"{fault:>11}" for fault in asked.faults))
        for stage in asked.stages:
            print(f"{stage:16}", end="", flush=True)
            for fault in asked.faults:
                problem = COLUMNS[fault](matrix, stage)
                if problem:
                    problems[stage, fault] = problem
                print(f"{'FAILED' if problem else 'green':>11}", end="", flush=True)
            print()
    for (stage, fault), problem in problems.items():
        print(f"{stage}, {fault}: {problem}")
    cells = len(asked.stages) * len(asked.faults)
    print(f"{cells - len(problems)} of {cells} green")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
