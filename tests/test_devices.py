"""Where the analysis runs, and how much at once: neither changes a result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from causal_nets import case
from pretend_gpu import DEVICE, PretendGpu
from test_cli import edgeprune as run_edgeprune
from tiny_builds import calibration, trained_net
from torch import Tensor, nn

from edgeprune import PruneOptions, prune
from edgeprune.causal import Program
from edgeprune.config import make_config
from edgeprune.errors import ConfigError
from edgeprune.pipeline import devices
from edgeprune.pipeline.needs import needs

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")


# --- how many at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "free", "wanted"),
    [(None, None, 1), (5, None, 5), (5, 10, 5), (None, 10**9, 50), (None, 10**12, 64), (None, 10, 1)],
)
def test_as_many_as_fit(
    asked: int | None, free: int | None, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: free)
    assert devices.at_once(asked, torch.device("cpu"), bytes_each=1e7, images_bytes=1e4) == wanted


def test_large_images_are_work_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 10**12)
    eight = 8 * 3 * 224 * 224 * 4
    assert devices.at_once(None, torch.device("cpu"), bytes_each=1e7, images_bytes=eight) == 8


def test_memory_is_counted_for_all_at_once() -> None:
    c = case("residual")
    program, images = Program(c.graph), c.images.numpy()
    found = [
        needs(program, c.coupling, images, 8, PruneOptions(method="c-swap", batch_interventions=count))
        for count in (1, 2, 12)
    ]
    one, two, twelve = (each.total_bytes - 2 * images.nbytes for each in found)
    assert [each.at_once for each in found] == [1, 2, 12]
    assert one == two, "two networks are counted in any case"
    assert twelve == 6 * two
    options = PruneOptions(method="c-swap")
    kept = [needs(program, c.coupling, images, n, options, foretells=True).total_bytes for n in (8, 4, 2)]
    assert kept[0] > kept[1] >= kept[2] == found[0].total_bytes, "activations of the images of a shard"


def test_a_forecast_is_part_of_what_a_walk_depends_on() -> None:
    options = PruneOptions(method="c-swap")
    assert options.foretells
    changes = {"batch_interventions": 2, "device": "auto", "method": "c-swap-c", "early_exit": False}
    assert not any(replace(options, **{name: value}).foretells for name, value in changes.items())


def test_a_gpu_keeps_what_it_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    assert devices.allowance(torch.device("cpu"), None, 200).most == 400
    assert devices.allowance(torch.device("cpu"), None, 2000).most == 0


# --- where it runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "wanted"),
    [
        ("gpu", 1, "--device gpu: no such device; write cpu, cuda, cuda:N or auto."),
        ("cuda:1", 1, "--device cuda:1: this machine has 1 GPUs; write cuda:0 or less."),
        ("cuda", 0, f"--device cuda: torch {torch.__version__} "),
    ],
)
def test_a_wrong_device_is_one_line(
    name: str, count: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError) as caught:
        devices.find(name)
    assert str(caught.value).startswith(wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "count", "wanted"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_device_is_found(name: str, count: int, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert str(devices.find(name)) == wanted


def test_a_wrong_setting_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^--device = 'tpu': no such device; write cpu, cuda, cuda:N or auto"
    ):
        make_config({"device": "tpu"})
    with pytest.raises(ConfigError, match=r"^--batch-interventions = 0: "):
        make_config({"batch_interventions": 0})


@pytest.mark.parametrize("command", ["build", "prune", "sweep"])
def test_a_command_says_that_there_is_no_gpu(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = run_edgeprune(command, "--device", "cuda:3")
    assert done.exit_code == 1
    assert "--device cuda:3: torch" in done.stderr
    assert "leave --device out" in done.stderr


def test_a_full_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str) -> torch.device:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation."
        )

    monkeypatch.setattr(devices, "find", full)
    done = run_edgeprune("build", "--device", "cuda")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: the GPU is out of memory; ")
    assert done.stderr.count("\n") == 1


# --- on a device that is not there ----------------------------------------------------------------------


def pruned(options: PruneOptions) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
    found = prune(trained_net(), calibration(), options=options)
    return found.pruning.plan.removed, found.module.state_dict()


OPTIONS = [
    PruneOptions(method="c-swap", align=1),
    PruneOptions(method="c-swap", align=1, bn_reestimate=True, batch_interventions=4),
    PruneOptions(method="c-swap-c", align=1),
    PruneOptions(method="c-swap-c", align=1, compensate="linear", max_param_ratio=0.4),
    PruneOptions(method="magnitude-l2", align=1, compensate="mean", max_param_ratio=0.3),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.method}-{o.compensation}-{o.bn_reestimate}")
def test_a_whole_analysis_runs_elsewhere_and_comes_back(
    options: PruneOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, weights = pruned(options)
    monkeypatch.setattr(devices, "find", lambda name: DEVICE)
    with PretendGpu() as there:
        found, others = pruned(replace(options, device="cuda"))
    assert there.ops > 100
    assert found == removed
    assert any(removed.values())
    for name, value in weights.items():
        assert type(others[name]) in (Tensor, nn.Parameter)
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-4)


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    with PretendGpu():
        there = torch.ones(3).to(DEVICE)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError):
            there.numpy()
        assert (there + torch.ones(())).cpu().tolist() == [2.0, 2.0, 2.0]


@gpu
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.method}-{o.compensation}-{o.bn_reestimate}")
def test_a_gpu_finds_what_the_cpu_finds(options: PruneOptions) -> None:
    removed, weights = pruned(options)
    found, others = pruned(replace(options, device="cuda"))
    assert found == removed
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-2, atol=1e-3)
