"""The documentation as a site, which `tox -e docs` builds before: it is whole, and asks nothing of other hosts."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The files that a page loads, its links and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.undescribed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if "src" in found:
            self.loads.add(found["src"])
        if tag == "link" and found.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loads.add(found.get("href", ""))
        if tag == "a":
            self.links.add(found.get("href", ""))
        if tag == "img" and not found.get("alt"):
            self.undescribed.append(found.get("src", ""))


@pytest.fixture(scope="module")
def site() -> Path:
    """Return the folder of the site that was built, which HYCO_ENGINE_SITE names from the root."""
    if "HYCO_ENGINE_SITE" not in os.environ:
        pytest.skip("tox -e docs builds the site and tests it")
    return ROOT / os.environ["HYCO_ENGINE_SITE"]


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_page_of_the_project_is_on_it(site: Path) -> None:
    written = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "plugins").glob("*/README.md")]
    assert len(written) > 20
    missing = [page for page in written if not (site / page.relative_to(ROOT)).with_suffix(".html").is_file()]
    assert missing == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    loaded = {target for page in pages.values() for target in page.loads}
    assert [target for target in loaded if re.match(r"(\w+:)?//", target)] == []
    styles = "\n".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    outside = re.findall(r"(?:url\(|@import)\s*['\"]?(?:\w+:)?//[^)'\"]*", styles)
    assert outside == []


def test_all_that_is_linked_or_loaded_is_there(site: Path, pages: dict[Path, Page]) -> None:
    missing = []
    for path, page in pages.items():
        for target in page.links | page.loads:
            file, _, anchor = unquote(target).partition("#")
            if re.match(r"\w+:", file):
                continue
            there = (path.parent / file.partition("?")[0]).resolve() if file else path
            known = pages.get(there)
            if not there.exists() or (anchor and known is not None and anchor not in known.anchors):
                missing.append(f"{path.relative_to(site)}: {target}")
    assert missing == []


def test_pictures_are_described_for_those_who_do_not_see_them(pages: dict[Path, Page]) -> None:
    assert [source for page in pages.values() for source in page.undescribed] == []
