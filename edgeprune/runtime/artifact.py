"""What both runtimes give back, and the words for what goes wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeprune.errors import ModelError, TargetUnreachable
from edgeprune.records import Floats

Setting = str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An artifact that is ready to run."""

    image_shape: tuple[int | None, ...]
    """(C, H, W); None where any size will do."""
    infer: Callable[[Floats], Floats]
    """One image (1, C, H, W) to the first output, (1, K)."""
    bytes_in: bool = False
    """It reads uint8, frames as a camera gives them."""


class Runtime(Protocol):
    """What a runtime's file holds."""

    def settings(self, threads: int) -> dict[str, Setting]: ...

    def version(self) -> str: ...

    def open_artifact(self, path: Path, threads: int) -> Opened: ...


def runtime_missing(runtime: str, err: ImportError) -> TargetUnreachable:
    """The runtime's wheel is not there, or does not load on this CPU or C library."""
    return TargetUnreachable(f"{runtime} cannot be imported here ({err}); run: pip install {runtime}")


def does_not_open(path: Path, runtime: str, err: Exception) -> ModelError:
    """The runtime refuses the file."""
    return ModelError(f"{path}: {runtime} cannot open it ({one_line(err)}); export the network again.")


def does_not_run(path: Path, runtime: str, err: Exception) -> ModelError:
    """The runtime opened the file but fails on an image."""
    return ModelError(f"{path}: {runtime} cannot run it ({one_line(err)}); try the other runtime.")


def several_inputs(path: Path, inputs: int) -> ModelError:
    """The network is not a function of one image."""
    return ModelError(f"{path}: the network has {inputs} inputs; export one that reads a single image.")


def one_line(err: Exception) -> str:
    """Return a library's message on one line, as both runtimes write several."""
    return " ".join(str(err).split())[:400]
