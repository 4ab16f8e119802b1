"""`edgeprune explain`: what a walk tells about layers, units and classes; interventions one by one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from sample_report import sample_report
from test_cli import edgeprune
from test_report import HOSTILE, Page
from tiny_builds import Place, calibration, measure_nothing, settle, trained_net

from edgeprune import pipeline, report
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.kept import keep_settings
from edgeprune.records import Finding, GroupEffects, Report, Step, UnitEffect
from edgeprune.report import facts, html, interventions, pictures, plots
from edgeprune.runfolder import RunFolder

SAMPLE = sample_report()
STEM, OTHER = (width.group for width in SAMPLE.widths[:2])


def step(**changes: object) -> Step:
    plain = Step(
        group=STEM,
        units=(0,),
        finding=Finding.CRITICAL,
        removed=False,
        effect=-0.1,
        worst_z=-3.0,
        worst_class=2,
        evaluated=60,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # of a Step


def walked(*steps: Step) -> Report:
    return replace(SAMPLE, trajectory=replace(SAMPLE.trajectory, steps=steps))


REMOVED = {"finding": Finding.NEUTRAL, "removed": True}


# --- facts --------------------------------------------------------------------------------------------


def test_the_smallest_test_settles_a_unit() -> None:
    rows = interventions.units(
        walked(step(units=(0, 1)), step(units=(0,), effect=-0.3), step(units=(1,), **REMOVED))
    )
    assert [(row.unit, row.number, row.removed, row.together) for row in rows] == [
        (0, 2, False, 1),
        (1, 3, True, 1),
    ]
    assert rows[0].effect == -0.3
    assert rows[0].worst_class == "digit 2"


def test_a_refused_set_does_not_hide_a_test_alone() -> None:
    (row, *_) = interventions.units(
        walked(step(units=(0,), worst_class=1), step(units=(0, 1), worst_class=4))
    )
    assert (row.unit, row.number, row.worst_class) == (0, 1, "digit 1")


def test_units_given_back_stay() -> None:
    joint = {OTHER: (4,)}
    rows = interventions.units(
        walked(
            step(units=(0, 1), joint=joint, **REMOVED), step(units=(), returned=(1,), joint=joint, **REMOVED)
        )
    )
    assert {(row.group, row.unit): row.removed for row in rows} == {
        (STEM, 0): True,
        (STEM, 1): False,
        (OTHER, 4): False,
    }
    assert {row.groups for row in rows} == {2}


def test_detrimental_units_come_first() -> None:
    rows = interventions.units(SAMPLE)
    harmful = [row.finding is Finding.DETRIMENTAL for row in rows]
    assert harmful == sorted(harmful, reverse=True)
    assert any(harmful)
    assert len(rows) == len({(row.group, row.unit) for row in rows}) == len(SAMPLE.trajectory.steps)


def test_vetoes_count_units_by_class_and_group() -> None:
    found = interventions.vetoes(
        walked(
            step(units=(0,), worst_class=2),
            step(units=(1,), worst_class=2),
            step(units=(2,), worst_class=1),
            step(units=(3,), **REMOVED),
            step(units=(5,), joint={OTHER: (3,)}),  # whose fault this was, nobody knows
            step(group=OTHER, units=(0,), worst_class=1),
            step(group=OTHER, units=(1,), worst_class=1),
        )
    )
    assert found.classes == ("digit 1", "digit 2")
    assert [counts[:2] for counts in found.counts] == [(1, 2), (2, 0)]
    assert (found.units, found.largest) == (5, 2)
    assert found.of(STEM) == [("digit 2", 2), ("digit 1", 1)]


def test_layers_that_resist_come_first() -> None:
    layers = interventions.layers(SAMPLE)
    shares = [layer.resistance for layer in layers]
    assert shares == sorted(shares, reverse=True)
    assert {layer.width.group for layer in layers} == {width.group for width in SAMPLE.widths}
    first = layers[0].width
    assert shares[0] == (first.critical + first.untested) / first.before


# --- drawings -----------------------------------------------------------------------------------------


def test_the_heat_map_shows_every_veto_in_its_place() -> None:
    vetoes = interventions.vetoes(SAMPLE)
    heat = plots.heat(vetoes, 100)
    assert heat is not None
    assert heat.left_out == 0
    assert len(heat.cells) == sum(count > 0 for counts in vetoes.counts for count in counts)
    row, column = next(
        (r, c) for r, counts in enumerate(vetoes.counts) for c, n in enumerate(counts) if n == vetoes.largest
    )
    darkest = max(heat.cells, key=lambda cell: cell.strength)
    assert darkest.strength == 1
    assert darkest.x == pytest.approx(column * plots.WIDTH / len(vetoes.groups), abs=0.1)
    assert darkest.y == pytest.approx(row * plots.HEIGHT / len(vetoes.classes), abs=0.1)
    assert plots.heat(interventions.vetoes(walked()), 24) is None


def test_the_page_has_the_heat_map_and_its_table() -> None:
    page = html.render(SAMPLE)
    assert page.count("fill-opacity") == len(plots.heat(interventions.vetoes(SAMPLE), 24).cells)  # type: ignore[union-attr]
    assert "The groups that gave up least first" in page
    assert "who needs what" in page.lower()
    assert "vetoes-title" not in html.render(walked())


def test_many_classes_are_cut_and_counted() -> None:
    large = sample_report(classes=1_000, steps=10_000)
    heat = plots.heat(interventions.vetoes(large), interventions.MOST_CLASSES)
    assert heat is not None
    assert len(heat.classes) == interventions.MOST_CLASSES
    assert f"{heat.left_out} classes with fewer vetoes are not drawn" in html.render(large)


def effects() -> GroupEffects:
    units = tuple(
        UnitEffect(unit=k, finding=Finding.CRITICAL, effect=-0.1, effects=(-0.1 * k, 0.05), z=(-2.0 - k, 0.5))
        for k in range(3)
    )
    return GroupEffects(group=HOSTILE, class_names=(HOSTILE, "b"), z_limits=(-1.7, -1.7), units=units)


def test_pictures_stand_alone_and_hostile_names_stay_text() -> None:
    names = replace(SAMPLE.trajectory, class_names=(HOSTILE,) * 9)
    hostile = replace(SAMPLE, trajectory=names, widths=(replace(SAMPLE.widths[0], group=HOSTILE),))
    drawn = {
        "layers": pictures.layers(facts.group_widths(hostile)),
        "classes": pictures.vetoes(interventions.vetoes(replace(SAMPLE, trajectory=names)), 24),
        "effects": pictures.effects([effects()], 24),
        "empty": pictures.vetoes(interventions.vetoes(walked()), 24),
    }
    for name, text in drawn.items():
        root = ET.fromstring(text)  # noqa: S314 -- ours
        assert not [node for node in root.iter() if "script" in node.tag], name
        assert Page(text).open == []
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
            assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width
            assert float(rect.attrib["y"]) + float(rect.attrib["height"]) <= height
    assert drawn["effects"].count('class="fell"') == drawn["effects"].count('class="rose"') == 1


# --- the command on a finished run --------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    report.write(SAMPLE, folder)
    return folder


def test_the_tables_name_layers_units_and_classes(finished: Path) -> None:
    found = edgeprune("explain", finished, "--units", "3")
    assert found.exit_code == 0, found.stderr
    said = " ".join(found.stdout.split())
    assert "layers, those that resist most first" in said
    assert f"units, detrimental first (3 of {len(SAMPLE.trajectory.steps)})" in said


def test_json_has_layers_units_and_vetoes(finished: Path) -> None:
    said = json.loads(edgeprune("explain", finished, "--json").stdout)
    assert said.keys() == {"layers", "units", "vetoes", "per_class"}
    assert [layer["group"] for layer in said["layers"]] == [width.group for width in SAMPLE.widths]
    assert len(said["units"]) == len(SAMPLE.trajectory.steps)
    one = json.loads(edgeprune("explain", finished, "--group", OTHER, "--json").stdout)
    assert {layer["group"] for layer in one["layers"]} == {row["group"] for row in one["units"]} == {OTHER}


def test_one_unit(finished: Path) -> None:
    first = SAMPLE.trajectory.steps[0]
    words = ("--unit", f"{first.group}:{first.units[0]}")
    said = json.loads(edgeprune("explain", finished, *words, "--json").stdout)
    assert [(row["unit"], row["effect"]) for row in said["units"]] == [(first.units[0], first.effect)]
    shown = edgeprune("explain", finished, *words).stdout
    assert "in the walk" in shown
    assert "--per-class" in shown
    last = SAMPLE.widths[-1]
    assert "was not tested by the walk" in edgeprune("explain", finished, "--unit", f"{last.group}:3").stdout


def test_pictures_are_written(finished: Path, tmp_path: Path) -> None:
    found = edgeprune("explain", finished, "--out", tmp_path / "pictures")
    names = ["explain.json", "layers.svg", "classes.svg"]
    assert found.stdout.splitlines()[-3:] == [f"wrote {tmp_path / 'pictures' / name}" for name in names]
    assert json.loads((tmp_path / "pictures" / "explain.json").read_text())["layers"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--group", "stem.wieght"], "did you mean stem.weight?"),
        (["--unit", "stem.weight"], "write GROUP:NUMBER, like stem.weight:7"),
        (["--unit", "stem.weight:16"], "stem.weight has units 0 to 15"),
        (["--unit", "stem:1"], "no group 'stem'"),
        (["--per-class"], "holds no settings.json; run `edgeprune build"),
        (["--per-class", "--data", "x.npz"], "no finished run; make one with"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(finished: Path, words: list[str], wanted: str) -> None:
    found = edgeprune("explain", finished, *words)
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (1, "", 1), found.stderr
    assert wanted in found.stderr


# --- one intervention for each unit -------------------------------------------------------------------


@pytest.fixture(scope="module", params=["c-swap", "c-swap-c"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished build, with its settings."""
    place = settle(tmp_path_factory.mktemp(request.param))
    config = place.config(method=request.param, align=2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        measure_nothing(monkeypatch)
        pipeline.build(config)
    keep_settings(config, place.out)
    return place


@pytest.mark.slow
def test_every_class_is_looked_at_and_the_table_is_kept(run: Place) -> None:
    found = edgeprune("explain", run.out, "--per-class", "--group", "inner.weight", "--json")
    assert found.exit_code == 0, found.stderr
    (table,) = json.loads(found.stdout)["per_class"]
    assert [unit["unit"] for unit in table["units"]] == list(range(16))
    useless = [unit for unit in table["units"] if unit["unit"] >= 8]
    assert all(abs(unit["effect"]) < 1e-4 and not unit["needed_by"] for unit in useless)
    if "c-swap-c" not in str(run.folder):  # compensated, no class here needs any one unit
        assert any(unit["needed_by"] for unit in table["units"])
    for unit in table["units"]:
        assert (unit["finding"] == "critical") == bool(unit["needed_by"])
        assert len(unit["effects"]) == len(unit["z"]) == len(table["classes"])
    again = edgeprune("explain", run.out, "--per-class", "--group", "inner.weight")
    assert again.stderr == "explain-inner.weight: unchanged, reused\n"
    one = edgeprune("explain", run.out, "--unit", "inner.weight:1", "--json")
    assert json.loads(one.stdout)["per_class"][0]["units"] == table["units"][1:2]
    fresh = edgeprune("explain", run.out, "--unit", "inner.weight:1", "--per-class", "--json")
    assert json.loads(fresh.stdout)["per_class"] == json.loads(one.stdout)["per_class"]


@pytest.mark.slow
@pytest.mark.parametrize("run", ["c-swap"], indirect=True)
def test_plain_effects_are_those_of_zeroed_weights(run: Place, tmp_path: Path) -> None:
    config = run.config(method="c-swap", align=2)
    with RunFolder.open(tmp_path / "other") as folder:
        build = pipeline.Build(Inputs.load(config), folder, pipeline.Silence())
        chosen = build.images.calibration
    net, images = trained_net(), torch.from_numpy(chosen.images)
    labels = torch.from_numpy(chosen.labels)
    dense = net(images).softmax(1)
    right = dense.argmax(1) == labels
    with torch.no_grad():
        net.head.weight[:, 1] = 0.0  # type: ignore[union-attr, operator, index]
    changed = net(images).softmax(1)

    def score(scores: torch.Tensor) -> np.ndarray:
        return scores.gather(1, labels[:, None])[:, 0].detach().double().numpy()

    relative = score(changed) / score(dense) - 1
    found = json.loads(
        edgeprune("explain", run.out, "--unit", "inner.weight:1", "--per-class", "--json").stdout
    )
    unit = found["per_class"][0]["units"][0]
    assert unit["effect"] == pytest.approx(relative[right.numpy()].mean(), abs=1e-5)
    for k in range(3):
        mine = relative[(right & (labels == k)).numpy()]
        assert unit["effects"][k] == pytest.approx(mine.mean(), abs=1e-5)
    assert calibration()[1].shape[0] >= len(labels)


@pytest.mark.slow
def test_explain_needs_no_torch(finished: Path) -> None:
    hidden = "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None"
    code = f"{hidden}\nfrom edgeprune.cli import main; main()"
    words = [sys.executable, "-c", code, "explain", str(finished), "--unit", f"{STEM}:0"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
