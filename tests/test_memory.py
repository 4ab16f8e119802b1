"""A limit on memory changes what is kept and computed again, never a result."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from causal_nets import NETWORKS, case

from edgeprune import compensate
from edgeprune.causal import Program, Replay
from edgeprune.errors import ConfigError
from edgeprune.memory import Allowance, allowance, available, resident, total_bytes

STRETCHES = [slice(0, 7), slice(7, 8), slice(8, 30)]


def test_bytes_are_taken_as_long_as_they_fit() -> None:
    purse = Allowance(100)
    assert purse.exchange(0, 60)
    assert not purse.exchange(0, 50)
    assert purse.taken == 60
    assert not purse.exchange(60, 101), "the old ones are back, the new ones do not fit"
    assert purse.taken == 0
    assert purse.exchange(0, 100)
    assert Allowance().exchange(0, 10**15)


def test_a_tensor_read_twice_counts_once() -> None:
    tensor = torch.zeros(10)
    assert total_bytes([tensor, tensor, torch.zeros(5), (3, 4), 7]) == 60


def test_the_limit_is_that_of_the_whole_process() -> None:
    taken = resident()
    assert 10e6 < taken < available()
    with pytest.raises(ConfigError, match=r"--memory-limit 1MB: network, images and libraries take \d+ MB"):
        allowance(1_000_000)
    with pytest.raises(ConfigError, match="samples-per-class"):
        allowance(taken + 100_000_000, needed=200_000_000)
    some = allowance(taken + 400_000_000, needed=100_000_000).most
    assert some is not None
    assert 50e6 < some < 200e6
    half = allowance(None).most
    assert half is not None
    assert half < available() / 2


@pytest.mark.parametrize("most", [0, 3_000, 20_000])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_replay_that_keeps_little_gives_the_same_to_the_bit(name: str, most: int) -> None:
    c = case(name)
    images = [c.images[stretch] for stretch in STRETCHES]
    purse = Allowance(most)
    plain = Replay(Program(c.graph), c.groups, images)
    poor = Replay(Program(c.graph), c.groups, images, delta=True, allowance=purse)
    for group in sorted(c.groups, key=plain.position):
        plain.enter(group)
        poor.enter(group)
        for units in ((1,), tuple(range(group.units))):
            for shard in range(len(STRETCHES)):
                got, wanted = (network.outputs(shard, group, units) for network in (poor, plain))
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
        assert purse.taken <= most
        places = {piece.place for shard in poor._pieces for piece in shard}
        assert most > 0 or places == {0}
        for network in (plain, poor):
            network.remove_(group, (1, 2))
            network.restore_(group, (2,))


@pytest.mark.parametrize("most", [0, 4_000])
@pytest.mark.parametrize("name", ["residual", "concat"])
def test_least_squares_that_keep_little_give_the_same(name: str, most: int) -> None:
    c = case(name)
    program = Program(c.graph)
    layers = compensate.find_layers(program)
    removed = {group.name: (0, 2) for group in c.groups}
    results = []
    for purse in (Allowance(), Allowance(most)):
        subject = compensate.Subject(program, layers, c.groups, c.images, purse)
        measured = compensate.measure_moments(subject, program.dense)
        survivors = compensate.Survivors(
            layers=layers, groups=c.groups, weights=dict(program.dense), measured=measured
        )
        survivors.remove_(removed)
        results.append(compensate.refit(subject, survivors.weights, removed).weights)
        assert purse.taken == 0, "what was kept is given back"
    plain, poor = results
    assert plain.keys() == poor.keys()
    for key, value in plain.items():
        torch.testing.assert_close(poor[key], value, rtol=0, atol=0)


MEASURED = """
import sys
from pathlib import Path
import torch
from torch import nn
from edgeprune.channels import couple, trace
from edgeprune.causal import Program, Replay
from edgeprune.memory import allowance, resident
from edgeprune.records import InputSpec

torch.manual_seed(0)
wide = nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, stride=4), nn.ReLU(),
    nn.Conv2d(64, 8, 3, stride=4), nn.Flatten(), nn.Linear(8 * 6 * 6, 4),
).eval()
images = torch.rand(200, 3, 96, 96)
coupling = couple(trace(wide, InputSpec(shape=(3, 96, 96))))
program = Program(coupling.ties.traced.graph_module)
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before = resident()
limit = before + int(float(sys.argv[1]) * 1e6)
network = Replay(program, coupling.groups, [images], allowance=allowance(limit, needed=2 * images.nbytes))
for group in sorted(coupling.groups, key=network.position):
    network.enter(group)
    network.outputs(0, group, [0])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print((int(peak.split()[1]) * 1024 - before) / 1e6)
"""


@pytest.mark.slow
def test_a_process_stays_within_its_limit() -> None:
    """Values at the first cut take 200 * 64 * 96 * 96 * 4 bytes = 472 MB."""

    def grown(megabytes: int) -> float:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(megabytes)],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        return float(done.stdout)

    assert grown(250) < 250
    assert grown(4000) > 450, "or the limit above was none"


WALKED = """
import logging, resource, sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from edgeprune.memory import resident
from edgeprune.pipeline.options import Images, Journey, Labelled, PruneOptions
from edgeprune.pipeline.pruning import analyse, find_units
from edgeprune.records import InputSpec

method, limit = sys.argv[1], int(sys.argv[2])
logging.basicConfig(format="%(message)s")
logging.getLogger("edgeprune.memory").setLevel(logging.INFO)
torch.set_num_threads(2)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, stride=4), nn.ReLU(),
    nn.Conv2d(16, 16, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4 * 4, 4),
).eval()
images = torch.rand(800, 3, 64, 64)
with torch.inference_mode():
    labels = torch.cat([network(some).argmax(1) for some in images.split(20)])
seen = Images(calibration=Labelled(images=images.numpy(), labels=labels.numpy()), names=list("abcd"))
options = PruneOptions(method=method, align=1)
analysed = analyse(network, InputSpec(shape=(3, 64, 64)), options)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before, data = resident(), status("VmData")
allowed = data + int(1.05 * 250e6)
resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
found = find_units(analysed, seen, options, Journey(memory_limit=before + limit * 10**6))
print((status("VmHWM") - before) / 1e6, sum(map(len, found.pruning.plan.removed.values())))
"""


def walked(method: str, megabytes: int) -> subprocess.CompletedProcess[str]:
    """A walk in a process that the system refuses more than 5 % beyond 250 MB from its beginning on."""
    command = [sys.executable, "-c", WALKED, method, str(megabytes)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["c-swap", "c-swap-c"])
def test_a_walk_fits_under_a_hard_limit(method: str) -> None:
    """Values at the first cut take 800 * 32 * 64 * 64 * 4 bytes = 419 MB."""
    done = walked(method, 250)
    assert done.returncode == 0, done.stderr
    peak, removed = done.stdout.split()
    assert float(peak) < 250
    assert int(removed) > 0
    assert "of memory in any case, keeps more up to" in done.stderr
    ignored = walked(method, 1_000_000)
    assert ignored.returncode != 0
    assert "allocate" in ignored.stderr, "of memory, and of nothing else"


@pytest.mark.slow
def test_what_an_analysis_takes_in_any_case_is_announced_and_refused() -> None:
    done = walked("c-swap-c", 60)
    assert re.search(
        r"ConfigError: --memory-limit \d+MB: network, images and libraries take \d+ MB", done.stderr
    )
