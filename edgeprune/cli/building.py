"""`edgeprune build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.cli.app import Settings, app, guarded
from edgeprune.cli.flags import (
    IMAGES,
    INPUT,
    LIMITS,
    OUTPUT,
    SEARCH,
    Align,
    Allocation,
    Alpha,
    BatchInterventions,
    ConfigFile,
    Device,
    HeadWidth,
    MaxAccuracyDrop,
    MaxLatency,
    MaxMacs,
    MaxMemory,
    MaxSize,
    MemoryLimit,
    Rules,
    SamplesPerClass,
    Seed,
    Speedup,
    Task,
    known_methods,
    known_targets,
    share,
)
from edgeprune.cli.progress import watching

if TYPE_CHECKING:
    from edgeprune.records import Report, Verdict

COLOURS = {"fits": "green", "over": "red", "undecided": "yellow"}


def numbers(text: str | None) -> tuple[float, ...] | None:
    """`0.5,0.5,0.5` -> (0.5, 0.5, 0.5)."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as err:
        raise typer.BadParameter(
            f"{text!r}: give numbers with commas between them, like 0.5,0.5,0.5."
        ) from err


def pixels(text: str | None) -> tuple[int, ...] | None:
    """`256` -> (256,), `224x320` -> (224, 320): height, width."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError as err:
        raise typer.BadParameter(f"{text!r}: give pixels, like 256 or 224x320 (height x width).") from err


@app.command()
@guarded
def build(  # noqa: PLR0913, PLR0917  # one argument for each flag
    config: ConfigFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="torchvision:NAME, python:module:factory, python:file.py:factory, FILE.pt2, example:NAME.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="State dict (.safetensors, .pt, .pth), or DEFAULT to download.", rich_help_panel=INPUT
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder (one sub-folder per class), .csv, .npz, .toml or its name, torchvision:NAME:ROOT.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    task: Task = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Target profile: a name (see `targets list`) or .toml.",
            rich_help_panel=INPUT,
            autocompletion=known_targets,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder \\[edgeprune-out]; a second build resumes.", rich_help_panel=OUTPUT),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="c-swap-c (compensated), c-swap (as published), or a criterion like lrp.",
            autocompletion=known_methods,
            rich_help_panel=SEARCH,
        ),
    ] = None,
    compensate: Annotated[
        str | None,
        typer.Option(help="none, mean, linear or affine \\[affine; c-swap: none].", rich_help_panel=SEARCH),
    ] = None,
    refit: Annotated[
        bool | None,
        typer.Option(help="With affine: sequential least squares at the end \\[on].", rich_help_panel=SEARCH),
    ] = None,
    bn_reestimate: Annotated[
        bool | None,
        typer.Option(help="Re-estimate BatchNorm statistics; affine does so anyway.", rich_help_panel=SEARCH),
    ] = None,
    allocation: Allocation = None,
    alpha: Alpha = None,
    test: Annotated[
        str | None, typer.Option(help="welch or paired samples \\[welch].", rich_help_panel=SEARCH)
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(help="any-class, or pooled: all images in one test.", rich_help_panel=SEARCH),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Of c-swap: compare with the dense or current network.", rich_help_panel=SEARCH),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(help="Of c-swap, in a layer: magnitude, random.", rich_help_panel=SEARCH),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            help="Order by damage per: units, params, macs, both \\[the best, measured].",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    group_test: Annotated[
        int | None,
        typer.Option(help="Most units tested at once [64]; 1 as published.", rich_help_panel=SEARCH),
    ] = None,
    early_exit: Annotated[
        bool | None,
        typer.Option(help="Stop a test when its verdict is sure \\[on].", rich_help_panel=SEARCH),
    ] = None,
    samples_per_class: SamplesPerClass = None,
    align: Align = None,
    device: Device = None,
    batch_interventions: BatchInterventions = None,
    memory_limit: MemoryLimit = None,
    seed: Seed = None,
    head_width: HeadWidth = None,
    rules: Rules = None,
    coupling_time: Annotated[
        str | None,
        typer.Option(
            help="What is not coupled by then stays whole, like 60s [600s].", rich_help_panel=SEARCH
        ),
    ] = None,
    coupling_memory: Annotated[
        str | None, typer.Option(help="The same for its memory, like 500MB [800MB].", rich_help_panel=SEARCH)
    ] = None,
    max_param_ratio: Annotated[
        float | None,
        typer.Option(help="Remove at most this share of parameters, 0 to 1.", rich_help_panel=LIMITS),
    ] = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    max_latency: MaxLatency = None,
    speedup: Speedup = None,
    max_memory: MaxMemory = None,
    max_size: MaxSize = None,
    max_macs: MaxMacs = None,
    threads: Annotated[
        int | None, typer.Option(help="Of one inference \\[the target's].", rich_help_panel=OUTPUT)
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Fresh processes per measurement [5].", rich_help_panel=OUTPUT)
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Evaluate and measure on user@device[:port], over SSH.", rich_help_panel=OUTPUT),
    ] = None,
    setup: Annotated[
        bool | None,
        typer.Option("--setup", help="Install a missing runtime on the device.", rich_help_panel=OUTPUT),
    ] = None,
    undecided: Annotated[
        str | None,
        typer.Option(help="What noise leaves open: fail (exit code 4), warn, pass.", rich_help_panel=LIMITS),
    ] = None,
    int8: Annotated[
        bool | None,
        typer.Option(
            "--int8", help="Quantize to 8 bits; --max-accuracy-drop holds for both.", rich_help_panel=OUTPUT
        ),
    ] = None,
    int8_tool: Annotated[
        str | None,
        typer.Option(help="nncf or onnxruntime \\[by the target's runtime].", rich_help_panel=OUTPUT),
    ] = None,
    int8_images: Annotated[
        int | None,
        typer.Option(help="Calibration images for the ranges, at most [300].", rich_help_panel=OUTPUT),
    ] = None,
    fp16: Annotated[
        bool | None,
        typer.Option("--fp16", help="Store weights in 16 bits: half the file.", rich_help_panel=OUTPUT),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(help="Like ?x3x224x224; ? leaves a size free \\[fixed].", rich_help_panel=OUTPUT),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Of the ONNX files [20].", rich_help_panel=OUTPUT)] = None,
    external_weights: Annotated[
        bool | None,
        typer.Option("--external-weights", help="Weights in a file beside.", rich_help_panel=OUTPUT),
    ] = None,
    forms: Annotated[
        list[str] | None,
        typer.Option(
            "--form",
            help="Also write: ort, optimized or compiled (for this CPU), boxes.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(help="Also write a network that reads frames, like 480x640.", rich_help_panel=OUTPUT),
    ] = None,
    frame_output: Annotated[
        str | None,
        typer.Option(
            help="What it gives: scores, probabilities, class; an SSD: boxes.", rich_help_panel=OUTPUT
        ),
    ] = None,
    simplify: Annotated[
        bool | None, typer.Option(help="Simplify the ONNX file \\[on].", rich_help_panel=OUTPUT)
    ] = None,
    color: Annotated[str | None, typer.Option(help="rgb, bgr or gray.", rich_help_panel=IMAGES)] = None,
    resize: Annotated[
        str | None, typer.Option(help="Shorter side, or HEIGHTxWIDTH.", rich_help_panel=IMAGES)
    ] = None,
    crop: Annotated[
        str | None, typer.Option(help="Centre crop, HEIGHTxWIDTH.", rich_help_panel=IMAGES)
    ] = None,
    rotate: Annotated[
        int | None, typer.Option(help="0, 90, 180 or 270 degrees.", rich_help_panel=IMAGES)
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="nearest, bilinear or bicubic.", rich_help_panel=IMAGES)
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Factor on pixels [1/255].", rich_help_panel=IMAGES)
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Per channel: 0.485,0.456,0.406.", rich_help_panel=IMAGES)
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Per channel: 0.229,0.224,0.225.", rich_help_panel=IMAGES)
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print report.json.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Prune, export and measure a network; end with the verdict and the report's path.

    [dim]edgeprune build --target openvino[/dim]

    [dim]edgeprune build --task segmentation[/dim]

    [dim]edgeprune build --model torchvision:resnet18 --weights w.pth --data photos --max-latency 9ms[/dim]
    """
    given: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("config", "json_output")}
    for name, read in {"resize": pixels, "crop": pixels, "mean": numbers, "std": numbers}.items():
        given[name] = read(given[name])
    given["forms"] = forms or None
    from edgeprune.config import make_config
    from edgeprune.gate import exit_code

    settings = make_config(given, file=config)
    share(settings)
    with watching(quiet=Settings.quiet or json_output) as watcher:
        from edgeprune.pipeline import build as run_build

        report = run_build(settings, watcher=watcher)
    if json_output:
        typer.echo((settings.out / "report.json").read_text())
    else:
        show(report, settings.out)
    raise typer.Exit(exit_code(report.verdict, undecided=settings.undecided))


