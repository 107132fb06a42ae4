"""Errors of full-length rollouts on real data: from the first frame of a held-out simulation to its last.

The measures are those in common use: nrmse = rmse / sqrt(mean y^2), vrmse = rmse / std(y). Both are computed per field
and lead time over all simulations and points, then averaged over lead times by the geometric mean and over fields by
the arithmetic one. A model that diverges has the error inf.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.points import Sensors
from hyco_engine.interfaces import Points, Samples, Trajectory
from hyco_engine.rollout import evaluating, rollout
from hyco_engine.training.losses import Objective
from hyco_engine.training.point_losses import as_batch, predicted_at
from hyco_engine.training.problem import to_device
from hyco_engine.training.rollout_metrics import RolloutMetrics

# The least error in a geometric mean, which a single perfect step would make 0.
_FLOOR = 1e-12
# The most trajectories, and their most bytes, in one batch, so that memory stays bounded; one trajectory may have more.
_AT_ONCE = 16
_BYTES_AT_ONCE = 2**26
# The most frames that are compared at once, in float64.
_ELEMENTS_AT_ONCE = 2**22


def persistence(state: Tensor, steps: int, n_dynamic: int) -> Tensor:
    """Return the prediction "nothing changes", `[B, steps, C_dyn, *S]`, whose error every model must beat."""
    return state[:, None, :n_dynamic].expand(-1, steps, *state[:, :n_dynamic].shape[1:])


def model_rollout(model: nn.Module) -> Callable[[Tensor, int], Tensor]:
    """Return a function that rolls a model out in eval mode, without gradients."""

    def predict(state: Tensor, steps: int) -> Tensor:
        with torch.no_grad(), evaluating(model):
            return rollout(model, state, steps)

    return predict


def rollout_errors(
    predict: Callable[[Tensor, int], Tensor],
    trajectories: Sequence[Trajectory],
    layout: StateLayout,
    device: torch.device | str = "cpu",
    watch: Callable[[Tensor, Tensor], None] = lambda predictions, targets: None,
) -> dict[str, Any]:
    """Return `nrmse`, `vrmse`, `nrmse_by_field`, `nrmse_by_step` of `predict(state, steps)` over whole trajectories.

    `lead_steps` are the lead times, in frames, to which the entries of `nrmse_by_step` belong.

    Trajectories of equal length are rolled out together; a lead time that only some reach has the errors of those.
    If sensors saw a trajectory, the rollout is compared at their points too. `watch` receives all predictions and
    targets, `[B, T, C_dyn, *S]`.
    """
    sensors = Sensors(layout)
    sums = _Sums(layout, max(len(t.dynamic) for t in trajectories) - 1)
    for length in sorted({len(t.dynamic) for t in trajectories}):
        alike = [t for t in trajectories if len(t.dynamic) == length]
        at_once = min(_AT_ONCE, max(1, _BYTES_AT_ONCE // max(1, alike[0].dynamic.nbytes)))
        for first in range(0, len(alike), at_once):
            group = alike[first : first + at_once]
            start = torch.stack([torch.cat([t.dynamic[0], t.static]) for t in group]).to(device)
            targets = torch.stack([t.dynamic[1:] for t in group])
            path = predict(start, length - 1).cpu()
            sums.add(path, targets)
            watch(path, targets)
            for trajectory, first, rolled in zip(group, start.cpu(), path, strict=True):
                if trajectory.points is not None:
                    whole = torch.cat([first[None, : layout.n_dynamic], rolled])[None]
                    seen = as_batch(trajectory.points, whole.dtype, "cpu")
                    sums.add_points(sensors(whole, seen["frame"], seen["position"])[0], trajectory.points)
    return sums.metrics()


def predictor_errors(
    model: nn.Module, trajectories: Sequence[Trajectory], layout: StateLayout, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return the same metrics for a predictor of points, compared with the observations of sensors."""
    dtype = next((t.dtype for t in model.parameters()), torch.float32)
    sums = _Sums(layout, max(len(t.dynamic) for t in trajectories) - 1)
    with torch.no_grad(), evaluating(model):
        for points in (trajectory.points for trajectory in trajectories):
            if points is not None:
                predictions = predicted_at(model, as_batch(points, dtype, device), layout)
                sums.add_points(predictions[0].cpu(), points)
    return sums.metrics()


