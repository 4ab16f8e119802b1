"""`edgeprune prune`: a prefix of a finished run, or the analysis and surgery of a build alone."""

from __future__ import annotations

import json
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
    from edgeprune.pipeline import PrunedModel


@app.command()
@guarded
def prune(  # noqa: PLR0913, PLR0917  # one argument for each flag
    run: Annotated[
        Path | None, typer.Argument(help="A finished run folder; without one, the network is analysed.")
    ] = None,
    param_ratio: Annotated[
        float | None,
        typer.Option(help="Remove at most this share of the parameters.", rich_help_panel=flags.SEARCH),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the smaller network \\[RUN/pruned-RATIO]; without RUN a run folder.",
            rich_help_panel=flags.OUTPUT,
        ),
    ] = None,
    config: flags.ConfigFile = None,
    model: flags.Model = None,
    weights: flags.Weights = None,
    data: flags.Data = None,
    task: flags.Task = None,
    target: flags.Target = None,
    method: Annotated[str | None, typer.Option(help="As of `build`.", rich_help_panel=flags.SEARCH)] = None,
    compensate: Annotated[
        str | None, typer.Option(help="none, mean, linear or affine.", rich_help_panel=flags.SEARCH)
    ] = None,
    samples_per_class: flags.SamplesPerClass = None,
    alpha: flags.Alpha = None,
    align: flags.Align = None,
    device: flags.Device = None,
    batch_interventions: flags.BatchInterventions = None,
    memory_limit: flags.MemoryLimit = None,
    seed: flags.Seed = None,
    head_width: flags.HeadWidth = None,
    rules: flags.Rules = None,
    as_json: flags.AsJson = False,
) -> None:
    """Make the smaller network of any share of a finished run, without another walk; or walk, and no more.

    [dim]edgeprune prune edgeprune-out --param-ratio 0.3 --out small[/dim]

    [dim]edgeprune prune --model torchvision:resnet18 --weights w.pth --data photos --param-ratio 0.3[/dim]
    """
    given: dict[str, object] = {
        name: value
        for name, value in locals().items()
        if name not in ("run", "param_ratio", "out", "config", "as_json")
    }
    if param_ratio is not None and not 0 < param_ratio <= 1:
        raise ConfigError(f"--param-ratio {param_ratio:g}: give a share above 0, at most 1, like 0.3.")
    if run is not None and param_ratio is None:
        raise ConfigError(f"{run}: say how much to remove, like --param-ratio 0.3.")
    with watching(quiet=Settings.quiet or as_json) as watcher:
        from edgeprune.pipeline.kept import kept_config
        from edgeprune.pipeline.prefix import analyse_only, prune_run

        if run is not None and param_ratio is not None:
            pruned = prune_run(kept_config(run, given, file=config), param_ratio, watcher=watcher)
            folder = out or run / f"pruned-{param_ratio:g}"
        else:
            asked = {**given, "max_param_ratio": param_ratio, "out": out}
            settings = flags.settings(asked, config)
            flags.share(settings)
            pruned = analyse_only(settings, watcher=watcher)
            folder = settings.out / "pruned"
        files = pruned.save(folder)
    record = as_record(pruned, files)
    if as_json:
        typer.echo(json.dumps(record, indent=1))
    else:
        show(pruned, files)


def as_record(pruned: PrunedModel, files: tuple[Path, ...]) -> dict[str, object]:
    """What came out, and how the class nearest to its limit stands on the calibration images."""
    plan, walk = pruned.pruning.plan, pruned.pruning.trajectory
    margin, z, limit, name = nearest(pruned)
    return {
        "param_ratio": plan.param_ratio,
        "mac_ratio": plan.mac_ratio,
        "channel_ratio": plan.channel_ratio,
        "method": walk.method,
        "compensation": walk.compensation,
        "holds": margin >= 0,
        "worst_class": {"name": name, "z": z, "limit": limit},
        "widths": {width.group: [width.before, width.after] for width in pruned.pruning.widths},
        "notes": list(pruned.pruning.notes),
        "files": [str(file) for file in files],
    }


def nearest(pruned: PrunedModel) -> tuple[float, float, float, str]:
    """Margin, z, limit and name of the class nearest to its limit."""
    walk = pruned.pruning.trajectory
    rows = zip(walk.final_z, walk.z_limits, walk.class_names, strict=True)
    return min((z - limit, z, limit, name) for z, limit, name in rows)


def show(pruned: PrunedModel, files: tuple[Path, ...]) -> None:
    console = Console()
    plan = pruned.pruning.plan
    margin, z, limit, name = nearest(pruned)
    level = f"alpha = {pruned.pruning.trajectory.alpha:g} on the calibration images"
    stands = "no class is significantly worse than dense" if margin >= 0 else "beyond the guarantee"
    lines = (
        f"param_ratio {plan.param_ratio:.4f}, mac_ratio {plan.mac_ratio:.4f}, "
        f"channel_ratio {plan.channel_ratio:.4f}",
        f"{stands} at {level}: {name} at z = {z:.2f}, limit {limit:.2f}",
        *pruned.pruning.notes,
        *(f"wrote {file}" for file in files),
    )
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)
