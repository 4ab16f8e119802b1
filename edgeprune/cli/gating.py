"""`edgeprune gate`: a finished run against budgets and a baseline, for CI. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edgeprune.cli.app import Settings, app, guarded
from edgeprune.cli.building import show_verdict
from edgeprune.cli.flags import LIMITS, OUTPUT, MaxAccuracyDrop, MaxLatency, MaxMemory, MaxSize
from edgeprune.cli.progress import watching
from edgeprune.cli.reading import RUN, AsJson, deployed, open_report
from edgeprune.errors import ConfigError

if TYPE_CHECKING:
    from edgeprune.records import Budget, Interval, Measurement, Report, Verdict

START_SECONDS = 2.0
"""About what a fresh process takes until it measures: imports, loading, warming up."""
MOST_PROCESSES = 15


class Undecided(StrEnum):
    FAIL = "fail"
    WARN = "warn"
    PASS = "pass"  # noqa: S105 - a policy, no password


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A stored report, and its deployed file where that is still beside it."""

    report: Report
    file: Path | None


@app.command()
@guarded
def gate(  # noqa: PLR0913, PLR0917  # one argument for each flag
    run: Annotated[Path, RUN] = Path("edgeprune-out"),
    max_latency: MaxLatency = None,
    max_memory: MaxMemory = None,
    max_size: MaxSize = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="'latency_p90 <= 12ms', 'latency_p50 <= +3% vs baseline', "
            "'class_accuracy >= -5pp vs dense'; may be given several times.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Read [\\[budgets.*]] of this file.", rich_help_panel=LIMITS),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="A run folder or report.json to compare with.", rich_help_panel=LIMITS)
    ] = None,
    undecided: Annotated[
        Undecided,
        typer.Option(help="What noise leaves open: exit code 4 (fail), or 0.", rich_help_panel=LIMITS),
    ] = Undecided.FAIL,
    measure_more: Annotated[
        float,
        typer.Option(
            help="Measure an undecided latency again for up to so many seconds.", rich_help_panel=LIMITS
        ),
    ] = 120.0,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.", rich_help_panel=OUTPUT)] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Add Markdown to this file.", rich_help_panel=OUTPUT)
    ] = None,
    github: Annotated[
        bool, typer.Option("--annotations", help="Print GitHub annotations.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a run against budgets: those it was built with, and those given here. For CI.

    Exit codes: 0 fits, 3 over budget, 4 undecided.

    [dim]edgeprune gate edgeprune-out --max-latency 12ms --max-accuracy-drop 1[/dim]

    [dim]edgeprune gate edgeprune-out --baseline main --limit 'latency_p50 <= +3% vs baseline'[/dim]
    """
    from edgeprune import report as outputs
    from edgeprune.gate import exit_code

    found = open_report(run)
    flags: dict[str, object] = {
        "max_latency": max_latency,
        "max_memory": max_memory,
        "max_size": max_size,
        "max_accuracy_drop": max_accuracy_drop,
    }
    budget = add_limits(found.budget, flags, limit or [], config, found.target.name)
    verdict = decide(
        found, budget, run, open_baseline(baseline) if baseline else None, seconds=measure_more, quiet=as_json
    )
    title = f"{found.provenance.model} on {found.target.name}"
    if junit is not None:
        outputs.write_text(junit, outputs.junit(verdict, suite=title, undecided=undecided))
    if summary is not None:
        outputs.append_text(summary, outputs.summary(verdict, title=title))
    if as_json:
        typer.echo(json.dumps(asdict(verdict), indent=1))
    else:
        show_verdict(verdict, Console())
    if github:
        for line in outputs.github_annotations(verdict, undecided=undecided):
            typer.echo(line, err=as_json)
    raise typer.Exit(exit_code(verdict, undecided=undecided))


def add_limits(
    budget: Budget, flags: dict[str, object], limits: list[str], config: Path | None, target: str
) -> Budget:
    """Those of the build, replaced by the short flags, and those of the file and --limit beside them."""
    from edgeprune import budgets
    from edgeprune.config import make_config

    short = asdict(make_config(flags).budget)
    given = {name: value for name, value in short.items() if name in flags_of_budget() and value is not None}
    tables = read_budgets(config) if config is not None else {}
    more = [*budgets.read(tables, target=target), *(budgets.parse(text) for text in limits)]
    return replace(budget, **{**given, "limits": (*budget.limits, *more)})


def flags_of_budget() -> set[str]:
    """The parts of a budget that have a flag of their own."""
    from dataclasses import fields

    from edgeprune.records import Budget

    return {field.name for field in fields(Budget)} - {"limits"}


def read_budgets(file: Path) -> dict[str, object]:
    """The [budgets] of a settings file, whatever else it holds."""
    from edgeprune.untrusted import read_toml

    try:
        settings = read_toml(file)
    except OSError as err:
        raise ConfigError(f"{file}: cannot be read ({err.strerror}); check the path.") from err
    except ValueError as err:
        raise ConfigError(f"{file}: not valid TOML: {err}.") from err
    tables = settings.get("budgets", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{file}: budgets: write tables, [budgets.default] or [budgets.TARGET].")
    return tables


def open_baseline(path: Path) -> Baseline:
    report = open_report(path)
    return Baseline(report=report, file=deployed(path, report.artifacts[report.deployed]))


def decide(  # noqa: PLR0913 - what a verdict rests on, and two switches
    found: Report, budget: Budget, run: Path, baseline: Baseline | None, *, seconds: float, quiet: bool
) -> Verdict:
    """Judge; measure what the baseline and an undecided latency need, as far as the files are here."""
    from edgeprune.gate import judge_report
    from edgeprune.records import Outcome

    stored = baseline.report if baseline else None
    measured: Measurement | None = None
    ratio: Interval | None = None
    if baseline and seconds and wants_baseline_time(budget):
        ratio = against_baseline(found, run, baseline, seconds=seconds, quiet=quiet)
    counts = count(found, budget, run, baseline)
    verdict = judge_report(found, budget, baseline=stored, to_baseline=ratio, instructions=counts)
    if verdict.outcome is Outcome.UNDECIDED and seconds and undecided_time(verdict):
        measured = again(found, run, seconds=seconds, quiet=quiet)
    if measured is None:
        return verdict
    return judge_report(
        found, budget, baseline=stored, to_baseline=ratio, measurement=measured, instructions=counts
    )


def count(found: Report, budget: Budget, run: Path, baseline: Baseline | None) -> dict[str, float]:
    """CPU instructions where a limit asks for them, of the files that are here, all counted the same way."""
    import numpy as np

    from edgeprune.measure import instructions, perf_counts
    from edgeprune.records import Figure

    if all(limit.figure is not Figure.INSTRUCTIONS for limit in budget.limits):
        return {}
    counter = "perf" if perf_counts() else "callgrind"
    files = {name: deployed(run, artifact) for name, artifact in found.artifacts.items()}
    if baseline:
        files["baseline"] = baseline.file
    image = np.random.default_rng(0).random(found.artifacts[found.deployed].input_shape[1:], dtype=np.float32)
    counted = {
        name: instructions(file, runtime=found.target.runtime, image=image, counter=counter)
        for name, file in files.items()
        if file is not None
    }
    return {name: count.per_inference for name, count in counted.items() if count is not None}


def wants_baseline_time(budget: Budget) -> bool:
    from edgeprune.records import Basis, Figure

    return any(
        limit.basis is Basis.BASELINE and limit.figure is Figure.LATENCY_P50 for limit in budget.limits
    )


def undecided_time(verdict: Verdict) -> bool:
    from edgeprune.records import Outcome

    return any(
        check.outcome is Outcome.UNDECIDED
        and check.budget.startswith("latency")
        and "baseline" not in check.budget
        for check in verdict.checks
    )


def against_baseline(
    found: Report, run: Path, baseline: Baseline, *, seconds: float, quiet: bool
) -> Interval | None:
    """Time over the baseline's, interleaved now; None where a file or its runtime is not here."""
    mine = deployed(run, found.artifacts[found.deployed])
    theirs = baseline.file
    before, now = (report.artifacts[report.deployed] for report in (baseline.report, found))
    same = before.input_shape == now.input_shape
    if mine is None or theirs is None or not same:
        return None
    measured = measure_files({"baseline": theirs, found.deployed: mine}, found, seconds=seconds, quiet=quiet)
    return measured.ratio if measured else None


def again(found: Report, run: Path, *, seconds: float, quiet: bool) -> Measurement | None:
    """Measure all variants with more processes, on the machine of the report only."""
    files = {name: deployed(run, artifact) for name, artifact in found.artifacts.items()}
    known = {name: file for name, file in files.items() if file is not None}
    if len(known) < len(files):
        return None
    return measure_files(known, found, seconds=seconds, quiet=quiet, same_machine=True)


def measure_files(
    files: dict[str, Path], found: Report, *, seconds: float, quiet: bool, same_machine: bool = False
) -> Measurement | None:
    """Measure where the report was; as many processes as the time allows.

    None where those are fewer than the report had, where the device or its runtime is missing, and where it
    has to be the report's machine and is not.
    """
    import numpy as np

    from edgeprune.errors import TargetUnreachable
    from edgeprune.measure import measure, place

    processes = processes_within(seconds, found, len(files))
    if processes < found.measurement.latency[found.deployed].processes:
        return None
    image = np.random.default_rng(0).random(found.artifacts[found.deployed].input_shape[1:], dtype=np.float32)
    with watching(quiet=Settings.quiet or quiet) as watcher:
        try:
            with place(found.target) as here:
                then = found.measurement.machine
                if same_machine and any(then.get(fact) != now for fact, now in here.facts().items()):
                    return None
                measured = measure(
                    files,
                    runtime=found.target.runtime,
                    threads=found.target.threads,
                    image=image,
                    processes=processes,
                    on_progress=lambda done, total: watcher.progress(
                        "measure", done, total, "fresh processes"
                    ),
                    **here.options(),
                )
                return here.noted(measured)
        except TargetUnreachable:
            return None


def processes_within(seconds: float, found: Report, files: int) -> int:
    """How many processes for each of some files a time allows, by what the report's own took."""
    times = [latency.p50_ms.value for latency in found.measurement.latency.values()]
    each = (
        START_SECONDS + found.measurement.latency[found.deployed].load_ms / 1000 + min(4.0, 0.2 * max(times))
    )
    return min(MOST_PROCESSES, int(seconds / (each * (files + 1))))
