"""The deployment report, for people and for machines: report.json, report.html and report.md say the same.

files.py       Report -> the three files, atomically; report.json -> Report; the JSON Schema
figures.py     numbers as people read them, and the table of dense against pruned
facts.py       what a report implies: classes gained and lost, tolerances used, the course of the walk
interventions.py  what the interventions tell about layers, units and classes
variants.py    dense, pruned and quantized side by side; where each spends its time
course.py      accuracy over latency along the trajectory, as coordinates
plots.py       numbers -> coordinates
pictures.py    drawings that stand alone, as SVG
charts.py      curves of several methods, by matplotlib
html.py        report.html from report.html.j2: one file, no scripts, no requests
comparison.py  comparison.html: several runs on one page
templates.py   the templates of both, and how they set figures
notebook.py    a report and a pruned network in a notebook
markdown.py    report.md, short enough for a pull request
outputs.py     a verdict for the tools of CI: JUnit XML, a summary, annotations
"""

from edgeprune.report.figures import summary_rows, variants_rows
from edgeprune.report.files import SCHEMA_VERSION, read, schema, write
from edgeprune.report.outputs import append_text, github_annotations, junit, summary, write_text

__all__ = [
    "SCHEMA_VERSION",
    "append_text",
    "github_annotations",
    "junit",
    "read",
    "schema",
    "summary",
    "summary_rows",
    "variants_rows",
    "write",
    "write_text",
]
