"""Charts as SVG that takes its colours from the page, so that they suit its light and its dark form."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOR = re.compile(r"#[0-9a-f]{6}\b")
_MARGIN = 0.08
"""The space around a chart in inches."""
_SIZE = re.compile(r' width="[\d.]+pt" height="[\d.]+pt"')


def svg_chart(draw: Callable[[Axes], None], width: float = 4.4, height: float = 2.8) -> str:
    """Return what `draw` draws onto axes of `width` by `height` inches as one `<svg>` element for a page.

    A colour `#rrggbb` becomes the page's variable `--c-rrggbb` where it has one. The element's accessible name is the
    axes' title. Equal content gives equal bytes.
    """
    figure = Figure(figsize=(width, height), facecolor="none")
    ax = figure.add_subplot()
    draw(ax)
    _fill(figure, ax)
    ax.set_facecolor("none")
    name = ax.get_title(loc="left") or ax.get_title()
    buffer = io.StringIO()
    # text stays text; the salt makes the ids within the page's drawings unique and reproducible
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name or "chart", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return themed(buffer.getvalue(), name)


def _fill(figure: Figure, ax: Axes) -> None:
    """Let the axes with their labels fill the figure; a layout engine would measure all text several times."""
    labelled = ax.get_tightbbox(for_layout_only=True)
    assert labelled is not None
    outer, inner = labelled.transformed(figure.transFigure.inverted()), ax.get_position()
    x, y = _MARGIN / figure.get_size_inches()
    left, bottom = inner.x0 - outer.x0 + x, inner.y0 - outer.y0 + y
    right, top = outer.x1 - inner.x1 + x, outer.y1 - inner.y1 + y
    ax.set_position((left, bottom, 1 - left - right, 1 - bottom - top))


def themed(svg: str, name: str) -> str:
    """Return the `<svg>` element of a matplotlib file, without size and metadata, named and in the page's colours."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = _COLOR.sub(lambda match: f"var(--c-{match[0][1:]}, {match[0]})", body)
    label = html.escape(name.replace("\\$", "$"), quote=True)
    # matplotlib's ids are unique within one drawing only, and the page holds several
    prefix = "c" + format(abs(_hash(name + body)), "x")
    body = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", body)
    return _SIZE.sub(f' role="img" aria-label="{label}"', body, count=1)


def _hash(text: str) -> int:
    import zlib

    return zlib.crc32(text.encode())
