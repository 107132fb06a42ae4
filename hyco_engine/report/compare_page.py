"""Runs side by side on one page: parameters, errors, and rollouts of one held-out simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from hyco_engine.report.compare_charts import lead_time_chart, parameter_charts
from hyco_engine.report.compare_words import sentences
from hyco_engine.report.drawing import NAMES
from hyco_engine.report.numbers import is_number, seconds, significant
from hyco_engine.report.page import RunRecord
from hyco_engine.report.page_tables import parameter_rows
from hyco_engine.report.rendering import render
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.report.side import MODELS, Side, sides_of
from hyco_engine.report.svg import svg_chart
from hyco_engine.report.views import MAX_BYTES, views
from hyco_engine.runs.files import write_atomic
from hyco_engine.untrusted import parse_toml

MAX_PICTURES = 6
"""Largest number of rollouts beside one truth; more would be too small to see."""
MAX_DIFFERENCES = 60


def write_comparison(found: Mapping[str, Any], out: Path | None = None) -> Path:
    """Write the page for what `compare_spec` or `compare_runs` returned; return its path.

    `out` is by default `<first run>-compared.html` beside that run. Raise DataError where a run folder is damaged.
    """
    first = Path(found["runs"][0]["run"])
    path = out or first.with_name(f"{first.name}-compared.html")
    write_atomic(path, comparison_page(found))
    return path


def comparison_page(found: Mapping[str, Any]) -> str:
    """Return the page as text. Like a run's report, it is made from the run folders alone."""
    records = [RunRecord.of(Path(row["run"])) for row in found["runs"]]
    sides = sides_of([row["name"] for row in found["runs"]], records)
    split = "test" if all(side.errors("test") for side in sides) else "val"
    drawn, left_out = _views(sides)
    charts: list[dict[str, Any]] = [{"svg": svg_chart(draw), "keys": []} for draw in parameter_charts(sides)]
    if (lead_times := lead_time_chart(sides, split)) is not None:
        charts.append({"svg": svg_chart(lead_times.draw), "keys": lead_times.keys})
    return render(
        "compare.html",
        name=" / ".join(side.name for side in sides),
        sides=sides,
        comparable=found["comparable"],
        notes=found["notes"],
        sentences=sentences(sides, split),
        tables=[_errors(sides, split, mark=found["comparable"]), *_parameters(sides), _compute(sides, found["runs"])],
        charts=charts,
        views=drawn,
        player_title="The same held-out simulation",
        left_out=left_out,
        differences=_differences(sides),
    )


def _errors(sides: Sequence[Side], split: str, *, mark: bool) -> dict[str, Any]:
    """Return the errors of each run's models and of persistence; `mark` marks the smallest one in each column."""
    found = {side.name: side.errors(split) for side in sides}
    models = [model for model in MODELS if any(model in errors for errors in found.values())]
    columns = []
    for model in models:
        values = [found[side.name].get(model) for side in sides]
        numbers = [value for value in values if is_number(value)]
        best = min(numbers) if mark and len(numbers) > 1 and model in NAMES else None
        cells = [
            _cell("", "")
            if model not in found[side.name]
            else _cell(_number(value), "best" if is_number(value) and value == best else "")
            for side, value in zip(sides, values, strict=True)
        ]
        columns.append(cells)
    measure = "nrmse of whole rollouts" if any(side.measures_rollouts(split) for side in sides) else "loss"
    return {
        "wide": False,
        "caption": f"Errors on held-out real {'validation' if split == 'val' else split} data: {measure}",
        "columns": [NAMES.get(model, "nothing changes") for model in models],
        "rows": [_row(side, [column[k] for column in columns]) for k, side in enumerate(sides)],
        "note": "0 is perfect; “nothing changes” repeats the last frame known before what is predicted, and every "
        "model should beat it." + (" The smallest error of each column is bold." if mark else ""),
    }


def _parameters(sides: Sequence[Side]) -> list[dict[str, Any]]:
    found = {side.name: {row["name"]: row for row in parameter_rows(side.parameters)} for side in sides}
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    if not names:
        return []
    heads, columns = [], []
    for name in names:
        rows = [found[side.name].get(name) for side in sides]
        first = next(row for row in rows if row)
        about = [part for part in (first["unit"], f"truth {first['truth']}" if first["truth"] else "") if part]
        heads.append(f"{name} ({', '.join(about)})" if about else name)
        cells = [
            _cell(row["found"] + (f", {row['off']} off" if row["off"] else ""), "") if row else _cell("", "")
            for row in rows
        ]
        columns.append(cells)
    bars = any("±" in cell["text"] for column in columns for cell in column)
    return [
        {
            "wide": len(names) > 2,
            "caption": "Parameters of the physics",
            "columns": heads,
            "rows": [_row(side, [column[k] for column in columns]) for k, side in enumerate(sides)],
            "note": "± is one standard error, the uncertainty from noise in the data." if bars else "",
        }
    ]


