"""A verdict for the tools of CI: what they read is what was decided, whatever the texts hold."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from sample_report import measurement, sample_report

from edgeprune import report as room
from edgeprune.records import Check, Layout, Outcome, Verdict
from edgeprune.report import files, html, markdown

HOSTILE = 'a <b> & "c", 100 %: |\x00\n::error::no'


def verdict(*outcomes: Outcome, warns: bool = False, text: str = "12 ms") -> Verdict:
    checks = tuple(
        Check(budget=f"budget {i}", limit="9 ms", value=text, outcome=outcome, reason=text, warns=warns)
        for i, outcome in enumerate(outcomes)
    )
    return Verdict(outcome=outcomes[-1], checks=checks, sentence="Over budget: much.")


ALL = verdict(Outcome.FITS, Outcome.UNDECIDED, Outcome.OVER)


@pytest.mark.parametrize(
    ("policy", "failures", "skipped"), [("fail", "2", "0"), ("warn", "1", "1"), ("pass", "1", "1")]
)
def test_junit_has_a_case_for_each_check(policy, failures, skipped):
    suite = ET.fromstring(room.junit(ALL, suite="net on pi5", undecided=policy))[0]  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", failures, skipped)
    assert [case.get("name") for case in suite] == ["budget 0", "budget 1", "budget 2"]
    over = suite[2].find("failure")
    assert over is not None
    assert over.get("type") == "over"
    kept = {each.get("name"): each.get("value") for each in suite[2].iter("property")}
    assert kept == {"limit": "9 ms", "value": "12 ms", "outcome": "over"}
    assert len(list(suite.iter("failure"))) == int(failures)
    assert len(list(suite.iter("skipped"))) == int(skipped)


def test_a_warning_fails_nothing():
    suite = ET.fromstring(room.junit(verdict(Outcome.OVER, warns=True), suite="x"))[0]  # noqa: S314 - our own
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    assert room.github_annotations(verdict(Outcome.OVER, warns=True))[0].startswith("::warning ")
    assert "(warning only)" in room.summary(verdict(Outcome.OVER, warns=True), title="x")


def test_annotations_name_what_does_not_fit_and_stay_one_line():
    lines = room.github_annotations(ALL)
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error"]
    assert [line.split(" ")[0] for line in room.github_annotations(ALL, undecided="warn")] == [
        "::warning",
        "::error",
    ]
    assert [line.split(" ")[0] for line in room.github_annotations(ALL, undecided="pass")] == [
        "::notice",
        "::error",
    ]
    assert lines[1] == "::error title=budget 2%3A over budget::12 ms, limit 9 ms. 12 ms"
    hostile = room.github_annotations(verdict(Outcome.OVER, text=HOSTILE))
    assert len(hostile) == 1
    assert "\n" not in hostile[0]
    assert "100 %25" in hostile[0]


def test_hostile_texts_stay_texts():
    xml = room.junit(verdict(Outcome.OVER, text=HOSTILE), suite=HOSTILE)
    assert ET.fromstring(xml)[0].get("name", "").startswith("a <b> &")  # noqa: S314 - our own
    text = room.summary(verdict(Outcome.OVER, text=HOSTILE), title=HOSTILE)
    assert "<b>" not in text
    assert len(text.splitlines()) == 7


def test_the_summary_holds_the_sentence_and_the_table():
    text = room.summary(ALL, title="net on pi5")
    assert text.startswith("## net on pi5: over budget\n\nOver budget: much.\n\n| budget |")
    assert "| budget 1 | 9 ms | 12 ms | undecided | 12 ms |" in text
    empty = Verdict(outcome=Outcome.FITS, checks=(), sentence="Faster.")
    assert room.summary(empty, title="x") == "## x: no budget set\n\nFaster.\n"


def test_a_summary_is_added_to(tmp_path):
    path = tmp_path / "summary.md"
    room.append_text(path, "a\n")
    room.append_text(path, "b\n")
    assert path.read_text(encoding="utf-8") == "a\nb\n"
    room.write_text(path, "c\n")
    assert path.read_text(encoding="utf-8") == "c\n"


def test_a_report_without_memory_says_unknown():
    found = replace(sample_report(), measurement=replace(measurement(), memory={}))
    assert "unknown" in markdown.render(found)
    assert "this system does not tell it" in html.render(found)
    assert files.to_json(found)


def test_a_layout_is_a_row_of_every_form():
    layouts = {
        "dense": Layout(convolutions=9, unblocked=0, reorders=1, blocked_layout=True),
        "pruned": Layout(convolutions=9, unblocked=2, reorders=5, blocked_layout=True),
    }
    found = replace(sample_report(), layouts=layouts)
    assert room.summary_rows(found)[-2] == ("Conversions of the layout", "1", "5", "+4")
    assert room.summary_rows(found)[-1] == ("Unblocked convolutions", "0 of 9", "2 of 9", "+2")
    assert "Unblocked convolutions" in markdown.render(found)
    assert "Unblocked convolutions" not in markdown.render(sample_report())
