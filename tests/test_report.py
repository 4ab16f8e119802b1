"""The report: the three files agree, survive hostile names, stay small, and report.json comes back equal."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt
from sample_report import quantized_report, sample_report

from edgeprune import report as room
from edgeprune.errors import InputError, RunFolderError
from edgeprune.records import Interval, Outcome, Pruning, Report, Trajectory, Verdict, Width
from edgeprune.report import (
    comparison,
    course,
    facts,
    figures,
    files,
    html,
    markdown,
    notebook,
    plots,
    variants,
)

SAMPLE = sample_report()
HOSTILE = "</title><script>alert(1)</script>\"'`|*_[x](http://example.com)\n# {{ 7*7 }}&amp;"
SCHEMA_FILE = Path(files.__file__).with_name("report-1.schema.json")


class Page(HTMLParser):
    """Collects the tags of a page, what they were closed with, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def hostile_report() -> Report:
    check = replace(SAMPLE.verdict.checks[0], reason=HOSTILE)
    walk = replace(SAMPLE.trajectory, class_names=(HOSTILE,) * 9, method=HOSTILE, stopped=HOSTILE)
    return replace(
        SAMPLE,
        classes=(HOSTILE,) * 10,
        notes=(HOSTILE,),
        trajectory=walk,
        widths=(Width(group=HOSTILE, before=8, after=8),),
        provenance=replace(SAMPLE.provenance, model=HOSTILE, command=HOSTILE, versions={HOSTILE: HOSTILE}),
        verdict=Verdict(outcome=Outcome.OVER, checks=(check,), sentence=HOSTILE),
        frozen=(replace(SAMPLE.frozen[0], reason=HOSTILE, parameter=HOSTILE),),
    )


# --- files --------------------------------------------------------------------------------------------


