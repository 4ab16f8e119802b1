"""Reads small files that somebody else may have written: TOML and JSON of bounded size and depth.

What is wrong with one comes as OSError or ValueError, whose text a room puts behind the file's name. Pipes,
devices and folders are refused before they are opened: reading one may never end.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

SETTINGS_BYTES = 4 * 2**20
"""Settings, target profiles, descriptions of data."""
RECORD_BYTES = 512 * 2**20
"""Reports, plans and other records: a walk through a large network is long."""
PIECE_BYTES = 2**20

Value = TypeVar("Value")


def read_bytes(path: Path, *, most: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file, or larger than `most` bytes.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        parts, left = [], most + 1
        while left and (part := file.read(min(left, PIECE_BYTES))):  # all at once would take `most` of memory
            parts.append(part)
            left -= len(part)
    if not left:
        raise ValueError(f"larger than {most // 2**20} MiB")
    return b"".join(parts)


def read_toml(path: Path) -> dict[str, object]:
    """Return the content of a TOML file; raises OSError, or ValueError with what is wrong with it."""
    return bounded(tomllib.loads, read_bytes(path, most=SETTINGS_BYTES).decode("utf-8-sig"))


def read_json(path: Path, *, most: int = RECORD_BYTES) -> object:
    """Return the content of a JSON file without NaN and infinities; raises as `read_toml`."""
    return parse_json(read_bytes(path, most=most))


def parse_json(content: bytes) -> object:
    """Return what JSON says; raises ValueError, for numbers beyond all floats as well."""
    parse = partial(json.loads, parse_constant=_refuse, parse_float=_finite)
    return bounded(parse, content.decode("utf-8"))


def bounded(parse: Callable[[str], Value], text: str) -> Value:
    """Parse a text; one that is nested too deeply is a ValueError like any other that is wrong."""
    try:
        return parse(text)
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def inside(folder: Path, name: str) -> Path:
    """Return the file that a record names, which may not leave the record's folder.

    Raises:
        ValueError: It would, by an absolute path, by `..` or by a link.
    """
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads out of the folder")
    return path


def _finite(text: str) -> float:
    """`1e999` is infinite, though no constant says so."""
    value = float(text)
    if math.isinf(value):
        _refuse(text)
    return value


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for somebody to write into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
