"""report.md: the report as short as a pull request wants it, the rest folded away."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgeprune.records import Outcome, Report
from edgeprune.report import facts, figures

_STATUS = {Outcome.FITS: "fits", Outcome.OVER: "over budget", Outcome.UNDECIDED: "undecided"}
_MOST_CLASSES = 10
_MOST_GROUPS = 100


def render(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown, far below the 1 MiB that a job summary may hold."""
    status = _STATUS[report.verdict.outcome] if report.verdict.checks else "no budget set"
    parts = [
        f"## {escape(report.provenance.model)} on {escape(report.target.name)}: {status}",
        escape(report.verdict.sentence),
        lay_out(("", *figures.both(report), "change"), figures.summary_rows(report)),
        _fold("All variants", _variants(report)),
        _budget(report),
        _fold("Classes that changed most", _classes(report)),
        _fold("Widths of the groups", _groups(report)),
        _fold("How it was measured", _measurement(report)),
        _fold("Notes", _list(report.notes)),
        _fold("Provenance", _provenance(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Make a text from outside plain: no markup, no table cells, no lines of its own."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line)


def _budget(report: Report) -> str:
    checks = report.verdict.checks
    if not checks:
        return ""
    head = ("budget", "limit", "measured", "outcome", "why")
    return lay_out(head, [(c.budget, c.limit, c.value, c.outcome.value, c.reason) for c in checks])


def _variants(report: Report) -> str:
    head, rows = figures.variants_rows(report)
    return lay_out(head, rows) if rows else ""


def _classes(report: Report) -> str:
    changes = facts.class_changes(report)
    moved = sorted(changes.shown, key=lambda row: -abs(row.change))[:_MOST_CLASSES]
    if not any(row.change for row in moved):
        return "No class changed."
    rows = [
        (
            row.name,
            figures.percent(row.dense),
            figures.percent(row.pruned),
            figures.points(row.change),
            "" if row.p_value is None else figures.p_value(row.p_value),
        )
        for row in moved
        if row.change
    ]
    head = ("class", *figures.both(report), "change", "paired test")
    summary = f"{figures.how_many(changes.total, 'class')}: {changes.fell} fell, {changes.rose} rose."
    return f"{summary}\n\n{lay_out(head, rows)}"


def _groups(report: Report) -> str:
    widths = report.widths[:_MOST_GROUPS]
    rows = [(width.group, str(width.before), str(width.after)) for width in widths]
    rest = len(report.widths) - len(widths)
    table = lay_out(("group", "before", "after"), rows)
    return f"{table}\n\nand {figures.how_many(rest, 'more group')}." if rest else table


def _measurement(report: Report) -> str:
    name, measured = report.deployed, report.measurement
    latency = measured.latency[name]
    ratio = measured.ratio
    lines = [
        f"ratio {name} over dense {ratio.value:.3f} (95 % CI {ratio.low:.3f} to {ratio.high:.3f}), "
        f"{figures.how_many(measured.pairs, 'interleaved pair')}, {measured.ratio_basis}",
        f"p50 {figures.milliseconds(latency.p50_ms.value)} "
        f"(95 % CI {figures.span(latency.p50_ms, figures.milliseconds)}), "
        f"{figures.how_many(latency.runs, 'run')} in {latency.processes} processes",
        f"quality {measured.quality}" + (f": {'; '.join(measured.noise)}" if measured.noise else ""),
        *(f"{name}: {value}" for name, value in measured.machine.items()),
    ]
    return _list(lines)


def _provenance(report: Report) -> str:
    made = report.provenance
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    return _list(
        [
            f"command: {made.command}",
            f"started: {made.started}",
            f"model: {made.model} ({made.model_digest})",
            f"data: {made.data} ({made.data_digest})",
            f"configuration: {made.config_digest}",
            f"versions: {versions}",
        ]
    )


def lay_out(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table; the first column to the left, figures to the right."""
    lines = [head, (":--", *("--:" for _ in head[1:])), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _fold(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>" if body else ""
