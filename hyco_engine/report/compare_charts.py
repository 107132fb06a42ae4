"""Charts of several runs: parameters with their error bars, and errors against lead time."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from matplotlib.axes import Axes

from hyco_engine.report.drawing import NAMES, Draw, legend, logarithmic, marker_of, plain_axes, plain_text, with_unit
from hyco_engine.report.numbers import is_number
from hyco_engine.report.side import MODELS, Side

MAX_PARAMETERS = 8
LINES = {"synthetic": "--", "physical": "-", "persistence": ":"}


def parameter_charts(sides: Sequence[Side]) -> list[Draw]:
    """Return a chart a parameter: the runs' estimates, their standard errors and the truth, or a field's error."""
    names = list(dict.fromkeys(name for side in sides for name in side.parameters))
    charts = []
    for name in names[:MAX_PARAMETERS]:
        having = [side for side in sides if side.parameters.get(name, {}).get("moved")]
        if all(is_number(side.parameters[name].get("final")) for side in having) and having:
            charts.append(_numbers(name, having))
        elif any(is_number(side.parameters[name].get("relative_error")) for side in having):
            charts.append(_fields(name, having))
    return charts


def _numbers(name: str, sides: Sequence[Side]) -> Draw:
    def draw(ax: Axes) -> None:
        entries = [side.parameters[name] for side in sides]
        plain_axes(ax, f"Parameter {with_unit(name, entries[0].get('unit'))}")
        seen = []
        for k, (side, entry) in enumerate(zip(sides, entries, strict=True)):
            error = entry.get("standard_error")
            bar = error if is_number(error) else None
            ax.errorbar(entry["final"], k, xerr=bar, fmt="o", color=side.color, capsize=4, markersize=6)
            seen += [entry["final"] - (bar or 0.0), entry["final"] + (bar or 0.0)]
        truth = entries[0].get("truth")
        if is_number(truth):
            seen.append(truth)
            ax.axvline(truth, color="#000000", linestyle="--", linewidth=1.1, label=f"truth: {truth:.4g}")
        margin = 0.12 * (max(seen) - min(seen)) or 0.05 * abs(seen[0]) or 1.0
        ax.set_xlim(min(seen) - margin, max(seen) + margin)
        ax.locator_params(axis="x", nbins=5)
        _rows(ax, sides)
        legend(ax)

    return draw


def _fields(name: str, sides: Sequence[Side]) -> Draw:
    def draw(ax: Axes) -> None:
        plain_axes(ax, f"Field {plain_text(name)}: error relative to the truth, %")
        values = [side.parameters[name].get("relative_error") for side in sides]
        for k, (side, value) in enumerate(zip(sides, values, strict=True)):
            if is_number(value):
                ax.barh(k, 100 * value, height=0.5, color=side.color)
        ax.set_xlim(left=0)
        _rows(ax, sides)

    return draw


def _rows(ax: Axes, sides: Sequence[Side]) -> None:
    """Give the axes one row for each run, the first on top."""
    ax.set_yticks(range(len(sides)), [plain_text(_short(side.name)) for side in sides])
    ax.set_ylim(len(sides) - 0.4, -0.6)


@attrs.frozen
class Keyed:
    """A chart whose legend the page shows: (classes in the style sheet, label) of each curve."""

    draw: Draw
    keys: Sequence[tuple[str, str]]


def lead_time_chart(sides: Sequence[Side], split: str) -> Keyed | None:
    """Return the errors of all models of all runs against lead time; None where nothing was rolled out."""
    curves = [
        (side, model, found["nrmse_by_step"])
        for model in MODELS
        for side in sides
        if any(map(is_number, (found := side.metrics(split).get(model) or {}).get("nrmse_by_step") or ()))
    ]
    # runs that share their data share the error of "nothing changes"
    floors = [curve for _, model, curve in curves if model == "persistence"]
    curves = [(s, m, c) for s, m, c in curves if m != "persistence"] + [
        next((s, m, c) for s, m, c in curves if m == "persistence" and c == floor)
        for k, floor in enumerate(floors)
        if floor not in floors[:k]
    ]
    if not curves:
        return None
    timed = all(side.run.data_dt for side, _, _ in curves)

    def draw(ax: Axes) -> None:
        plain_axes(ax, f"Error against lead time, {split} data")
        for side, model, curve in curves:
            steps = ((side.run.data_dt or 1.0) if timed else 1.0) * np.arange(1, len(curve) + 1)
            values = [value if is_number(value) else np.nan for value in curve]
            color = "#777777" if model == "persistence" else side.color
            ax.plot(steps, values, LINES[model], color=color, marker=marker_of(values))
        if all(value > 0 for _, _, curve in curves for value in curve if is_number(value)):
            logarithmic(ax)
        ax.set_xlabel("lead time t" if timed else "lead time in steps")
        ax.set_ylabel("nrmse")

    keys = [
        ("persistence", "nothing changes")
        if model == "persistence"
        else (f"{model} {side.style}", f"{NAMES[model]}, {side.name}")
        for side, model, _ in curves
    ]
    return Keyed(draw, keys)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"...{name[-25:]}"