class _Sums:
    """Sums over observed values, per lead time and field, in float64."""

    def __init__(self, layout: StateLayout, steps: int) -> None:
        self._layout = layout
        self._mask = sample_mask(layout)[: layout.n_dynamic]
        self._names = [field.name for field in layout.dynamic]
        self._sums = torch.zeros(4, steps, len(self._names), dtype=torch.float64)

    def add(self, predictions: Tensor, targets: Tensor) -> None:
        frames = max(1, _ELEMENTS_AT_ONCE // max(1, targets[:, 0].numel()))
        for start in range(0, targets.shape[1], frames):
            part = slice(start, start + frames)
            self._add(predictions[:, part], targets[:, part], start)

    def _add(self, predictions: Tensor, targets: Tensor, first: int) -> None:
        observed = ~targets.isnan() & self._mask
        known = torch.where(observed, targets, 0.0).double()
        error = torch.where(observed, predictions, 0.0).double() - known
        for k, name in enumerate(self._names):
            channels = self._layout.channels(name)
            parts = (error.square(), known.square(), known, observed.double())
            for row, part in enumerate(parts):
                values = part[:, :, channels].flatten(2).sum((0, 2))
                self._sums[row, first : first + len(values), k] += values

    def add_points(self, predictions: Tensor, points: Points) -> None:
        """Add predictions `[N, C_dyn]`; an observation between two frames has the lead time of the later one.

        Observations of the first frame do not count, since that frame is given.
        """
        observed = ~points.value.isnan() & (points.frame > 1e-4)[:, None]
        known = torch.where(observed, points.value, 0.0).double()
        error = torch.where(observed, predictions, 0.0).double() - known
        lead = ((points.frame - 1e-4).ceil().long() - 1).clamp(0, self._sums.shape[1] - 1)
        for k, name in enumerate(self._names):
            channels = self._layout.channels(name)
            for row, part in enumerate((error.square(), known.square(), known, observed.double())):
                self._sums[row, :, k].index_add_(0, lead, part[:, channels].sum(1))

    def metrics(self) -> dict[str, Any]:
        squares, energy, total, count = self._sums
        seen = count > 0
        count = count.clamp(min=1)
        rmse = (squares / count).sqrt()
        variance = (energy / count - (total / count).square()).clamp(min=0)
        nrmse = rmse / (energy / count).sqrt().clamp(min=_FLOOR)
        vrmse = rmse / variance.sqrt().clamp(min=_FLOOR)
        by_field = {name: _geometric_mean(nrmse[:, k], seen[:, k]) for k, name in enumerate(self._names)}
        return {
            "nrmse": _mean(by_field.values()),
            "vrmse": _mean(_geometric_mean(vrmse[:, k], seen[:, k]) for k in range(len(self._names))),
            "nrmse_by_field": by_field,
            "nrmse_by_step": [_mean(row[ok].tolist()) for row, ok in zip(nrmse, seen, strict=True) if ok.any()],
            # lead times without observations have no error
            "lead_steps": [step for step, ok in enumerate(seen, start=1) if ok.any()],
        }


class HeldOut(ABC):
    """Real data on which no model trains, and the measure of a model on it."""

    @abstractmethod
    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Return the metrics of a model by name."""

    @abstractmethod
    def score(self, metrics: Mapping[str, Any]) -> float:
        """Return the one number by which models are compared; smaller is better."""

    def persistence(self) -> dict[str, Any] | None:
        """Return the metrics of the prediction "nothing changes"; None if the data has no states."""
        return None

    def in_detail(self) -> HeldOut:
        """Return the same data with a measure that has all metrics."""
        return self


class HeldOutRollouts(HeldOut):
    """Full-length rollouts of steppers, compared by nrmse; `detailed` adds all of `RolloutMetrics`.

    `last_known` are the states `[C_dyn, *S]` that persistence holds, one for each trajectory; None stands for the
    first frames, from which the models start.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        layout: StateLayout,
        device: torch.device | str = "cpu",
        *,
        last_known: Sequence[Tensor] | None = None,
        detailed: bool = False,
    ) -> None:
        self.trajectories = trajectories
        self.last_known = [t.dynamic[0] for t in trajectories] if last_known is None else last_known
        self.layout = layout
        self.device = device
        self._detailed = detailed

    def measure(self, model: nn.Module) -> dict[str, Any]:
        return self._errors(model_rollout(model), self.trajectories)

    def score(self, metrics: Mapping[str, Any]) -> float:
        return float(metrics["nrmse"])

    def persistence(self) -> dict[str, Any]:
        n_dynamic = self.layout.n_dynamic
        held = [
            attrs.evolve(trajectory, dynamic=torch.cat([known[None], trajectory.dynamic[1:]]))
            for trajectory, known in zip(self.trajectories, self.last_known, strict=True)
        ]
        return self._errors(lambda state, steps: persistence(state, steps, n_dynamic), held)

    def in_detail(self) -> HeldOut:
        return type(self)(self.trajectories, self.layout, self.device, last_known=self.last_known, detailed=True)

    def _errors(self, predict: Callable[[Tensor, int], Tensor], trajectories: Sequence[Trajectory]) -> dict[str, Any]:
        if not self._detailed:
            return rollout_errors(predict, trajectories, self.layout, self.device)
        more = RolloutMetrics(self.layout, max(len(trajectory.dynamic) for trajectory in self.trajectories) - 1)
        errors = rollout_errors(predict, trajectories, self.layout, self.device, more.add)
        return errors | {name: value for name, value in more.results().items() if name not in errors}


