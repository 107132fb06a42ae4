"""Rendering of templates to pages. A page is one file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any


def render(template: str, **content: Any) -> str:
    """Render a template of this folder with the common style and, for `views`, the script; all text is escaped."""
    from jinja2 import DictLoader, Environment, StrictUndefined

    folder = files("hyco_engine.report") / "templates"
    texts = {file.name: file.read_text("utf-8") for file in folder.iterdir()}
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = texts["report.js"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(template).render(
        css=texts["report.css"], script=script, script_hash=f"sha256-{digest}", **content
    )
