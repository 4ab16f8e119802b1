"""The pages as a browser shows them: no errors, no requests, no barriers; on a desk, a phone, on paper."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_report import quantized_report, sample_report
from test_report import HOSTILE, hostile_report

from edgeprune.report import comparison, html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


def compared() -> str:
    reports = [sample_report(), hostile_report(), quantized_report()]
    elsewhere = replace(reports[2], target=replace(reports[2].target, name="a board"))
    return comparison.render(
        [("one", "one/report.html", reports[0]), (HOSTILE, "", reports[1]), ("b", "", elsewhere)]
    )


PAGES: dict[str, Callable[[], str]] = {
    "one": lambda: html.render(sample_report()),
    "quantized": lambda: html.render(quantized_report()),
    "hostile": lambda: html.render(hostile_report()),
    "compared": compared,
}
SCREENS = {"desk": (1280, "light"), "phone": (360, "dark")}
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # A container's root may not use Chromium's sandbox; the pages are our own.
    flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in PAGES}
    for name, path in paths.items():
        path.write_text(PAGES[name](), encoding="utf-8")
    return paths


class Opened:
    """A page in the browser, and what it said and asked for."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 800}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_and_open_to_all(browser, pages, name, screen):
    width, scheme = SCREENS[screen]
    with Opened(browser, pages[name], width=width, scheme=scheme) as opened:
        opened.page.evaluate(OPEN_ALL)
        found = axe.Axe().run(opened.page).response["violations"]
        assert [(fault["id"], fault["impact"], fault["nodes"][0]["html"]) for fault in found] == []
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith("data:")] == [pages[name].as_uri()]
        assert opened.page.evaluate(OVERFLOW) == 0


def test_axe_sees_a_barrier(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<html><title>t</title><main><h1>x</h1><img src="data:,"></main></html>')
    with Opened(browser, path) as opened:
        found = {fault["id"] for fault in axe.Axe().run(opened.page).response["violations"]}
    assert {"image-alt", "html-has-lang"} <= found


def test_on_paper_what_is_folded_is_there(browser, pages):
    with Opened(browser, pages["one"]) as opened:
        table = opened.page.locator("details table").first
        assert not table.is_visible()
        opened.page.emulate_media(media="print")
        assert table.is_visible()
        assert opened.page.pdf().startswith(b"%PDF")


def test_the_keyboard_is_enough(browser, pages):
    with Opened(browser, pages["one"]) as opened:
        opened.page.keyboard.press("Tab")
        assert opened.page.evaluate("document.activeElement.tagName") == "A"
        summary = opened.page.locator("details:not([open]) > summary").first
        summary.focus()
        opened.page.keyboard.press("Enter")
        assert opened.page.evaluate("document.activeElement.parentElement.open")