class HeldOutSamples(HeldOut):
    """Loss terms of predictors on samples, compared by their sum in units of their scales."""

    def __init__(
        self, samples: Samples, objective: Objective, device: torch.device | str = "cpu", batch_size: int = 256
    ) -> None:
        self._samples = samples
        self._objective = objective
        self._device = torch.device(device)
        self._batch_size = batch_size

    def measure(self, model: nn.Module) -> dict[str, Any]:
        sums: dict[str, Tensor] = {spec.name: torch.zeros(2, dtype=torch.float64) for spec in self._objective.specs}
        with torch.no_grad(), evaluating(model):
            for indices in torch.split(torch.arange(len(self._samples)), self._batch_size):
                for term in self._objective(model, to_device(self._samples.batch(indices), self._device)):
                    weight = torch.ones_like(term.per_sample) if term.sample_weight is None else term.sample_weight
                    part = torch.stack([(weight * term.per_sample).sum(), weight.sum()])
                    sums[term.spec.name] += part.double().cpu()
        by_term = {name: float(total / count.clamp(min=_FLOOR)) for name, (total, count) in sums.items()}
        scales = {spec.name: spec.priority / (spec.scale or 1.0) for spec in self._objective.specs}
        return {"loss": sum(scales[name] * value for name, value in by_term.items()), "loss_by_field": by_term}

    def score(self, metrics: Mapping[str, Any]) -> float:
        return float(metrics["loss"])


def _geometric_mean(values: Tensor, seen: Tensor) -> float:
    values = values[seen]
    if not torch.isfinite(values).all():
        return math.inf
    return float(values.clamp(min=_FLOOR).log().mean().exp())


def _mean(values: Iterable[float]) -> float:
    finite_or_inf = [value if math.isfinite(value) else math.inf for value in values]
    return math.fsum(finite_or_inf) / len(finite_or_inf)
