"""A run's result in a few lines, for the interpreter and for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyco_engine.report.page_tables import error_table, parameter_rows
from hyco_engine.report.verdict import verdict


def brief_text(folder: Path, summary: Mapping[str, Any]) -> str:
    """Return the result in one line, such as `RunResult(runs/small-1, completed: nu was found ...)`."""
    return f"RunResult({folder}, {summary.get('status')}: {' '.join(verdict(summary))})"


def brief_html(folder: Path, summary: Mapping[str, Any]) -> str:
    """Return verdict, parameters and errors as HTML; all text is escaped."""
    parts = [f"<p><b>{html.escape(str(folder))}</b>, {html.escape(str(summary.get('status')))}. "]
    parts.append(f"{html.escape(' '.join(verdict(summary)))}</p>")
    if rows := parameter_rows(summary.get("parameters") or {}):
        names = [name for name in ("name", "start", "found", "truth", "off", "unit") if any(row[name] for row in rows)]
        parts.append(_table(names, [[row[name] for name in names] for row in rows]))
    if errors := error_table(summary.get("metrics") or {}):
        cells = [[row["name"], *row["cells"]] for row in errors["rows"]]
        parts.append(_table(["model", *errors["columns"]], cells))
    return "".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
