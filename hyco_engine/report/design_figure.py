"""The map of a design: how much a measurement tells at each place and time, and which ones were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hyco_engine.report.drawing import COLORS, Array, heading, new_figure, plain_axes, save

GAIN = "gain of one measurement"
MARKER: dict[str, Any] = {"s": 42, "facecolor": "white", "edgecolor": COLORS["truth"], "zorder": 3}


def design_figure(found: Mapping[str, Any], path: Path) -> Path:
    """Draw what `designing.design` returned: a map over space, a curve over time, or over both for one axis."""
    told, chosen = found["map"], found["chosen"]
    panels = [
        (draw, told[key])
        for draw, key in ((_over_both, "by_time_and_position"), (_over_space, "by_position"), (_over_time, "by_time"))
        if told[key] is not None
    ]
    # the map over time and one axis shows all that the others would
    panels = panels[:1] if told["by_time_and_position"] is not None else panels
    figure = new_figure(5.2 * len(panels), 3.6)
    for k, (draw, gains) in enumerate(panels):
        draw(figure.add_subplot(1, len(panels), k + 1), told, np.asarray(gains), chosen)
    heading(figure, f"{len(chosen)} {found['unit']}s to take next, in order")
    return save(figure, path)


def _over_both(ax: Axes, told: Mapping[str, Any], gains: Array, chosen: Sequence[Mapping[str, Any]]) -> None:
    plain_axes(ax, GAIN, grid=False)
    places = np.asarray(told["positions"])[:, 0]
    picture = ax.pcolormesh(np.asarray(told["times"]), places, gains.T, cmap="viridis", shading="nearest")
    ax.figure.colorbar(picture, ax=ax, fraction=0.05, pad=0.02).ax.tick_params(labelsize=8)
    axis = told["axes"][0]
    _numbered(ax, [(entry["time"], entry["position"][axis]) for entry in chosen])
    ax.set_xlabel("t")
    ax.set_ylabel(axis)


def _over_space(ax: Axes, told: Mapping[str, Any], gains: Array, chosen: Sequence[Mapping[str, Any]]) -> None:
    places, axes = np.asarray(told["positions"]), told["axes"]
    points = [entry["position"] for entry in chosen]
    if len(axes) == 1:
        plain_axes(ax, f"{GAIN}, by position")
        ax.plot(places[:, 0], gains, color=COLORS["physical"])
        _numbered(ax, [(p[axes[0]], float(np.interp(p[axes[0]], places[:, 0], gains))) for p in points])
        ax.set_xlabel(axes[0])
        return
    # of three axes, the two along which there is most to see: the first ones, and the best along the third
    plain_axes(ax, f"{GAIN}, by position", grid=False)
    x, y = (np.unique(places[:, k]) for k in (0, 1))
    best = np.full((len(x), len(y)), -np.inf)
    np.maximum.at(best, (np.searchsorted(x, places[:, 0]), np.searchsorted(y, places[:, 1])), gains)
    picture = ax.pcolormesh(x, y, best.T, cmap="viridis", shading="nearest")
    ax.figure.colorbar(picture, ax=ax, fraction=0.05, pad=0.02).ax.tick_params(labelsize=8)
    _numbered(ax, [(p[axes[0]], p[axes[1]]) for p in points])
    ax.set_xlabel(axes[0])
    ax.set_ylabel(axes[1])


def _over_time(ax: Axes, told: Mapping[str, Any], gains: Array, chosen: Sequence[Mapping[str, Any]]) -> None:
    plain_axes(ax, f"{GAIN}, by time")
    times = np.asarray(told["times"])
    ax.plot(times, gains, color=COLORS["physical"])
    _numbered(ax, [(entry["time"], float(np.interp(entry["time"], times, gains))) for entry in chosen])
    ax.set_xlabel("t")


def _numbered(ax: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Mark points with their ranks; points at one place share a mark."""
    ranks: dict[tuple[float, float], list[int]] = {}
    for rank, point in enumerate(points, start=1):
        ranks.setdefault(point, []).append(rank)
    for point, own in ranks.items():
        ax.scatter(*point, **MARKER)
        text, box = ", ".join(map(str, own)), {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
        ax.annotate(text, point, xytext=(6, 6), textcoords="offset points", fontsize=8, bbox=box, zorder=4)
