"""The three files of a report: written whole or not at all, and report.json read back."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError, RunFolderError
from edgeprune.records import Report
from edgeprune.report import html, markdown

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = "1.0"
"""Of report.json. The first number changes when a reader of the old form would be misled."""


def write(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write report.json, report.html and report.md, each whole or not at all; return their paths.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    texts = {
        "report.json": to_json(report),
        "report.html": html.render(report),
        "report.md": markdown.render(report),
    }
    return tuple(replace_file(folder / name, text) for name, text in texts.items())


def read(path: Path) -> Report:
    """Read report.json back.

    Raises:
        InputError: The file is missing, is no report, or is one of another schema version.
    """
    from pydantic import ValidationError

    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, parse_constant=_refuse)
    except OSError as err:
        raise InputError(
            f"{path}: cannot be read ({err.strerror}); run `edgeprune build` to make one."
        ) from err
    except ValueError as err:
        raise InputError(f"{path}: not a JSON file ({err}); run `edgeprune build` again.") from err
    _check_version(path, data)
    try:
        return _adapter().validate_json(text, strict=True)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {place}: {first['msg']}; run `edgeprune build` again.") from err


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


def _check_version(path: Path, data: object) -> None:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is None:
        raise InputError(f"{path}: not a report (no schema_version); name the report.json of a run folder.")
    if str(version).partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise InputError(
            f"{path}: report schema {version}, but this edgeprune reads {SCHEMA_VERSION}; "
            "read it with the version that wrote it, or run `edgeprune build` again."
        )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


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
