"""All metrics of full rollouts, by field and lead time, with the names and definitions in common use.

nrmse = rmse / sqrt(mean y^2); vrmse = rmse / std(y); rmse; mae; linf, the largest error; pearson_r, the correlation
over space, averaged over simulations; spectral_mse/{low,mid,high}, the part of the mean square error in long, middling
and short waves; conserved_rmse, the error of the mean over space; boundary_rmse, of the outermost cells;
correlation_time, the first step whose pearson_r is below 0.8.
Sources: Ohana et al. 2024, "The Well"; Takamoto et al. 2022, "PDEBench".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hyco_engine.data.fields import FieldInfo, StateLayout
from hyco_engine.data.masks import corner, sample_mask
from hyco_engine.training.relative_errors import LEAST, RelativeErrors, mean_of

CORRELATED = 0.8
BANDS = ("low", "mid", "high")

_over_steps: Mapping[str, Callable[[Tensor], Tensor]] = {
    "nrmse": lambda v: v.clamp(min=LEAST).log().mean().exp(),
    "vrmse": lambda v: v.clamp(min=LEAST).log().mean().exp(),
    "rmse": lambda v: v.square().mean().sqrt(),
    "mae": lambda v: v.mean(),
    "linf": lambda v: v.max(),
    "pearson_r": lambda v: v.mean(),
    **{f"spectral_mse/{band}": lambda v: v.mean() for band in BANDS},
    "conserved_rmse": lambda v: v.square().mean().sqrt(),
    "boundary_rmse": lambda v: v.square().mean().sqrt(),
}
"""The function by which a metric's values at the lead times become one number."""


class RolloutMetrics:
    """Sums over batches of predictions and truth, in float64, which give all metrics at the end.

    NaN in the truth means "not observed" and enters no sum; spectra use only states that were observed completely, and
    there are none without space.
    """

    def __init__(self, layout: StateLayout, steps: int) -> None:
        self._layout = layout
        self._mask = sample_mask(layout)[: layout.n_dynamic]
        self._fields = {field.name: _FieldSums(field, layout, steps) for field in layout.dynamic}

    def add(self, predictions: Tensor, targets: Tensor) -> None:
        """Add predictions and targets `[B, T, C_dyn, *S]`; T may be shorter than the longest rollout."""
        observed = ~targets.isnan() & self._mask
        for name, sums in self._fields.items():
            own = self._layout.channels(name)
            sums.add(predictions[:, :, own], targets[:, :, own], observed[:, :, own])

    def results(self) -> dict[str, Any]:
        """Return one number for each metric, `by_field {field: {metric: value}}`, `by_step {field: {metric: [T]}}`.

        Over lead times, this is the geometric mean of nrmse and vrmse, the root mean square of the other errors in the
        field's units, the largest linf, else the mean; over fields the mean, and the earliest correlation_time. None
        stands for an unknown value: the correlation_time of a rollout that stays correlated, a spectrum without any
        state that was observed completely, or an error relative to a truth that is 0 (nrmse) or has no spread (vrmse).
        """
        by_step = {name: sums.by_step() for name, sums in self._fields.items()}
        by_field = {name: _over_time(table) for name, table in by_step.items()}
        overall = {metric: mean_of([values[metric] for values in by_field.values()]) for metric in _over_steps}
        times = [values["correlation_time"] for values in by_field.values()]
        known = [time for time in times if time is not None]
        return {
            **overall,
            "correlation_time": min(known) if known else None,
            "by_field": by_field,
            "by_step": {name: {m: _plain(v) for m, v in table.items()} for name, table in by_step.items()},
        }