def _compute(sides: Sequence[Side], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the cost of each run: samples seen and time."""
    players = [player for player in NAMES if any(player in row["samples"] for row in rows)]
    cells = [
        [
            *(
                _cell(
                    str(row["samples"].get(player, ""))
                    + (", until the optimizer converged" if player in row["converged"] else ""),
                    "",
                )
                for player in players
            ),
            _cell(seconds(row["seconds"] or 0.0), ""),
            _cell(side.device, ""),
        ]
        for side, row in zip(sides, rows, strict=True)
    ]
    return {
        "wide": True,
        "caption": "Compute",
        "columns": [*(f"samples seen by the {NAMES[player]}" for player in players), "time", "device"],
        "rows": [_row(side, row) for side, row in zip(sides, cells, strict=True)],
        "note": "Each sample, real or generated, counts once an epoch. Times include the simulation of data that was "
        "not cached.",
    }


def _row(side: Side, cells: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    return {"side": side, "cells": cells}


def _cell(text: str, style: str) -> dict[str, str]:
    return {"text": text, "style": style}


def _number(value: Any) -> str:
    return significant(value, 4) if is_number(value) else "diverged"


# --- pictures -----------------------------------------------------------------------------------------------------


def _views(sides: Sequence[Side]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return (the views that the page's script draws, rollouts that are left out); runs with one truth share a view."""
    groups: list[list[Side]] = []
    for side in sides:
        if side.run.rollout is not None:
            same = (group for group in groups if _same_truth(group[0].run.rollout, side.run.rollout))
            if (group := next(same, None)) is None:
                groups.append([side])
            else:
                group.append(side)
    drawn, left_out = [], []
    for group in groups:
        labels = {
            f"{NAMES[player].capitalize()}, {side.name}": (side, player)
            for player in NAMES
            for side in group
            if side.run.rollout is not None and player in side.run.rollout.predictions
        }
        shown = dict(list(labels.items())[:MAX_PICTURES])
        left_out += list(labels)[MAX_PICTURES:]
        one = group[0].run.rollout
        assert one is not None
        predictions = {
            label: side.run.rollout.predictions[player] for label, (side, player) in shown.items() if side.run.rollout
        }
        styles = {label: f"{side.style} {player}" for label, (side, player) in shown.items()}
        for view in views(attrs.evolve(one, predictions=predictions, bands={}), styles, MAX_BYTES // len(groups)):
            names = ", ".join(side.name for side in group)
            drawn.append(view if len(groups) == 1 else {**view, "choice": f"{view['choice']}: {names}"})
    return drawn, left_out


def _same_truth(one: HeldOutRollout | None, other: HeldOutRollout | None) -> bool:
    assert one is not None
    assert other is not None
    return (
        one.layout == other.layout
        and one.dt == other.dt
        and one.split == other.split
        and np.array_equal(one.truth, other.truth, equal_nan=True)
    )


# --- specs --------------------------------------------------------------------------------------------------------


def _differences(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Return the spec keys that differ between runs; a table that only some runs have takes one line."""
    rows: list[dict[str, Any]] = []

    def look(path: str, values: Sequence[Any]) -> None:
        # the settings of a model that a run lacks have no effect
        known = [value for value in values if value is not None] if path.startswith("training.") else values
        if all(isinstance(value, Mapping) for value in known):
            for key in dict.fromkeys(key for value in known for key in value):
                look(f"{path}.{key}" if path else key, [None if v is None else v.get(key) for v in values])
        elif any(value != known[0] for value in known):
            rows.append({"key": path, "values": [_value(value) for value in values]})

    look("", [_trained(_tables(side.run.spec)) for side in sides])
    return [row for row in rows if row["key"] != "run.name"][:MAX_DIFFERENCES]


def _value(value: Any) -> str:
    """Return a value as text: a table by its kind, a missing value as a dash."""
    return str(value.get("kind", "there")) if isinstance(value, Mapping) else "–" if value is None else str(value)


def _trained(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the spec without the settings of a model that it lacks."""
    training = {name: table for name, table in spec.get("training", {}).items() if name in spec}
    return {**spec, "training": training}


def _tables(spec: str) -> Mapping[str, Any]:
    try:
        return {name: table for name, table in parse_toml(spec).items() if isinstance(table, Mapping)}
    except ValueError:
        return {}
