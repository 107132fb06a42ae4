"""What the figures share: colours, axes, saving. Uses matplotlib's objects only; its global state stays untouched."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hyco_engine.runs.files import write_atomic

Array = NDArray[np.float64]

# Okabe & Ito 2008: told apart by colour-blind readers too
COLORS = {"truth": "#000000", "physical": "#0072B2", "synthetic": "#D55E00", "persistence": "#777777"}
OTHER_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NAMES = {"physical": "physics", "synthetic": "surrogate"}
MISSING = "#BBBBBB"
WARNING = "#A00000"
DPI = 110
COARSER_DPI = (80, 60)
MAX_BYTES = 150_000
"""Pictures of noise do not compress; larger files are drawn more coarsely."""


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(ax: Axes, title: str = "", *, grid: bool = True) -> Axes:
    """Light axes with small readable text."""
    ax.set_title(title, fontsize=10, loc="left")
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


def heading(figure: Figure, text: str) -> None:
    """What the whole figure shows, above it; empty: nothing."""
    if text:
        figure.suptitle(plain_text(text), x=0.01, ha="left", fontsize=11, fontweight="bold")


def marker_of(values: Sequence[float] | Array) -> str:
    """Of a curve: a dot where a value between unknown ones would leave no line."""
    known = np.isfinite(np.asarray(values, dtype=np.float64))
    beside = np.zeros_like(known)
    beside[1:] |= known[:-1]
    beside[:-1] |= known[1:]
    return "." if bool((known & ~beside).any()) else ""


def legend(ax: Axes) -> None:
    """The legend, where there is something to tell."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", borderpad=0.3)


def note(ax: Axes, text: str) -> None:
    """A warning written into the axes."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.0}
    ax.text(
        0.5, 0.5, text, color=WARNING, fontsize=9, ha="center", va="center", transform=ax.transAxes, bbox=box, zorder=9
    )


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, the same bytes for the same content."""
    for dpi in (DPI, *COARSER_DPI):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        if buffer.tell() <= MAX_BYTES:
            break
    write_atomic(path, buffer.getvalue())
    return path


def color_of(name: str, names: Sequence[str]) -> str:
    """A model's colour, the same in all figures."""
    others = [other for other in names if other not in COLORS]
    return COLORS.get(name) or OTHER_COLORS[others.index(name) % len(OTHER_COLORS)]


def with_unit(name: str, unit: str | None) -> str:
    """`name [unit]`, or the name alone where there is no unit."""
    return plain_text(name if unit in (None, "", "1") else f"{name} [{unit}]")


def plain_text(text: str) -> str:
    """So that it is drawn as it is: matplotlib reads what is between dollars as a formula."""
    return text.replace("$", r"\$")


def middle_slice(values: Array, dims: int, axis: int = 2) -> Array:
    """The last `dims` axes cut down to two: of three dimensions the middle of `axis`, one of 0, 1 and 2."""
    if dims != 3:
        return values
    at = values.ndim - 3 + axis
    cut: Array = np.take(values, values.shape[at] // 2, axis=at)
    return cut
