"""`edgeprune explain`: which channels are critical, neutral, detrimental, and for which classes.

All but --per-class reads report.json only, and needs no torch.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
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
from edgeprune.cli.reading import RUN, AsJson, open_report
from edgeprune.errors import ConfigError

if TYPE_CHECKING:
    from edgeprune.records import GroupEffects, Report, UnitEffect
    from edgeprune.report.interventions import Layer, UnitRow

CLASSES = "Classes"
NAMED = 3
"""Classes that a line names."""


@app.command()
@guarded
def explain(  # noqa: PLR0913, PLR0917  # one argument for each flag
    run: Annotated[Path, RUN] = Path("edgeprune-out"),
    frozen: Annotated[bool, typer.Option("--frozen", help="Why channels could not be removed.")] = False,
    unit: Annotated[
        str | None, typer.Option(help="GROUP:NUMBER: how the walk settled it, which classes need it.")
    ] = None,
    units: Annotated[int, typer.Option(help="So many units, detrimental ones first.")] = 10,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class",
            help="Take out each unit alone and look at every class; takes a while.",
            rich_help_panel=CLASSES,
        ),
    ] = False,
    group: Annotated[
        list[str] | None,
        typer.Option(help="Only this group; may be given several times.", rich_help_panel=CLASSES),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write explain.json and pictures there.")] = None,
    config: flags.ConfigFile = None,
    model: flags.Model = None,
    weights: flags.Weights = None,
    data: flags.Data = None,
    as_json: AsJson = False,
) -> None:
    """Per layer: units critical, neutral or detrimental, which classes kept them, and the layers that resist.

    [dim]edgeprune explain edgeprune-out --out pictures[/dim]

    [dim]edgeprune explain edgeprune-out --per-class --group layer1.0.conv1.weight[/dim]

    [dim]edgeprune explain edgeprune-out --unit layer1.0.conv1.weight:7[/dim]
    """
    found = open_report(run)
    if frozen:
        show_frozen(found, as_json=as_json)
        return
    chosen = choose(found, unit, group or [])
    tables: Sequence[GroupEffects] = ()
    if per_class:
        given: dict[str, object] = {"model": model, "weights": weights, "data": data}
        tables = intervene(run, chosen, given, config, quiet=as_json)
    elif unit is not None:
        tables = earlier(run, chosen)
    if out is not None:
        files = draw(found, tables, out)
    if as_json:
        typer.echo(json.dumps(as_record(found, chosen, tables, unit=unit is not None), indent=1))
        return
    console = Console()
    if unit is not None:
        show_unit(found, chosen, tables, console)
    else:
        show_layers(found, chosen, console)
        show_units(found, chosen, units, console)
        for table in tables:
            show_effects(table, console)
    for file in files if out is not None else ():
        console.print(f"wrote {escape(str(file))}", soft_wrap=True, highlight=False)


# --- what is asked for --------------------------------------------------------------------------------


def choose(found: Report, unit: str | None, groups: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Group -> units; no units: all of them; no group: all of them."""
    sizes = {width.group: width.before for width in found.widths}
    if unit is None:
        return {check_group(name, sizes): () for name in groups}
    name, colon, number = unit.rpartition(":")
    if not colon or not number.isdecimal():
        raise ConfigError(f"--unit {unit}: write GROUP:NUMBER, like {next(iter(sizes), 'conv1.weight')}:7.")
    check_group(name, sizes)
    if int(number) >= sizes[name]:
        raise ConfigError(f"--unit {unit}: {name} has units 0 to {sizes[name] - 1}.")
    return {name: (int(number),)}


def check_group(name: str, sizes: Mapping[str, int]) -> str:
    if name not in sizes:
        near = difflib.get_close_matches(name, sizes, n=1)
        hint = f"did you mean {near[0]}?" if near else "`edgeprune explain` without it lists them."
        raise ConfigError(f"no group {name!r}; {hint}")
    return name


