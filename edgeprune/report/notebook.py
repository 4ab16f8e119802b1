"""How a notebook shows a report and a pruned network: small tables, in the notebook's own style."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeprune.records import Pruning, Report
from edgeprune.report import figures
from edgeprune.report.templates import typeset

MOST_GROUPS = 12


def report_card(report: Report) -> str:
    """The verdict, and dense against deployed."""
    head = ("", *figures.both(report), "change")
    title = f"{report.provenance.model} on {report.target.name}"
    return _card(title, report.verdict.sentence, head, figures.summary_rows(report))


def pruning_card(pruning: Pruning, title: str) -> str:
    """What was removed, and the groups that gave up most."""
    plan = pruning.plan
    sentence = (
        f"{figures.percent(plan.param_ratio)} of the parameters, {figures.percent(plan.mac_ratio)} of the "
        f"multiply-adds and {figures.percent(plan.channel_ratio)} of the channels removed by "
        f"{pruning.trajectory.method}."
    )
    widths = sorted(pruning.widths, key=lambda width: width.after - width.before)
    rows = [
        (width.group, str(width.before), str(width.after), figures.relative(width.before, width.after))
        for width in widths[:MOST_GROUPS]
    ]
    left_out = len(widths) - len(rows)
    more = f" The {MOST_GROUPS} groups that gave up most, of {len(widths)}:" if left_out else ""
    return _card(title, sentence + more, ("group", "before", "after", "change"), rows)


def _card(title: str, sentence: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row" style="text-align: left">{escape(first)}</th>'
        + "".join(f"<td>{escape(typeset(cell))}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    )
    return (
        f"<div><p><b>{escape(title)}</b><br>{escape(typeset(sentence))}</p>"
        f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )
