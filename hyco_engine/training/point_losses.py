"""The objectives of models that train on observations at points."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.points import GRID, START, Sensors
from hyco_engine.errors import PluginError, SpecError
from hyco_engine.interfaces import Batch, LossTerm, Player, Points
from hyco_engine.rollout import rollout
from hyco_engine.training.divergence import LeftFinite
from hyco_engine.training.losses import Objective, RolloutObjective, weighted

# (prediction - target, which is 0 if not observed; mask of observed values), both `[B, N, C_dyn]`
_Part = tuple[Tensor, Tensor]


def check_parts(player: Player, objective: Objective, points: int | None) -> None:
    """Raise SpecError if `points_per_sample` would have no effect."""
    if points is not None and not objective.takes_parts:
        raise SpecError(
            "only a surrogate that is a function of position and time can learn observations in parts: leave it out",
            key=f"training.{player}.points_per_sample",
        )


@attrs.frozen(eq=False)
class PointObjective(RolloutObjective):
    """Squared errors of a stepper at the points of `PointWindows`, one term for each dynamic field.

    The stepper is rolled out from the state and interpolated at the sensors. Generated rollouts beside the sensors'
    samples are compared at all points of the grid. Nothing beyond the `horizon` counts as observed, so the observed
    share of a sample is that of its values up to the horizon.
    """

    _sensors: Sensors = attrs.field(init=False)

    @_sensors.default
    def _sensors_of_layout(self) -> Sensors:
        return Sensors(self.layout)

    def _terms(self, model: nn.Module, batch: Batch, sample_weight: Tensor | None) -> list[LossTerm]:
        parts = self._compared(model, batch)
        shares = self.weights(batch, sample_weight)
        terms = []
        for spec in self.specs:
            channels = self._channels[spec.name]
            squares = sum(difference[..., channels].square().flatten(1).sum(1) for difference, _ in parts)
            counts = sum(observed[..., channels].flatten(1).sum(1) for _, observed in parts)
            assert isinstance(squares, Tensor)
            assert isinstance(counts, Tensor)
            weight = shares[spec.name].to(squares.dtype)
            terms.append(LossTerm(spec=spec, per_sample=squares / counts.clamp(min=1), sample_weight=weight))
        return terms

    def weights(self, batch: Batch, sample_weight: Tensor | None = None) -> dict[str, Tensor]:
        _, points, grid = self._split(batch)
        seen = [] if points is None else [self._seen(points)]
        seen += [] if grid is None else [_rows(self._observed(grid))]
        found = {}
        for name, channels in self._channels.items():
            share = torch.zeros((), dtype=torch.float64)
            for observed in seen:
                share = share + observed[..., channels].flatten(1).double().mean(1)
            found[name] = weighted(share, sample_weight)
        return found

    def steps(self, batch: Batch) -> int | None:
        _, points, grid = self._split(batch)
        if grid is not None:
            steps = grid.shape[1]
        elif points is not None:
            steps = max(1, math.ceil(float(points["frame"].max()) - 1e-4))
        else:
            return None
        return steps if self.horizon is None else min(steps, self.horizon)

    def residuals(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        parts = [difference for difference, _ in self._compared(model, batch)]
        found = {}
        for name, channels in self._channels.items():
            own = [part[..., channels].flatten(1) for part in parts]
            found[name] = torch.cat([part * part.shape[1] ** -0.5 for part in own], dim=1)
        return found

    def _compared(self, model: nn.Module, batch: Batch) -> list[_Part]:
        states, points, grid = self._split(batch)
        steps = self.steps(batch)
        assert steps is not None
        path = rollout(model, states, steps, checkpoint_every=self.checkpoint_every)
        if path.shape[2:] != (self.layout.n_dynamic, *self.layout.spatial):
            raise PluginError(
                f"{type(model).__name__} predicts {list(path.shape)} for states {list(states.shape)}; expected "
                f"{[len(states), steps, self.layout.n_dynamic, *self.layout.spatial]} as [B, T, C_dyn, *S]"
            )
        parts = []
        if points is not None:
            whole = torch.cat([states[:, None, : self.layout.n_dynamic], path], dim=1)
            read = self._sensors(whole, points["frame"], points["position"])
            # 0 if finite, else NaN: a state that is not finite must show even if no sensor observed it
            read = read + 0.0 * path.flatten(1).sum(1)[:, None, None]
            values = points["value"]
            if START in points:
                read = torch.cat([read, _rows(whole[:, :1])], dim=1)
                values = torch.cat([values, _rows(points[START])], dim=1)
            parts.append(_part(read, values, self._seen(points)))
        if grid is not None:
            beyond = grid.new_zeros(len(grid), grid.shape[1] - steps, *grid.shape[2:])
            parts.append(_part(_rows(torch.cat([path, beyond], dim=1)), _rows(grid), _rows(self._observed(grid))))
        return parts

    def _seen(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return a mask `[B, N, C_dyn]` of the observed values, with those of the start if it is a target."""
        seen = ~points["value"].isnan()
        return torch.cat([seen, _rows(self._observed(points[START]))], dim=1) if START in points else seen

    def _split(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor] | None, Tensor | None]:
        """Return (states, targets of sensors, targets on the grid), with NaN in targets beyond the horizon."""
        states, targets = batch
        if not isinstance(states, Tensor):
            raise TypeError("observations at points need a state to start from; this data has inputs by name")
        if isinstance(targets, Tensor):
            return states, None, self._within(targets)
        points = {name: values for name, values in targets.items() if name != GRID}
        grid = targets.get(GRID)
        if self.horizon is not None:
            late = points["frame"] > self.horizon + 1e-4
            points["value"] = torch.where(late[..., None], math.nan, points["value"])
        return states, points, None if grid is None else self._within(grid)

    def _within(self, grid: Tensor) -> Tensor:
        if self.horizon is None or self.horizon >= grid.shape[1]:
            return grid
        return torch.cat([grid[:, : self.horizon], torch.full_like(grid[:, self.horizon :], math.nan)], dim=1)