# --- one intervention for each unit -------------------------------------------------------------------


def intervene(
    run: Path,
    chosen: dict[str, tuple[int, ...]],
    given: Mapping[str, object],
    config: Path | None,
    *,
    quiet: bool,
) -> tuple[GroupEffects, ...]:
    folder = run if run.is_dir() else run.parent
    with watching(quiet=Settings.quiet or quiet) as watcher:
        from edgeprune.pipeline.explaining import explain_run
        from edgeprune.pipeline.kept import kept_config

        return explain_run(kept_config(folder, given, file=config), chosen, watcher=watcher)


def earlier(run: Path, chosen: Mapping[str, tuple[int, ...]]) -> tuple[GroupEffects, ...]:
    """What an earlier --per-class left in the run folder about these units."""
    from dataclasses import replace

    from edgeprune.records import GroupEffects
    from edgeprune.runfolder import read_stage

    folder = run if run.is_dir() else run.parent
    tables = []
    for name, units in chosen.items():
        if (folder / "stages" / f"explain-{name}.json").is_file():
            table, _ = read_stage(folder, f"explain-{name}", GroupEffects)
            tables.append(replace(table, units=tuple(u for u in table.units if u.unit in units)))
    return tuple(tables)


# --- what is said -------------------------------------------------------------------------------------


def as_record(
    found: Report, chosen: Mapping[str, tuple[int, ...]], tables: Sequence[GroupEffects], *, unit: bool
) -> dict[str, object]:
    from edgeprune.report import interventions

    rows = [row for row in interventions.units(found) if picked(row, chosen)]
    effects = [effects_record(table) for table in tables]
    if unit:
        return {"units": [asdict(row) for row in rows], "per_class": effects}
    counted = interventions.vetoes(found)
    layers = {layer.width.group: layer for layer in interventions.layers(found, counted)}
    return {
        "layers": [layer_row(layers[w.group]) for w in found.widths if not chosen or w.group in chosen],
        "units": [asdict(row) for row in rows],
        "vetoes": {
            "groups": list(counted.groups),
            "classes": [
                {"name": name, "units": list(counts)}
                for name, counts in zip(counted.classes, counted.counts, strict=True)
            ],
        },
        "per_class": effects,
    }


def layer_row(layer: Layer) -> dict[str, object]:
    return {**asdict(layer.width), "resistance": layer.resistance, "classes": dict(layer.classes)}


def picked(row: UnitRow, chosen: Mapping[str, tuple[int, ...]]) -> bool:
    return not chosen or (row.group in chosen and row.unit in (chosen[row.group] or (row.unit,)))


def effects_record(table: GroupEffects) -> dict[str, object]:
    return {
        "group": table.group,
        "classes": list(table.class_names),
        "z_limits": list(table.z_limits),
        "units": [{**asdict(unit), "needed_by": needing(table, unit)} for unit in table.units],
    }


def needing(table: GroupEffects, unit: UnitEffect) -> list[str]:
    """The classes that are significantly worse without a unit, the worst first."""
    rows = sorted(zip(unit.z, table.z_limits, table.class_names, strict=True))
    return [name for z, limit, name in rows if z < limit]


def named(classes: Sequence[str]) -> str:
    more = f", {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return ", ".join(classes[:NAMED]) + more


