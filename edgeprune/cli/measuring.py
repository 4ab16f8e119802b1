"""`edgeprune measure` and `compare`: any two files or runs, here or on a device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.cli import flags
from edgeprune.cli.app import Settings, app, guarded
from edgeprune.cli.machine import AsJson, target_folders
from edgeprune.cli.progress import watching
from edgeprune.errors import InputError

if TYPE_CHECKING:
    from edgeprune.measure import Place
    from edgeprune.records import Floats, Measurement, Report, Target

EQUAL = 0.02
"""Two times whose ratio is surely within this of 1 are called equal."""
MOST_OPERATORS = 20
PLACE = "Where"

TargetName = Annotated[
    str, typer.Option(help="Target profile.", rich_help_panel=PLACE, autocompletion=flags.known_targets)
]
Threads = Annotated[
    int | None, typer.Option(help="Of one inference \\[the target's].", rich_help_panel=PLACE)
]
Host = Annotated[
    str | None, typer.Option(help="Over SSH, user@device[:port] \\[the target's].", rich_help_panel=PLACE)
]
Setup = Annotated[
    bool,
    typer.Option("--setup", help="Install a missing runtime on the device, for us.", rich_help_panel=PLACE),
]
Processes = Annotated[int, typer.Option(min=2, help="Fresh processes per file.")]


@app.command()
@guarded
def measure(  # noqa: PLR0913, PLR0917  # one argument for each flag
    files: Annotated[list[Path], typer.Argument(help=".onnx or .xml files; the first is the baseline.")],
    target: TargetName = "openvino",
    host: Host = None,
    setup: Setup = False,
    threads: Threads = None,
    processes: Processes = 5,
    streams: Annotated[int, typer.Option(min=0, help="So many inferences at once, for the throughput.")] = 0,
    operators: Annotated[bool, typer.Option("--operators", help="Time each operator.")] = False,
    instructions: Annotated[
        bool, typer.Option("--instructions", help="Count CPU instructions (perf, else valgrind: minutes).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure latency and memory of any ONNX or OpenVINO file; of several, first and last are interleaved.

    [dim]edgeprune measure old.onnx new.onnx --target onnxruntime[/dim]

    [dim]edgeprune measure net.onnx --target pi5 --host pi@device[/dim]
    """
    profile = chosen(target, host, threads)
    named = dict(zip(names_of(files), files, strict=True))
    found = run_measure(
        named, profile, setup=setup, quiet=as_json,
        processes=processes, streams=streams, operators=operators,
    )  # fmt: skip
    counts = count_instructions(named, profile) if instructions else {}
    if as_json:
        typer.echo(json.dumps({**asdict(found), **({"instructions": counts} if counts else {})}, indent=1))
        return
    show_measurement(found, list(named))
    for name, count in counts.items():
        typer.echo(f"{name}: {count}")


@app.command()
@guarded
def compare(  # noqa: PLR0913, PLR0917  # one argument for each flag
    first: Annotated[Path, typer.Argument(help="A run folder, report.json, .onnx or .xml: the baseline.")],
    second: Annotated[Path, typer.Argument(help="What is compared with it.")],
    target: Annotated[
        str | None, typer.Option(help="Target profile \\[the run's, else openvino].", rich_help_panel=PLACE)
    ] = None,
    host: Host = None,
    setup: Setup = False,
    threads: Threads = None,
    processes: Processes = 5,
    as_json: AsJson = False,
) -> None:
    """Compare two files or runs, measured interleaved: faster, slower or equal, and how sure that is.

    [dim]edgeprune compare old.onnx new.onnx[/dim]

    [dim]edgeprune compare main/edgeprune-out edgeprune-out[/dim]
    """
    from edgeprune.cli.reading import open_report

    reports = {path: open_report(path) for path in (first, second) if is_run(path)}
    files = [deployed_of(path, reports.get(path)) for path in (first, second)]
    run = next(iter(reports.values()), None)
    profile = (
        with_flags(run.target, host, threads)
        if run and not target
        else chosen(target or "openvino", host, threads)
    )
    names = names_of([first, second])
    found = run_measure(
        dict(zip(names, files, strict=True)), profile, setup=setup, quiet=as_json, processes=processes
    )
    sentence = in_words(found, names)
    if as_json:
        typer.echo(json.dumps({"sentence": sentence, **asdict(found)}, indent=1))
        return
    show_measurement(found, names)
    if len(reports) == 2:  # noqa: PLR2004 - both of the two
        show_accuracies(dict(zip(names, reports.values(), strict=True)))
    Console().print(sentence, soft_wrap=True, highlight=False, markup=False)


# --- what is measured ---------------------------------------------------------------------------------


