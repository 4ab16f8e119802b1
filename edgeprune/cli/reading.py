"""`edgeprune report`, and how commands open a finished run. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.cli.app import app, guarded
from edgeprune.cli.building import show

if TYPE_CHECKING:
    from edgeprune.records import Report

RUN = typer.Argument(help="A run folder, or its report.json.")
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def open_report(run: Path) -> Report:
    from edgeprune.report import read

    return read(run / "report.json" if run.is_dir() else run)


@app.command()
@guarded
def report(run: Annotated[Path, RUN] = Path("edgeprune-out")) -> None:
    """Show a run's summary, and write its report files again.

    [dim]edgeprune report edgeprune-out[/dim]
    """
    from edgeprune.report import write

    found = open_report(run)
    folder = run if run.is_dir() else run.parent
    write(found, folder)
    show(found, folder)
