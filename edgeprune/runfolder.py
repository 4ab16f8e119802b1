"""The run folder: each stage's record as JSON, with digests of what it read and of the files it made.

That is the cache, the resume and the provenance in one. No file in the folder is ever half written: it gets a
name that begins with `.tmp-` and is then moved into place; such names left by a kill are removed on opening.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from edgeprune.errors import RunFolderError
from edgeprune.scratch import sweep
from edgeprune.untrusted import RECORD_BYTES, inside, read_bytes

log = logging.getLogger(__name__)

Record = TypeVar("Record")

LOCK = ".lock"
TEMPORARY = ".tmp-"
ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run again.",
    errno.EDQUOT: "your disk quota is used up; free some space and run again.",
    errno.EROFS: "the disk is read-only; choose another output folder.",
    errno.EACCES: "you may not write there; choose another output folder.",
    errno.EPERM: "you may not write there; choose another output folder.",
    errno.EEXIST: "a file of that name is in the way; choose another output folder.",
    errno.ENOTDIR: "a file is in the way; choose another output folder.",
}


def no_files(record: object) -> Sequence[str]:
    """For stages that make a record and nothing else."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFile:
    """What `stages/<stage>.json` holds."""

    stage: str
    edgeprune: str
    """The version that made it."""
    inputs: dict[str, str]
    """Name to digest, of what the stage read."""
    files: dict[str, str]
    """Path relative to the run folder to SHA-256, of what the stage wrote."""
    made_utc: str
    seconds: float
    record: JsonValue


class RunFolder:
    """An open run folder, held by this process alone until `close`, the end of a `with` block, or a kill."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        """How long each stage took when it was made, also where it is reused now."""
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create the folder or take an existing one, and remove what killed builds left half done.

        Raises:
            RunFolderError: Not writable, not a run folder, or another build is at work there.
        """
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            check_ours(path)
            folder = cls(path, take_lock(path))
            sweep()
            try:
                (path / "stages").mkdir(exist_ok=True)
                remove_leftovers(path)
            except OSError:
                folder.close()
                raise
        return folder

    def close(self) -> None:
        """Let other builds in."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def reuse_or_make(
        self,
        stage: str,
        record_type: type[Record],
        inputs: Mapping[str, str],
        make: Callable[[], Record],
        *,
        files: Callable[[Record], Sequence[str]] = no_files,
    ) -> tuple[Record, bool]:
        """The stage's record, and True where an earlier one holds: same version, same inputs, same files.

        A new record is given back as it will be read later, so that a resumed build sees what this one saw.

        Args:
            inputs: Name to digest, of all that the record depends on.
            make: Does the work; nothing is written when it raises.
            files: Paths, relative to the run folder, of the files that belong to the record.
        """
        adapter = TypeAdapter(record_type)
        earlier = self._reuse(stage, adapter, inputs)
        if earlier is not None:
            log.info("%s: reused", stage)
            return earlier, True
        start = time.monotonic()
        made = make()
        encoded = adapter.dump_python(made, mode="json", warnings="error")
        for name in files(made):
            to_disk(self.path / name)
        content = StageFile(
            stage=stage,
            edgeprune=our_version(),
            inputs=dict(inputs),
            files={name: file_digest(self.path / name) for name in files(made)},
            made_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.monotonic() - start,
            record=encoded,
        )
        write_atomically(self._place(stage, ".json"), to_json(content, indent=1))
        self.seconds[stage] = content.seconds
        return adapter.validate_python(encoded), False

    def journal(self, stage: str, entry_type: type[Record], inputs: Mapping[str, str]) -> Journal[Record]:
        """The journal of a long stage; what it holds of other inputs or another version is thrown away."""
        return Journal(self._place(stage, ".jsonl"), entry_type, inputs)

    def _place(self, stage: str, suffix: str) -> Path:
        return self.path / "stages" / f"{stage}{suffix}"

    def _reuse(self, stage: str, adapter: TypeAdapter[Record], inputs: Mapping[str, str]) -> Record | None:
        """The earlier record where it still holds; None, and why in the log, where it does not."""
        place = self._place(stage, ".json")
        if not place.exists():
            return None
        try:
            earlier = TypeAdapter(StageFile).validate_json(read_bytes(place, most=RECORD_BYTES))
            check_current(earlier, inputs, self.path)
            record = adapter.validate_python(earlier.record)
        # Not valid JSON, or not a record: ValidationError is a ValueError.
        except (OSError, ValueError) as err:
            log.info("%s: made again: %s", stage, str(err).partition("\n")[0])
            return None
        self.seconds[stage] = earlier.seconds
        return record


def read_stage(folder: Path, stage: str, record_type: type[Record]) -> tuple[Record, dict[str, str]]:
    """A finished stage's record, and the digests of what it was made from.

    The files that belong to it are checked; whether what it was made from has changed is not asked.

    Raises:
        RunFolderError: There is none, or it is not one of this version.
    """
    place = folder / "stages" / f"{stage}.json"
    try:
        found = TypeAdapter(StageFile).validate_json(read_bytes(place, most=RECORD_BYTES))
        check_files(found, folder)
        return TypeAdapter(record_type).validate_python(found.record), found.inputs
    except (OSError, ValueError) as err:
        first = str(err).partition("\n")[0]
        raise RunFolderError(f"{place}: no readable record ({first}); run `edgeprune build` again.") from err


class Journal(Generic[Record]):
    """The entries of a long stage, one JSON line each, so that a killed stage goes on where it was.

    An entry outlives a kill as soon as `append` returns. A power cut may cost the last ones, which are then
    made again: nothing waits for the disk here.
    """

    def __init__(self, path: Path, entry_type: type[Record], inputs: Mapping[str, str]) -> None:
        self._path = path
        self._adapter = TypeAdapter(entry_type)
        header = to_json({"edgeprune": our_version(), "inputs": dict(sorted(inputs.items()))}) + b"\n"
        self._header = header
        lines = whole_lines(path)
        self._entries = self._decode(lines[1:]) if lines[:1] == [header] else []
        # Without what a kill cut short: the next entry must begin on a line of its own.
        write_atomically(path, b"".join([header, *lines[1 : 1 + len(self._entries)]]))

    def read(self) -> tuple[Record, ...]:
        """All entries so far, in order."""
        return tuple(self._entries)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()
        write_atomically(self._path, self._header)

    def append(self, entry: Record) -> None:
        line = to_json(self._adapter.dump_python(entry, mode="json", warnings="error")) + b"\n"
        with writing(self._path), self._path.open("ab") as file:
            file.write(line)
        self._entries.append(self._adapter.validate_json(line))

    def _decode(self, lines: Sequence[bytes]) -> list[Record]:
        """The entries up to the first line that is damaged."""
        entries: list[Record] = []
        for line in lines:
            try:
                entries.append(self._adapter.validate_json(line))
            except ValidationError:
                break
        return entries


# --- what makes a record hold -------------------------------------------------------------------------


def check_current(earlier: StageFile, inputs: Mapping[str, str], root: Path) -> None:
    """Raise ValueError, saying what has changed, where the stage has to be made again."""
    if earlier.edgeprune != our_version():
        raise ValueError(f"it was made by edgeprune {earlier.edgeprune}")
    names = sorted(earlier.inputs.keys() | inputs.keys())
    changed = [name for name in names if earlier.inputs.get(name) != inputs.get(name)]
    if changed:
        raise ValueError(f"changed: {', '.join(changed)}")
    check_files(earlier, root)


def check_files(earlier: StageFile, root: Path) -> None:
    """Raise ValueError where a file is not the one that the stage wrote."""
    for name, digest in earlier.files.items():
        path = inside(root, name)
        if not path.is_file() or file_digest(path) != digest:
            raise ValueError(f"{name} is not the file that was written")


def our_version() -> str:
    try:
        return metadata.version("edgeprune")
    except metadata.PackageNotFoundError:
        return "not installed"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parts_digest(path: Path) -> str:
    """SHA-256 of a deployed file; an .xml counts with its .bin."""
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    digest = hashlib.sha256()
    for part in parts:
        if part.is_file():
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


# --- opening ------------------------------------------------------------------------------------------


def check_ours(path: Path) -> None:
    """Refuse a folder with someone else's files in it: we would write over and remove things there."""
    if not (path / LOCK).exists() and any(path.iterdir()):
        raise RunFolderError(
            f"{path}: not empty, and not a run folder of edgeprune; choose another output folder or empty it."
        )


