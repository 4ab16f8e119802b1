"""The three files of a report: written whole or not at all, and report.json read back."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError, RunFolderError
from edgeprune.records import Report
from edgeprune.report import html, markdown
from edgeprune.untrusted import RECORD_BYTES, inside, parse_json, read_bytes

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = "1.0"
"""Of report.json. The first number changes when a reader of the old form would be misled."""


def write(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write report.json, report.html and report.md, each whole or not at all; return their paths.

    Raises:
        InputError: A figure is NaN or infinite, or parts do not fit together; nothing is written then.
        RunFolderError: The folder cannot be written.
    """
    try:
        texts = {
            "report.json": to_json(report),
            "report.html": html.render(report),
            "report.md": markdown.render(report),
        }
    except (ArithmeticError, LookupError, ValueError) as err:
        raise InputError(
            f"{folder}: the parts of the report do not fit together ({err}); run `edgeprune build` again."
        ) from err
    return tuple(replace_file(folder / name, text) for name, text in texts.items())


def read(path: Path) -> Report:
    """Read report.json back.

    Raises:
        InputError: The file is missing, is no report, or is one of another schema version.
    """
    from pydantic import ValidationError

    try:
        text = read_bytes(path, most=RECORD_BYTES)
        data = parse_json(text)
    except OSError as err:
        raise InputError(
            f"{path}: cannot be read ({err.strerror}); run `edgeprune build` to make one."
        ) from err
    except ValueError as err:
        raise InputError(f"{path}: not a JSON file ({err}); run `edgeprune build` again.") from err
    _check_version(path, data)
    try:
        found = _adapter().validate_json(text, strict=True)
        _check_whole(found, path.parent)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {place}: {first['msg']}; run `edgeprune build` again.") from err
    except ValueError as err:
        raise InputError(f"{path}: {err}; run `edgeprune build` again.") from err
    return found


# Any: a JSON Schema is JSON of any shape.
def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of report.json; report-1.schema.json in this folder is its copy."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **_adapter().json_schema(mode="serialization")}


def to_json(report: Report) -> str:
    """Give a report as JSON in the records' order, one line for each field: short, and a diff shows where.

    Raises:
        ValueError: A figure is NaN or infinite, which JSON cannot say.
    """
    fields: dict[str, object] = _adapter().dump_python(report, mode="json")
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, allow_nan=False, ensure_ascii=False)}"
        for name, value in fields.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def _adapter() -> TypeAdapter[Report]:
    from pydantic import TypeAdapter

    return TypeAdapter(Report)


def _check_whole(found: Report, folder: Path) -> None:
    """Raise ValueError where parts are missing that others rely on, or files do not lie beside the report."""
    for artifact in found.artifacts.values():
        inside(folder, artifact.path)
    parts: dict[str, Collection[str]] = {
        "artifacts": found.artifacts,
        "accuracy": found.accuracy,
        "latency": found.measurement.latency,
    }
    for name, part in parts.items():
        if not {"dense", found.deployed} <= set(part):
            raise ValueError(f"{name}: dense or {found.deployed} is missing")
    walk, classes = found.trajectory, len(found.trajectory.class_names)
    columns = (walk.class_samples, walk.tolerance, walk.dense_scores, walk.final_scores, walk.final_z)
    if any(len(column) != classes for column in (*columns, walk.z_limits)):
        raise ValueError("trajectory: not one figure for each class")
    if any(not -1 <= step.worst_class < classes for step in walk.steps):
        raise ValueError("trajectory: a step names a class that is not there")
    if any(len(accuracy.per_class) != len(found.classes) for accuracy in found.accuracy.values()):
        raise ValueError("accuracy: not one figure for each class")


def _check_version(path: Path, data: object) -> None:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is None:
        raise InputError(f"{path}: not a report (no schema_version); name the report.json of a run folder.")
    if str(version).partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise InputError(
            f"{path}: report schema {version}, but this edgeprune reads {SCHEMA_VERSION}; "
            "read it with the version that wrote it, or run `edgeprune build` again."
        )


def replace_file(path: Path, text: str) -> Path:
    """Put text in place of a file. The temporary one has a fixed name: a kill leaves no heap of them."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(text.encode("utf-8", errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as err:
        with suppress(OSError):
            temporary.unlink()
        raise RunFolderError(
            f"{path}: cannot be written ({err.strerror}); make room or choose another output folder."
        ) from err
    return path
