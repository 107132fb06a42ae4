"""One field of a held-out simulation, of the truth and of the models, as figures and reports show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from hyco_engine.data.fields import StateLayout
from hyco_engine.report.drawing import Array, color_of, middle_slice, with_unit


def component_names(layout: StateLayout) -> list[str]:
    """Return `field` or `field.component` for all dynamic channels in order."""
    return [
        f"{info.name}.{part}" if part else info.name
        for info in layout.dynamic
        for part in (info.components if len(info.components) > 1 else ("",))
    ]


@attrs.frozen(kw_only=True, eq=False)
class Shown:
    """One field to draw, in at most two dimensions: `truth [T, *S]`, predictions of the same shape, names and axes."""

    truth: Array
    predictions: Mapping[str, Array]
    label: str
    dims: int
    axes: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    dt: float
    bands: Mapping[str, Array] = attrs.Factory(dict)
    """Half the width of the band around a prediction, by model."""

    @classmethod
    def of(
        cls,
        truth: NDArray[Any],
        predictions: Mapping[str, NDArray[Any]],
        layout: StateLayout,
        dt: float,
        field: str | None = None,
        across: str | None = None,
        bands: Mapping[str, NDArray[Any]] | None = None,
    ) -> Shown:
        """Take one field of `truth [T, C, *S]`, of `predictions` and of `bands`; see `comparison_figure` for `field`.

        Of three axes, `across` is the one in whose middle the slice lies, by default the last. Raise KeyError for an
        unknown field.
        """
        name, _, part = (field or layout.dynamic[0].name).partition(".")
        info = next((info for info in layout.dynamic if info.name == name), None)
        if info is None or (part and part not in info.components):
            raise KeyError(f"there is no dynamic field {field!r}")
        component = info.components.index(part) if part else 0
        channel = layout.channels(name).start + component
        own = tuple(map(slice, info.samples(layout.grid, component)))
        dims = len(layout.grid.axes)
        frames = min(len(truth), *(len(values) for values in predictions.values())) if predictions else len(truth)

        cut_at = layout.grid.axes.index(across) if across and dims == 3 else dims - 1
        kept = [axis for axis in range(dims) if dims < 3 or axis != cut_at]

        def cut(values: NDArray[Any]) -> Array:
            return middle_slice(
                np.asarray(values[:frames, channel], dtype=np.float64)[(slice(None), *own)], dims, cut_at
            )

        label = name if len(info.components) < 2 else f"{name}, {info.components[component]} component"
        label = with_unit(label, info.unit)
        if dims == 3:
            low, high = layout.grid.lower[cut_at], layout.grid.upper[cut_at]
            label += f" at {layout.grid.axes[cut_at]} = {(low + high) / 2:.3g}"
        return cls(
            truth=cut(truth),
            predictions={model: cut(values) for model, values in predictions.items()},
            bands={model: cut(values) for model, values in (bands or {}).items()},
            label=label,
            dims=min(dims, 2),
            axes=tuple(layout.grid.axes[axis] for axis in kept),
            bounds=tuple((layout.grid.lower[axis], layout.grid.upper[axis]) for axis in kept),
            dt=dt,
        )

    @property
    def times(self) -> Array:
        return self.dt * np.arange(len(self.truth), dtype=np.float64)

    @property
    def truth_title(self) -> str:
        return "Truth (grey: unknown)" if np.isnan(self.truth).any() else "Truth"

    def color(self, model: str) -> str:
        return color_of(model, tuple(self.predictions))

    def error(self, model: str) -> Array:
        """Return prediction minus truth; NaN where either is unknown, not finite, or too large to be squared."""
        with np.errstate(all="ignore"):
            error = self.predictions[model] - self.truth
        return np.where(np.abs(error) < 1e100, error, np.nan)

    def nrmse(self, values: Array) -> Array:
        """Return the nrmse of each frame, `[T]`; NaN where there is nothing to compare."""
        dims = tuple(range(1, values.ndim))
        with np.errstate(all="ignore"):
            squares = np.where(np.isnan(self.truth), np.nan, values**2)
            seen = (~np.isnan(self.truth)).sum(dims)
            energy = np.nansum(self.truth**2, dims)
            ratio: Array = np.sqrt(squares.sum(dims, where=~np.isnan(self.truth)) / np.where(seen, energy, np.nan))
        return ratio

    def diverged(self, model: str) -> int | None:
        """Return the first frame with a value that is not finite, or None."""
        bad = ~np.isfinite(self.predictions[model]).reshape(len(self.truth), -1).all(axis=1)
        return int(bad.argmax()) if bad.any() else None

    def verdict(self, model: str) -> str:
        """Return the error over all frames as a few words."""
        frame = self.diverged(model)
        if frame is not None:
            return f"not finite from t = {self.times[frame]:.3g}"
        by_frame = self.nrmse(self.error(model))[1:]
        by_frame = by_frame[np.isfinite(by_frame)]
        return f"nrmse {np.exp(np.log(np.maximum(by_frame, 1e-12)).mean()):.2g}" if by_frame.size else "no truth"

    def value_range(self) -> tuple[float, float, bool]:
        """Return (low, high, signed), the truth's range, symmetric if signed; diverged models do not affect it."""
        seen = self.truth[np.isfinite(self.truth)]
        low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
        if low < -0.2 * high and high > -0.2 * low:
            limit = max(-low, high)
            return -limit, limit, True
        pad = 0.0 if high > low else abs(low) * 0.1 or 1.0
        return low - pad, high + pad, False

    def error_limit(self) -> float:
        """Return one limit for all models' errors, below which nearly all lie, and at most the truth's spread."""
        errors = np.concatenate([np.abs(self.error(model)).ravel() for model in self.predictions] or [np.zeros(1)])
        errors = errors[np.isfinite(errors)]
        limit = float(np.quantile(errors, 0.995)) if errors.size else 0.0
        spread = float(np.nanmax(self.truth) - np.nanmin(self.truth)) if np.isfinite(self.truth).any() else 0.0
        return (min(limit, spread) if spread > 0 else limit) or spread or 1.0