@attrs.frozen(eq=False)
class PointPredictorObjective(PointObjective):
    """Squared errors of a predictor, a function of position and time, at the points of `PointWindows`.

    It receives `{"position": [M, n_axes], "time": [M]}` and returns each field as `[M]` or `[M, components]`.
    """

    takes_parts = True

    def left_finite(self, model: nn.Module, batch: Batch) -> LeftFinite | None:
        return None

    def _compared(self, model: nn.Module, batch: Batch) -> list[_Part]:
        _, points, grid = self._split(batch)
        if points is None or grid is not None:
            raise TypeError("a predictor of points learns from sensors, and these are rollouts on a grid")
        return [_part(predicted_at(model, points, self.layout), points["value"], self._seen(points))]


def predicted_at(model: nn.Module, points: Mapping[str, Tensor], layout: StateLayout) -> Tensor:
    """Return `[..., C_dyn]` of a predictor of points at `position [..., n_axes]` and `time [...]`."""
    position, time = points["position"], points["time"]
    outputs = model({"position": position.flatten(0, -2), "time": time.flatten()})
    columns = []
    for field in layout.dynamic:
        if field.name not in outputs:
            raise PluginError(f"{type(model).__name__} predicts {', '.join(outputs)}, and not {field.name!r}")
        columns.append(outputs[field.name].reshape(*time.shape, field.channels))
    return torch.cat(columns, dim=-1)


def as_batch(points: Points, dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
    """Return the observations of one simulation as targets with a batch axis of 1."""
    columns = {"frame": points.frame, "time": points.time, "position": points.position, "value": points.value}
    return {name: column[None].to(device, dtype) for name, column in columns.items()}


def _part(predictions: Tensor, values: Tensor, observed: Tensor) -> _Part:
    return torch.where(observed, predictions - values, 0.0), observed


def _rows(values: Tensor) -> Tensor:
    """Return `[B, T, C, *S]` as `[B, N, C]`."""
    return values.movedim(2, -1).flatten(1, -2)
