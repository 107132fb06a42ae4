"""The task of fields that sensors observe at any points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyco_engine.interfaces import Predictor, TermSpec
from hyco_engine.tasks.fields import FieldTask
from hyco_engine.training.evaluation import HeldOut, HeldOutRollouts, Sums, predictor_sums
from hyco_engine.training.losses import Objective
from hyco_engine.training.point_losses import PointObjective, PointPredictorObjective


class PointTask(FieldTask):
    """The task to predict the observations of sensors, by rollouts of steppers or by predictors, at their points."""

    def objective(self, model: nn.Module, specs: Sequence[TermSpec]) -> Objective:
        kind = PointPredictorObjective if isinstance(model, Predictor) else PointObjective
        return kind(self.layout, specs)

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
        return predictor_sums(model, self.trajectories, self.layout, self.device)