def take_lock(path: Path) -> int:
    """Lock the folder for this process; the kernel lets go of it when the process ends, however it ends."""
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        number = os.read(lock, 32).decode(errors="replace")
        os.close(lock)
        holder = f"process {number}" if number else "another process"  # it has just begun
        raise RunFolderError(
            f"{path}: {holder} is building here; wait for it or choose another output folder."
        ) from err
    try:
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    except OSError:
        os.close(lock)
        raise
    return lock


def remove_leftovers(path: Path) -> None:
    for leftover in [*path.rglob(f"{TEMPORARY}*")]:
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


# --- reading and writing ------------------------------------------------------------------------------


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals into one line that says what to do."""
    try:
        yield
    except OSError as err:
        advice = ADVICE.get(err.errno or 0, f"{err.strerror}; choose another output folder.")
        raise RunFolderError(f"{path}: cannot be written: {advice}") from err


def write_atomically(path: Path, content: bytes) -> None:
    """Write the whole file or none of it."""
    staged = path.with_name(f"{TEMPORARY}{path.name}")
    with writing(path):
        try:
            with staged.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
            to_disk(path.parent)
        finally:
            staged.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until a file, or what a folder lists, would outlive a power cut."""
    with writing(path):
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, each with its end; one that a kill cut short is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def to_json(value: object, *, indent: int | None = None) -> bytes:
    """Dataclasses as objects; NaN and infinities as JavaScript writes them, for our own reading."""
    return json.dumps(value, indent=indent, default=asdict).encode()