def lay_out(rows: Sequence[Mapping[str, object]], console: Console, title: str = "") -> None:
    table = Table(*(rows[0] if rows else ["nothing"]), title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    console.print(table)


def show_frozen(found: Report, *, as_json: bool) -> None:
    rows = frozen_rows(found)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    lay_out(rows, Console())
    for note in found.notes:
        Console().print(escape(note), soft_wrap=True, highlight=False)


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


def show_layers(found: Report, chosen: Mapping[str, tuple[int, ...]], console: Console) -> None:
    from edgeprune.report import interventions

    rows = [
        {
            "group": layer.width.group,
            "before": layer.width.before,
            "after": layer.width.after,
            "critical": layer.width.critical,
            "neutral": layer.width.neutral,
            "detrimental": layer.width.detrimental,
            "not tested": layer.width.untested,
            "stay": f"{layer.resistance:.0%}",
            "kept for": named([f"{name} ({count})" for name, count in layer.classes]),
        }
        for layer in interventions.layers(found)
        if not chosen or layer.width.group in chosen
    ]
    lay_out(rows, console, "layers, those that resist most first")


def show_units(found: Report, chosen: Mapping[str, tuple[int, ...]], most: int, console: Console) -> None:
    from edgeprune.report import interventions

    rows = [row for row in interventions.units(found) if picked(row, chosen)]
    if rows[:most]:
        lay_out(
            [unit_row(row) for row in rows[:most]],
            console,
            f"units, detrimental first ({min(most, len(rows))} of {len(rows)})",
        )


def unit_row(row: UnitRow) -> dict[str, object]:
    return {
        "unit": f"{row.group}:{row.unit}",
        "finding": row.finding.value,
        "now": "removed" if row.removed else "stays",
        "effect": f"{row.effect:+.4f}",
        "worst z": f"{row.worst_z:+.2f}",
        "worst class": row.worst_class,
        "tested": "alone" if row.together == 1 else f"with {row.together - 1} others",
    }


def show_unit(
    found: Report, chosen: Mapping[str, tuple[int, ...]], tables: Sequence[GroupEffects], console: Console
) -> None:
    from edgeprune.report import interventions

    ((name, (number,)),) = chosen.items()
    rows = [unit_row(row) for row in interventions.units(found) if picked(row, chosen)]
    if rows:
        lay_out(rows, console, "in the walk")
    else:
        console.print(escape(f"{name}:{number} was not tested by the walk."), soft_wrap=True, highlight=False)
    if not tables:
        hint = f"which classes need it: edgeprune explain RUN --unit {name}:{number} --per-class"
        console.print(escape(hint), soft_wrap=True, highlight=False)
    for table in tables:
        for unit in table.units:
            lay_out(class_rows(table, unit), console, "taken out alone, from the dense network")


def class_rows(table: GroupEffects, unit: UnitEffect) -> list[dict[str, object]]:
    """The classes, those that lose most first."""
    columns = zip(unit.z, unit.effects, table.z_limits, table.class_names, strict=True)
    return [
        {
            "class": name,
            "effect": f"{effect:+.4f}",
            "z": f"{z:+.2f}",
            "limit": f"{limit:+.2f}",
            "": "needs it" if z < limit else "better without" if z > -limit else "",
        }
        for z, effect, limit, name in sorted(columns)
    ]


def show_effects(table: GroupEffects, console: Console) -> None:
    rows = [
        {
            "unit": unit.unit,
            "finding": unit.finding.value,
            "effect": f"{unit.effect:+.4f}",
            "worst z": f"{min(unit.z):+.2f}",
            "needed by": named(needing(table, unit)),
        }
        for unit in sorted(table.units, key=lambda unit: -unit.effect)
    ]
    lay_out(rows, console, f"{table.group}: each unit taken out alone, from the dense network")


def draw(found: Report, tables: Sequence[GroupEffects], out: Path) -> list[Path]:
    """explain.json, layers.svg, classes.svg, and effects.svg where units were taken out alone."""
    from edgeprune.report import interventions, pictures, write_text
    from edgeprune.report.facts import group_widths

    texts = {
        "explain.json": json.dumps(as_record(found, {}, tables, unit=False), indent=1) + "\n",
        "layers.svg": pictures.layers(group_widths(found)),
        "classes.svg": pictures.vetoes(interventions.vetoes(found), interventions.MOST_CLASSES),
    }
    if tables:
        texts["effects.svg"] = pictures.effects(tables, interventions.MOST_CLASSES)
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in texts]
