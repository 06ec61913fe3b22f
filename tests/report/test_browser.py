"""The report in a real browser: Debian's chromium, headless, and axe-core from npm. Both come with `make browser`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import add_round, write_live_run, write_run

from wordflock.report.dashboard import dashboard
from wordflock.report.facts import read_run
from wordflock.report.page import write_comparison, write_report

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
NARROW, WIDE = {"width": 360, "height": 800}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, which makes no connections of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install '.[dev]')")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; `make browser` installs it")
    quiet = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=chromium, args=[*quiet, "--disable-sync", "--no-first-run"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / name, wrong=wrong) for name, wrong in (("first", 20), ("second", 4))]
    return [write_report(runs[1]), write_comparison([read_run(run) for run in runs], folder / "comparison.html")]


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["360 px", "1280 px"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page_number", [0, 1], ids=["report", "comparison"])
def test_a_person_can_read_it(browser: Any, pages: list[Path], size: Any, scheme: str, page_number: int) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    requests, messages = list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    address = pages[page_number].as_uri()
    page.goto(address)
    assert [url for url in requests if url != address and not url.startswith("data:")] == []
    assert messages == []
    figures = page.locator("svg")
    assert figures.count() >= 1
    for number in range(figures.count()):
        box = figures.nth(number).bounding_box()
        assert box is not None and box["width"] > 200 and box["height"] > 15
        assert box["x"] >= 0 and box["x"] + box["width"] <= size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]  # tables scroll, the page does not
    if AXE.exists():
        page.add_script_tag(path=str(AXE))
        found = page.evaluate("axe.run()")["violations"]
        assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found] == []
    context.close()


def test_everything_is_reached_by_keyboard(browser: Any, pages: list[Path]) -> None:
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    page.goto(pages[0].as_uri())
    focused = list[int]()
    for _ in range(60):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("[...document.querySelectorAll('a, summary')].indexOf(document.activeElement)"))
    assert page.locator("a").first.get_attribute("class") == "skip" and focused[0] == 0
    assert set(focused) >= set(range(page.locator("a, summary").count()))
    closed = page.locator("details:not([open]) summary").first.element_handle()
    closed.focus()
    page.keyboard.press("Enter")
    assert closed.evaluate("it => it.parentElement.open")
    context.close()


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["360 px", "1280 px"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dashboard_can_be_read_and_updates_itself(browser: Any, tmp_path: Path, size: Any, scheme: str) -> None:
    run = write_live_run(tmp_path / "run")
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    requests, messages = list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    with dashboard(run, "127.0.0.1:0") as address:
        page.goto(address)
        page.get_by_text("3 of 10").wait_for()
        page.locator("#curve summary").click()
        page.keyboard.press("Tab")
        add_round(run, 4)
        page.get_by_text("4 of 10").wait_for()
        assert page.locator("#curve details").evaluate("it => it.open"), "what a reader opened stays open"
        assert page.evaluate("document.activeElement.className") == "scroll", "and the keyboard where it was"
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.locator("#curve svg").bounding_box()["width"] > 200
        if AXE.exists():
            page.evaluate(AXE.read_text())  # the page's own policy lets no other script in
            found = page.evaluate("axe.run()")["violations"]
            assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found] == []
    page.get_by_text("The server has ended").wait_for()
    assert [url for url in requests if not url.startswith((address, "data:"))] == []
    assert messages == []
    context.close()


def test_a_matrix_of_many_labels_scrolls_and_the_page_does_not(browser: Any, tmp_path: Path) -> None:
    labels = [f"word {n}" for n in range(38)] + ["a name that is far too long for any figure", "_unknown_"]
    report = write_report(write_run(tmp_path / "run", clips=400, labels=labels))
    context = browser.new_context(viewport=NARROW)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    figure = page.locator(".wide").first
    figure.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.wide').scrollLeft > 0")
    if AXE.exists():
        page.add_script_tag(path=str(AXE))
        found = page.evaluate("axe.run()")["violations"]
        assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found] == []
    context.close()
