"""Numbers as people read them. Plain ASCII, so that every terminal and log can show them."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgeprune.records import Interval, Memory, Report

Row = tuple[str, str, str, str]
"""Label, dense, deployed, change."""

_UNITS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
_SMALLEST_P = 0.001
"""Below this a p-value is only said to be below it."""


def summary_rows(report: Report) -> list[Row]:
    """Return the table of dense against the deployed network, the four headline figures first.

    The terminal, report.md and report.html all show these rows, so that they cannot disagree.
    """
    return [_accuracy(report), _latency(report), *_costs(report), *_layout(report)]


def variants_rows(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the head and the rows of a table of all variants; no rows where there are only two."""
    names = tuple(report.artifacts)
    if not report.measurement.ratios:
        return ("", *names), []
    measured, changes, memory = report.measurement, report.accuracy_changes, report.measurement.memory

    def times(over: str) -> list[str]:
        table = measured.ratios
        return [figure(table[name][over]) if over in table.get(name, {}) else "" for name in names]

    def drops(over: str) -> list[str]:
        return [points(-changes[n][over].drop.value) if over in changes.get(n, {}) else "" for n in names]

    def figure(ratio: Interval) -> str:
        return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"

    rows = [
        (accuracy_name(report), *(percent(report.accuracy[name].top1.value) for name in names)),
        *((f"accuracy against {name}", *drops(name)) for name in ("dense", "int8")),
        ("Latency p50", *(milliseconds(measured.latency[name].p50_ms.value) for name in names)),
        *((f"latency over {name}, interleaved", *times(name)) for name in ("dense", "int8")),
        ("Peak memory", *(size(memory[n].peak_bytes) if n in memory else "unknown" for n in names)),
        ("Model size", *(size(report.artifacts[name].size_bytes) for name in names)),
    ]
    return ("", *names), rows


def accuracy_name(report: Report) -> str:
    """What the accuracies of a report are, as a title."""
    metric = report.accuracy_change.metric
    return "Top-1 accuracy" if metric == "top-1" else metric


def both(report: Report) -> tuple[str, str]:
    """The two variants that the summary compares."""
    return "dense", report.deployed


def _accuracy(report: Report) -> Row:
    dense, pruned = (percent(report.accuracy[name].top1.value) for name in both(report))
    return (accuracy_name(report), dense, pruned, points(-report.accuracy_change.drop.value))


def _latency(report: Report) -> Row:
    """Absolute times come from runs of one network alone, the change from interleaved runs."""
    latency = report.measurement.latency
    dense, pruned = (milliseconds(latency[name].p50_ms.value) for name in both(report))
    return ("Latency p50", dense, pruned, speed(report.measurement.ratio))


def _costs(report: Report) -> list[Row]:
    latency, memory, artifacts = report.measurement.latency, report.measurement.memory, report.artifacts

    def row(label: str, word: Callable[[float], str], figure: Callable[[str], float]) -> Row:
        dense, pruned = map(figure, both(report))
        return (label, word(dense), word(pruned), relative(dense, pruned))

    def of_memory(label: str, figure: Callable[[Memory], float]) -> Row:
        if not {*both(report)} <= memory.keys():
            return (label, "unknown", "unknown", "")
        return row(label, size, lambda name: figure(memory[name]))

    return [
        of_memory("Peak memory", lambda memory: memory.peak_bytes),
        row("Model size", size, lambda name: artifacts[name].size_bytes),
        row("Latency p90", milliseconds, lambda name: latency[name].p90_ms),
        row("Load time", milliseconds, lambda name: latency[name].load_ms),
        of_memory("Memory above the bare runtime", lambda memory: memory.growth_bytes),
        row("Parameters", amount, lambda name: artifacts[name].params),
        row("Multiply-adds", amount, lambda name: artifacts[name].macs),
    ]


def _layout(report: Report) -> list[Row]:
    """What is left out of the fast layout, and conversions between the layouts: widths that do not pay."""
    if not {*both(report)} <= report.layouts.keys():
        return []
    dense, pruned = (report.layouts[name] for name in both(report))
    before, after = (f"{each.unblocked} of {each.convolutions}" for each in (dense, pruned))
    reorders = _difference(dense.reorders, pruned.reorders)
    return [
        ("Conversions of the layout", str(dense.reorders), str(pruned.reorders), reorders),
        ("Unblocked convolutions", before, after, _difference(dense.unblocked, pruned.unblocked)),
    ]


def _difference(before: int, after: int) -> str:
    return "unchanged" if before == after else f"{after - before:+d}"


# --- one figure ---------------------------------------------------------------------------------------


def short(value: float) -> str:
    """Give three significant digits, never with an exponent."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, digits)}f}"


def milliseconds(value_ms: float) -> str:
    return f"{short(value_ms)} ms"


def amount(value: float) -> str:
    """Give a size or a number of things, shortened: `812`, `268 k`, `2.24 M`."""
    for unit, name in _UNITS:
        if abs(value) >= unit:
            return f"{short(value / unit)}{name}"
    return f"{value:.0f}"


def size(value_bytes: float) -> str:
    """Give bytes in decimal units: `14.0 MB`."""
    text = amount(value_bytes)
    return f"{text}B" if " " in text else f"{text} B"


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def points(change: float) -> str:
    """Give a change of accuracy, signed: `-0.42 points`."""
    text = f"{100 * change:+.2f}"
    return "unchanged" if text in {"+0.00", "-0.00"} else f"{text} points"


def relative(dense: float, pruned: float) -> str:
    """Give a change in percent of the dense figure."""
    if dense == 0:
        return "unchanged" if pruned == 0 else ""
    text = f"{100 * (pruned / dense - 1):+.1f}"
    return "unchanged" if text in {"+0.0", "-0.0"} else f"{text} %"


def speed(ratio: Interval) -> str:
    """Say how much faster the deployed network is, `ratio` being its time over the dense network's."""
    if ratio.high < 1:
        return f"{1 / ratio.value:.2f}x faster"
    if ratio.low > 1:
        return f"{ratio.value:.2f}x slower"
    return "not measurably faster"


def span(interval: Interval, word: Callable[[float], str]) -> str:
    """Give the bounds of an interval; a unit that both share is said once: `4.61 to 4.72 ms`."""
    low, high = word(interval.low), word(interval.high)
    unit = low.partition(" ")[2]
    return f"{low.partition(' ')[0] if unit == high.partition(' ')[2] else low} to {high}"


def p_value(p: float) -> str:
    return f"p = {p:.2g}" if p >= _SMALLEST_P else f"p < {_SMALLEST_P}"


def seconds(value: float) -> str:
    minutes, rest = divmod(value, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def how_many(number: int, thing: str) -> str:
    """Give a number and its noun: `1 image`, `1,000 classes`, `2 axes`."""
    plural = thing.removesuffix("is") + "es" if thing.endswith("s") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"
