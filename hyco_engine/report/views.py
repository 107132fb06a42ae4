"""Fields of a rollout as bytes that a page can draw: one byte a value, and two for curves."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from hyco_engine.report.drawing import MISSING, NAMES, Array
from hyco_engine.report.numbers import is_number
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.report.shown import Shown, component_names

MAX_VIEWS = 9
MAX_BYTES = 2_400_000
"""Largest size of all views together, before they are encoded as text."""
MAX_CELLS = 192
"""Largest number of cells along one axis, more than a phone or a column of a page can show."""


def views(
    rollout: HeldOutRollout, styles: Mapping[str, str] | None = None, max_bytes: int = MAX_BYTES
) -> list[dict[str, Any]]:
    """Return what the page's script draws, one entry for each component, and in 3-D for each direction of the slice.

    Fields without space have nothing to play; `curve_panels` charts them.

    `styles` are the classes, in the page's style sheet, of models whose names are not in `NAMES`.

    `panels` hold `values [T, ny, nx]` (2-D, first row on top) or `[T, nx]` (1-D) as base64 of bytes: 0 is unknown, 1
    to 255 are `low` to `high` of their `scale`. In 1-D `curve [T, nx]` holds the same in 16 bits over a range that is
    wider by a half.
    """
    grid = rollout.layout.grid
    if not grid.axes:
        return []
    across = list(reversed(grid.axes)) if len(grid.axes) == 3 else [None]
    wanted = [(name, axis) for name in component_names(rollout.layout) for axis in across][:MAX_VIEWS]
    budget = max_bytes // max(1, len(wanted))
    return [
        _view(
            _small(
                Shown.of(
                    rollout.truth, rollout.predictions, rollout.layout, rollout.dt, name, axis, bands=rollout.bands
                ),
                budget,
            ),
            styles or {},
        )
        for name, axis in wanted
    ]


def _small(shown: Shown, budget: int) -> Shown:
    """Thin long axes, then frames, so that all panels fit into `budget` bytes."""
    cells = tuple(slice(None, None, math.ceil(n / MAX_CELLS)) for n in shown.truth.shape[1:])

    def cut(shown: Shown, parts: tuple[slice, ...], dt: float) -> Shown:
        predictions = {model: values[parts] for model, values in shown.predictions.items()}
        bands = {model: values[parts] for model, values in shown.bands.items()}
        return attrs.evolve(shown, truth=shown.truth[parts], predictions=predictions, bands=bands, dt=dt)

    shown = cut(shown, (slice(None), *cells), shown.dt)
    frames = len(shown.truth)
    each = (
        (1 + 2 * len(shown.predictions) + len(shown.bands))
        * math.prod(shown.truth.shape[1:])
        * (3 if shown.dims == 1 else 1)
    )
    step = min(math.ceil(frames * each / budget), max(1, frames - 1))
    return cut(shown, (slice(None, None, step),), shown.dt * step) if step > 1 else shown


def _view(shown: Shown, styles: Mapping[str, str]) -> dict[str, Any]:
    low, high, signed = shown.value_range()
    limit = shown.error_limit()
    one = shown.dims == 1
    scales = {
        "value": {
            "low": low,
            "high": high,
            "colors": _lut("RdBu_r" if signed else "viridis"),
            "of": _plain(shown.label),
        },
        "error": {
            "low": -limit if one else 0.0,
            "high": limit,
            "colors": _lut("PuOr_r" if one else "magma_r"),
            "of": "error" if one else "absolute error",
        },
    }
    panels = [_panel("truth", "Truth", shown.truth, scales["value"], "value", shown)]
    for model, values in shown.predictions.items():
        panels.append(_panel(styles.get(model, model), _name(model), values, scales["value"], "value", shown))
    for model in shown.predictions:
        error = shown.error(model)
        title = f"{_name(model)} − truth" if one else f"|{_name(model)} − truth|"
        style = f"{styles.get(model, model)}-error"
        panel = _panel(style, title, error if one else np.abs(error), scales["error"], "error", shown)
        panel["nrmse"] = [round(float(v), 6) if is_number(float(v)) else None for v in shown.nrmse(error)]
        if (frame := shown.diverged(model)) is not None:
            panel["note"] = f"not finite from t = {shown.times[frame]:.3g}"
        panels.append(panel)
        if model in shown.bands:
            style, title = f"{styles.get(model, model)}-band", f"{_name(model)}: half-width of its band"
            panels.append(_panel(style, title, shown.bands[model], scales["error"], "error", shown))
    return {
        "label": _plain(shown.label),
        "choice": _plain(shown.label),
        "dims": shown.dims,
        "axes": list(shown.axes),
        "bounds": [list(pair) for pair in shown.bounds],
        "cells": list(shown.truth.shape[1:]),
        "times": [float(f"{t:.6g}") for t in shown.times],
        "scales": scales,
        "panels": panels,
    }


def _panel(key: str, title: str, values: Array, scale: dict[str, Any], name: str, shown: Shown) -> dict[str, Any]:
    low, high = scale["low"], scale["high"]
    panel: dict[str, Any] = {"key": key, "title": title, "scale": name}
    if np.isnan(values).any() and key == "truth":
        panel["note"] = "grey: not observed"
    if shown.dims == 1:
        panel["values"] = _text(quantised(values, low, high, 255).astype(np.uint8))
        if name == "value":
            pad = (high - low) / 4
            panel["curve"] = _text(quantised(values, low - pad, high + pad, 65535).astype("<u2"))
    else:
        # images are stored from the top left, row by row
        panel["values"] = _text(quantised(values, low, high, 255).astype(np.uint8).transpose(0, 2, 1)[:, ::-1])
    return panel


def quantised(values: NDArray[Any], low: float, high: float, top: int) -> NDArray[np.int64]:
    """Map `low` to `high` onto 1 to `top`, clipped; 0 where a value is not finite."""
    known = np.isfinite(values)
    clipped = np.clip(np.where(known, values, low), low, high)
    levels = 1 + np.round((clipped - low) / (high - low) * (top - 1))
    return np.where(known, levels, 0).astype(np.int64)


def _lut(name: str) -> str:
    """Return 256 colours, three bytes each; the first is for unknown values."""
    missing = [int(MISSING[k : k + 2], 16) for k in (1, 3, 5)]
    colors = np.round(255 * colormaps[name](np.linspace(0, 1, 255))[:, :3]).astype(np.uint8)
    return _text(np.vstack([np.array([missing], np.uint8), colors]))


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _name(model: str) -> str:
    return NAMES[model].capitalize() if model in NAMES else model


def _plain(label: str) -> str:
    """Return a label that was written for matplotlib as plain text."""
    return label.replace(r"\$", "$")
