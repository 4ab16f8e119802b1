"""The deployment report, for people and for machines: report.json, report.html and report.md say the same.

files.py       Report -> the three files, atomically; report.json -> Report; the JSON Schema
figures.py     numbers as people read them, and the table of dense against pruned
facts.py       what a report implies: classes gained and lost, tolerances used, the course of the walk
plots.py       numbers -> coordinates
html.py        report.html from report.html.j2: one file, no scripts, no requests
markdown.py    report.md, short enough for a pull request
"""

from edgeprune.report.figures import summary_rows
from edgeprune.report.files import SCHEMA_VERSION, read, schema, write

__all__ = ["SCHEMA_VERSION", "read", "schema", "summary_rows", "write"]
