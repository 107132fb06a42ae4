"""The course of training: losses, held-out errors and parameters over the epochs of a run."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from matplotlib.axes import Axes

from hyco_engine.data.npy import read_array
from hyco_engine.report.drawing import (
    COLORS,
    NAMES,
    OTHER_COLORS,
    Array,
    Draw,
    heading,
    legend,
    logarithmic,
    middle_slice,
    new_figure,
    note,
    plain_axes,
    plain_text,
    save,
    with_unit,
)
from hyco_engine.report.numbers import is_number
from hyco_engine.runs.reading import RunFiles

Record = Mapping[str, Any]
Points = list[tuple[int, float]]
PLAYERS = ("synthetic", "physical")
MAX_PARAMETERS = 8
MAX_TERMS = 8
TERM_COLORS = ("#000000", *OTHER_COLORS)
_LOSSES = (
    ("all samples", ("train/loss",), "-", 1.4),
    ("real", ("train/loss_real", "train/loss/real"), "--", 1.1),
    ("generated", ("train/loss_generated", "train/loss/generated"), ":", 1.4),
)


def history_figure(
    records: Sequence[Record], summary: Mapping[str, Any], path: Path, folder: Path | None = None, title: str = ""
) -> Path:
    """Draw training losses, held-out errors against persistence, and parameters against truth as a PNG.

    `records` and `summary` are the contents of metrics.jsonl and summary.json; the figure leaves out what they lack.
    `folder` is the run folder, which holds the files of field parameters; by default the folder above `path`'s own.
    """
    panels = history_panels(records, summary, path.parent.parent if folder is None else folder)
    columns = 1 if len(panels) <= 1 else 2 if len(panels) <= 4 else 3
    rows = max(1, math.ceil(len(panels) / columns))
    figure = new_figure(4.4 * columns, 2.8 * rows)
    heading(figure, title)
    if not panels:
        note(plain_axes(figure.add_subplot()), "nothing was recorded")
    for k, draw in enumerate(panels):
        draw(figure.add_subplot(rows, columns, k + 1))
    return save(figure, path)


def history_panels(records: Sequence[Record], summary: Mapping[str, Any], folder: Path) -> list[Draw]:
    """Return the charts of `history_figure`, each a function that draws onto axes."""
    timeline = _Timeline.of(records)
    panels = [*_loss_panels(timeline), *_balance_panels(timeline), *_error_panels(timeline, summary)]
    return panels + _parameter_panels(timeline, summary, folder)


@attrs.frozen
class _Timeline:
    """The records on one axis: the epochs of both models, counted in the order in which they were trained."""

    records: list[tuple[int, Record]]
    cycles: list[int]
    """The epochs at which a new cycle starts, without the first cycle."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> _Timeline:
        placed: list[tuple[int, Record]] = []
        cycles: list[int] = []
        epoch, cycle = 0, None
        for record in records:
            if str(record.get("phase", "")).removeprefix("train_") not in PLAYERS:
                continue
            if cycle is not None and record.get("cycle") != cycle:
                cycles.append(epoch)
            cycle = record.get("cycle")
            epoch += "train/loss" in record
            placed.append((epoch, record))
        return cls(placed, cycles)

    def points(self, player: str, *keys: str) -> Points:
        """Return (epoch, value) of the first key that each record has; a value that is no finite number is NaN."""
        found: Points = []
        for epoch, record in self.records:
            key = next((key for key in keys if key in record), None)
            if key is not None and record["phase"] == f"train_{player}":
                found.append((epoch, float(record[key]) if is_number(record[key]) else math.nan))
        return found

    def terms(self, player: str) -> list[str]:
        """Return the loss terms with known weights and shares."""
        named = {key: None for _, record in self.records if record["phase"] == f"train_{player}" for key in record}
        terms = [key.removeprefix("weight/") for key in named if key.startswith("weight/")]
        return [term for term in terms if f"share/{term}" in named]

    def axis(self, ax: Axes) -> None:
        for epoch in self.cycles:
            ax.axvline(epoch + 0.5, color="#CCCCCC", linewidth=0.8, zorder=0)
        last = self.records[-1][0] if self.records else 1
        ax.set_xlim(-0.02 * last, 1.02 * max(last, 1) + 0.5)
        ax.set_xlabel("epoch of the run" + (" (vertical lines: next cycle)" if self.cycles else ""))


