"""Commands about machines: targets, doctor."""

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
LIBRARIES = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "openvino",
    "numpy",
    "scipy",
)
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


@app.command()
@guarded
def doctor(as_json: AsJson = False) -> None:
    """Versions, CPU and noise: what would make figures unreliable here.

    [dim]edgeprune doctor[/dim]
    """
    from importlib.metadata import PackageNotFoundError, version

    from edgeprune.measure import describe_machine, noise_now

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = f"missing: pip install {name}"
    machine, noise = describe_machine(), noise_now()
    if as_json:
        typer.echo(json.dumps({"machine": machine, "versions": versions, "noise": noise}, indent=1))
        return
    table = Table("", "")
    for name, value in {**machine, **versions}.items():
        table.add_row(escape(name), escape(value))
    console = Console()
    console.print(table)
    for sentence in noise:
        console.print(f"[yellow]noise[/yellow]: {escape(sentence)}", soft_wrap=True, highlight=False)
    console.print("quiet: figures taken now can be trusted" if not noise else "figures taken now will say so")
