"""The posterior of a run's parameters: histograms, pairs, and bands over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hyco_engine.report.drawing import COLORS, Array, Draw, heading, legend, new_figure, plain_axes, plain_text, save
from hyco_engine.report.numbers import significant

MOST_PARAMETERS = 6
"""Only so many parameters are drawn."""
BINS = 24
BLUE = COLORS["physical"]
WITHIN = 1.96
"""So many standard deviations hold 95 % of readings."""


def posterior_panels(found: Mapping[str, Any]) -> list[Draw]:
    """Chart the draws of each parameter and of each pair of them, and the bands of a few values over time."""
    draws = _draws(found)
    alone: list[Draw] = [partial(_histogram, found=found, name=name) for name in draws]
    pairs: list[Draw] = [partial(_pair, names=pair, draws=draws) for pair in combinations(draws, 2)]
    return [*alone, *pairs, *(partial(_band, band=band) for band in found["bands"])]


def posterior_text(found: Mapping[str, Any]) -> str:
    """Say in sentences what the posterior is."""
    parts = [
        f"{name} is {significant(own['median'], 4)}, with 95 % between {significant(own['interval'][0], 4)} and "
        f"{significant(own['interval'][1], 4)}"
        for name, own in list(found["parameters"].items())[:MOST_PARAMETERS]
    ]
    counted = f"{found['effective_samples']} effective samples of the posterior."
    bands = "Dark bands hold 95 % of the physics' predictions, light ones 95 % of noisy readings of them."
    told = [f"{'; '.join(parts)}.", counted, *([bands] if found["bands"] else [])]
    return " ".join([*told, *([f"Warning: {found['warning']}."] if found.get("warning") else [])])


def posterior_figure(found: Mapping[str, Any], path: Path) -> Path:
    """Draw a corner plot, with the bands in a row below it."""
    draws, bands = _draws(found), found["bands"]
    names, size = list(draws), len(draws)
    heights = [2.2 * size, *([2.4] if bands else [])]
    figure = new_figure(max(2.6 * size, 2.9 * len(bands)), sum(heights))
    parts = np.atleast_1d(np.asarray(figure.subfigures(2 if bands else 1, 1, height_ratios=heights)))
    for row, own in enumerate(names):
        for column, other in enumerate(names[: row + 1]):
            ax = parts[0].add_subplot(size, size, row * size + column + 1)
            if row == column:
                _histogram(ax, found=found, name=own)
            else:
                _pair(ax, names=(other, own), draws=draws)
    for k, band in enumerate(bands):
        _band(parts[1].add_subplot(1, len(bands), k + 1), band=band)
    heading(figure, "Posterior of the parameters")
    path.parent.mkdir(exist_ok=True)
    return save(figure, path)


def _draws(found: Mapping[str, Any]) -> dict[str, Array]:
    parameters = list(found["parameters"].items())[:MOST_PARAMETERS]
    return {name: np.asarray(own["draws"], dtype=np.float64) for name, own in parameters}


def _histogram(ax: Axes, *, found: Mapping[str, Any], name: str) -> None:
    own = found["parameters"][name]
    plain_axes(ax, f"Posterior of {plain_text(name)}", grid=False)
    ax.hist(own["draws"], bins=BINS, color=BLUE, histtype="stepfilled", alpha=0.6)
    for value, style in ((own["median"], "-"), *((edge, "--") for edge in own["interval"])):
        ax.axvline(value, color=COLORS["synthetic"], linewidth=1.0, linestyle=style)
    ax.set_yticks([])
    ax.set_xlabel(plain_text(name))
    _few_ticks(ax)


def _pair(ax: Axes, *, names: Sequence[str], draws: Mapping[str, Array]) -> None:
    one, other = names
    plain_axes(ax, f"Posterior of {plain_text(one)} and {plain_text(other)}", grid=False)
    # points would make a page of megabytes
    count, x, y = np.histogram2d(draws[one], draws[other], bins=BINS // 2)
    ax.contourf((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2, count.T, levels=6, cmap="Blues")
    ax.set_xlabel(plain_text(one))
    ax.set_ylabel(plain_text(other))
    _few_ticks(ax)


def _band(ax: Axes, *, band: Mapping[str, Any]) -> None:
    plain_axes(ax, plain_text(band["value"]))
    low, median, high, observed = (_known(band[name]) for name in ("low", "median", "high", "observed"))
    noise = WITHIN * (band.get("noise") or 0.0)
    wider = median - np.hypot(median - low, noise), median + np.hypot(high - median, noise)
    ax.fill_between(band["time"], *wider, color=BLUE, alpha=0.15, linewidth=0, label="95 % of readings")
    ax.fill_between(band["time"], low, high, color=BLUE, alpha=0.5, linewidth=0, label="95 % of predictions")
    ax.plot(band["time"], median, color=BLUE, linewidth=1.0)
    ax.plot(band["time"], observed, ".", color=COLORS["truth"], markersize=3, label="observed")
    ax.set_xlabel("t")
    legend(ax)


def _known(values: Sequence[float | None]) -> Array:
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)


def _few_ticks(ax: Axes) -> None:
    ax.locator_params(axis="x", nbins=4)
