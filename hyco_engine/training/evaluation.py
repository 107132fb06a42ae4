"""Errors of full-length rollouts on real data: from the first frame of a held-out simulation to its last.

The measures are those in common use: nrmse = rmse / sqrt(mean y^2), vrmse = rmse / std(y). Both are computed per field
and lead time over all simulations and points, then averaged over lead times by the geometric mean and over fields by
the arithmetic one. A model that diverges has the error inf. Where the truth is 0, nrmse is undefined, and where it has
no spread, vrmse; means leave such lead times out, and None stands for a mean of nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.points import Sensors
from hyco_engine.ensemble import Bands
from hyco_engine.interfaces import Points, Samples, Trajectory
from hyco_engine.physics.within import instability, physics_within
from hyco_engine.ranks.runtime import Runtime, Single
from hyco_engine.ranks.shards import Shards
from hyco_engine.rollout import evaluating, rollout
from hyco_engine.training.calibration import calibrate, coverage
from hyco_engine.training.losses import Objective, WeightedSum
from hyco_engine.training.point_losses import as_batch, predicted_at
from hyco_engine.training.problem import to_device
from hyco_engine.training.relative_errors import LEAST, RelativeErrors, mean_of, over_steps
from hyco_engine.training.rollout_metrics import RolloutMetrics

T = TypeVar("T")

# The most bytes of trajectories in one batch, so that memory stays bounded; one trajectory may have more.
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


def divided_rollout(
    predict: Callable[[Tensor, int], Tensor], shards: Shards, n_dynamic: int
) -> Callable[[Tensor, int], Tensor]:
    """Return `predict`, whose start states are divided among shards; every rank gets all rollouts."""
    if shards.whole:
        return predict

    def joined(state: Tensor, steps: int) -> Tensor:
        ends = shards.cut(len(state))

        def of(shard: int) -> Tensor:
            # the place in memory of a state must not depend on the shards before
            own = state[slice(*ends[shard])].clone()
            return predict(own, steps).to(state) if len(own) else persistence(own, steps, n_dynamic)

        return shards.joined(torch.cat(shards.each(of)), len(state))

    return joined


def rollout_errors(
    predict: Callable[[Tensor, int], Tensor],
    trajectories: Sequence[Trajectory],
    layout: StateLayout,
    device: torch.device | str = "cpu",
    watch: Callable[[Tensor, Tensor], None] = lambda predictions, targets: None,
) -> dict[str, Any]:
    """Return `nrmse`, `vrmse`, `nrmse_by_field`, `nrmse_by_step` of `predict(state, steps)` over whole trajectories.

    `lead_steps` are the lead times, in frames, to which the entries by step belong.

    Trajectories of equal length are rolled out together; a lead time that only some reach has the errors of those.
    If sensors saw a trajectory, the rollout is compared at their points too. `watch` receives all predictions and
    targets, `[B, T, C_dyn, *S]`.
    """
    return rollout_sums(predict, trajectories, layout, device, watch).metrics()


def rollout_sums(
    predict: Callable[[Tensor, int], Tensor],
    trajectories: Sequence[Trajectory],
    layout: StateLayout,
    device: torch.device | str = "cpu",
    watch: Callable[[Tensor, Tensor], None] = lambda predictions, targets: None,
) -> Sums:
    """Return the sums behind `rollout_errors`."""
    sensors = Sensors(layout)
    sums = Sums(layout, trajectories)
    for length in sorted({len(t.dynamic) for t in trajectories}):
        alike = [(k, t) for k, t in enumerate(trajectories) if len(t.dynamic) == length]
        at_once = max(1, _BYTES_AT_ONCE // max(1, alike[0][1].dynamic.nbytes))
        for begin in range(0, len(alike), at_once):
            units, group = zip(*alike[begin : begin + at_once], strict=True)
            start = torch.stack([torch.cat([t.dynamic[0], t.static]) for t in group]).to(device)
            targets = torch.stack([t.dynamic[1:] for t in group])
            path = predict(start, length - 1).cpu()
            sums.add(path, targets, units)
            watch(path, targets)
            for unit, trajectory, first, rolled in zip(units, group, start.cpu(), path, strict=True):
                if trajectory.points is not None:
                    whole = torch.cat([first[None, : layout.n_dynamic], rolled])[None]
                    seen = as_batch(trajectory.points, whole.dtype, "cpu")
                    sums.add_points(sensors(whole, seen["frame"], seen["position"])[0], trajectory.points, unit)
    return sums


def predictor_sums(
    model: nn.Module,
    trajectories: Sequence[Trajectory],
    layout: StateLayout,
    device: torch.device | str = "cpu",
    runtime: Runtime | None = None,
) -> Sums:
    """Return the same sums for a predictor of points, compared with the observations of sensors.

    The trajectories are divided among the ranks of `runtime`.
    """
    dtype = next((t.dtype for t in model.parameters()), torch.float32)
    sums = Sums(layout, trajectories)
    seen = [(unit, own.points) for unit, own in enumerate(trajectories) if own.points is not None]

    def predicted(one: tuple[int, Points]) -> Tensor:
        return predicted_at(model, as_batch(one[1], dtype, device), layout)[0].cpu()

    with torch.no_grad(), evaluating(model):
        found = (runtime or Single()).in_turn(seen, predicted)
        for (unit, points), predictions in zip(seen, found, strict=True):
            sums.add_points(predictions, points, unit)
    return sums


class Sums:
    """Relative errors over observed values, per trajectory, lead time and field."""

    def __init__(self, layout: StateLayout, trajectories: Sequence[Trajectory]) -> None:
        steps = max(len(t.dynamic) for t in trajectories) - 1
        self._mask = sample_mask(layout)[: layout.n_dynamic]
        self._channels = {field.name: layout.channels(field.name) for field in layout.dynamic}
        # where each of a few series has its own times, few of their values share a lead time
        apart = not layout.grid.axes and any(trajectory.points is not None for trajectory in trajectories)
        self._errors = {name: RelativeErrors.zeros(len(trajectories), steps, together=apart) for name in self._channels}

    def add(self, predictions: Tensor, targets: Tensor, units: Sequence[int]) -> None:
        """Add predictions `[B, T, C_dyn, *S]` for the trajectories with the indices `units`."""
        frames = max(1, _ELEMENTS_AT_ONCE // max(1, targets[:, 0].numel()))
        for start in range(0, targets.shape[1], frames):
            part = slice(start, start + frames)
            self._add(predictions[:, part], targets[:, part], start, list(units))

    def _add(self, predictions: Tensor, targets: Tensor, first: int, units: list[int]) -> None:
        observed = ~targets.isnan() & self._mask

        def into(sums: Tensor, values: Tensor) -> None:
            sums[units, first : first + values.shape[1]] += values.flatten(2).sum(2)

        for name, own in self._channels.items():
            self._errors[name].add(predictions[:, :, own], targets[:, :, own], observed[:, :, own], into)

    def add_points(self, predictions: Tensor, points: Points, unit: int) -> None:
        """Add predictions `[N, C_dyn]`; an observation between two frames has the lead time of the later one.

        Observations of the first frame do not count, since that frame is given.
        """
        observed = ~points.value.isnan() & (points.frame > 1e-4)[:, None]
        lead = ((points.frame - 1e-4).ceil().long() - 1).clamp(min=0)

        def into(sums: Tensor, values: Tensor) -> None:
            sums[unit].index_add_(0, lead.clamp(max=sums.shape[1] - 1), values.sum(1))

        for name, own in self._channels.items():
            self._errors[name].add(predictions[:, own], points.value[:, own], observed[:, own], into)

    def by_unit(self) -> Tensor:
        """Return squared errors and numbers of observations, `[2, n, steps, fields]`.

        Errors are in units of `sizes`; what has no size is left out.
        """
        squares = torch.stack([errors.squares for errors in self._errors.values()], dim=-1)
        count = torch.stack([errors.count for errors in self._errors.values()], dim=-1)
        sizes = self.sizes()
        return torch.where(sizes.isnan(), 0.0, torch.stack([squares / sizes.square(), count]))

    def sizes(self) -> Tensor:
        """Return the spread of each lead time and field `[steps, fields]`, or the size if none has a spread; or NaN."""
        pooled = [errors.pooled() for errors in self._errors.values()]
        spreads = torch.stack([errors.spread for errors in pooled], dim=-1)
        return torch.stack([errors.size for errors in pooled], dim=-1) if spreads.isnan().all() else spreads

    def metrics(self) -> dict[str, Any]:
        pooled = {name: errors.pooled() for name, errors in self._errors.items()}
        by_field = {name: over_steps(errors.nrmse) for name, errors in pooled.items()}
        seen = torch.stack([errors.count > 0 for errors in pooled.values()], dim=1).any(1)
        nrmse, vrmse = (
            torch.stack([getattr(errors, name) for errors in pooled.values()], dim=1)[seen]
            for name in ("nrmse", "vrmse")
        )
        return {
            "nrmse": mean_of(list(by_field.values())),
            "vrmse": mean_of([over_steps(errors.vrmse) for errors in pooled.values()]),
            "nrmse_by_field": by_field,
            "nrmse_by_step": _by_step(nrmse),
            "vrmse_by_step": _by_step(vrmse),
            # lead times without observations have no error
            "lead_steps": (seen.nonzero()[:, 0] + 1).tolist(),
        }


def _by_step(errors: Tensor) -> list[float | None]:
    """Return the means over the fields `[T, fields]` of the errors that are defined."""
    return [mean_of([value for value in row.tolist() if not math.isnan(value)]) for row in errors]


class HeldOut(ABC):
    """Real data on which no model trains, and the measure of a model on it.

    What was measured of a model is kept until its weights change, since a cycle asks for it several times.
    """

    def __init__(self) -> None:
        self._measured: WeakKeyDictionary[nn.Module, tuple[dict[str, Tensor], Any]] = WeakKeyDictionary()

    def _once(self, model: nn.Module, compute: Callable[[], T]) -> T:
        """Return `compute()`, or what it returned for the same weights of the same model."""
        weights = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        known = self._measured.get(model)
        if known is None or not _equal(known[0], weights):
            kept = {name: value.detach().clone() for name, value in weights.items()}
            known = self._measured[model] = kept, compute()
        found: T = known[1]
        return found

    @abstractmethod
    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Return the metrics of a model by name."""

    @abstractmethod
    def score(self, metrics: Mapping[str, Any]) -> float:
        """Return the one number by which models are compared; smaller is better."""

    def error(self, model: nn.Module) -> float:
        """Return the score of a model without what the noise of its targets adds to it, as far as that is known."""
        return self.score(self.measure(model))

    @abstractmethod
    def by_unit(self, model: nn.Module) -> Tensor:
        """Return what the score of a model sums up, unit by unit: `[2, units, lead times, terms]`, float64.

        These are errors and their weights. Units are simulations, stretches of them, or samples.
        """

    @abstractmethod
    def scores(self, by_unit: Tensor, units: Tensor, leads: Tensor) -> Tensor:
        """Return the scores `[R]` of data in which units count `[R, units]` and lead times `[R, leads]` times."""

    def instability(self, model: nn.Module) -> str | None:
        """Return a warning if steps of a physics within `model` are too long for parameters that these data give it.

        They were chosen for those of the training data.
        """
        return None

    def bands(self, model: nn.Module) -> Bands | None:
        """Return bands around the mean of an ensemble, calibrated on these data; None if there are no states."""
        return None

    def coverage(self, model: nn.Module, bands: Bands) -> dict[str, Any]:
        """Return the share of these data within the bands."""
        return {}

    def persistence(self) -> dict[str, Any] | None:
        """Return the metrics of the prediction "nothing changes"; None if the data has no states."""
        return None

    def in_detail(self) -> HeldOut:
        """Return the same data with a measure that has all metrics."""
        return self

    def divided(self, shards: Shards) -> HeldOut:
        """Return the same data, whose measure is divided among shards and their ranks."""
        return self


