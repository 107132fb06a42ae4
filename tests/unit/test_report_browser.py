"""The report in a real browser; skipped where there is no Chromium, or nothing to drive it with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_cases import EVIL, layout_of, rollout_of, run_folder, summary_of

from hyco_engine.comparing import compare_runs
from hyco_engine.report.compare_page import write_comparison
from hyco_engine.report.page import write_report

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = tmp_path_factory.mktemp("runs")
    shapes = {1: (24,), 2: (12, 8), 3: (8, 8, 6)}
    return {
        dims: write_report(
            run_folder(folders / str(dims), rollout_of(layout_of(*shape, name=EVIL)), summary_of(), name=EVIL)
        )
        for dims, shape in shapes.items()
    }


class Opened:
    """A page that keeps what it was told and what it asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def pixels(self) -> list[str]:
        """Return the pixels of the canvases."""
        found: list[str] = self.page.evaluate("[...document.querySelectorAll('canvas')].map(c => c.toDataURL())")
        return found


@pytest.mark.parametrize(("dims", "scheme"), [(1, "light"), (2, "dark"), (3, "light")])
def test_it_draws_moves_and_asks_for_nothing(browser: Any, pages: dict[int, Path], dims: int, scheme: str) -> None:
    with Opened(browser, pages[dims], color_scheme=scheme, viewport={"width": 1200, "height": 900}) as opened:
        page = opened.page
        assert page.title() == f"{EVIL} – hyco-engine"
        assert page.locator("#rows figure").count() == 5
        before = opened.pixels(), page.locator("#rows").inner_html()
        page.locator("#time").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        assert page.locator("#now").inner_text() == "t = 0.3"
        assert page.locator("#time").get_attribute("aria-valuetext") == "t = 0.3"
        after = opened.pixels(), page.locator("#rows").inner_html()
        assert before[1] != after[1]
        # space-time images stay, and a line over them moves
        assert (before[0] == after[0]) is (dims == 1)
        if dims == 3:
            page.locator("#view").select_option("2")
            assert opened.pixels() != after[0]
        page.locator("#play").click()
        api.expect(page.locator("#time")).to_have_value(page.locator("#time").get_attribute("max"))
        api.expect(page.locator("#play")).to_have_text("Play")
        assert opened.said == []
        assert opened.asked == [pages[dims].as_uri()]


def test_several_runs_side_by_side(browser: Any, tmp_path: Path) -> None:
    folders = []
    for name in ("first", EVIL.replace("/", "")):
        folder = run_folder(tmp_path / name, rollout_of(layout_of(24)), summary_of())
        (folder / "spec.toml").write_text('[run]\nseed = 0\nprecision = "float32"\n[data]\nkind = "arrays"\n')
        folders.append(folder)
    path = write_comparison(compare_runs(folders), tmp_path / "page.html")
    with Opened(browser, path, viewport={"width": 360, "height": 740}) as opened:
        assert opened.page.locator("#rows figure").count() == 9
        before = opened.page.locator("#rows").inner_html()
        opened.page.locator("#time").focus()
        opened.page.keyboard.press("ArrowRight")
        assert opened.page.locator("#rows").inner_html() != before
        colors = {
            opened.page.locator(f"polyline.{style}.synthetic").evaluate("line => getComputedStyle(line).stroke")
            for style in ("run0", "run1")
        }
        assert len(colors) == 2
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert opened.said == []
        assert opened.asked == [path.as_uri()]


@pytest.mark.parametrize("dims", [1, 3])
def test_it_fits_a_phone(browser: Any, pages: dict[int, Path], dims: int) -> None:
    with Opened(browser, pages[dims], viewport={"width": 360, "height": 740}) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_dark_is_dark(browser: Any, pages: dict[int, Path]) -> None:
    color = (
        "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.querySelector('svg text')).fill"
    )
    shown = set()
    for scheme in ("light", "dark"):
        with Opened(browser, pages[1], color_scheme=scheme) as opened:
            shown.add(opened.page.evaluate(color))
    assert len(shown) == 2


def test_scripts_that_are_not_its_own_do_not_run(browser: Any, pages: dict[int, Path], tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.html"
    text = pages[1].read_text().replace("</main>", "<script>document.title = 'taken'</script></main>")
    foreign.write_text(text)
    with Opened(browser, foreign) as opened:
        assert opened.page.title() == f"{EVIL} – hyco-engine"
        assert any("Content Security Policy" in said for said in opened.said)
