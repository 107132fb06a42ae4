"""The task of fields that are observed on their grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from hyco_engine.data.manager import DataManager
from hyco_engine.interfaces import TermSpec
from hyco_engine.tasks.fields import FieldTask
from hyco_engine.training.evaluation import HeldOut, HeldOutRollouts
from hyco_engine.training.losses import Objective, objective_for


class GridTask(FieldTask):
    """The task to predict the frames of simulations by rollouts; full-length rollouts measure the models."""

    def objective(self, model: nn.Module, specs: Sequence[TermSpec]) -> Objective:
        return objective_for(model, self.layout, specs)

    def heldout(
        self, split: Literal["val", "test"], objective: Objective, device: torch.device | str = "cpu"
    ) -> HeldOut | None:
        real = self.manager.heldout(split)
        known = self.manager.last_known(split)
        return HeldOutRollouts(real, self.layout, device, last_known=known) if real else None

    def simulations(self) -> DataManager:
        return self.manager