class HeldOutRollouts(HeldOut):
    """Full-length rollouts of steppers, compared by vrmse; `detailed` adds all of `RolloutMetrics`.

    A constant that is added to one of several fields would change its share in nrmse, but not in vrmse. Where no frame
    has a spread, nrmse takes its place. `last_known` are the states `[C_dyn, *S]` that persistence holds, one for each
    trajectory; None stands for the first frames, from which the models start. `noise` is the standard deviation of each
    field's noise in its own unit.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        layout: StateLayout,
        device: torch.device | str = "cpu",
        *,
        last_known: Sequence[Tensor] | None = None,
        noise: Mapping[str, float] | None = None,
        detailed: bool = False,
        shards: Shards | None = None,
    ) -> None:
        super().__init__()
        self.trajectories = trajectories
        self._noise = noise or {}
        self.last_known = [t.dynamic[0] for t in trajectories] if last_known is None else last_known
        self.layout = layout
        self.device = device
        self._detailed = detailed
        self._shards = shards or Shards()

    def measure(self, model: nn.Module) -> dict[str, Any]:
        if not self._detailed:
            return self._sums(model).metrics()
        return self._errors(self._predict(model), self.trajectories)

    def _predict(self, model: nn.Module) -> Callable[[Tensor, int], Tensor]:
        return divided_rollout(model_rollout(model), self._shards, self.layout.n_dynamic)

    def _sums(self, model: nn.Module) -> Sums:
        predict = self._predict(model)
        return self._once(model, lambda: rollout_sums(predict, self.trajectories, self.layout, self.device))

    def score(self, metrics: Mapping[str, Any]) -> float:
        known = (metrics[name] for name in ("vrmse", "nrmse") if metrics[name] is not None)
        return float(next(known, math.inf))

    def by_unit(self, model: nn.Module) -> Tensor:
        return self._sums(model).by_unit()

    def scores(self, by_unit: Tensor, units: Tensor, leads: Tensor) -> Tensor:
        squares, count = torch.einsum("ru,nutf->nrtf", units, by_unit)
        seen = leads[..., None] * (count > 0)
        errors = (squares / count).sqrt().clamp(min=LEAST)
        means: Tensor = torch.where(seen > 0, errors.log(), 0.0).mul(seen).sum(1) / seen.sum(1)
        # a field without a spread at any lead time has no error
        return means.exp().nanmean(1)

    def error(self, model: nn.Module) -> float:
        """Return the score times the root of the share of the squared errors that is not noise, over all lead times.

        The least error is the same for all models: the root of one standard deviation of the mean square of the noise,
        below which nothing is known.
        """
        score = super().error(model)
        if not any(self._noise.values()) or not math.isfinite(score):
            return score
        sums = self._sums(model)
        squares, count = sums.by_unit()
        levels = torch.tensor([self._noise.get(field.name, 0.0) for field in self.layout.dynamic], dtype=torch.float64)
        noise = (levels / sums.sizes()).square().nan_to_num(0.0)
        unsure = math.sqrt(float((2 * count * noise.square()).sum()))
        total = float(squares.sum())
        left = max(0.0, total - float((count * noise).sum()))
        least = math.sqrt(unsure / float(count.sum()))
        return max(score * math.sqrt(left / total), least) if total else score

    def bands(self, model: nn.Module) -> Bands | None:
        return calibrate(model, self.trajectories, self.layout, self.device, self.runtime)

    def coverage(self, model: nn.Module, bands: Bands) -> dict[str, Any]:
        return coverage(model, bands, self.trajectories, self.layout, self.device, self.runtime)

    @property
    def runtime(self) -> Runtime:
        """The ranks that measure together."""
        return self._shards.runtime

    def persistence(self) -> dict[str, Any]:
        n_dynamic = self.layout.n_dynamic
        held = [
            attrs.evolve(trajectory, dynamic=torch.cat([known[None], trajectory.dynamic[1:]]))
            for trajectory, known in zip(self.trajectories, self.last_known, strict=True)
        ]
        return self._errors(lambda state, steps: persistence(state, steps, n_dynamic), held)

    def in_detail(self) -> HeldOut:
        return self._with(detailed=True, shards=self._shards)

    def divided(self, shards: Shards) -> HeldOut:
        return self._with(detailed=self._detailed, shards=shards)

    def _with(self, *, detailed: bool, shards: Shards) -> HeldOutRollouts:
        return type(self)(
            self.trajectories,
            self.layout,
            self.device,
            last_known=self.last_known,
            noise=self._noise,
            detailed=detailed,
            shards=shards,
        )

    def _errors(self, predict: Callable[[Tensor, int], Tensor], trajectories: Sequence[Trajectory]) -> dict[str, Any]:
        if not self._detailed:
            return rollout_errors(predict, trajectories, self.layout, self.device)
        more = RolloutMetrics(self.layout, max(len(trajectory.dynamic) for trajectory in self.trajectories) - 1)
        errors = rollout_errors(predict, trajectories, self.layout, self.device, more.add)
        return errors | {name: value for name, value in more.results().items() if name not in errors}

    def instability(self, model: nn.Module) -> str | None:
        if not any(physics.learnables.given for physics in physics_within(model).values()):
            return None
        starts = torch.stack([torch.cat([t.dynamic[0], t.static]) for t in self.trajectories]).to(self.device)
        complete = starts.isfinite().flatten(1).all(1)
        return instability(model, starts[complete]) if bool(complete.any()) else None


class HeldOutSamples(HeldOut):
    """Loss terms of predictors on samples, compared by their sum in units of their scales."""

    def __init__(
        self,
        samples: Samples,
        objective: Objective,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
        shards: Shards | None = None,
    ) -> None:
        super().__init__()
        self._shards = shards or Shards()
        self._samples = samples
        self._objective = objective
        self._device = torch.device(device)
        self._batch_size = batch_size

    def measure(self, model: nn.Module) -> dict[str, Any]:
        names = [spec.name for spec in self._objective.specs]
        by_term = dict(zip(names, _means(self.by_unit(model).sum((1, 2))).tolist(), strict=True))
        scales = WeightedSum.weights(self._objective.specs)
        return {"loss": sum(scales[name] * value for name, value in by_term.items()), "loss_by_field": by_term}

    def score(self, metrics: Mapping[str, Any]) -> float:
        return float(metrics["loss"])

    def by_unit(self, model: nn.Module) -> Tensor:
        return self._once(model, lambda: self._errors_of(model))

    def _errors_of(self, model: nn.Module) -> Tensor:
        names = [spec.name for spec in self._objective.specs]

        def of(indices: Tensor) -> Tensor:
            found = {}
            for term in self._objective(model, to_device(self._samples.batch(indices), self._device)):
                weight = torch.ones_like(term.per_sample) if term.sample_weight is None else term.sample_weight
                found[term.spec.name] = torch.stack([weight * term.per_sample, weight], dim=1).double().cpu()
            return torch.stack([found[name] for name in names], dim=-1)

        batches = torch.split(torch.arange(len(self._samples)), self._batch_size)
        with torch.no_grad(), evaluating(model):
            found = torch.cat(list(self._shards.runtime.in_turn(batches, of)))
        return found.movedim(0, 1)[:, :, None]

    def divided(self, shards: Shards) -> HeldOut:
        return type(self)(self._samples, self._objective, self._device, self._batch_size, shards)

    def scores(self, by_unit: Tensor, units: Tensor, leads: Tensor) -> Tensor:
        scales = torch.tensor(list(WeightedSum.weights(self._objective.specs).values()), dtype=torch.float64)
        return (_means(torch.einsum("ru,nutf->nrf", units, by_unit)) @ scales).clamp(min=LEAST)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _means(sums: Tensor) -> Tensor:
    """Return sum / weight, 0 without weight, of sums `[2, ...]`."""
    total, weight = sums
    return torch.where(weight > 0, total / weight, 0.0)
