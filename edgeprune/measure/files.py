"""What is checked of a network's files before a runtime reads them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.untrusted import inside

if TYPE_CHECKING:
    from google.protobuf.message import Message

MOST_ONNX_BYTES = 2**31 - 1
"""What one protobuf file can hold."""


def check_files(artifacts: Mapping[str, Path]) -> None:
    """Raise InputError for a file that is missing, or whose weights lie outside of its folder."""
    for name, path in artifacts.items():
        if not path.is_file():
            raise InputError(f"{path}: no such file, so {name} cannot be measured; export it first.")
        if path.suffix == ".onnx":
            check_onnx(path)


def check_onnx(path: Path) -> None:
    """Raise InputError for an ONNX file that reads other files than those of its own folder."""
    size = path.stat().st_size
    if size > MOST_ONNX_BYTES:
        raise InputError(f"{path}: larger than 2 GB, which no ONNX file is; export it again.")
    if not size or not _may_point_elsewhere(path):
        return
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as err:
        raise InputError(f"{path}: not a readable ONNX file; export it again.") from err
    for message in _messages(model):
        for entry in message.external_data if isinstance(message, onnx.TensorProto) else ():
            if entry.key == "location":
                _check_location(path, entry.value)


def _check_location(path: Path, location: str) -> None:
    try:
        inside(path.parent, location)
    except (ValueError, OSError) as err:
        raise InputError(
            f"{path}: refused: it reads weights from {location!r}, outside of its folder; "
            "export it again in one piece."
        ) from err


def _may_point_elsewhere(path: Path) -> bool:
    """Whether the word for a file of weights occurs at all: most networks need not be parsed for this."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"location") >= 0


def _messages(message: Message) -> Iterator[Message]:
    """A message and all below it; without recursion, as the file decides how deep they lie."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is not None:
                waiting += (
                    list(value) if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
                )
