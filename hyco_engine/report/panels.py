"""Charts of a report: error against lead time, and of the held-out simulation curves over time, and spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from hyco_engine.report.comparison import over_time
from hyco_engine.report.drawing import (
    COLORS,
    NAMES,
    Array,
    Draw,
    color_of,
    legend,
    logarithmic,
    marker_of,
    plain_axes,
    plain_text,
)
from hyco_engine.report.numbers import is_number
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.report.shown import Shown, component_names

MODELS = ("physical", "synthetic", "persistence")
MAX_SPECTRA = 4
MAX_CURVES = 12


def lead_time_panels(metrics: Mapping[str, Any], dt: float | None) -> list[Draw]:
    """Chart the error against lead time for each held-out split; without `dt` lead times are counted in steps."""

    def panel(split: str, curves: Mapping[str, Sequence[Any]]) -> Draw:
        def draw(ax: Axes) -> None:
            plain_axes(ax, f"Error against lead time, {split} data")
            for model, curve in curves.items():
                steps = (dt or 1) * np.arange(1, len(curve) + 1)
                values = [value if is_number(value) else np.nan for value in curve]
                color, marker = color_of(model, ()), marker_of(values)
                ax.plot(steps, values, _line(model), color=color, marker=marker, label=_name(model))
            if all(value > 0 for curve in curves.values() for value in curve if is_number(value)):
                logarithmic(ax)
            ax.set_xlabel("lead time" if dt is None else "lead time t")
            ax.set_ylabel("nrmse")
            legend(ax)

        return draw

    panels = []
    for split in ("val", "test"):
        found = {}
        for model in MODELS:
            curve = ((metrics.get(model) or {}).get(split) or {}).get("nrmse_by_step")
            if curve and any(map(is_number, curve)):
                found[model] = curve
        if found:
            panels.append(panel(split, found))
    return panels


def curve_panels(rollout: HeldOutRollout) -> list[Draw]:
    """Chart each component of fields that have no place over time, of truth and models; there are none on a grid."""
    if rollout.layout.n_axes:
        return []
    names = component_names(rollout.layout)[:MAX_CURVES]
    every = [Shown.of(rollout.truth, rollout.predictions, rollout.layout, rollout.dt, name) for name in names]
    return [partial(over_time, shown=shown) for shown in every]


def spectrum_panels(rollout: HeldOutRollout) -> list[Draw]:
    """Chart the energy against wave number at the last frame, of truth and models, for each dynamic component."""

    def panel(name: str, shown: Shown, frame: int, curves: Mapping[str, tuple[Array, Array]]) -> Draw:
        def draw(ax: Axes) -> None:
            plain_axes(ax, f"Spectrum of {plain_text(name)} at t = {shown.times[frame]:.3g}")
            for model, (waves, energy) in curves.items():
                is_truth = model == "truth"
                color = color_of(model, tuple(rollout.predictions))
                width, alpha = (2.6, 0.4) if is_truth else (1.3, 1.0)
                ax.plot(waves, energy, color=color, linewidth=width, alpha=alpha, label=_name(model))
            logarithmic(ax, "x")
            logarithmic(ax)
            top = max(float(energy.max()) for _, energy in curves.values())
            # energies below it are rounding errors
            ax.set_ylim(max(top * 1e-12, min(float(energy.min()) for _, energy in curves.values())), top * 3)
            ax.set_xlabel("waves along the domain")
            ax.set_ylabel("energy")
            legend(ax)

        return draw

    panels = []
    for name in component_names(rollout.layout)[:MAX_SPECTRA]:
        shown = Shown.of(rollout.truth, rollout.predictions, rollout.layout, rollout.dt, name)
        complete = np.flatnonzero(np.isfinite(shown.truth).reshape(len(shown.truth), -1).all(axis=1))
        if not len(complete) or complete[-1] == 0 or min(shown.truth.shape[1:], default=0) < 8:
            continue
        frame = int(complete[-1])
        values = {"truth": shown.truth[frame], **{model: v[frame] for model, v in shown.predictions.items()}}
        curves = {model: spectrum(v) for model, v in values.items() if np.isfinite(v).all() and np.abs(v).max() < 1e100}
        curves = {model: curve for model, curve in curves.items() if (curve[1] > 0).any()}
        if "truth" in curves:
            panels.append(panel(name, shown, frame, curves))
    return panels


def physics_test_panels(test: Mapping[str, Any], dt: float | None) -> list[Draw]:
    """Chart the residual by lead time over what is expected, and where something is missing, the map of its rate."""
    fields = test.get("fields") or {}

    def leads(ax: Axes) -> None:
        plain_axes(ax, "Residual over the expected one")
        for name, own in fields.items():
            values = own.get("by_lead") or ()
            times = (dt or 1) * np.arange(1, len(values) + 1)
            ax.plot(times, values, marker=marker_of(values), label=plain_text(name))
        ax.axhline(1.0, color=COLORS["persistence"], linewidth=0.8, linestyle="--")
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("lead time" if dt is None else "lead time t")
        legend(ax)

    def map_of(name: str, values: Array) -> Draw:
        def draw(ax: Axes) -> None:
            plain_axes(ax, f"Mean rate that is missing in {plain_text(name)}", grid=values.ndim == 1)
            if values.ndim == 1:
                ax.plot(np.linspace(0, 1, len(values)), values, color=COLORS["physical"])
                ax.axhline(0.0, color=COLORS["persistence"], linewidth=0.8)
                ax.set_xlabel("place along the domain")
                return
            top = float(np.nanmax(np.abs(values))) or 1.0
            image = ax.imshow(values.T, origin="lower", cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.figure.colorbar(image, ax=ax)

        return draw

    maps = {name: _numbers(rate) for name, rate in (test.get("rate") or {}).items()}
    # without space the rate is one number
    shown = {name: values for name, values in maps.items() if values.size and values.ndim}
    return [leads, *(map_of(name, values) for name, values in list(shown.items())[:MAX_SPECTRA])]


def _numbers(rows: Any) -> Array:
    """Return nested lists as an array, in which None is NaN; an empty one for anything else."""
    try:
        return np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)


def spectrum(values: NDArray[Any]) -> tuple[Array, Array]:
    """Return (wave numbers, energy): |FFT|^2 / N^2 summed over shells of equal |k|.

    Wave numbers count waves along the shortest axis. The mean is left out, and so are shells that the grid resolves
    only in some directions.
    """
    power = np.abs(np.fft.fftn(values)) ** 2 / values.size**2
    waves = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in values.shape), indexing="ij")
    shells = np.sqrt(sum(k**2 for k in waves)).round().astype(int)
    energy: Array = np.bincount(shells.ravel(), power.ravel())[1 : min(values.shape) // 2 + 1].astype(np.float64)
    return np.arange(1.0, len(energy) + 1), energy


def _name(model: str) -> str:
    return {"persistence": "nothing changes", "truth": "truth"}.get(model) or NAMES.get(model) or plain_text(model)


def _line(model: str) -> str:
    return "--" if model == "persistence" else "-"
