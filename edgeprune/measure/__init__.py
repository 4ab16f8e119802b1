"""Measures artifacts on the target's CPU: time, memory, and how far the figures can be trusted.

Absolute times come from fresh processes that run one artifact; the ratio from processes that interleave
all artifacts, because they then meet the same disturbances.

measuring.py      the verb: processes in turn, and what their answers come to
places.py         this machine or a device, one verb for both
worker.py         runs on the target, alone; needs neither edgeprune nor torch
local.py          the worker in fresh processes here
ssh.py            the worker on a device
files.py          what is checked of files before a runtime reads them
openssh.py        the system's OpenSSH client
answers.py        what a worker wrote, and its errors in words
turns.py          measurements on one machine take turns
stats.py          samples to figures with intervals
noise.py          what disturbed them, in words
profiling.py      networks of other widths, operator by operator
stairs.py         which widths pay on a machine
instructions.py   CPU instructions of one inference, for machines too noisy for clocks
"""

from edgeprune.measure.instructions import instructions, perf_counts
from edgeprune.measure.measuring import PAIRS, STREAM_PROCESSES, describe_machine, measure, noise_now
from edgeprune.measure.places import Place, place
from edgeprune.measure.profiling import profile
from edgeprune.measure.stairs import step

__all__ = [
    "PAIRS",
    "STREAM_PROCESSES",
    "Place",
    "describe_machine",
    "instructions",
    "measure",
    "noise_now",
    "perf_counts",
    "place",
    "profile",
    "step",
]