class _FieldSums:
    """Sums over simulations and points of one field, `[T]` each."""

    def __init__(self, field: FieldInfo, layout: StateLayout, steps: int) -> None:
        self._own = [field.samples(layout.grid, component) for component in range(field.channels)]
        self._edge = torch.stack([_edge(shape, layout.spatial) for shape in self._own])
        names = ("absolute", "edge", "edge_count", "mean", "means", "r", "rs")
        self._sums = {name: torch.zeros(steps, dtype=torch.float64) for name in (*names, *BANDS, "spectra")}
        self._relative = RelativeErrors.zeros(steps)
        self._largest = torch.zeros(steps, dtype=torch.float64)

    def add(self, predictions: Tensor, targets: Tensor, observed: Tensor) -> None:
        error, known = self._relative.add(predictions, targets, observed, _add)
        self._add("absolute", error.abs())
        edge = observed & self._edge
        self._add("edge", torch.where(edge, error, 0.0).square())
        self._add("edge_count", edge.double())
        count, total = (values.reshape(*values.shape[:3], -1).sum(3) for values in (observed, error))
        self._add("mean", (total / count.clamp(min=1)).square())
        self._add("means", (count > 0).double())
        # a rollout that is not finite has the error inf, but a maximum would ignore NaN
        largest = torch.where(error.isnan(), math.inf, error.abs()).flatten(2).amax(2).amax(0)
        steps = len(largest)
        self._largest[:steps] = torch.maximum(self._largest[:steps], largest)
        self._correlate(known + error, known, observed)
        if error.dim() > 3:
            self._transform(error, observed)

    def _add(self, name: str, values: Tensor) -> None:
        _add(self._sums[name], values)

    def _correlate(self, guess: Tensor, known: Tensor, observed: Tensor) -> None:
        x, y, seen = (values.flatten(2) for values in (guess, known, observed.double()))
        count = seen.sum(2).clamp(min=1)
        level = y.sum(2) / count
        x, y = ((v - (v.sum(2) / count)[..., None]) * seen for v in (x, y))
        # a constant has no correlation
        varies = (y.square().sum(2) / count).sqrt() > self._relative.least_spread(level)
        size = (x.square().sum(2) * y.square().sum(2)).sqrt()
        r = torch.where(size > 0, (x * y).sum(2) / size.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
        self._add("r", torch.where(varies, r.nan_to_num(0.0), 0.0))
        self._add("rs", varies.double())

    def _transform(self, error: Tensor, observed: Tensor) -> None:
        for component, shape in enumerate(self._own):
            own_part = corner(shape)
            complete = observed[:, :, component][own_part].flatten(2).all(2)
            if not bool(complete.any()):
                continue
            axes = tuple(range(2, 2 + len(shape)))
            power = torch.fft.fftn(error[:, :, component][own_part], dim=axes).abs().square() / math.prod(shape) ** 2
            for band, inside in _bands(shape).items():
                own = torch.where(inside, power, 0.0).flatten(2).sum(2)
                self._add(band, torch.where(complete, own, 0.0))
            self._add("spectra", complete.double())

    def by_step(self) -> dict[str, Tensor]:
        """Return `[T]` by metric, with NaN for lead times without observations."""
        s, relative = self._sums, self._relative
        seen = relative.count > 0
        table = {
            "nrmse": relative.nrmse,
            "vrmse": relative.vrmse,
            "rmse": relative.rmse,
            "mae": s["absolute"] / relative.count,
            "linf": self._largest,
            "pearson_r": s["r"] / s["rs"],
            **{f"spectral_mse/{band}": s[band] / s["spectra"] for band in BANDS},
            "conserved_rmse": (s["mean"] / s["means"]).sqrt(),
            "boundary_rmse": (s["edge"] / s["edge_count"]).sqrt(),
        }
        # the error of a diverged rollout is infinite, and NaN means that nothing was observed
        known = {"pearson_r": s["rs"] > 0, "boundary_rmse": s["edge_count"] > 0}
        known |= {f"spectral_mse/{band}": s["spectra"] > 0 for band in BANDS}
        known |= {name: ~table[name].isnan() for name in ("nrmse", "vrmse")}
        return {
            metric: torch.where(known.get(metric, seen), values.nan_to_num(math.inf, math.inf), math.nan)
            for metric, values in table.items()
        }


def _over_time(table: Mapping[str, Tensor]) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for metric, reduce in _over_steps.items():
        seen = table[metric][~table[metric].isnan()]
        values[metric] = float(reduce(seen)) if len(seen) else None
    below = (table["pearson_r"] < CORRELATED).nonzero()
    values["correlation_time"] = int(below[0]) + 1 if len(below) else None
    return values


def _add(whole: Tensor, values: Tensor) -> None:
    """Add `values [B, T, ...]`, summed over all axes but T."""
    summed = values.flatten(2).sum((0, 2)) if values.dim() > 2 else values.sum(0)
    whole[: len(summed)] += summed


def _plain(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _edge(shape: tuple[int, ...], spatial: tuple[int, ...]) -> Tensor:
    """Return a mask `[*S]` of the outermost samples of a component."""
    mask = torch.zeros(spatial, dtype=torch.bool)
    own = mask[tuple(slice(n) for n in shape)]
    for axis, n in enumerate(shape):
        own.select(axis, 0).fill_(True)
        own.select(axis, n - 1).fill_(True)
    return mask


def _bands(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return masks of an FFT's long, middling and short waves: thirds of log |k|, up to the coarsest axis' Nyquist.

    |k| counts waves along the domain; the mean counts as long, and all waves beyond Nyquist count as short.
    """
    waves = torch.meshgrid(*(torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in shape), indexing="ij")
    size = torch.stack(waves).square().sum(0).sqrt()
    highest = max(2.0, min(shape) / 2)
    first, second = highest ** (1 / 3), highest ** (2 / 3)
    return {"low": size < first, "mid": (size >= first) & (size < second), "high": size >= second}
