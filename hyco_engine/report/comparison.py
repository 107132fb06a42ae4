"""Truth, physics and surrogate side by side over time, with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from hyco_engine.data.fields import StateLayout
from hyco_engine.report.drawing import (
    MISSING,
    NAMES,
    WARNING,
    Array,
    color_of,
    heading,
    legend,
    logarithmic,
    marker_of,
    new_figure,
    note,
    plain_axes,
    plain_text,
    save,
)
from hyco_engine.report.shown import Shown, component_names

Name = TypeVar("Name", bound=str)
MAX_PIXELS = 400
"""Largest number of cells along an axis of an image; larger images are thinned, which keeps files small."""
MAX_MARKS = 150
"""The number of observations up to which each has a mark."""


def comparison_figure(
    truth: NDArray[Any],
    predictions: Mapping[Name, NDArray[Any]],
    layout: StateLayout,
    dt: float,
    path: Path,
    field: str | None = None,
    title: str = "",
) -> Path:
    """Draw one field of a simulation and of rollouts from its first frame as a PNG; return its path.

    `truth [T, C, *S]` and each of `predictions` hold the dynamic channels; NaN in the truth is "not observed". `field`
    is a field's name or `name.component`; None is the first component of the first field. One dimension gives
    space-time images and curves, two give images of single frames, three give those of the middle slice; without space
    there are curves over time, and None is each component of all fields. A prediction that diverges is drawn as far as
    it is finite, with a note. Raise KeyError for an unknown field.
    """
    named = {str(model): values for model, values in predictions.items()}
    if not layout.n_axes:
        names = component_names(layout) if field is None else [field]
        figure = _all_over_time([Shown.of(truth, named, layout, dt, name) for name in names])
    else:
        shown = Shown.of(truth, named, layout, dt, field)
        figure = _space_time(shown) if shown.dims == 1 else _snapshots(shown)
    heading(figure, title)
    return save(figure, path)


def _values_style(shown: Shown) -> dict[str, Any]:
    low, high, signed = shown.value_range()
    return {"cmap": _colors("RdBu_r" if signed else "viridis"), "vmin": low, "vmax": high}


def _colors(name: str) -> Colormap:
    return colormaps[name].with_extremes(bad=MISSING)


def _image(ax: Axes, values: Array, extent: tuple[float, float, float, float], style: Mapping[str, Any]) -> AxesImage:
    """Draw `values [columns, rows]`, with the first axis to the right."""
    thin = tuple(slice(None, None, -(-n // MAX_PIXELS)) for n in values.shape)
    limit = 10 * max(abs(style["vmin"]), abs(style["vmax"]))
    seen = np.where(np.isfinite(values), np.clip(values, -limit, limit), np.nan)[thin]
    return ax.imshow(seen.T, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **style)


def _color_bar(figure: Figure, picture: AxesImage, axes: list[Axes], label: str, extend: str = "both") -> None:
    bar = figure.colorbar(picture, ax=axes, extend=extend, fraction=0.04, pad=0.01, aspect=30, extendfrac=0.03)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, fontsize=9)


def _all_over_time(every: Sequence[Shown]) -> Figure:
    """Draw a row for each component."""
    figure = new_figure(7.2, 0.6 + 2.2 * len(every))
    for row, shown in enumerate(every, start=1):
        over_time(figure.add_subplot(len(every), 1, row), shown)
    return figure


def over_time(ax: Axes, shown: Shown) -> None:
    """Draw what has no place as curves, and each observation as a mark where there are few."""
    plain_axes(ax, shown.label)
    seen = np.isfinite(shown.truth)
    marks = "o" if seen.sum() <= MAX_MARKS else "-"
    ax.plot(shown.times[seen], shown.truth[seen], marks, color="#000000", markersize=4, alpha=0.35, label="truth")
    low, high, _ = shown.value_range()
    for model, line in zip(shown.predictions, ("-", "--", "-.", ":") * len(shown.predictions), strict=False):
        # what diverges must not hide all else
        values = shown.predictions[model]
        inside = np.where(np.abs(values - low) < 10 * (high - low), values, np.nan)
        ax.plot(shown.times, inside, line, color=shown.color(model), linewidth=1.3, label=_name(model))
        if shown.diverged(model) is not None:
            note(ax, f"{_name(model)}: {shown.verdict(model)}")
    ax.set_xlabel("t")
    legend(ax)


def _space_time(shown: Shown) -> Figure:
    """Draw three rows: values over space and time; errors, with their size over time; curves at three times."""
    models = list(shown.predictions)
    columns = max(2, 1 + len(models))
    figure = new_figure(3.6 * columns, 8.0 if models else 5.4)
    grid = figure.add_gridspec(3 if models else 2, columns)
    extent = (0.0, max(float(shown.times[-1]), shown.dt), *shown.bounds[0])

    def image(row: int, column: int, title: str, values: Array, style: Mapping[str, Any]) -> tuple[Axes, AxesImage]:
        ax = plain_axes(figure.add_subplot(grid[row, column if models else slice(None)]), title, grid=False)
        picture = _image(ax, values, extent, style)
        ax.set_xlabel("t")
        ax.tick_params(labelleft=column == min(row, 1))
        if column == min(row, 1):
            ax.set_ylabel(shown.axes[0])
        return ax, picture

    drawn = [image(0, 0, shown.truth_title, shown.truth, _values_style(shown))]
    for k, model in enumerate(models, start=1):
        drawn.append(image(0, k, _name(model), shown.predictions[model], _values_style(shown)))
        _say_diverged(drawn[-1][0], shown, model)
    _color_bar(figure, drawn[-1][1], [ax for ax, _ in drawn], shown.label)
    if models:
        limit = shown.error_limit()
        style = {"cmap": _colors("PuOr_r"), "vmin": -limit, "vmax": limit}
        _error_over_time(plain_axes(figure.add_subplot(grid[1, 0]), "Relative error over time"), shown)
        errors = [
            image(1, k, f"{_name(m)} - truth: {shown.verdict(m)}", shown.error(m), style)
            for k, m in enumerate(models, start=1)
        ]
        _color_bar(figure, errors[-1][1], [ax for ax, _ in errors], "error")
    row = grid[-1, :].subgridspec(1, 3)
    for k, frame in enumerate(_frames(shown, 4)[-3:]):
        _curves(figure.add_subplot(row[0, k]), shown, frame, named=k == 0)
    return figure


def _error_over_time(ax: Axes, shown: Shown) -> None:
    floor = shown.nrmse(shown.truth[:1] - shown.truth)
    curves = {model: shown.nrmse(shown.error(model)) for model in shown.predictions}
    for model, curve in curves.items():
        marker = marker_of(curve[1:])
        ax.plot(shown.times[1:], curve[1:], color=shown.color(model), marker=marker, label=_name(model))
    marker, grey = marker_of(floor[1:]), color_of("persistence", ())
    ax.plot(shown.times[1:], floor[1:], "--", color=grey, marker=marker, label="nothing changes")
    values = np.concatenate([floor[1:], *(curve[1:] for curve in curves.values())])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0:
        logarithmic(ax)
        ax.set_ylim(max(values.min(), 1e-12) / 2, min(values.max() * 2, 1e3))
    ax.set_xlabel("t")
    ax.set_ylabel("nrmse")
    legend(ax)


def _curves(ax: Axes, shown: Shown, frame: int, *, named: bool) -> None:
    plain_axes(ax, f"t = {shown.times[frame]:.3g}")
    low, high = shown.bounds[0]
    n = shown.truth.shape[1]
    x = low + (np.arange(n) + 0.5) * (high - low) / n
    ax.plot(x, shown.truth[frame], color="#000000", linewidth=2.6, alpha=0.35, label="truth")
    for model, line in zip(shown.predictions, ("-", "--", "-.", ":") * len(shown.predictions), strict=False):
        values = shown.predictions[model][frame]
        seen = np.where(np.abs(values) < 1e100, values, np.nan)
        ax.plot(x, seen, line, color=shown.color(model), linewidth=1.3, label=_name(model))
        if not np.isfinite(values).all():
            note(ax, f"{_name(model)} is not finite")
    style = _values_style(shown)
    margin = 0.25 * (style["vmax"] - style["vmin"])
    ax.set_ylim(style["vmin"] - margin, style["vmax"] + margin)
    ax.locator_params(nbins=6)
    ax.set_xlabel(shown.axes[0])
    if named:
        ax.set_ylabel(shown.label)
        legend(ax)


def _snapshots(shown: Shown) -> Figure:
    """Draw a row for the truth, each model and each model's error, and a column for each time."""
    models = list(shown.predictions)
    frames = _frames(shown, 4)
    (left, right), (bottom, top) = shown.bounds
    shape = min(max((top - bottom) / (right - left), 0.4), 2.0)
    rows = 1 + 2 * len(models)
    figure = new_figure(2.0 * len(frames) + 1.4, (max(1.85 * shape, 1.2) + 0.2) * rows + 0.6)
    grid = figure.add_gridspec(rows, len(frames))
    limit = shown.error_limit()
    error_style = {"cmap": _colors("magma_r"), "vmin": 0.0, "vmax": limit}

    def row(index: int, title: str, values: Array, style: Mapping[str, Any]) -> tuple[list[Axes], AxesImage]:
        axes = []
        for k, frame in enumerate(frames):
            ax = plain_axes(figure.add_subplot(grid[index, k]), grid=False)
            picture = _image(ax, values[frame], (left, right, bottom, top), style)
            axes.append(ax)
            if index == 0:
                ax.set_title(f"t = {shown.times[frame]:.3g}", fontsize=10)
            ax.locator_params(nbins=4)
            ax.tick_params(labelleft=k == 0, labelbottom=index == rows - 1)
            if index == rows - 1:
                ax.set_xlabel(shown.axes[0])
        axes[0].set_ylabel(f"{title}\n{shown.axes[1]}", fontsize=9)
        return axes, picture

    drawn = [row(0, shown.truth_title, shown.truth, _values_style(shown))]
    for k, model in enumerate(models, start=1):
        drawn.append(row(k, _name(model), shown.predictions[model], _values_style(shown)))
        for ax, frame in zip(drawn[-1][0], frames, strict=True):
            if not np.isfinite(shown.predictions[model][frame]).all():
                note(ax, "not finite")
    _color_bar(figure, drawn[0][1], [ax for axes, _ in drawn for ax in axes], shown.label)
    errors = []
    for k, model in enumerate(models, start=1 + len(models)):
        title = f"|{_name(model)} - truth|\n{shown.verdict(model)}"
        errors.append(row(k, title, np.abs(shown.error(model)), error_style))
    if errors:
        _color_bar(figure, errors[0][1], [ax for axes, _ in errors for ax in axes], "absolute error", "max")
    return figure


def _say_diverged(ax: Axes, shown: Shown, model: str) -> None:
    if shown.diverged(model) is not None:
        note(ax, shown.verdict(model))
        ax.title.set_color(WARNING)


def _name(model: str) -> str:
    return NAMES[model].capitalize() if model in NAMES else plain_text(model)


def _frames(shown: Shown, wanted: int) -> list[int]:
    """Return at most `wanted` frames from first to last, among the observed ones if there are enough."""
    seen = np.flatnonzero(np.isfinite(shown.truth).reshape(len(shown.truth), -1).any(axis=1))
    choice = seen if len(seen) >= wanted else np.arange(len(shown.truth))
    return sorted({int(choice[k]) for k in np.linspace(0, len(choice) - 1, wanted).round().astype(int)})
