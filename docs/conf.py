"""The documentation as a site: `tox -e docs`.

Pages are the project's Markdown files where they lie, so that links between them hold on a code host and on the site:
the source folder is that of the project.
"""

from __future__ import annotations

import re
from importlib import metadata

project = "hyco-engine"
copyright = "the authors of hyco-engine"
release = version = metadata.version("hyco-engine")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["README.md", "docs/**", "plugins/*/README.md"]
exclude_patterns = [".*", "hyco_engine", "tests"]

myst_heading_anchors = 5

html_theme = "furo"
html_title = f"hyco-engine {version}"
html_extra_path = ["site"]
html_copy_source = False
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False
python_use_unqualified_type_names = True
# docstrings write code in single backticks
default_role = "literal"


def sidebar(text: str) -> str:
    """Toctrees that make the sidebar of the links on the index page: one for each of its sections."""
    parts = []
    for section in text.split("\n## ")[1:]:
        caption = section.split("\n", 1)[0]
        pages = re.findall(r"^\* \[([^\]]+)\]\(([\w./-]+\.md)\)", section, re.MULTILINE)
        entries = [f"{title} <{page}>" for title, page in pages]
        if entries:
            parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```"]))
    return "\n\n".join(parts)


def _read(app: object, name: str, source: list[str]) -> None:
    if name == root_doc:
        source[0] += "\n\n" + sidebar(source[0])


def setup(app: object) -> None:
    app.connect("source-read", _read)  # type: ignore[attr-defined]
