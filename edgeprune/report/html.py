"""report.html: one file that shows everything, on any screen and on paper. No scripts, no requests."""

from __future__ import annotations

from edgeprune.records import Finding, Interval, Outcome, Report
from edgeprune.report import course, facts, figures, interventions, plots, variants
from edgeprune.report.templates import template

_STATUS = {Outcome.FITS: "Fits the budget", Outcome.OVER: "Over budget", Outcome.UNDECIDED: "Undecided"}
_HEADLINES = 4
"""The first rows of the summary are the headline figures."""


def render(report: Report) -> str:
    """Return the page. Names in the report may hold anything: the template escapes every one of them."""
    rows = figures.summary_rows(report)
    groups = facts.group_widths(report)
    walk = facts.walk(report)
    units = interventions.units(report)
    vetoes = interventions.vetoes(report, units)
    lead, colon, sentence = report.verdict.sentence.partition(":")
    return template("report.html.j2").render(
        report=report,
        lead=lead if colon else "",
        sentence=sentence if colon else lead,
        status=_STATUS[report.verdict.outcome] if report.verdict.checks else "No budget set",
        headlines=list(zip(rows[:_HEADLINES], _details(report), strict=True)),
        rows=rows,
        groups=groups,
        columns=plots.widths(groups),
        layers=interventions.layers(report, vetoes),
        vetoes=vetoes,
        heat=plots.heat(vetoes, interventions.MOST_CLASSES),
        detrimental=[unit for unit in units if unit.finding is Finding.DETRIMENTAL],
        course=course.draw(report),
        variants=variants.rows(report),
        pairs=variants.pairs(report),
        operators=variants.operators(report),
        walk=walk,
        walk_plot=plots.walk(report.trajectory, walk.units),
        classes=facts.class_changes(report),
        tolerances=facts.tolerances(report),
        frozen=facts.frozen(report),
        box=(plots.WIDTH, plots.HEIGHT),
        percent=figures.percent,
        metric=report.accuracy_change.metric,
    )


def _details(report: Report) -> list[str]:
    """Return one line for each headline figure: how sure it is, and what it rests on."""
    name = report.deployed
    accuracy, latency = report.accuracy[name], report.measurement.latency[name]
    memory, artifact = report.measurement.memory.get(name), report.artifacts[name]
    drop, ratio = report.accuracy_change.drop, report.measurement.ratio
    changed = Interval(value=-drop.value, low=-drop.high, high=-drop.low)
    accuracy_span = figures.span(accuracy.top1, figures.percent)
    latency_span = figures.span(latency.p50_ms, figures.milliseconds)
    return [
        f"95 % CI {accuracy_span}; of the change {figures.span(changed, figures.points)}; "
        f"{figures.how_many(accuracy.images, 'image')}",
        f"95 % CI {latency_span}; of the ratio {ratio.low:.3f} to {ratio.high:.3f}; "
        f"{figures.how_many(latency.runs, 'run')}",
        f"whole process; {figures.size(memory.growth_bytes)} above the bare runtime"
        if memory
        else "this system does not tell it",
        f"{figures.amount(artifact.params)} parameters, {figures.amount(artifact.macs)} multiply-adds",
    ]
