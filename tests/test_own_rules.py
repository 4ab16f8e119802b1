"""Coupling rules of the user's own, limits on coupling, and where a partial answer is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from oracle import tiny
from test_cli import edgeprune
from tiny_builds import Place, calibration, measure_nothing, settle, trained_net
from torch import Tensor, fx, nn

import edgeprune as package
from edgeprune.channels import TIE_BYTES, Bound, Costs, couple, user_rules
from edgeprune.channels.shapes import same
from edgeprune.channels.ties import Ties
from edgeprune.errors import InputError, ModelError, NothingToPrune
from edgeprune.pipeline import PruneOptions
from edgeprune.pipeline.kept import kept_config
from edgeprune.pipeline.pruning import analyse
from edgeprune.records import InputSpec

CUMSUM = "aten.cumsum.default"
SPEC = InputSpec(shape=(1, 8, 8))
SUMMED = """
import torch
from net import Tiny


class Summed(Tiny):
    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.cumsum(torch.relu(self.inner(x)), 2)
        return self.head(x.mean((2, 3)))
"""
RULES = """
from edgeprune.channels.shapes import same

RULES = {"aten.cumsum.default": same}
"""


class Summed(nn.Module):
    """The tiny network with an op that has no rule between its second layer and its head."""

    def __init__(self) -> None:
        super().__init__()
        self.network = trained_net()

    def forward(self, x: Tensor) -> Tensor:
        network = self.network
        x = torch.relu(network.norm(network.stem(x)))
        scores: Tensor = network.head(torch.cumsum(torch.relu(network.inner(x)), 2).mean((2, 3)))
        return scores


# --- rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [CUMSUM, f"torch.ops.{CUMSUM}", torch.ops.aten.cumsum.default], ids=str)
def test_an_op_is_named_as_reports_name_it(key: object) -> None:
    rules = user_rules({key: same}, "rules")
    assert rules == {torch.ops.aten.cumsum.default: same}
    coupling = couple(tiny("no_rule")[1].ties.traced, rules=rules)
    assert coupling.unknown_ops == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([same], "mine is list; give a dictionary"),
        ({"aten.cumsum": same}, "mine: there is no op aten.cumsum; write it as the report does"),
        ({"nowhere.at.all": same}, "mine: there is no op nowhere.at.all"),
        ({CUMSUM: "same"}, "mine: 'same' is no rule; give a function"),
    ],
)
def test_what_is_no_table_of_rules_is_refused(given: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        user_rules(given, "mine")


def test_a_rule_that_fails_is_named() -> None:
    def broken(node: fx.Node, ties: Ties) -> None:
        raise KeyError(node.name)

    with pytest.raises(ModelError, match=r"the rule for aten.cumsum.default failed at cumsum: KeyError: "):
        couple(tiny("no_rule")[1].ties.traced, rules={torch.ops.aten.cumsum.default: broken})


@pytest.mark.slow
def test_a_network_pruned_with_own_rules_comes_back_with_them(tmp_path: Path) -> None:
    options = PruneOptions(method="magnitude-l2", max_param_ratio=0.5, align=2)
    found = package.prune(Summed(), calibration(), options=options, rules={CUMSUM: same})
    assert found.pruning.notes == ()
    assert found.pruning.plan.removed["network.inner.weight"]
    found.save(tmp_path)
    with pytest.raises(InputError, match=r"pruned with coupling rules of your own; give them: rules="):
        package.load(tmp_path, Summed())
    images, _ = calibration()
    again = package.load(tmp_path, Summed(), rules={CUMSUM: same})
    assert torch.equal(again(images), found.module(images))


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place whose network has an op without a rule, and a file with one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        measure_nothing(monkeypatch)
        place = settle(tmp_path_factory.mktemp("summed"))
        (place.folder / "summed.py").write_text(SUMMED)
        (place.folder / "rules.py").write_text(RULES)
        yield place


@pytest.mark.slow
def test_a_file_of_rules_on_the_command_line(summed: Place) -> None:
    asked = {"model": f"python:{summed.folder / 'summed.py'}:Summed", "method": "magnitude-l2"}
    asked |= {"max_param_ratio": "0.5", "align": "2"}
    without = edgeprune("build", *summed.flags(**asked))
    assert without.exit_code == 0, without.stderr
    note = f"op without a coupling rule: {CUMSUM}, 1 times; the channels it reads are frozen"
    assert note in without.stdout
    frozen = edgeprune("explain", summed.out, "--frozen")
    assert f"no rule for {CUMSUM}" in frozen.stdout
    assert note in frozen.stdout
    rules = summed.folder / "rules.py"
    found = edgeprune("build", *summed.flags(**asked, rules=rules))
    assert found.exit_code == 0, found.stderr
    assert CUMSUM not in found.stdout
    assert {width["group"] for width in summed.report()["widths"]} == {"stem.weight", "inner.weight"}
    assert kept_config(summed.out, {}).rules == str(rules)
    again = edgeprune("prune", summed.out, "--param-ratio", "0.2", "--json")
    assert again.exit_code == 0, again.stderr
    assert 0 < json.loads(again.stdout)["param_ratio"] <= 0.2


@pytest.mark.slow
def test_a_file_without_rules_is_refused(summed: Place) -> None:
    found = edgeprune("build", *summed.flags(rules=summed.net))
    assert found.exit_code == 1
    assert "has no 'RULES'" in found.stderr


# --- limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 3, 6, 9])
def test_a_partial_answer_knows_all_layers(share: int) -> None:
    whole = tiny("c2f")[1]
    traced, pairs = whole.ties.traced, whole.ties.pairs * share // 10
    part = couple(traced, bound=Bound(pairs=pairs))
    assert part.stopped == f"coupling stopped after {pairs} ties"
    assert Costs(part).count({}) == Costs(whole).count({})
    named = {slot.parameter for group in part.groups for slot in group.slots}
    named |= {axis.parameter for axis in part.frozen}
    assert {name for name, p in traced.graph_module.named_parameters() if p.ndim > 1} <= named


@pytest.mark.slow
def test_a_partial_answer_is_said_everywhere(summed: Place, tmp_path: Path) -> None:
    """The first layer is coupled within these limits, the second is not."""
    limits = {"coupling_memory": "1100B", "coupling_time": "50s", "out": tmp_path / "out"}
    method = {"method": "magnitude-l2", "max_param_ratio": "0.3", "align": "2"}
    found = edgeprune("build", *summed.flags(**limits, **method))
    assert found.exit_code == 0, found.stderr
    stopped = f"coupling stopped after {1100 // TIE_BYTES} ties"
    note = f"{stopped}: a part of the network stays as it is; --coupling-time and --coupling-memory allow"
    assert note in found.stdout
    assert note in (tmp_path / "out" / "report.html").read_text()
    assert note in (tmp_path / "out" / "report.md").read_text()
    frozen = edgeprune("explain", tmp_path / "out", "--frozen")
    assert note in frozen.stdout
    rows = json.loads(edgeprune("explain", tmp_path / "out", "--frozen", "--json").stdout)
    reasons = {(row["parameter"], row["axis"]): row["reason"] for row in rows}
    assert reasons["inner.weight", 0] == stopped
    kept = kept_config(tmp_path / "out", {})
    assert (kept.coupling_memory, kept.coupling_time) == (1100, 50_000)
    images, _ = calibration()
    again = package.load(tmp_path / "out" / "pruned", trained_net())
    expected = torch.export.load(tmp_path / "out" / "pruned" / "pruned.pt2").module()
    torch.testing.assert_close(again(images), expected(images))
    assert again.stem.out_channels < 16


def test_where_nothing_was_coupled_in_time_the_limits_are_named() -> None:
    with pytest.raises(NothingToPrune, match=r"coupling stopped after 0 ties .*--coupling-memory allow it"):
        analyse(trained_net(), SPEC, PruneOptions(coupling_bytes=8))


def test_a_plan_for_a_network_coupled_otherwise_is_refused(tmp_path: Path) -> None:
    options = PruneOptions(method="magnitude-l2", max_param_ratio=0.3, align=2)
    package.prune(trained_net(), calibration(), options=options).save(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["kept"]["head.weight"]["1"] = plan["kept"]["head.weight"]["1"][1:]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(
        InputError, match=r"made for another network: the channels of head.weight are coupled"
    ):
        package.load(tmp_path, trained_net())
