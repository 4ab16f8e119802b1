"""Files that are whole or not there, and other people's libraries kept quiet.

Every file is written in a folder `.tmp-*` beside its place and then moved, so that an interrupted export
leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import onnx
from onnx import ModelProto, external_data_helper

from edgeprune.errors import RunFolderError

MAX_ONNX_BYTES = 2**31 - 1
"""What one protobuf file can hold."""
SMALLEST_EXTERNAL = 1024


def save(model: ModelProto, path: Path, *, external: bool = False) -> None:
    """Write an ONNX file, its weights inside or in `NAME.onnx.data` beside it.

    Above what one file holds they go beside it in any case.
    """
    with staged(path) as place:
        large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= SMALLEST_EXTERNAL]
        if external or sum(len(tensor.raw_data) for tensor in large) > MAX_ONNX_BYTES:
            for tensor in large:
                external_data_helper.set_external_data(tensor, location=f"{path.name}.data")
        else:
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        onnx.save(model, place)


def parts(path: Path) -> list[Path]:
    """The files that belong together: an .xml and its .bin, an .onnx and its weights."""
    found = [path]
    for other in (
        path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data"),
    ):
        if other.is_file():
            found.append(other)
    return found


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Lend a path to write to; when all went well, it and what was written beside it are moved into place."""
    try:
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder:
            yield Path(folder, path.name)
            # The file itself comes last: who finds it finds what belongs to it.
            for made in sorted(Path(folder).iterdir(), key=lambda made: made.name == path.name):
                made.replace(path.with_name(made.name))
    # OpenVINO writes in C++ and raises RuntimeError.
    except (OSError, RuntimeError) as err:
        raise RunFolderError(
            f"{path}: cannot be written: {reason(err)}; free some space or choose another folder."
        ) from err


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the exporters' progress, warnings and dumps of graphs from the user; errors still raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(StringIO()),
            contextlib.redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def reason(err: BaseException) -> str:
    """The first telling line of the error that started it all."""
    while err.__cause__ is not None:
        err = err.__cause__
    lines = [line.strip() for line in str(err).splitlines()]
    # OpenVINO begins its messages with places in its own source.
    telling = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return telling[0].rstrip(".;") if telling else type(err).__name__
