"""mkdocs hook: the performance page, assembled when the site is built from what the bench scripts wrote.

Every docs/NAME.json with a docs/NAME.md beside it is a bench's result; the page shows the first table of
each, and the curves that docs/method.md keeps between its markers. Nothing is typed by hand or goes stale.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PAGE = "performance.md"
CURVES = re.compile(r"<!-- curves:.*?-->\n(.*?)<!-- end of curves -->", re.DOTALL)
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
MOST_ROWS = 14


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Called by mkdocs first: the benches' own pages come last in the navigation."""
    pages = [{title(page): page.name} for page, _ in results(Path(config.docs_dir))]
    config.nav = [*(config.nav or []), {"Measurements": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs once it knows the files of the site."""
    from mkdocs.structure.files import File

    content = assemble(Path(config.docs_dir))
    files.append(File.generated(config, PAGE, content=content))
    return files


def assemble(docs: Path) -> str:
    """Return the page for the results that lie in a folder."""
    parts = [
        "# Performance",
        "Each table was written by a script of the repository, which says how it measured; the figures are "
        "in the `.json` beside it. Times on machines that others used too are marked so by the script.",
    ]
    if found := CURVES.search((docs / "method.md").read_text(encoding="utf-8")):
        curves = re.sub(r"^#+ ", "### ", found[1].strip(), flags=re.MULTILINE)
        parts += ["## Accuracy over parameters removed", curves, "[How to read these](method.md#curves)"]
    for page, result in results(docs):
        parts += section(page, result)
    return "\n\n".join(parts) + "\n"


def results(docs: Path) -> list[tuple[Path, Path]]:
    """Return what the benches wrote: pages with their figures."""
    found = [(path.with_suffix(".md"), path) for path in sorted(docs.glob("*.json"))]
    return [(page, path) for page, path in found if page.is_file() and page.name != "method.md"]


def title(page: Path) -> str:
    found = re.search(r"^# (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else page.stem


def section(page: Path, result: Path) -> list[str]:
    """The title and first table of one result, and where the rest is."""
    text = page.read_text(encoding="utf-8")
    tables = TABLE.findall(text)
    lines = tables[0].splitlines() if tables else []
    shown = "\n".join(lines[: MOST_ROWS + 2])
    more = f"All of it: [{page.name}]({page.name}), [{result.name}]({result.name})."
    return [f"## {title(page)}", *([shown] if shown else []), more]
