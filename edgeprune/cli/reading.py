"""Commands that read a finished run: report, gate, explain. None of them needs torch."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.cli.app import app, guarded
from edgeprune.cli.building import show, show_verdict

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


@app.command()
@guarded
def gate(  # noqa: PLR0913, PLR0917  # one argument for each flag
    run: Annotated[Path, RUN] = Path("edgeprune-out"),
    max_latency: Annotated[str | None, typer.Option(help="Like 12ms.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Peak memory, like 120MB.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Of the file, like 5MB.")] = None,
    max_accuracy_drop: Annotated[float | None, typer.Option(help="Points of accuracy.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a run against budgets: those it was built with, or those given here. For CI.

    [dim]edgeprune gate edgeprune-out --max-latency 12ms --max-accuracy-drop 1[/dim]
    """
    from edgeprune.config import make_config
    from edgeprune.gate import judge

    found = open_report(run)
    flags = {
        "max_latency": max_latency,
        "max_memory": max_memory,
        "max_size": max_size,
        "max_accuracy_drop": max_accuracy_drop,
    }
    given = {name: value for name, value in asdict(make_config(flags).budget).items() if value is not None}
    verdict = judge(
        replace(found.budget, **given),
        artifacts=found.artifacts,
        accuracy_change=found.accuracy_change,
        measurement=found.measurement,
    )
    if as_json:
        typer.echo(json.dumps(asdict(verdict), indent=1))
    else:
        show_verdict(verdict, Console())
    raise typer.Exit(verdict.exit_code)


@app.command()
@guarded
def explain(
    run: Annotated[Path, RUN] = Path("edgeprune-out"),
    frozen: Annotated[bool, typer.Option("--frozen", help="Why channels could not be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Per layer: width before and after, and how many channels were critical, neutral or detrimental.

    [dim]edgeprune explain edgeprune-out --frozen[/dim]
    """
    found = open_report(run)
    rows = frozen_rows(found) if frozen else width_rows(found)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(*(rows[0] if rows else ["nothing"]))
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    Console().print(table)
    for note in found.notes if frozen else ():
        Console().print(escape(note), soft_wrap=True, highlight=False)


def width_rows(found: Report) -> list[dict[str, object]]:
    return [
        {
            "group": width.group,
            "before": width.before,
            "after": width.after,
            **found.findings.get(width.group, {}),
        }
        for width in found.widths
    ]


def frozen_rows(found: Report) -> list[dict[str, object]]:
    return [
        {
            "parameter": axis.parameter,
            "axis": axis.axis,
            "frozen": axis.indices,
            "reason": axis.reason,
            "at": axis.detail,
        }
        for axis in found.frozen
    ]
