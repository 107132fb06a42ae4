"""The task of fields that are observed on their grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hyco_engine.data.manager import DataManager
from hyco_engine.hooks.attribution import attributed
from hyco_engine.interfaces import TermSpec
from hyco_engine.tasks.fields import FieldTask
from hyco_engine.training.analyses import analyses
from hyco_engine.training.evaluation import HeldOut, HeldOutRollouts
from hyco_engine.training.losses import Objective, objective_for
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer


class GridTask(FieldTask):
    """The task to predict the frames of simulations by rollouts; full-length rollouts measure the models."""

    def objective(self, model: nn.Module, specs: Sequence[TermSpec]) -> Objective:
        return objective_for(model, self.layout, specs)

    def heldout(
        self, split: Literal["val", "test"], objective: Objective, device: torch.device | str = "cpu"
    ) -> HeldOut | None:
        real = self.manager.heldout(split)
        known = self.manager.last_known(split)
        noise = self.manager.heldout_noise
        return HeldOutRollouts(real, self.layout, device, last_known=known, noise=noise) if real else None

    def begin_from_learned(self, physical: Trainer) -> Tensor | None:
        """Begin continuations from what the physics reaches at the end of the training frames.

        But a physics that lacks something leads to states that are worse than noisy ones: if they raise its own error
        on validation data, or without such data, rollouts begin from observed frames.
        """
        self.manager.begin_from_observed()
        if physical.state.initial is None or not self.validates:
            return None
        windows = self.manager.windows_before_heldout(*self._window(physical.settings))
        if not windows:
            return None
        with attributed(physical.who, "rollouts from learned start states"):
            found = analyses(physical, self.samples(physical.settings), torch.tensor(list(windows)))
            if not bool(found.isfinite().all()):
                return None
            measured = (physical.model, physical.objective, physical.shards, physical.device)
            observed = self.score(*measured)
            self.manager.begin_from(found, windows)
            if observed < self.score(*measured):
                self.manager.begin_from_observed()
                return None
        return found

    def begin_from(self, states: Tensor, settings: TrainingSettings) -> None:
        self.manager.begin_from(states, self.manager.windows_before_heldout(*self._window(settings)))

    def simulations(self) -> DataManager:
        return self.manager
