"""`edgeprune init`: a commented settings file for a network and its images."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from edgeprune.cli import flags
from edgeprune.cli.app import Settings, app, guarded
from edgeprune.cli.progress import watching
from edgeprune.errors import ConfigError

if TYPE_CHECKING:
    from edgeprune.config import BuildConfig
    from edgeprune.pipeline.beginning import FirstLook

FILE = Path("edgeprune.toml")
TORCHVISION = "torchvision:"
DESCRIPTION = "data.toml"
OF_FOLDERS = ("segmentation", "detection")
"""Tasks whose images lie in a folder beside another one of answers."""
LONG_WALK_SECONDS = 3600.0


@app.command()
@guarded
def init(  # noqa: PLR0913, PLR0917  # one argument for each flag
    model: flags.Model = None,
    weights: flags.Weights = None,
    data: flags.Data = None,
    task: flags.Task = None,
    target: flags.Target = None,
    samples_per_class: flags.SamplesPerClass = None,
    out: Annotated[Path, typer.Option(help="The file to write.", rich_help_panel=flags.OUTPUT)] = FILE,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file of that name.", rich_help_panel=flags.OUTPUT)
    ] = False,
    as_json: flags.AsJson = False,
) -> None:
    """Look at a network and its images, write a commented edgeprune.toml, say how long the walk will take.

    [dim]edgeprune init --model torchvision:resnet18 --weights w.pth --data photos[/dim]

    [dim]edgeprune build -c edgeprune.toml[/dim]
    """
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already; give --force to replace it, or another --out.")
    given: dict[str, object] = {
        "model": model,
        "weights": weights,
        "data": data,
        "task": task,
        "target": target,
        "samples_per_class": samples_per_class,
    }
    settings, description = flags.settings(given, None), None
    if data is not None and Path(data).is_dir() and task in (None, *OF_FOLDERS):
        settings, description = described(given, out, force=force)
    if task is None and data is not None:
        from edgeprune.pipeline.tasking import guess_task

        settings = flags.settings({**given, "data": settings.data, "task": guess_task(settings)}, None)
    with watching(quiet=Settings.quiet or as_json) as watcher:
        from edgeprune.pipeline.beginning import first_look
        from edgeprune.report import write_text

        seen = first_look(settings, watcher=watcher)
    write_text(out, settings_text(settings, seen, out.resolve().parent))
    if description is not None:
        seen = replace(seen, notes=(f"described the folder in {description}; look at it", *seen.notes))
    if as_json:
        typer.echo(json.dumps({"file": str(out), **asdict(seen)}, indent=1))
    else:
        show(seen, out)


def described(given: dict[str, object], out: Path, *, force: bool) -> tuple[BuildConfig, Path | None]:
    """Settings with a description of a folder of images beside their masks or boxes, which is written."""
    from edgeprune import calibration
    from edgeprune.report import write_text

    text = calibration.describe_folder(Path(str(given["data"])))
    if text is None:
        return flags.settings(given, None), None
    place = out.with_name(DESCRIPTION)
    if place.exists() and not force:
        raise ConfigError(f"{place}: is there already; give it as --data, or --force to replace it.")
    write_text(place, text)
    return flags.settings({**given, "data": str(place)}, None), place


def show(seen: FirstLook, out: Path) -> None:
    console = Console()
    lines = [
        f"model: {seen.model}, input {' x '.join(map(str, seen.input_shape))}, "
        f"{seen.units:,} units in {seen.groups} groups",
        f"data: {seen.data}, {len(seen.classes):,} classes; "
        + ", ".join(f"{count:,} {split}" for split, count in seen.images.items()),
        dense(seen),
        *seen.notes,
        f"walk: about {span(seen)} on this machine; export and measurement come on top",
        *advice(seen),
        f"wrote {out}; next: edgeprune build -c {out}",
    ]
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)


def dense(seen: FirstLook) -> str:
    return f"dense network: {seen.metric} {seen.dense:.2%} on the calibration images"


def advice(seen: FirstLook) -> list[str]:
    if seen.walk.most_seconds < LONG_WALK_SECONDS:
        return []
    return ["shorter: fewer images (--samples-per-class), or an earlier end (--max-param-ratio)"]


def span(seen: FirstLook) -> str:
    least, most = (duration(s) for s in (seen.walk.least_seconds, seen.walk.most_seconds))
    return least if least == most else f"{least} to {most}"


def duration(seconds: float) -> str:
    """`20 s`, `3 min`, `2.5 h`: as exact as an estimate deserves."""
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{max(1, round(seconds))} s"
    if seconds < LONG_WALK_SECONDS:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


# --- the file -----------------------------------------------------------------------------------------


def settings_text(settings: BuildConfig, seen: FirstLook, folder: Path) -> str:
    """The settings file; what is commented out shows its default, or an example."""
    frozen = ", ".join(f"{reason}: {axes}" for reason, axes in seen.frozen.items()) or "none"
    images = ", ".join(f"{count} {split}" for split, count in seen.images.items())
    given = {
        "model": settings.model,
        "weights": settings.weights,
        "data": settings.data,
        "task": settings.task,
    }
    lines = [
        "# Settings of `edgeprune build -c edgeprune.toml`, written by `edgeprune init`; edit at will.",
        "# Every flag of `edgeprune build` has its twin here; flags win. Paths are relative to this file.",
        "",
        f"# {plain(seen.model)}",
        f"# {seen.params:,} parameters; {seen.units:,} units in {seen.groups} groups of coupled channels;",
        f"# axes that may not be cut: {plain(frozen)}.",
        *(setting(name, beside(name, value, folder)) for name, value in given.items() if value is not None),
        f"# {plain(seen.data)}: {len(seen.classes)} classes; {images} images.",
        f"# {dense(seen)}.",
        *(f"# {plain(note)}" for note in seen.notes),
        "",
        "# Where the network will run: `edgeprune targets list` names the profiles.",
        setting("target", beside("target", settings.target, folder)),
        '# host = "user@device"           # evaluate and measure there, over SSH',
        'out = "edgeprune-out"            # the run folder; a second build resumes',
        "",
        "# How far to go. Without limits: until some class would become significantly worse at level alpha.",
        '# max_latency = "12ms"           # p50, batch size 1',
        "# speedup = 1.5                  # or so many times as fast as the dense network",
        "# max_accuracy_drop = 1.0        # points, against the dense network",
        '# max_memory = "120MB"           # peak of the whole process',
        '# max_size = "5MB"               # of the deployed file',
        '# max_macs = "300M"               # multiply-adds',
        "# max_param_ratio = 0.5          # remove at most this share of the parameters",
        "",
        f"# The analysis. With these settings the walk takes about {span(seen)} on this machine",
        f"# (an intervention {seen.walk.look_seconds:.2g} s at most, a fit of all layers "
        f"{seen.walk.fit_seconds:.2g} s).",
        f"# samples_per_class = {settings.samples_per_class or 50}         # fewer images, less time",
        "# alpha = 0.05                   # level of the causal test",
        '# method = "c-swap-c"            # or c-swap, lrp, taylor, magnitude-l2, ...: `edgeprune sweep`',
        "",
        "# Preprocessing, as found. It must be what the network was trained with.",
        *preprocessing(seen),
        "",
        "# Limits for CI, checked by `edgeprune gate`, for all targets or for one.",
        "# [budgets.default]",
        '# latency_p50 = "12 ms"',
        '# accuracy_top1 = { max_drop = "1 pp", vs = "dense" }',
    ]
    if settings.samples_per_class is not None:
        place = next(i for i, line in enumerate(lines) if line.startswith("# samples_per_class"))
        lines[place] = lines[place].removeprefix("# ")
    return "\n".join(lines) + "\n"


def preprocessing(seen: FirstLook) -> list[str]:
    found = asdict(seen.preprocess)
    return [f"# {setting(name, value)}" for name, value in found.items() if value is not None]


def setting(name: str, value: object) -> str:
    """One line of TOML; strings and lists are written alike in JSON."""
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"


def plain(text: str) -> str:
    """In one line of a comment, without what TOML refuses there."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def beside(name: str, text: str, folder: Path) -> str:
    """A path as seen from the settings file; what is no path there stays as it is."""
    if name == "model" and (found := re.fullmatch(r"(python:)(.+\.py)(:.+)", text)):
        return f"{found[1]}{seen_from(Path(found[2]), folder)}{found[3]}"
    if name == "data" and text.startswith(TORCHVISION) and text.count(":") > 1:
        kind, data, root = text.split(":", 2)
        return f"{kind}:{data}:{Path(root).resolve()}"
    path = Path(text)
    is_path = path.is_file() or (name == "data" and path.is_dir())
    return seen_from(path, folder) if is_path else text


def seen_from(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder)).as_posix()
