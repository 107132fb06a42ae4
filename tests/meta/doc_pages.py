"""The blocks of a Markdown page, and what it takes to run them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")


@attrs.frozen
class Block:
    """A fenced block. `file`: the name in its first line, `# name.toml`, which it is to be written to."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        found = _FILE.match(self.text)
        return found[1] if found else None

    def compiled(self, page: Path) -> object:
        """Compile the block so that tracebacks show the page's own lines."""
        return compile("\n" * (self.line - 1) + self.text, str(page), "exec")


def blocks(page: Path) -> list[Block]:
    """Return all fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text[: m.start(2)].count("\n") + 1) for m in _FENCE.finditer(text)]


def install(pyproject: str, folder: Path) -> None:
    """Make what lies in `folder` look like an installed distribution of that pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    head = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    requires = [f"Requires-Dist: {text}" for text in project["dependencies"]]
    (info / "METADATA").write_text("\n".join([*head, *requires, ""]))
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{n} = {v}" for n, v in points.items()))]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))


def shell_lines(page: Path) -> Iterator[str]:
    """Single commands of the page's sh blocks, comments taken off."""
    for block in blocks(page):
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from (part.strip() for part in re.sub(r"(^|\s)#.*", "", line).split("&&") if part.strip())


def first_column(page: Path, heading: str) -> list[str]:
    """Return the code in the first column of the first table below a heading."""
    section = page.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    rows = section[section.index("\n| --- |") :].split("\n\n", 1)[0].splitlines()[2:]
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row.split("|")[1])]


def links(page: Path) -> Iterator[str]:
    """Targets of links and images that are files of the project, without the part after #."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not target.startswith(("http", "#")):
            yield target.partition("#")[0]
