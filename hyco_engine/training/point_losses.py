"""What models are trained on where data are observations at points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.points import GRID, Sensors
from hyco_engine.errors import PluginError
from hyco_engine.interfaces import Batch, LossTerm, Points, Predictor, TermSpec
from hyco_engine.training.losses import RolloutObjective
from hyco_engine.training.rollout import rollout

# (prediction - target where it was observed, else 0; whether it was), both `[B, N, C_dyn]`
_Part = tuple[Tensor, Tensor]


class PointObjective(RolloutObjective):
    """Squared errors at the points of `PointWindows`, one term for each dynamic field.

    A stepper is rolled out from the state and read where the sensors are. A predictor is a function of position and
    time: it is asked for `{"position": [M, n_axes], "time": [M]}` and answers each field as `[M]` or `[M, components]`.
    Generated rollouts beside the sensors' samples are compared with a stepper's, point by point of the grid.
    """

    def __init__(self, layout: StateLayout, specs: Sequence[TermSpec] | None = None) -> None:
        super().__init__(layout, specs)
        self._layout = layout
        self._sensors = Sensors(layout)

    def __call__(self, model: nn.Module, batch: Batch, sample_weight: Tensor | None = None) -> list[LossTerm]:
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
        _, points, grid = _split(batch)
        found = {}
        for name, channels in self._channels.items():
            share = torch.zeros((), dtype=torch.float64)
            if points is not None:
                share = share + (~points["value"][..., channels].isnan()).flatten(1).double().mean(1)
            if grid is not None:
                share = share + self._observed(grid)[:, :, channels].flatten(1).double().mean(1)
            found[name] = share if sample_weight is None else share * sample_weight
        return found

    def steps(self, batch: Batch) -> int | None:
        _, points, grid = _split(batch)
        if grid is not None:
            return grid.shape[1]
        return None if points is None else max(1, math.ceil(float(points["frame"].max()) - 1e-4))

    def residuals(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        parts = [difference for difference, _ in self._compared(model, batch)]
        found = {}
        for name, channels in self._channels.items():
            own = [part[..., channels].flatten(1) for part in parts]
            found[name] = torch.cat([part * part.shape[1] ** -0.5 for part in own], dim=1)
        return found

    def _compared(self, model: nn.Module, batch: Batch) -> list[_Part]:
        states, points, grid = _split(batch)
        if isinstance(model, Predictor):
            if points is None or grid is not None:
                raise TypeError("a predictor of points learns from sensors, and these are rollouts on a grid")
            return [_part(predicted_at(model, points, self._layout), points["value"])]
        steps = self.steps(batch)
        assert steps is not None
        path = rollout(model, states, steps, checkpoint_every=self.checkpoint_every)
        if path.shape[2:] != (self._layout.n_dynamic, *self._layout.spatial):
            raise PluginError(
                f"{type(model).__name__} predicts {list(path.shape)} for states {list(states.shape)}; expected "
                f"{[len(states), steps, self._layout.n_dynamic, *self._layout.spatial]} as [B, T, C_dyn, *S]"
            )
        parts = []
        if points is not None:
            whole = torch.cat([states[:, None, : self._layout.n_dynamic], path], dim=1)
            read = self._sensors(whole, points["frame"], points["position"])
            # 0, but NaN where a state that no sensor saw is not finite: that must not go unseen either
            parts.append(_part(read + 0.0 * path.flatten(1).sum(1)[:, None, None], points["value"]))
        if grid is not None:
            observed = self._observed(grid)
            difference = torch.where(observed, path - grid, 0.0)
            parts.append((difference.movedim(2, -1).flatten(1, -2), observed.movedim(2, -1).flatten(1, -2)))
        return parts


def predicted_at(model: nn.Module, points: Mapping[str, Tensor], layout: StateLayout) -> Tensor:
    """`[..., C_dyn]` of a predictor of points at `position [..., n_axes]` and `time [...]`."""
    position, time = points["position"], points["time"]
    outputs = model({"position": position.flatten(0, -2), "time": time.flatten()})
    columns = []
    for field in layout.dynamic:
        if field.name not in outputs:
            raise PluginError(f"{type(model).__name__} predicts {', '.join(outputs)}, and not {field.name!r}")
        columns.append(outputs[field.name].reshape(*time.shape, field.channels))
    return torch.cat(columns, dim=-1)


def as_batch(points: Points, dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
    """Observations of one simulation as targets with a batch axis of 1."""
    columns = {"frame": points.frame, "time": points.time, "position": points.position, "value": points.value}
    return {name: column[None].to(device, dtype) for name, column in columns.items()}


def _part(predictions: Tensor, values: Tensor) -> _Part:
    observed = ~values.isnan()
    return torch.where(observed, predictions - values, 0.0), observed


def _split(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor] | None, Tensor | None]:
    """(states, targets of sensors, targets on the grid)."""
    states, targets = batch
    if not isinstance(states, Tensor):
        raise TypeError("observations at points need a state to start from; this data has inputs by name")
    if isinstance(targets, Tensor):
        return states, None, targets
    points = {name: values for name, values in targets.items() if name != GRID}
    return states, points, targets.get(GRID)