def is_run(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".json"


def deployed_of(path: Path, report: Report | None) -> Path:
    """The file itself, or the one that a run deploys."""
    if report is None:
        return path
    from edgeprune.cli.reading import deployed

    artifact = report.artifacts[report.deployed]
    found = deployed(path, artifact)
    if found is None:
        raise InputError(f"{path}: {artifact.path} is not there any more; run `edgeprune build` again.")
    return found


def names_of(paths: list[Path]) -> list[str]:
    """File names where they differ, else paths; and where one file is compared with itself, numbers."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, start=1)]
    return names


def chosen(target: str, host: str | None, threads: int | None) -> Target:
    from edgeprune.target import load

    return with_flags(load(target, folders=target_folders()), host, threads)


def with_flags(target: Target, host: str | None, threads: int | None) -> Target:
    """A target with --host and --threads in the place of its own."""
    return replace(
        target,
        host=target.host if host is None else host,
        threads=threads or target.threads,
    )


def image_for(files: list[Path], place: Place) -> Floats:
    """An image that every file reads; raises InputError where they differ."""
    import numpy as np

    shapes = {file: place.image_shape(file) for file in files}
    first = shapes[files[0]]
    for file, shape in shapes.items():
        if shape != first:
            sizes = ["x".join(map(str, each)) for each in (first, shape)]
            raise InputError(
                f"{file}: reads {sizes[1]} images, but {files[0]} reads {sizes[0]}; measure them one by one."
            )
    return np.random.default_rng(0).random(first, dtype=np.float32)


def run_measure(  # noqa: PLR0913 - what is measured, where, and how
    named: Mapping[str, Path],
    profile: Target,
    *,
    setup: bool,
    quiet: bool,
    processes: int,
    streams: int = 0,
    operators: bool = False,
) -> Measurement:
    from edgeprune import measure as room

    with watching(quiet=Settings.quiet or quiet) as watcher, room.place(profile, setup=setup) as place:
        image = image_for(list(named.values()), place)
        found = room.measure(
            named,
            runtime=profile.runtime,
            threads=profile.threads,
            image=image,
            processes=processes,
            streams=streams,
            operators=operators,
            on_progress=lambda done, total: watcher.progress("measure", done, total, "fresh processes"),
            on_wait=lambda: watcher.progress("measure", 0, 1, "another measurement runs here: waiting"),
            **place.options(),
        )
        return place.noted(found)


def count_instructions(named: Mapping[str, Path], profile: Target) -> dict[str, str]:
    from edgeprune import measure as room
    from edgeprune.measure import instructions

    if profile.host:
        raise InputError("--instructions: counted on this machine only; leave out --host.")
    with room.place(profile) as place:
        image = image_for(list(named.values()), place)
    said = {}
    for name, path in named.items():
        found = instructions(path, runtime=profile.runtime, image=image) or instructions(
            path, runtime=profile.runtime, image=image, counter="callgrind"
        )
        said[name] = (
            f"{found.per_inference / 1e6:.1f} M instructions per inference ({found.method})"
            if found
            else "instructions cannot be counted here: install valgrind"
        )
    return said


# --- what is shown ------------------------------------------------------------------------------------


def show_measurement(found: Measurement, names: list[str]) -> None:
    console = Console()
    table = Table("file", "p50", "95 % interval", "p90", "first", "load", "peak memory")
    for name in names:
        time, memory = found.latency[name], found.memory.get(name)
        table.add_row(
            escape(name),
            f"{time.p50_ms.value:.3g} ms",
            f"{time.p50_ms.low:.3g} to {time.p50_ms.high:.3g} ms",
            f"{time.p90_ms:.3g} ms",
            f"{time.first_ms:.3g} ms",
            f"{time.load_ms:.3g} ms",
            f"{memory.peak_bytes / 1e6:.1f} MB" if memory else "unknown",
        )
    console.print(table)
    lines = [
        *(
            f"{name}: {rate.per_second:.1f} inferences a second with {rate.streams} at once"
            for name, rate in found.throughput.items()
        ),
        *(f"{name}: {energy:.1f} mJ an inference, the whole CPU" for name, energy in found.energy_mj.items()),
    ]
    if len(names) > 1:
        ratio = found.ratio
        lines.append(
            f"{names[-1]} takes {ratio.value:.3f} times as long as {names[0]} "
            f"(95 % interval {ratio.low:.3f} to {ratio.high:.3f}, {found.ratio_basis}, {found.pairs} pairs)"
        )
    for line in [*lines, *(f"noise: {sentence}" for sentence in found.noise)]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for name, times in found.operators.items():
        rows = Table(f"operator of {escape(name)}", "kind", "shortest")
        for time_of in times[:MOST_OPERATORS]:
            rows.add_row(escape(time_of.name), escape(time_of.kind), f"{time_of.time_ms:.3f} ms")
        console.print(rows)


def show_accuracies(reports: Mapping[str, Report]) -> None:
    metrics = {report.accuracy_change.metric for report in reports.values()}
    table = Table("run", metrics.pop() if len(metrics) == 1 else "accuracy", "95 % CI", "images", "size")
    for name, report in reports.items():
        accuracy, size = report.accuracy[report.deployed], report.artifacts[report.deployed].size_bytes
        top1 = accuracy.top1
        table.add_row(
            escape(name),
            f"{100 * top1.value:.2f} %",
            f"{100 * top1.low:.2f} to {100 * top1.high:.2f} %",
            str(accuracy.images),
            f"{size / 1e6:.2f} MB",
        )
    Console().print(table)


def in_words(found: Measurement, names: list[str]) -> str:
    """Faster, slower, equal, or not known, by the interval of the ratio."""
    ratio = found.ratio
    bounds = f"ratio {ratio.value:.3f}, 95 % interval {ratio.low:.3f} to {ratio.high:.3f}"
    if ratio.low >= 1 - EQUAL and ratio.high <= 1 + EQUAL:
        return f"equal: the two differ by less than {EQUAL:.0%} ({bounds})"
    if ratio.high < 1:
        return f"faster: {names[-1]} than {names[0]} ({bounds})"
    if ratio.low > 1:
        return f"slower: {names[-1]} than {names[0]} ({bounds})"
    return f"not known: the interval holds 1 and reaches beyond {EQUAL:.0%} ({bounds}); measure longer"
