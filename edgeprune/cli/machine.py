"""Commands about targets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.cli import flags
from edgeprune.cli.app import Settings, app, guarded
from edgeprune.cli.progress import watching

if TYPE_CHECKING:
    from edgeprune.records import LatencyModel

targets = typer.Typer(no_args_is_help=True, help="Target profiles.")
app.add_typer(targets, name="targets")
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def target_folders() -> tuple[Path, ...]:
    from edgeprune.data_files import data_folder

    return (Path("targets"), data_folder("targets"))


@targets.command("list")
@guarded
def list_targets(as_json: AsJson = False) -> None:
    """Every profile: those in ./targets, then those that ship with edgeprune.

    [dim]edgeprune targets list[/dim]
    """
    from edgeprune.target import available

    found = available(target_folders())
    if as_json:
        typer.echo(json.dumps([asdict(target) for target in found], indent=1))
        return
    table = Table("name", "runtime", "threads", "align", "host", "description")
    for target in found:
        table.add_row(
            target.name,
            target.runtime,
            str(target.threads),
            str(target.align or "by CPU"),
            escape(target.host),
            escape(target.description),
        )
    Console().print(table)


@targets.command("show")
@guarded
def show_target(
    name: Annotated[str, typer.Argument(help="A profile's name or .toml.")],
    model: flags.Model = None,
    weights: flags.Weights = None,
    data: flags.Data = None,
    as_json: AsJson = False,
) -> None:
    """One profile as JSON; with --model how long that network takes on it at which widths.

    The latency model is measured (some minutes) and then kept in the user's cache.

    [dim]edgeprune targets show openvino[/dim]

    [dim]edgeprune targets show openvino --model torchvision:resnet18 --data photos[/dim]
    """
    from edgeprune.target import load

    profile = load(name, folders=target_folders())
    if model is None:
        typer.echo(json.dumps(asdict(profile), indent=1))
        return
    settings = flags.settings({"target": name, "model": model, "weights": weights, "data": data}, None)
    with watching(quiet=Settings.quiet or as_json) as watcher:
        from edgeprune.pipeline.timing import model_of

        found = model_of(settings, watcher=watcher)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        show_model(found)


def show_model(model: LatencyModel) -> None:
    """What each group's width is worth, the most expensive first, and how good the model is."""
    from edgeprune.latency import predict

    step = model.step
    halves = {name: max(step, width // 2 // step * step) for name, width in model.dense.items()}
    narrow = [{**model.dense, name: min(half, model.dense[name])} for name, half in halves.items()]
    dense, *times = predict(model, [model.dense, *narrow])
    table = Table("group", "width", "of half of it", "saves")
    for (group, half), time_ms in sorted(zip(halves.items(), times, strict=True), key=lambda pair: pair[1]):
        saved = f"{dense - time_ms:.3f} ms ({(dense - time_ms) / dense:.1%})"
        table.add_row(escape(group), str(model.dense[group]), str(half), saved)
    console = Console()
    console.print(table)
    line = f"dense: {model.dense_ms:.3f} ms measured, {dense:.3f} ms by the model; widths in steps of {step}"
    console.print(line, highlight=False)
    for found in model.sweep:
        pair = f"{found.measured_ms:.3f} ms measured, {found.predicted_ms:.3f} ms predicted without it"
        console.print(f"other widths: {pair}", highlight=False)
    console.print(f"median error: {model.error:.1%}", highlight=False)