def _loss_panels(timeline: _Timeline) -> list[Draw]:
    def panel(player: str) -> Draw:
        def draw(ax: Axes) -> None:
            plain_axes(ax, f"Training loss: {NAMES[player]}")
            curves = [(label, timeline.points(player, *keys), line, width) for label, keys, line, width in _LOSSES]
            # without generated samples the loss of all samples and that of the real ones are one curve
            curves = [curve for curve in curves if curve[1]] if curves[2][1] else curves[:1]
            marker = "." if len(curves[0][1]) <= 20 else ""
            for label, points, line, width in curves:
                style = {"color": COLORS[player], "linewidth": width, "marker": marker}
                _plot(ax, _broken(points), line, label=label, **style)
            _log_scale(ax, [value for curve in curves for _, value in curve[1]])
            timeline.axis(ax)
            if len(curves) > 1:
                legend(ax)

        return draw

    return [panel(player) for player in PLAYERS if timeline.points(player, "train/loss")]


def _balance_panels(timeline: _Timeline) -> list[Draw]:
    """Chart the shares of the loss terms and their effective weights, for models whose loss has several terms."""

    def panel(player: str, terms: Sequence[str]) -> Draw:
        def draw(ax: Axes) -> None:
            plain_axes(ax, f"Balance of the loss: {NAMES[player]}")
            weights = plain_axes(ax.twinx(), grid=False)
            weights.spines["right"].set_visible(True)
            values = []
            for term, color in zip(terms, cycle(TERM_COLORS), strict=False):
                share, weight = (timeline.points(player, f"{kind}/{term}") for kind in ("share", "weight"))
                label = plain_text(term)
                _plot(ax, _broken(share), "-", color=color, linewidth=1.4, label=label)
                # relative to the first, since weights in the units of their terms may differ by ten orders of magnitude
                first = next((value for _, value in weight if value > 0), 1.0)
                changes = [(epoch, value / first) for epoch, value in weight]
                _plot(weights, _broken(changes), ":", color=color, linewidth=1.4)
                values += [value for _, value in changes]
            ax.set_ylim(-0.02, 1.02)
            ax.set_ylabel("share of the loss (solid)")
            if max(values, default=1.0) > 10 * min(values, default=1.0):
                _log_scale(weights, values)
            weights.set_ylabel("weight / its first (dotted)")
            timeline.axis(ax)
            legend(ax)

        return draw

    panels = []
    for player in PLAYERS:
        if terms := timeline.terms(player)[:MAX_TERMS]:
            panels.append(panel(player, terms))
    return panels


def _error_panels(timeline: _Timeline, summary: Mapping[str, Any]) -> list[Draw]:
    found = {player: timeline.points(player, "val/nrmse") for player in PLAYERS}
    if not any(found.values()):
        return []

    def draw(ax: Axes) -> None:
        plain_axes(ax, "Error on held-out real data")
        ax.set_ylabel("nrmse of full rollouts")
        values = [value for points in found.values() for _, value in points]
        for player, points in found.items():
            if points:
                last = f"{points[-1][1]:.3g}" if math.isfinite(points[-1][1]) else "not finite"
                _plot(ax, points, "o-", color=COLORS[player], markersize=3.5, label=f"{NAMES[player]}: {last}")
        floor = _look(summary, "metrics", "persistence", "val", "nrmse")
        if is_number(floor):
            values.append(floor)
            ax.axhline(floor, color=COLORS["persistence"], linestyle="--", label=f"nothing changes: {floor:.3g}")
        if not any(map(math.isfinite, values)):
            note(ax, "no finite error")
        _log_scale(ax, values)
        timeline.axis(ax)
        legend(ax)

    return [draw]


def _parameter_panels(timeline: _Timeline, summary: Mapping[str, Any], folder: Path) -> list[Draw]:
    panels: list[Draw] = []
    parameters = summary.get("parameters") or {}
    for name, entry in list(parameters.items())[:MAX_PARAMETERS]:
        points = timeline.points("physical", f"param/{name}")
        if points and not _mean_is_rounding(entry):
            panels.append(_parameter_panel(timeline, name, entry, points))
        found = {role: _profile(entry.get(role), folder) for role in ("final", "truth", "initial")}
        panels += _profile_panels(name, entry, {role: field for role, field in found.items() if field is not None})
    return panels


def _mean_is_rounding(entry: Mapping[str, Any]) -> bool:
    """Return True for a field that is known up to a constant only: its mean keeps its start value."""
    final = entry.get("final")
    if not isinstance(final, Mapping) or not all(is_number(final.get(key)) for key in ("mean", "min", "max")):
        return False
    return bool(abs(final["mean"]) < 1e-6 * (final["max"] - final["min"]))


