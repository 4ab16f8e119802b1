"""`edgeprune sweep`: the table, the files, and that a second sweep reuses what holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_cli import edgeprune
from tiny_builds import Place, settle

import edgeprune as package
from edgeprune.errors import RunFolderError
from edgeprune.pipeline import sweeping
from edgeprune.records import Curve, CurvePoint, Interval
from edgeprune.report.charts import draw_curves
from edgeprune.runfolder import Journal

WORDS = ("--methods", "magnitude-l2,c-swap-c", "--ratios", "0.5,0.2")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with a finished sweep."""
    place = settle(tmp_path_factory.mktemp("swept"))
    found = edgeprune("sweep", *flags(place), *WORDS)
    assert found.exit_code == 0, found.stderr
    (place.folder / "stdout").write_text(found.stdout)
    (place.folder / "stderr").write_text(found.stderr)
    yield place


def flags(place: Place) -> list[str]:
    return place.flags(processes=None)


@pytest.mark.slow
def test_the_table_has_both_normalisations_and_the_files_are_named(swept: Place) -> None:
    said = (swept.folder / "stdout").read_text()
    record = json.loads((swept.out / "sweep.json").read_text())
    for curve in record["curves"]:
        assert f"{curve['sauce']['value']:.4f}" in said
        assert curve["sauce"]["low"] - 1e-9 <= curve["sauce"]["value"] <= curve["sauce"]["high"] + 1e-9
        expected = curve["sauce"]["value"] / curve["dense_accuracy"]
        assert curve["sauce_relative"]["value"] == pytest.approx(expected)
    files = [f"wrote {swept.out / f'sweep.{kind}'}" for kind in ("json", "png", "svg")]
    assert said.splitlines()[-3:] == files
    assert (swept.out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (swept.out / "sweep.svg").read_text()
    stages = [line.partition(":")[0] for line in (swept.folder / "stderr").read_text().splitlines()]
    assert stages == ["sweep-magnitude-l2", "sweep-c-swap-c"]


@pytest.mark.slow
def test_sauce_is_the_area_under_the_points(swept: Place) -> None:
    for curve in json.loads((swept.out / "sweep.json").read_text())["curves"]:
        assert [point["asked"] for point in curve["points"]] == [0.2, 0.5]
        shares = [0.0, *(point["param_ratio"] for point in curve["points"])]
        heights = [curve["dense_accuracy"], *(point["accuracy"] for point in curve["points"])]
        assert curve["sauce"]["value"] == pytest.approx(np.trapezoid(heights, shares) / 0.95)


@pytest.mark.slow
def test_a_second_sweep_reuses_the_curves_and_says_the_same_as_json(swept: Place) -> None:
    before = {kind: (swept.out / f"sweep.{kind}").read_bytes() for kind in ("json", "svg")}
    again = edgeprune("sweep", *flags(swept), *WORDS)
    assert [line.endswith("unchanged, reused") for line in again.stderr.splitlines()] == [True, True]
    found = edgeprune("sweep", *flags(swept), *WORDS, "--json")
    assert json.loads(found.stdout) == json.loads(before["json"])
    assert found.stderr == ""
    assert {kind: (swept.out / f"sweep.{kind}").read_bytes() for kind in before} == before


@pytest.mark.slow
def test_python_gives_the_same_curves(swept: Place) -> None:
    (curve,) = package.sweep(swept.config(), ["magnitude-l2"], [0.2, 0.5])
    said = json.loads((swept.out / "sweep.json").read_text())["curves"][0]
    assert (curve.label, curve.sauce.value) == (said["method"], said["sauce"]["value"])


OWN = """
import numpy as np

def by_change(units, replay, calibration):
    dense = replay()
    assert len(dense) == len(calibration.labels)
    change = lambda group, unit: float((replay({group.name: [unit]}) - dense).abs().mean())
    return {group.name: [change(group, unit) for unit in range(group.units)] for group in units}
"""


@pytest.mark.slow
def test_latency_is_measured_at_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, seen = settle(tmp_path), []

    def measured(artifacts: Mapping[str, Path], **options: object) -> object:
        sizes = {name: path.stat().st_size for name, path in artifacts.items()}
        assert list(sizes) == ["dense", "pruned"]
        seen.append(sizes["pruned"] / sizes["dense"])
        return SimpleNamespace(ratio=Interval(value=seen[-1], low=0.0, high=1.0))

    monkeypatch.setattr("edgeprune.measure.measure", measured)
    words = ("--methods", "magnitude-l2", "--ratios", "0.001,0.5,0.6", "--latency")
    found = edgeprune("sweep", *flags(place), *words)
    assert found.exit_code == 0, found.stderr
    (curve,) = json.loads((place.out / "sweep.json").read_text())["curves"]
    ratios = [point["latency_ratio"]["value"] for point in curve["points"]]
    assert ratios in ([1.0, *seen], [1.0, 1.0, *seen]), "where nothing is removed it is the same file"
    assert 0 < seen[-1] < 1
    assert f"({seen[-1]:.2f}x time)" in found.stdout.replace("\n", "")


@pytest.mark.slow
def test_a_criterion_of_the_users_own_and_every_compensation(tmp_path: Path) -> None:
    place = settle(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    own = f"python:{tmp_path / 'own.py'}:by_change"
    methods = [own, f"{own}+mean", f"{own}+linear", f"{own}+shared", f"{own}+affine"]
    curves = package.sweep(place.config(), methods, [0.4])
    assert [curve.label for curve in curves] == methods
    assert len({curve.points[0].param_ratio for curve in curves}) == 1, "the same units, whatever survives"
    assert min(curve.points[0].accuracy for curve in curves) > 0.9, "half of the network is useless"


class Leaves:
    """A watcher that stops the sweep after so many steps of a walk."""

    def __init__(self, after: int) -> None:
        self.left, self.names = after, []

    def stage(self, name: str, *, reused: bool, seconds: float) -> None: ...

    def progress(self, name: str, done: int, total: int, detail: str) -> None:
        assert 0 <= done <= total
        self.names.append(name)
        self.left -= name.startswith("walk-")
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("method", ["c-swap", "c-swap-c"])
def test_a_walk_goes_on_where_it_was_and_serves_other_shares(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = (settle(tmp_path / name) for name in ("whole", "stopped"))
    expected = package.sweep(whole.config(align=1), [method], [0.3, 0.7])
    with pytest.raises(KeyboardInterrupt):
        package.sweep(stopped.config(align=1), [method], [0.3, 0.7], watcher=Leaves(2))
    written = (stopped.out / "stages" / f"walk-{method}.jsonl").read_text().splitlines()
    assert len(written) == 1 + 2, "a header and the steps"
    appended = []
    append = Journal.append
    monkeypatch.setattr(Journal, "append", lambda self, step: (appended.append(step), append(self, step)))
    watcher = Leaves(-1)
    assert package.sweep(stopped.config(align=1), [method], [0.3, 0.7], watcher=watcher) == expected
    steps = (whole.out / "stages" / f"walk-{method}.jsonl").read_text().splitlines()[1:]
    assert len(appended) == len(steps) - 2
    assert {f"walk-{method}", f"{method}: points"} <= set(watcher.names)

    def no_walk(*_: object) -> None:
        raise AssertionError("a walk to the same share was kept")

    monkeypatch.setattr("edgeprune.pipeline.sweeping.walk", no_walk)
    (curve,) = package.sweep(stopped.config(align=1), [method], [0.1, 0.7])
    assert curve.points[1] == expected[0].points[1]


@pytest.mark.slow
def test_the_memory_limit_reaches_the_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    make = sweeping.make_study
    monkeypatch.setattr(sweeping, "make_study", lambda *given: (seen.append(given[3]), make(*given))[1])
    package.sweep(settle(tmp_path).config(memory_limit="2GB"), ["magnitude-l2"], [0.3])
    assert [journey.memory_limit for journey in seen] == [2_000_000_000]


def test_a_method_that_is_not_ours_is_drawn_by_whoever_named_it(tmp_path: Path) -> None:
    place = settle(tmp_path)
    (found,) = package.sweep(
        place.config(), ["theirs"], [0.4], others={"theirs": lambda field: curve("theirs")}
    )
    assert found == curve("theirs")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--methods", "tailor+affine"], "did you mean taylor?"),
        (["--methods", "taylor+afine"], "did you mean affine?"),
        (["--methods", "lrp,lrp"], "name each method once"),
        (["--methods", ","], "name each method once"),
        (["--ratios", "0.2,1"], "give shares above 0 and below 1"),
        (["--alpha", "0.7"], "--alpha = 0.7"),
        (["--model", "torchvision:resnet19"], "did you mean resnet1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_leaves_nothing(
    words: list[str], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = edgeprune("sweep", *words)
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (1, "", 1)
    assert wanted in found.stderr
    assert not list(tmp_path.iterdir())


def test_help_has_an_example() -> None:
    assert "edgeprune sweep --methods" in edgeprune("sweep", "--help").stdout


# --- the picture --------------------------------------------------------------------------------------


def curve(label: str) -> Curve:
    points = tuple(
        CurvePoint(asked=r, param_ratio=r, mac_ratio=r / 2, correct=(True, False)) for r in (0.3, 0.6)
    )
    return Curve(label=label, dense=(True, True), points=points, sauce=Interval(value=0.5, low=0.4, high=0.6))


@pytest.mark.slow
def test_a_name_of_the_users_own_stays_text(tmp_path: Path) -> None:
    paths = draw_curves([curve("python:a_$b_$.py:<score>"), curve("_lrp")], tmp_path / "new")
    assert [path.name for path in paths] == ["sweep.png", "sweep.svg"]
    assert "<score>" not in paths[1].read_text()


@pytest.mark.slow
def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        draw_curves([curve("lrp")], tmp_path / "file")


@pytest.mark.slow
def test_matplotlib_is_loaded_by_the_picture_alone() -> None:
    code = "import sys, edgeprune.cli, edgeprune.report.charts; print('matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == "False\n", found.stderr


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.90, 0.88), 0.2 + 0.2 * 0.5),  # one point down halfway between the two
        ((0.80, 0.10), 0.2 * 0.1),
        ((0.92, 0.95), 0.4),  # as far as was looked
        ((0.88, 0.95), 0.2 * 0.5),  # what rises again later does not count
    ],
)
def test_what_may_go_within_a_point(accuracies: tuple[float, float], expected: float) -> None:
    points = tuple(
        CurvePoint(asked=ratio, param_ratio=ratio, mac_ratio=ratio, value=accuracy)
        for ratio, accuracy in zip((0.2, 0.4), accuracies, strict=True)
    )
    area = Interval(value=0.5, low=0.4, high=0.6)
    dense = 0.90
    curve = Curve(label="x", points=points, sauce=area, dense_value=dense)
    assert curve.removable() == pytest.approx(expected)
