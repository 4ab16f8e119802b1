"""Make the pictures of the documentation from a real run: `docs_pictures.py RUN`, RUN being a run folder.

layers.svg and classes.svg are what `edgeprune explain --out` draws; report-desk.png and report-phone.png are
the head of its report.html in Chromium (playwright, with the system's chromium).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from edgeprune.report import html, interventions, pictures, read
from edgeprune.report.facts import group_widths

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SCREENS = {"report-desk.png": (1080, 460, "light"), "report-phone.png": (390, 844, "dark")}


def main(run: Path) -> None:
    found = read(run / "report.json")
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "layers.svg").write_text(pictures.layers(group_widths(found)), encoding="utf-8")
    vetoes = pictures.vetoes(interventions.vetoes(found), interventions.MOST_CLASSES)
    (FOLDER / "classes.svg").write_text(vetoes, encoding="utf-8")
    flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for name, (width, height, scheme) in SCREENS.items():
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]  # literals
            page.set_content(html.render(found))
            page.screenshot(path=FOLDER / name)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
