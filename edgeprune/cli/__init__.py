"""The command line: words in, one call, words out. Nothing heavy is imported before a command needs it.

app.py        the Typer app: errors to one line and an exit code
building.py   build
reading.py    report, gate, explain: what a run folder holds
machine.py    measure, targets, doctor: what this machine is and does
progress.py   bars on a terminal, lines in a log
"""

from edgeprune.cli import building, machine, reading
from edgeprune.cli.app import app, main

__all__ = ["app", "building", "machine", "main", "reading"]