def test_write_then_read_gives_the_same_report(tmp_path):
    paths = room.write(SAMPLE, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["report.json", "report.html", "report.md"]
    assert room.read(paths[0]) == SAMPLE
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    first = [path.read_bytes() for path in room.write(SAMPLE, tmp_path)]
    assert [path.read_bytes() for path in room.write(room.read(tmp_path / "report.json"), tmp_path)] == first


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    room.write(SAMPLE, tmp_path)
    before = (tmp_path / "report.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"report\.json: cannot be written \(No space left on device\)"):
        room.write(hostile_report(), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_nan_is_refused_before_anything_is_written(tmp_path):
    broken = replace(SAMPLE, plan=replace(SAMPLE.plan, mac_ratio=float("nan")))
    with pytest.raises(InputError, match=r"do not fit together \(.*JSON"):
        room.write(broken, tmp_path)
    assert not list(tmp_path.iterdir())


def test_json_has_numbers_as_numbers():
    data = json.loads(files.to_json(SAMPLE))
    assert data["schema_version"] == room.SCHEMA_VERSION
    assert data["measurement"]["latency"]["pruned"]["p50_ms"]["value"] == 4.63
    assert data["accuracy"]["dense"]["per_class"][-1] is None
    assert list(data)[:2] == ["schema_version", "target"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "not a JSON file"),
        ('{"schema_version": NaN}', "NaN is no JSON number"),
        ("[]", "no schema_version"),
        ('{"schema_version": "2.0"}', "schema 2.0, but this edgeprune reads 1.0"),
        ('{"schema_version": "1.7"}', "target: Field required"),
        (files.to_json(SAMPLE).replace('"pairs": 200', '"pairs": "200"'), "measurement.pairs"),
    ],
    ids=["missing", "broken", "nan", "list", "version", "fields", "type"],
)
def test_bad_report_files_give_one_line(tmp_path, text, message):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        room.read(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_later_minor_version_with_new_fields_can_be_read(tmp_path):
    data = json.loads(files.to_json(SAMPLE)) | {"schema_version": "1.4", "news": 1}
    (tmp_path / "report.json").write_text(json.dumps(data), encoding="utf-8")
    assert room.read(tmp_path / "report.json") == replace(SAMPLE, schema_version="1.4")


def test_the_shipped_schema_is_the_one_of_the_records():
    command = "import json; from edgeprune.report import schema; print(json.dumps(schema(), indent=2))"
    shipped = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    ours = room.schema()
    if "description" not in ours["$defs"]["Accuracy"]:  # pydantic 2.12 leaves out what dataclasses say
        shipped, ours = undescribed(shipped), undescribed(ours)
    assert shipped == ours, f"python -c '{command}' > edgeprune/report/{SCHEMA_FILE.name}"


def undescribed(schema):
    """Without the descriptions."""
    if isinstance(schema, list):
        return [undescribed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    said = {"description"} if isinstance(schema.get("description"), str) else set()
    return {name: undescribed(part) for name, part in schema.items() if name not in said}


def test_the_written_json_obeys_the_schema():
    Draft202012Validator.check_schema(room.schema())
    validator = Draft202012Validator(room.schema())
    validator.validate(json.loads(files.to_json(SAMPLE)))
    assert not validator.is_valid(json.loads(files.to_json(SAMPLE)) | {"classes": 3})


# --- one truth in three forms -------------------------------------------------------------------------


def test_html_and_markdown_show_every_summary_row():
    page = (
        Page(html.render(SAMPLE)).text.replace("\N{MINUS SIGN}", "-").replace("\N{MULTIPLICATION SIGN}", "x")
    )
    page = page.replace("\N{NO-BREAK SPACE}", " ")
    text = markdown.render(SAMPLE)
    for row in room.summary_rows(SAMPLE):
        assert "| " + " | ".join(row) + " |" in text
        assert all(cell in page for cell in row)


def test_every_form_shows_all_variants():
    report = quantized_report()
    head, rows = figures.variants_rows(report)
    assert head == ("", "dense", "pruned", "int8", "pruned+int8")
    assert rows[-3] == ("latency over int8, interleaved", "", "", "", "0.470 (0.450 to 0.500)")
    page = Page(html.render(report)).text
    assert "Dense against pruned+int8" in page
    assert "Left in float32: <stem>." in page
    assert all(label in markdown.render(report) for label, *_ in rows)
    assert figures.variants_rows(SAMPLE)[1] == []


def test_a_quantized_report_comes_back_equal(tmp_path):
    report = quantized_report()
    room.write(report, tmp_path)
    assert room.read(tmp_path / "report.json") == report


def test_a_fall_of_accuracy_has_a_minus_sign():
    assert room.summary_rows(SAMPLE)[0] == ("Top-1 accuracy", "98.61 %", "98.33 %", "-0.28 points")


def test_summary_rows_say_when_nothing_was_won():
    ratio = Interval(value=0.99, low=0.97, high=1.01)
    same = replace(SAMPLE, measurement=replace(SAMPLE.measurement, ratio=ratio))
    assert ("Latency p50", "9.86 ms", "4.63 ms", "not measurably faster") in room.summary_rows(same)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_status_is_in_every_form(outcome):
    judged = replace(SAMPLE, verdict=replace(SAMPLE.verdict, outcome=outcome))
    page = html.render(judged)
    assert f'<div class="verdict {outcome.value}">' in page
    assert {"fits": "Fits", "over": "Over", "undecided": "Undecided"}[outcome.value] in page
    assert outcome.value in markdown.render(judged).splitlines()[0]


def test_without_budgets_nothing_claims_to_fit():
    verdict = Verdict(outcome=Outcome.FITS, checks=(), sentence="2.13x faster; no budget was set.")
    free = replace(SAMPLE, verdict=verdict)
    assert "No budget set" in html.render(free)
    assert "no budget set" in markdown.render(free).splitlines()[0]
    assert "Each budget" not in html.render(free)


# --- the page -----------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_asks_for_nothing():
    page = Page(html.render(SAMPLE))
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    sources = [value or "" for name, value in page.attributes if name == "src"]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?:|url\(|@import", html.render(SAMPLE))
    assert all(
        value is not None and value.startswith("#") for name, value in page.attributes if name == "href"
    )


def test_the_page_can_be_read_by_ear():
    text = html.render(SAMPLE)
    page = Page(text)
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.tags.count("caption") == page.tags.count("table")
    assert {"header", "nav", "main", "footer"} <= set(page.tags)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        if name == "aria-labelledby":
            assert set(value.split()) <= set(ids)
    for drawing in re.findall(r"<svg[^>]*>", text):
        assert 'aria-hidden="true"' in drawing or 'role="img"' in drawing


def test_the_page_sets_its_figures_well():
    page = html.render(SAMPLE)
    assert "\N{MINUS SIGN}0.28\N{NO-BREAK SPACE}points" in page
    assert "2.13\N{MULTIPLICATION SIGN} faster" in page


def test_hostile_names_stay_text():
    page = Page(html.render(hostile_report()))
    assert page.open == []
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) > 10


def test_hostile_names_stay_text_in_markdown():
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(markdown.render(hostile_report()))
    assert "<script" not in rendered
    assert "<a " not in rendered
    assert "&lt;script&gt;" in rendered
    assert rendered.count("<h2>") == 1
    assert "<h1>" not in rendered


def test_a_bar_in_a_name_opens_no_table_cell():
    assert markdown.escape("cat|dog") == r"cat\|dog"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_an_escaped_text_comes_back_as_it_was(text):
    plain = " ".join(text.split())
    rendered = MarkdownIt("commonmark").render("x " + markdown.escape(text) + " x")
    page = Page(rendered)
    assert page.tags == ["p"]
    assert page.text.split() == f"x {plain} x".replace("\0", "\N{REPLACEMENT CHARACTER}").split()


def test_a_thousand_classes_and_ten_thousand_steps_stay_small():
    large = sample_report(classes=1_000, steps=10_000)
    page = html.render(large)
    assert len(page.encode()) < 300_000
    assert "the 50 largest losses and gains of 999 classes" in page
    assert len(markdown.render(large).encode()) < 20_000


def test_a_walk_without_steps_has_no_plot():
    empty = replace(SAMPLE, trajectory=replace(SAMPLE.trajectory, steps=()))
    assert "removed-curve" not in html.render(empty)
    assert "0 interventions" in html.render(empty)


# --- variants, operators, the course of the trajectory ------------------------------------------------


def test_two_variants_need_no_section_and_four_get_one():
    assert 'id="variants"' not in html.render(SAMPLE)
    page = Page(html.render(quantized_report())).text
    assert "pruned+int8 (deployed)" in page
    assert "pruned+int8 against int8" in page


def test_headlines_are_of_the_deployed_variant():
    report = quantized_report()
    latency = room.summary_rows(report)[1]
    assert latency[1:3] == ("9.86 ms", "2.40 ms")
    assert [row.name for row in variants.rows(report) if row.deployed] == ["pruned+int8"]


def test_pairs_leave_out_dense_and_what_was_not_compared():
    found = {(pair.later, pair.earlier) for pair in variants.pairs(quantized_report())}
    assert found == {("int8", "pruned"), ("pruned+int8", "int8"), ("pruned+int8", "pruned")}


def test_operators_are_summed_by_kind_and_matched_by_name():
    found = variants.operators(SAMPLE)
    assert found is not None
    convolutions = found.kinds[0]
    assert (convolutions.name, convolutions.counts) == ("Convolution", (3, 3))
    assert convolutions.times_ms == (pytest.approx(4.2), pytest.approx(4.2 * 0.47))
    gone = {**SAMPLE.measurement.operators, "pruned": SAMPLE.measurement.operators["pruned"][1:]}
    fewer = variants.operators(replace(SAMPLE, measurement=replace(SAMPLE.measurement, operators=gone)))
    assert fewer is not None
    assert fewer.longest[0].times_ms == (pytest.approx(1.9), None)


def test_without_a_profile_there_is_no_section():
    bare = replace(SAMPLE, measurement=replace(SAMPLE.measurement, operators={}))
    assert variants.operators(bare) is None
    assert 'id="operators"' not in html.render(bare)


def test_the_course_says_what_its_axis_is():
    drawn = course.draw(SAMPLE)
    assert drawn is not None
    assert not drawn.by_latency
    assert "Accuracy over multiply-adds" in html.render(SAMPLE)
    timed = replace(
        SAMPLE, candidates=tuple(replace(c, latency_ms=5.0 + i) for i, c in enumerate(SAMPLE.candidates))
    )
    drawn = course.draw(timed)
    assert drawn is not None
    assert drawn.by_latency
    assert (drawn.left, drawn.right) == ("5.00 ms", "8.00 ms")
    assert "predicted" in html.render(timed)


def test_the_course_puts_the_smallest_network_left_and_stays_in_its_box():
    drawn = course.draw(SAMPLE)
    assert drawn is not None
    assert drawn.dots[0].candidate.chosen
    assert drawn.dots[-1].candidate.param_ratio == 0
    places = [value for dot in drawn.dots for value in (dot.y, dot.low_y, dot.high_y)]
    assert 0 <= min(places) <= max(places) <= plots.HEIGHT
    assert course.draw(replace(SAMPLE, candidates=())) is None


def test_classes_are_tested_on_the_same_images():
    rows = {row.name: row for row in facts.class_changes(SAMPLE).shown}
    lost = sum(row.lost or 0 for row in rows.values())
    assert lost == 2  # the third is of the class that has no accuracy
    assert all(row.p_value == 1 for row in rows.values())
    older = replace(SAMPLE.accuracy["dense"], wrong=None)
    untold = replace(SAMPLE, accuracy={**SAMPLE.accuracy, "dense": older})
    assert not facts.class_changes(untold).tested
    assert {row.p_value for row in facts.class_changes(untold).shown} == {None}
    assert "not known" in html.render(untold)


# --- facts --------------------------------------------------------------------------------------------


def test_classes_without_images_are_counted_and_not_compared():
    changes = facts.class_changes(SAMPLE)
    assert (changes.total, changes.without_images) == (9, 1)
    assert [row.change for row in changes.shown] == sorted(row.change for row in changes.shown)


def test_a_class_beyond_its_limit_is_not_hidden():
    walk = SAMPLE.trajectory
    fallen = replace(SAMPLE, trajectory=replace(walk, final_z=(-5.0, *walk.final_z[1:])))
    assert facts.tolerances(SAMPLE).exceeded == 0
    assert facts.tolerances(fallen).exceeded == 1
    assert facts.tolerances(fallen).shown[0].name == "digit 0"
    assert "No class&#39;s mean score is significantly below" not in html.render(fallen)
    assert "1 class of 9 ended significantly below" in html.render(fallen)


def test_merged_classes_are_named():
    assert facts.tolerances(SAMPLE).merged == ("digit 8+digit 9",)


def test_frozen_axes_are_gathered_by_reason():
    assert [(entry.reason, len(entry.axes), entry.indices) for entry in facts.frozen(SAMPLE)] == [
        ("reaches the output", 2, 20),
        ("reads the input", 1, 1),
    ]


def test_units_that_were_not_tested_are_shown_as_such():
    group = facts.group_widths(replace(SAMPLE, findings={}))[0]
    assert (group.before, group.untested, group.critical) == (16, 16, 0)


# --- plots and figures --------------------------------------------------------------------------------


def test_columns_fill_the_height():
    for column in plots.widths(facts.group_widths(SAMPLE)):
        assert sum(bar.height for bar in column.bars) == pytest.approx(plots.HEIGHT, abs=0.5)
        assert 0 <= column.kept_y <= plots.HEIGHT


def test_crowded_dots_keep_their_extremes():
    walk = sample_report(steps=10_000).trajectory
    plot = plots.walk(walk, 100_000)
    assert plot is not None
    assert plot.accepted.count("M") <= 400
    lowest = min(step.worst_z for step in walk.steps if step.removed)
    expected = plots.HEIGHT * (plot.high_z - lowest) / (plot.high_z - plot.low_z)
    drawn = max(float(y) for y in re.findall(r" ([\d.]+)h0", plot.accepted))
    assert drawn == pytest.approx(expected, abs=0.1)
    assert drawn <= plot.limit_y


def test_the_curve_ends_where_the_walk_ended():
    walk: Trajectory = sample_report(steps=5_000).trajectory
    removed = sum(len(step.units) for step in walk.steps if step.removed)
    plot = plots.walk(walk, removed)
    assert plot is not None
    assert plot.removed.startswith("M0 300L")
    assert plot.removed.endswith("L1000 0")


def test_the_curve_stays_in_its_box():
    plot = plots.walk(SAMPLE.trajectory, 10)
    assert plot is not None
    assert min(float(y) for y in re.findall(r" ([-\d.]+)", plot.removed)) == 0


@given(st.integers(0, 3_000), st.integers(2, 400))
def test_thinning_keeps_both_ends(count, limit):
    kept = facts.thin(count, limit)
    assert len(kept) <= limit
    assert kept == sorted(set(kept))
    assert kept[:1] + kept[-1:] == ([0, count - 1] if count else [])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.size(14_020_000), "14.0 MB"),
        (figures.size(312), "312 B"),
        (figures.amount(0), "0"),
        (figures.milliseconds(0.08342), "0.0834 ms"),
        (figures.milliseconds(12_345.6), "12346 ms"),
        (figures.points(-0.00421), "-0.42 points"),
        (figures.points(-0.00001), "unchanged"),
        (figures.relative(0, 5), ""),
        (figures.relative(200, 100), "-50.0 %"),
        (figures.speed(Interval(value=1.2, low=1.1, high=1.3)), "1.20x slower"),
        (figures.span(Interval(value=2, low=0.999e6, high=2e6), figures.size), "999 kB to 2.00 MB"),
        (figures.span(Interval(value=5, low=4.6, high=4.7), figures.milliseconds), "4.60 to 4.70 ms"),
        (figures.seconds(75), "1 min 15 s"),
        (figures.how_many(1, "class"), "1 class"),
        (figures.how_many(1_000, "class"), "1,000 classes"),
        (figures.how_many(2, "axis"), "2 axes"),
        (figures.p_value(0.0002), "p < 0.001"),
    ],
)
def test_figures_read_well(shown, expected):
    assert shown == expected