def _parameter_panel(timeline: _Timeline, name: str, entry: Mapping[str, Any], points: Points) -> Draw:
    is_field = isinstance(entry.get("final"), Mapping)

    def draw(ax: Axes) -> None:
        title = with_unit(name, entry.get("unit"))
        of = "" if entry.get("along") else "the field "
        plain_axes(ax, f"Mean of {of}{title}" if is_field else f"Parameter {title}")
        start, truth = _level(entry.get("initial")), _level(entry.get("truth"))
        held = _held(points if start is None else [(0, start), *points])
        _plot(ax, held, "-", color=COLORS["physical"], linewidth=1.6, label=f"learned: {points[-1][1]:.4g}")
        deviation = entry.get("standard_error")
        if is_number(deviation):
            label = f"standard error: {deviation:.2g}"
            ax.errorbar(*points[-1], yerr=deviation, color=COLORS["physical"], capsize=3, label=label)
        if truth is not None:
            off = entry.get("relative_error")
            aside = f" ({100 * off:.2g} % off)" if is_number(off) and not is_field else ""
            ax.axhline(truth, color=COLORS["truth"], linestyle="--", linewidth=1.1, label=f"truth: {truth:.4g}{aside}")
        if start is not None:
            ax.plot([0], [start], "o", color="#777777", markersize=5, zorder=5, label=f"start: {start:.4g}")
        values = [value for _, value in held] + ([] if truth is None else [truth])
        if min(values, default=0.0) > 0 and max(values) > 30 * min(values):
            logarithmic(ax)
        timeline.axis(ax)
        legend(ax)

    return draw


def _profile_panels(name: str, entry: Mapping[str, Any], profiles: Mapping[str, Array]) -> list[Draw]:
    """Chart the learned field itself: curves in one dimension, else an image of it and one of the truth."""
    if "final" not in profiles:
        return []
    off = entry.get("relative_error")
    times = entry.get("times")
    if times is not None and len(times) != len(profiles["final"]):
        times = None
    kind = "Field" if times is None else "Function of time"
    title = f"{kind} {with_unit(name, entry.get('unit'))}" + (f": {100 * off:.2g} % off" if is_number(off) else "")

    def curves(ax: Axes) -> None:
        plain_axes(ax, title)
        styles = {"final": ("learned", "-", "physical"), "truth": ("truth", "--", "truth")}
        for role, (label, line, color) in {**styles, "initial": ("start", ":", "persistence")}.items():
            if role in profiles:
                places = range(len(profiles[role])) if times is None else times
                ax.plot(places, profiles[role], line, color=COLORS[color], label=label)
        ax.set_xlabel("cell" if times is None else "time")
        legend(ax)

    def image(role: str, heading: str) -> Draw:
        cuts = {role: middle_slice(values, values.ndim) for role, values in profiles.items()}
        limits = cuts.get("truth", cuts["final"])

        def draw(ax: Axes) -> None:
            plain_axes(ax, heading, grid=False)
            low, high = float(np.nanmin(limits)), float(np.nanmax(limits))
            picture = ax.imshow(cuts[role].T, origin="lower", cmap="viridis", vmin=low, vmax=high)
            ax.figure.colorbar(picture, ax=ax, extend="both").ax.tick_params(labelsize=8)
            ax.set_xlabel("cell")

        return draw

    if profiles["final"].ndim == 1:
        return [curves]
    panels = [image("final", title)]
    return (
        [*panels, image("truth", with_unit(f"Truth of {name}", entry.get("unit")))] if "truth" in profiles else panels
    )


def _profile(value: Any, folder: Path) -> Array | None:
    """Load the field of a summary's `{mean, min, max, file}`; None where there is none, or none that can be shown."""
    name = value.get("file") if isinstance(value, Mapping) else None
    if not name:
        return None
    files = RunFiles(folder)
    if (content := files.read(name, memory=4)) is None:
        return None
    try:
        values = np.asarray(read_array(io.BytesIO(content), len(content)), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise files.damaged(name, error) from error
    return values if values.ndim in (1, 2, 3) and np.isfinite(values).any() else None


def _level(value: Any) -> float | None:
    """Return the number itself, or a field's mean."""
    level = value.get("mean") if isinstance(value, Mapping) else value
    return float(level) if is_number(level) else None


def _look(data: Any, *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _plot(ax: Axes, points: Points, line: str, **style: Any) -> None:
    ax.plot([x for x, _ in points], [y for _, y in points], line, **style)


def _broken(points: Points) -> Points:
    """Return the points with a gap wherever the other model was trained."""
    broken: Points = []
    for k, (x, y) in enumerate(points):
        if k and x > points[k - 1][0] + 1:
            broken.append((x, math.nan))
        broken.append((x, y))
    return broken


def _held(points: Points) -> Points:
    """Return the points with the value held constant while the other model was trained."""
    held: Points = []
    for x, y in points:
        if held and x > held[-1][0] + 1:
            held.append((x - 1, held[-1][1]))
        held.append((x, y))
    return held


def _log_scale(ax: Axes, values: Sequence[float]) -> None:
    """Make the axis logarithmic if all values allow it."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0:
        logarithmic(ax)
