"""A verdict for the tools of CI: JUnit XML, a Markdown summary, annotations, one of each check's lines."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from edgeprune.records import Check, Outcome, Verdict
from edgeprune.report.files import replace_file
from edgeprune.report.markdown import escape, lay_out

_MARKS = {Outcome.FITS: "fits", Outcome.OVER: "over budget", Outcome.UNDECIDED: "undecided"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")
"""What XML 1.0 cannot hold."""


def junit(verdict: Verdict, *, suite: str, undecided: str = "fail") -> str:
    """Return JUnit XML: one test case for each check; undecided is a failure, or skipped by the policy.

    Args:
        suite: What was judged, a model and its target for example.
        undecided: `fail`, `warn` or `pass`.
    """
    checks = verdict.checks
    failed = [check for check in checks if _fails(check, undecided)]
    skipped = [check for check in checks if check.outcome is not Outcome.FITS and check not in failed]
    suites = ET.Element("testsuites", name="edgeprune")
    element = ET.SubElement(
        suites,
        "testsuite",
        name=_plain(suite),
        tests=str(len(checks)),
        failures=str(len(failed)),
        errors="0",
        skipped=str(len(skipped)),
    )
    for check in checks:
        _case(element, check, suite, failed=check in failed)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def summary(verdict: Verdict, *, title: str) -> str:
    """Return the verdict as Markdown for a job's summary: a heading, the sentence, a table of checks."""
    rows = [
        (
            check.budget,
            check.limit,
            check.value,
            f"{_MARKS[check.outcome]}{' (warning only)' if check.warns else ''}",
            check.reason,
        )
        for check in verdict.checks
    ]
    status = _MARKS[verdict.outcome] if verdict.checks else "no budget set"
    parts = [f"## {escape(title)}: {status}", escape(verdict.sentence)]
    if rows:
        parts.append(lay_out(("budget", "limit", "measured", "outcome", "why"), rows))
    return "\n\n".join(parts) + "\n"


def github_annotations(verdict: Verdict, *, undecided: str = "fail") -> list[str]:
    """Return GitHub's workflow commands, one for each check that does not fit."""
    found = []
    for check in verdict.checks:
        if check.outcome is Outcome.FITS:
            continue
        kind = "error" if _fails(check, undecided) else "notice" if undecided == "pass" else "warning"
        title = f"{check.budget}: {_MARKS[check.outcome]}"
        text = f"{check.value}, limit {check.limit}. {check.reason}"
        found.append(f"::{kind} title={_property(title)}::{_data(text)}")
    return found


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises RunFolderError."""
    replace_file(path, text)


def append_text(path: Path, text: str) -> None:
    """Add to a job's summary, which other steps write too."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _fails(check: Check, undecided: str) -> bool:
    if check.warns:
        return False
    return check.outcome is Outcome.OVER or (check.outcome is Outcome.UNDECIDED and undecided == "fail")


def _case(parent: ET.Element, check: Check, suite: str, *, failed: bool) -> None:
    case = ET.SubElement(parent, "testcase", classname=_plain(suite), name=_plain(check.budget))
    properties = ET.SubElement(case, "properties")
    for name, value in {"limit": check.limit, "value": check.value, "outcome": check.outcome.value}.items():
        ET.SubElement(properties, "property", name=name, value=_plain(value))
    text = f"{check.budget} {check.value}, limit {check.limit}: {_MARKS[check.outcome]}; {check.reason}"
    if failed:
        failure = ET.SubElement(case, "failure", message=_plain(text), type=check.outcome.value)
        failure.text = _plain(text)
    elif check.outcome is not Outcome.FITS:
        ET.SubElement(case, "skipped", message=_plain(text))


def _plain(text: str) -> str:
    return _NOT_XML.sub("?", text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
