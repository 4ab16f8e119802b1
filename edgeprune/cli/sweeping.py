"""`edgeprune sweep`: curves of several methods on the same units and images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from edgeprune.cli import flags
from edgeprune.cli.app import Settings, app, guarded
from edgeprune.cli.building import numbers
from edgeprune.cli.progress import watching
from edgeprune.errors import ConfigError

if TYPE_CHECKING:
    from edgeprune.records import Curve, CurvePoint

METHODS = "c-swap-c,c-swap,taylor+affine,magnitude-l2+affine"
RATIOS = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95"


@app.command()
@guarded
def sweep(  # noqa: PLR0913, PLR0917  # one argument for each flag
    config: flags.ConfigFile = None,
    model: flags.Model = None,
    weights: flags.Weights = None,
    data: flags.Data = None,
    task: flags.Task = None,
    target: flags.Target = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Run folder; a second sweep reuses curves and walks that hold, stopped ones too.",
            rich_help_panel=flags.OUTPUT,
        ),
    ] = Path("edgeprune-sweep"),
    methods: Annotated[
        str,
        typer.Option(
            help="Names as of `build --method`, with +none, +mean, +affine or +bn.",
            rich_help_panel=flags.SEARCH,
        ),
    ] = METHODS,
    latency: Annotated[
        bool,
        typer.Option("--latency", help="Time every point on the target too.", rich_help_panel=flags.SEARCH),
    ] = False,
    ratios: Annotated[
        str, typer.Option(help="Shares of the parameters to remove.", rich_help_panel=flags.SEARCH)
    ] = RATIOS,
    samples_per_class: flags.SamplesPerClass = None,
    alpha: flags.Alpha = None,
    align: flags.Align = None,
    device: flags.Device = None,
    batch_interventions: flags.BatchInterventions = None,
    memory_limit: flags.MemoryLimit = None,
    allocation: flags.Allocation = None,
    seed: flags.Seed = None,
    head_width: flags.HeadWidth = None,
    rules: flags.Rules = None,
    as_json: flags.AsJson = False,
) -> None:
    """Accuracy over the parameters, multiply-adds and time saved, one curve a method, and its SAUCE.

    [dim]edgeprune sweep --methods c-swap-c,taylor+affine,magnitude-l2+bn --ratios 0.2,0.4,0.6[/dim]
    """
    given: dict[str, object] = {
        name: value
        for name, value in locals().items()
        if name not in ("config", "methods", "ratios", "latency", "as_json")
    }
    asked = read_ratios(ratios)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--methods {methods}: name each method once, with commas between them.")
    settings = flags.settings(given, config)
    with watching(quiet=Settings.quiet or as_json) as watcher:
        from edgeprune import sweep as run_sweep

        curves = run_sweep(settings, names, asked, latency=latency, watcher=watcher)
    content = json.dumps({"curves": [as_record(curve) for curve in curves]}, indent=1)
    from edgeprune.report import write_text
    from edgeprune.report.charts import draw_curves

    write_text(out / "sweep.json", content + "\n")
    files = [out / "sweep.json", *draw_curves(curves, out)]
    if as_json:
        typer.echo(content)
    else:
        show(curves, files)


def read_ratios(text: str) -> tuple[float, ...]:
    """`0.2,0.4` -> (0.2, 0.4), ascending."""
    found = sorted(set(numbers(text) or ()))
    if not found or not all(0 < ratio < 1 for ratio in found):
        raise ConfigError(f"--ratios {text}: give shares above 0 and below 1, like 0.2,0.4,0.6.")
    return tuple(found)


def as_record(curve: Curve) -> dict[str, object]:
    """A curve in numbers; which images were right stays in the run folder's stages."""
    dense = curve.dense_accuracy
    return {
        "method": curve.label,
        "metric": curve.metric,
        "images": curve.images or len(curve.dense),
        "dense_accuracy": dense,
        "sauce": {name: getattr(curve.sauce, name) for name in ("value", "low", "high")},
        "sauce_relative": {name: getattr(curve.sauce, name) / dense for name in ("value", "low", "high")}
        if dense
        else None,
        "removable_within_1_point": curve.removable(),
        "points": [
            {
                "asked": point.asked,
                "param_ratio": point.param_ratio,
                "mac_ratio": point.mac_ratio,
                "accuracy": point.accuracy,
                **({"latency_ratio": asdict(point.latency_ratio)} if point.latency_ratio else {}),
            }
            for point in curve.points
        ],
    }


def point_words(point: CurvePoint) -> str:
    """`0.30: 91.2% (0.81x time)`."""
    time = f" ({point.latency_ratio.value:.2f}x time)" if point.latency_ratio else ""
    return f"{point.param_ratio:.2f}: {point.accuracy:.1%}{time}"


def show(curves: Sequence[Curve], files: Sequence[Path]) -> None:
    """The table, best method first, and where the files lie."""
    console = Console()
    first = curves[0]
    console.print(
        f"dense: {first.metric} {first.dense_accuracy:.2%} on {first.images or len(first.dense)} images"
    )
    method = Column("method", overflow="fold")  # never cut short
    table = Table(method, "SAUCE", "95 % CI", "/ dense", "share for 1 point", f"{first.metric} at")
    for curve in sorted(curves, key=lambda curve: -curve.sauce.value):
        dense, area = curve.dense_accuracy, curve.sauce
        table.add_row(
            escape(curve.label),
            f"{area.value:.4f}",
            f"{area.low:.3f}-{area.high:.3f}",
            f"{area.value / dense:.4f}" if dense else "-",
            f"{curve.removable():.1%}",
            "  ".join(point_words(point) for point in curve.points),
        )
    console.print(table)
    for file in files:
        console.print(f"wrote {escape(str(file))}", soft_wrap=True, highlight=False)
