"""`edgeprune report`, and how commands open a finished run. Needs no torch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.cli.app import app, guarded
from edgeprune.cli.building import show
from edgeprune.errors import RunFolderError

if TYPE_CHECKING:
    from edgeprune.records import Artifact, Report

RUN = typer.Argument(help="A run folder, or its report.json.")
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def open_report(run: Path) -> Report:
    from edgeprune.report import read

    return read(run / "report.json" if run.is_dir() else run)


def deployed(run: Path, artifact: Artifact) -> Path | None:
    """The file that a report speaks of; None where only the report was kept.

    Raises:
        RunFolderError: It is another file than the report was made of.
    """
    from edgeprune.runfolder import parts_digest
    from edgeprune.untrusted import inside

    path = inside(run if run.is_dir() else run.parent, artifact.path)
    if not path.is_file():
        return None
    if parts_digest(path) != artifact.digest:
        raise RunFolderError(
            f"{path}: not the file that the report speaks of (its digest differs); "
            "run `edgeprune build` again, or give the file itself."
        )
    return path


@app.command()
@guarded
def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, or their report.json.")] = None,
    out: Annotated[Path, typer.Option(help="Of several runs: the page that compares them.")] = Path(
        "comparison.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Show a run's summary, and write its report files again; of several runs, one page that compares them.

    [dim]edgeprune report edgeprune-out[/dim]

    [dim]edgeprune report resnet18-pi4 resnet18-pi5 mobilenet-pi5 --out comparison.html[/dim]
    """
    chosen = runs or [Path("edgeprune-out")]
    if len(chosen) > 1:
        compare_runs(chosen, out, as_json=as_json)
        return
    from edgeprune.report import write

    run = chosen[0]
    found = open_report(run)
    folder = run if run.is_dir() else run.parent
    write(found, folder)
    if as_json:
        typer.echo((folder / "report.json").read_text(encoding="utf-8"))
    else:
        show(found, folder)


def compare_runs(runs: list[Path], out: Path, *, as_json: bool) -> None:
    """Write comparison.html, and print its first table."""
    from edgeprune.report import comparison, figures, variants, write_text

    found = [
        (name, link_to(run, out), open_report(run)) for name, run in zip(names_of(runs), runs, strict=True)
    ]
    write_text(out, comparison.render(found))
    rows = comparison.rows(found)
    metric = comparison.common_metric([report for *_, report in found])
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table("run", "model", "target", "verdict", metric, "change", "p50", "over dense")
    for row in rows:
        table.add_row(
            *(escape(text) for text in (row.name, row.model, row.target, row.status_words)),
            figures.percent(row.top1),
            figures.points(row.change),
            figures.milliseconds(row.p50_ms),
            variants.speed_words(row.ratio),
        )
    console = Console()
    console.print(table)
    console.print(f"comparison: {escape(str(out))}", soft_wrap=True, highlight=False)


def names_of(runs: list[Path]) -> list[str]:
    """The folders' own names, or whole paths where two are alike."""
    folders = [run if run.is_dir() else run.parent for run in runs]
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def link_to(run: Path, page: Path) -> str:
    """Address of a run's own page, seen from the page; empty where there is none."""
    own = (run if run.is_dir() else run.parent) / "report.html"
    if not own.is_file():
        return ""
    return quote(Path(os.path.relpath(own.resolve(), page.resolve().parent)).as_posix())