def show(report: Report, folder: Path) -> None:
    """The summary table, the verdict and where the report lies."""
    from edgeprune.report import summary_rows, variants_rows

    console = Console()
    table = Table("", "dense", escape(report.deployed), "change")
    for row in summary_rows(report):
        table.add_row(*row)
    console.print(table)
    head, rows = variants_rows(report)
    if rows:
        table = Table(*head)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    for note in report.notes:
        console.print(f"[dim]{escape(note)}[/dim]", soft_wrap=True, highlight=False)
    show_verdict(report.verdict, console)
    console.print(f"report: {escape(str(folder / 'report.html'))}", soft_wrap=True, highlight=False)


def show_verdict(verdict: Verdict, console: Console) -> None:
    for check in verdict.checks:
        colour = COLOURS[check.outcome]
        line = f"{check.budget}: {check.value}, limit {check.limit}"
        console.print(
            f"[{colour}]{check.outcome.value:>9}[/{colour}]  {escape(line)}", soft_wrap=True, highlight=False
        )
        if check.reason:
            console.print(f"           [dim]{escape(check.reason)}[/dim]", soft_wrap=True, highlight=False)
    colour = COLOURS[verdict.outcome]
    console.print(
        f"[{colour}]{verdict.outcome.value}[/{colour}]: {escape(verdict.sentence)}",
        soft_wrap=True,
        highlight=False,
    )
