"""Reads target profiles, targets/*.toml, into Target records."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edgeprune.errors import TargetError
from edgeprune.quantities import quantity
from edgeprune.records import Target
from edgeprune.untrusted import read_toml


def _bytes(text: object) -> int:
    return round(quantity("size", text) or 0)


class Profile(BaseModel):
    """What a target's file may say; its name is the file's name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    runtime: Literal["openvino", "onnxruntime"]
    description: str = ""
    threads: int = Field(default=1, ge=1)
    align: int = Field(default=8, ge=0)
    """0: what the kernels of this machine's CPU work on."""
    precision: Literal["f32"] = "f32"
    arch: str = ""
    memory: Annotated[int | None, BeforeValidator(_bytes)] = None
    """With its unit, `4 GiB`."""
    host: str = ""
    python: str = "python3"
    folder: str = ""
    ssh_config: str = ""


def load(name: str, *, folders: Sequence[Path]) -> Target:
    """Return the target NAME, from NAME.toml in the first folder that has it, or from a path to a .toml.

    Raises:
        TargetError: No such target, or a file that does not describe one.
    """
    if name.endswith(".toml"):
        return _read(Path(name))
    files = _files(folders)
    if name not in files:
        close = difflib.get_close_matches(name, files, n=1)
        guess = f"did you mean `{close[0]}`? " if close else ""
        known = ", ".join(sorted(files)) or "none"
        raise TargetError(
            f"unknown target `{name}`; {guess}Known: {known}. A path to a .toml file works too."
        )
    return _read(files[name])


def available(folders: Sequence[Path]) -> tuple[Target, ...]:
    """Return every target of the folders, by name; of two with one name, the first folder's."""
    return tuple(_read(path) for _, path in sorted(_files(folders).items()))


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    return {path.stem: path for folder in reversed(folders) for path in folder.glob("*.toml")}


def _read(path: Path) -> Target:
    try:
        table = read_toml(path)
    except OSError as err:
        raise TargetError(f"{path}: cannot be read ({err.strerror}); give a target's name or .toml.") from err
    except ValueError as err:
        raise TargetError(f"{path}: not a TOML file ({err}); correct it there.") from err
    try:
        profile = Profile.model_validate(table)
    except ValidationError as err:
        complaints = "; ".join(_complaint(error["loc"], error["msg"]) for error in err.errors())
        raise TargetError(f"{path}: {complaints}; correct it there.") from err
    settings = profile.model_dump()
    memory_bytes = settings.pop("memory")
    if profile.ssh_config:
        settings["ssh_config"] = str(path.parent / Path(profile.ssh_config).expanduser())
    return Target(name=path.stem, memory_bytes=memory_bytes, **settings)


def _complaint(place: tuple[int | str, ...], message: str) -> str:
    key = str(place[0])
    if key in Profile.model_fields:
        return f"`{key}`: {message}"
    close = difflib.get_close_matches(key, Profile.model_fields, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"the keys are {', '.join(Profile.model_fields)}"
    return f"unknown key `{key}`, {hint}"
