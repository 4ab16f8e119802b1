"""Commands about machines: measure, targets, doctor."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.cli.app import Settings, app, guarded
from edgeprune.cli.progress import watching

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
    table = Table("name", "runtime", "threads", "align", "description")
    for target in found:
        table.add_row(
            target.name, target.runtime, str(target.threads), str(target.align), escape(target.description)
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
def measure(
    files: Annotated[list[Path], typer.Argument(help="One .onnx or .xml file, or two to compare.")],
    target: Annotated[str, typer.Option(help="Target profile.")] = "openvino",
    threads: Annotated[int | None, typer.Option(help="Of one inference [the target's].")] = None,
    processes: Annotated[int, typer.Option(help="Fresh processes per file.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure latency and memory of any ONNX or OpenVINO file; two files are measured interleaved.

    [dim]edgeprune measure old.onnx new.onnx --target onnxruntime[/dim]
    """
    import numpy as np

    from edgeprune.measure import measure as run_measure
    from edgeprune.runtime import input_shape
    from edgeprune.target import load

    profile = load(target, folders=target_folders())
    names = (
        [file.name for file in files]
        if len({f.name for f in files}) == len(files)
        else [str(f) for f in files]
    )
    image = np.random.default_rng(0).random(input_shape(files[0], runtime=profile.runtime), dtype=np.float32)
    with watching(quiet=Settings.quiet or as_json) as watcher:
        found = run_measure(
            dict(zip(names, files, strict=True)),
            runtime=profile.runtime,
            threads=threads or profile.threads,
            image=image,
            processes=processes,
            on_progress=lambda done, total: watcher.progress("measure", done, total, "fresh processes"),
        )
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    table = Table("file", "p50", "95 % interval", "p90", "load", "peak memory")
    for name in names:
        time, memory = found.latency[name], found.memory[name]
        interval = f"{time.p50_ms.low:.3g} to {time.p50_ms.high:.3g} ms"
        table.add_row(
            escape(name),
            f"{time.p50_ms.value:.3g} ms",
            interval,
            f"{time.p90_ms:.3g} ms",
            f"{time.load_ms:.3g} ms",
            f"{memory.peak_bytes / 1e6:.1f} MB",
        )
    console = Console()
    console.print(table)
    if len(files) > 1:
        ratio = found.ratio
        console.print(
            f"{escape(names[-1])} takes {ratio.value:.3f} times as long as {escape(names[0])} "
            f"(95 % interval {ratio.low:.3f} to {ratio.high:.3f}, {found.ratio_basis}, {found.pairs} pairs)",
            soft_wrap=True,
        )
    for sentence in found.noise:
        console.print(f"noise: {escape(sentence)}", soft_wrap=True, highlight=False)


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
