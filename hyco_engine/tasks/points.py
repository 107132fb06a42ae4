"""The task of fields that sensors observe at any points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyco_engine.ensemble import Prediction
from hyco_engine.interfaces import Predictor, TermSpec
from hyco_engine.tasks.fields import FieldTask
from hyco_engine.training.evaluation import HeldOut, HeldOutRollouts, Sums, predictor_sums
from hyco_engine.training.losses import Objective
from hyco_engine.training.point_losses import PointObjective, PointPredictorObjective, predicted_at


class PointTask(FieldTask):
    """The task to predict the observations of sensors, by rollouts of steppers or by predictors, at their points."""

    def objective(self, model: nn.Module, specs: Sequence[TermSpec]) -> Objective:
        kind = PointPredictorObjective if isinstance(model, Predictor) else PointObjective
        return kind(self.layout, specs)

    def path(self, model: nn.Module, start: Tensor, steps: int) -> Prediction:
        if not isinstance(model, Predictor):
            return super().path(model, start, steps)
        grid = self.layout.grid
        lines = [torch.tensor(grid.centers(axis), dtype=start.dtype) for axis in grid.axes]
        places = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).reshape(1, -1, len(lines))
        times = self.dt * torch.arange(1, steps + 1, dtype=start.dtype)[:, None].expand(-1, places.shape[1])
        at = {"position": places.expand(steps, -1, -1).to(start.device), "time": times.to(start.device)}
        found = predicted_at(model, at, self.layout).movedim(-1, 1)
        return Prediction(mean=found.reshape(1, steps, -1, *grid.resolution))

    def heldout(
        self, split: Literal["val", "test"], objective: Objective, device: torch.device | str = "cpu"
    ) -> HeldOut | None:
        real = self.manager.heldout(split)
        known = self.manager.last_known(split)
        return HeldOutPoints(real, self.layout, device, last_known=known) if real else None


class HeldOutPoints(HeldOutRollouts):
    """Full-length rollouts of steppers, and predictors, compared by nrmse at the points of the sensors."""

    def measure(self, model: nn.Module) -> dict[str, Any]:
        return self._of_predictor(model).metrics() if isinstance(model, Predictor) else super().measure(model)

    def by_unit(self, model: nn.Module) -> Tensor:
        return self._of_predictor(model).by_unit() if isinstance(model, Predictor) else super().by_unit(model)

    def _of_predictor(self, model: nn.Module) -> Sums:
        return predictor_sums(model, self.trajectories, self.layout, self.device, self.runtime)
