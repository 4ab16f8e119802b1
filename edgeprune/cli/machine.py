"""Commands about targets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.cli.app import app, guarded

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
            str(target.align),
            escape(target.host),
            escape(target.description),
        )
    Console().print(table)


@targets.command("show")
@guarded
def show_target(name: Annotated[str, typer.Argument(help="A profile's name or .toml.")]) -> None:
    """One profile as JSON.

    [dim]edgeprune targets show openvino[/dim]
    """
    from edgeprune.target import load

    typer.echo(json.dumps(asdict(load(name, folders=target_folders())), indent=1))
