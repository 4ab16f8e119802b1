"""What a run folder remembers for later commands: the settings it was built with, and its walk."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save

from edgeprune.config import BuildConfig, make_config
from edgeprune.errors import RunFolderError
from edgeprune.pipeline.digests import analysis_digest, digest, images_digest
from edgeprune.pipeline.inputs import TORCHVISION
from edgeprune.pipeline.options import HOW
from edgeprune.pipeline.own_rules import rules_digest
from edgeprune.pipeline.tasking import task_settings
from edgeprune.records import Pruning, Split
from edgeprune.runfolder import read_stage, write_atomically
from edgeprune.untrusted import read_json

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which writes what is kept here
    from edgeprune.pipeline.pruning import Found

SETTINGS = "settings.json"
WALK = "walk"
FORGOTTEN = {
    *("out", "host", "memory_limit", *HOW),
    *("max_latency", "speedup", "max_memory", "max_size", "max_macs", "budgets"),
}
"""Where the folder lies may change; budgets and devices are for measuring and judging."""
WHAT = {"model": "the network or its weights", "data": "the images", "settings": "the analysis settings"}


def keep_settings(config: BuildConfig, folder: Path) -> None:
    """Write what a build was told, with whole paths, for `prune RUN` and `explain RUN --per-class`."""
    found = config.model_dump(mode="json", exclude=FORGOTTEN, exclude_none=True)
    whole = {name: _whole(name, value) if isinstance(value, str) else value for name, value in found.items()}
    write_atomically(folder / SETTINGS, json.dumps(whole, indent=1).encode())


def keep_weights(found: Found, place: Path) -> Pruning:
    """Write the new weights of an analysis into the run folder; the record with the file's name."""
    if not found.weights:
        return found.pruning
    contents = {name: tensor.contiguous() for name, tensor in found.weights.items()}
    write_atomically(place, save(contents))
    return replace(found.pruning, files=(place.name,))


def kept_config(run: Path, flags: Mapping[str, object], *, file: Path | None = None) -> BuildConfig:
    """The configuration of a finished run: what it remembers, or a settings file; flags win.

    Raises:
        RunFolderError: nothing was built there.
        ConfigError: a flag is wrong.
    """
    place = run / SETTINGS
    if file is None and not place.is_file() and not any(value is not None for value in flags.values()):
        raise RunFolderError(
            f"{run}: holds no {SETTINGS}; run `edgeprune build --out {run}` with the same flags again "
            "(stages that hold are reused), or give them here."
        )
    kept: dict[str, object] = {}
    if file is None and place.is_file():
        try:
            content = read_json(place)
            if not isinstance(content, dict):
                raise ValueError("not a JSON object")
            kept = content
        except (OSError, ValueError) as err:
            raise RunFolderError(f"{place}: cannot be read ({err}); run `edgeprune build` again.") from err
    given = {name: value for name, value in flags.items() if value is not None}
    return make_config({**kept, **given, "out": str(run)}, file=file)


def recorded_walk(build: Build) -> Pruning:
    """What the walk of a run found, made sure to be of these inputs.

    Raises:
        RunFolderError: there is none, or it is of another network, other images or settings.
    """
    folder = build.folder.path
    pruning, inputs = read_stage(folder, WALK, Pruning)
    now = walk_inputs(build)
    changed = [what for name, what in WHAT.items() if inputs.get(name) != now[name]]
    if changed:
        raise RunFolderError(
            f"{folder}: {' and '.join(changed)} changed since its walk; "
            f"run `edgeprune build --out {folder}` again, or give what it was built with."
        )
    return pruning


def walk_inputs(build: Build) -> dict[str, str]:
    """Digests of what a walk depends on."""
    return {
        "model": build.model_digest,
        "data": images_digest(build.data, Split.CALIBRATION, Split.VALIDATION),
        "settings": settings_digest(build),
        "libraries": analysis_digest(),
    }


def settings_digest(build: Build, **more: object) -> str:
    """Of the options, budgets apart, and the task of an analysis, and of the user's own rules, if any."""
    own: dict[str, object] = {"rules": rules_digest(build.rules)} if build.rules else {}
    own |= task_settings(build.config.task)
    options = {name: value for name, value in asdict(build.options).items() if name not in HOW}
    return digest({**options, "foretells": build.options.foretells, "limits": (), **own, **more})


def check_groups(build: Build, pruning: Pruning) -> Pruning:
    """Raise where a walk saw other groups: coupling that stops on time may stop elsewhere the next time."""
    walked = {width.group: width.before for width in pruning.widths}
    now = {group.name: group.units for group in build.analysed.coupling.groups}
    if walked != now:
        first = next(name for name in {**walked, **now} if walked.get(name) != now.get(name))
        raise RunFolderError(
            f"{build.folder.path}: its walk saw other channel groups ({first} differs); "
            "give --coupling-time more and run `edgeprune build` again."
        )
    return pruning


def check_walked(run: Path) -> None:
    """Raise where no walk was finished: opening the folder would make one."""
    if not (run / "stages" / f"{WALK}.json").is_file():
        raise RunFolderError(f"{run}: no finished run; make one with `edgeprune build --out {run}`.")


def _whole(name: str, text: str) -> str:
    """A path that is there, from the root; names stay names."""
    if found := re.fullmatch(r"(python:)(.+\.py)(:.+)", text):
        return f"{found[1]}{Path(found[2]).resolve()}{found[3]}"
    if text.startswith(TORCHVISION) and text.count(":") > 1:
        kind, data, root = text.split(":", 2)
        return f"{kind}:{data}:{Path(root).resolve()}"
    path = Path(text)
    return str(path.resolve()) if path.is_file() or (name == "data" and path.is_dir()) else text
