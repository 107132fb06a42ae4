"""Colours, axes and saving for all figures, with matplotlib's objects alone; its global state stays untouched."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullLocator
from numpy.typing import NDArray

from hyco_engine.runs.files import write_atomic

Array = NDArray[np.float64]
Draw = Callable[[Axes], None]
"""A chart: it draws onto axes."""

# Okabe & Ito 2008: colour-blind readers can tell these colours apart too
COLORS = {"truth": "#000000", "physical": "#0072B2", "synthetic": "#D55E00", "persistence": "#777777"}
OTHER_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NAMES = {"physical": "physics", "synthetic": "surrogate"}
MISSING = "#BBBBBB"
WARNING = "#A00000"
DPI = 110
COARSER_DPI = (80, 60)
MAX_BYTES = 150_000
"""Largest size of a file. Images of noise do not compress, so a larger file is drawn again more coarsely."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of that size in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(ax: Axes, title: str = "", *, grid: bool = True) -> Axes:
    """Give axes light lines and small readable text."""
    # a given height saves matplotlib the search for one, a sixth of the time of a chart
    ax.set_title(title, fontsize=10, loc="left", y=1.0)
    ax.tick_params(which="both", labelsize=8, color="#888888")
    ax.xaxis.label.set_fontsize(9)
    ax.yaxis.label.set_fontsize(9)
    for spine in ax.spines.values():
        spine.set_color("#888888")
    if grid:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#E6E6E6", linewidth=0.6)
        ax.set_axisbelow(True)
    return ax


def logarithmic(ax: Axes, which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, after the curves are drawn.

    Its labels are text such as 1e-03, since matplotlib parses each formula anew, and many decades have no minor ticks.
    """
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    if high > 1e3 * low:
        axis.set_minor_locator(NullLocator())


def heading(figure: Figure, text: str) -> None:
    """Write a heading above the whole figure; an empty text adds none."""
    if text:
        figure.suptitle(plain_text(text), x=0.01, ha="left", fontsize=11, fontweight="bold")


def marker_of(values: Sequence[float] | Array) -> str:
    """Return a curve's marker: a dot if a value between unknown ones would draw no line, else none."""
    known = np.isfinite(np.asarray(values, dtype=np.float64))
    beside = np.zeros_like(known)
    beside[1:] |= known[:-1]
    beside[:-1] |= known[1:]
    return "." if bool((known & ~beside).any()) else ""


def legend(ax: Axes) -> None:
    """Draw the legend if the axes have labelled curves."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", borderpad=0.3)


def note(ax: Axes, text: str) -> None:
    """Write a warning into the axes."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.0}
    ax.text(
        0.5, 0.5, text, color=WARNING, fontsize=9, ha="center", va="center", transform=ax.transAxes, bbox=box, zorder=9
    )


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, the same bytes for the same content."""
    if (engine := figure.get_layout_engine()) is not None:
        # `savefig` would lay the figure out by drawing all of it once more
        engine.execute(figure)
        figure.set_layout_engine(None)
    for dpi in (DPI, *COARSER_DPI):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        if buffer.tell() <= MAX_BYTES:
            break
    write_atomic(path, buffer.getvalue())
    return path


def color_of(name: str, names: Sequence[str]) -> str:
    """Return a model's colour, the same in all figures."""
    others = [other for other in names if other not in COLORS]
    return COLORS.get(name) or OTHER_COLORS[others.index(name) % len(OTHER_COLORS)]


def with_unit(name: str, unit: str | None) -> str:
    """Return `name [unit]`, or the name alone where there is no unit."""
    return plain_text(name if unit in (None, "", "1") else f"{name} [{unit}]")


def plain_text(text: str) -> str:
    """Escape dollars, between which matplotlib would read a formula."""
    return text.replace("$", r"\$")


def middle_slice(values: Array, dims: int, axis: int = 2) -> Array:
    """Return values with two spatial axes: of three dimensions the slice in the middle of `axis` (0, 1 or 2)."""
    if dims != 3:
        return values
    at = values.ndim - 3 + axis
    cut: Array = np.take(values, values.shape[at] // 2, axis=at)
    return cut