# --- several runs, notebooks --------------------------------------------------------------------------


def test_several_runs_stand_beside_each_other():
    elsewhere = replace(SAMPLE, target=replace(SAMPLE.target, name="a board"))
    other = replace(elsewhere, provenance=replace(SAMPLE.provenance, model="other-net", data_digest="other"))
    runs = [("a", "a/report.html", SAMPLE), ("b", "", elsewhere), ("c", "", other)]
    text = comparison.render(runs)
    page = Page(text)
    assert page.open == []
    assert page.tags.count("caption") == page.tags.count("table") == 3
    assert ("href", "a/report.html") in page.attributes
    assert "3 runs: 2 models, 2 targets" in page.text
    assert "evaluated on different images" in page.text
    assert "no run" in page.text  # the other network was not built for the first target
    assert [row.ratio for row in comparison.rows(runs)] == [SAMPLE.measurement.ratio] * 3


def test_hostile_runs_stay_text():
    page = Page(comparison.render([(HOSTILE, "", hostile_report()), ("b", "", SAMPLE)]))
    assert page.open == []
    assert "script" not in page.tags


def test_a_notebook_shows_a_report():
    page = Page(SAMPLE._repr_html_())
    assert page.open == []
    assert "digits-resnet on openvino" in page.text
    assert "Fits the budget" in page.text
    assert page.tags.count("tr") == 1 + len(room.summary_rows(SAMPLE))
    assert "script" not in Page(hostile_report()._repr_html_()).tags


def test_a_notebook_shows_what_was_removed():
    pruning = Pruning(
        trajectory=SAMPLE.trajectory, plan=SAMPLE.plan, widths=SAMPLE.widths * 3, findings={}, frozen=()
    )
    page = Page(notebook.pruning_card(pruning, "<net>"))
    assert page.open == []
    assert "57.99 % of the parameters" in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert page.tags.count("tr") == 1 + notebook.MOST_GROUPS
