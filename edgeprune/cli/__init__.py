"""The command line: words in, one call, words out. Nothing heavy is imported before a command needs it.

app.py        the Typer app: errors to one line and an exit code
building.py   build
initializing.py init: a commented settings file
reading.py    report: a finished run again
explaining.py explain: which channels a network needs, and for which classes
gating.py     gate: a run against budgets and a baseline
measuring.py  measure, compare: any two files or runs
pruning.py    prune: a prefix of a finished run, or the analysis alone
sweeping.py   sweep: curves of several methods
flags.py      flags that several commands share with build
probing.py    targets probe: a profile from the machine itself
doctoring.py  doctor: what is here, and what to do about it
machine.py    targets list, targets show
progress.py   bars on a terminal, lines in a log
"""

from edgeprune.cli import (
    building,
    doctoring,
    explaining,
    gating,
    initializing,
    machine,
    measuring,
    probing,
    pruning,
    reading,
    sweeping,
)
from edgeprune.cli.app import app, main

__all__ = [
    "app",
    "building",
    "doctoring",
    "explaining",
    "gating",
    "initializing",
    "machine",
    "main",
    "measuring",
    "probing",
    "pruning",
    "reading",
    "sweeping",
]
