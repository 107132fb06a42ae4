"""A horizon curriculum: short rollouts first, which have few minima, then longer and longer ones."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Player, Samples
from hyco_engine.training.losses import Objective, RolloutObjective

# Windows that are looked at in one go.
_AT_ONCE = 64


@attrs.define
class Curriculum:
    """Where a trainer is in its stages: (steps of the rollouts, epochs) each; after the last one rollouts are full.

    `done` counts epochs; a stage that converges early is over, so all of it counts as done.
    """

    stages: Sequence[tuple[int, int]]
    done: int = 0
    entered: int | None = None
    """The horizon that is being trained."""

    @property
    def horizon(self) -> int | None:
        """Steps of the next epoch's rollouts; None: all that the targets have."""
        stage = self._stage()
        return None if stage is None else stage[0]

    def epoch(self, converged: bool) -> bool:
        """Count an epoch; whether nothing is left to gain, in the stages to come either."""
        stage = self._stage()
        self.done = self.done + 1 if stage is None or not converged else stage[1]
        return converged and stage is None

    def enter(self, objective: Objective) -> bool:
        """Have `objective` train the next epoch's rollouts; whether that changes it."""
        if not self.stages or not isinstance(objective, RolloutObjective):
            return False
        before = objective.horizon
        self.entered = objective.horizon = self.horizon
        return before != self.entered

    def leave(self, objective: Objective) -> None:
        """Have `objective` see full rollouts."""
        if self.stages and isinstance(objective, RolloutObjective):
            objective.horizon = None

    def _stage(self) -> tuple[int, int] | None:
        """(steps, epochs when it ends) of the present one; None: beyond the last."""
        end = 0
        for steps, epochs in self.stages:
            end += epochs
            if self.done < end:
                return steps, end
        return None


def curriculum_for(player: Player, objective: Objective, stages: Sequence[tuple[int, int]]) -> Curriculum:
    """The curriculum that the spec asks for. Raises SpecError where there are no rollouts that could be shorter."""
    if stages and not isinstance(objective, RolloutObjective):
        raise SpecError(
            f"a curriculum shortens rollouts, and the {player} model is not trained on such: leave it out",
            key=f"training.{player}.curriculum",
        )
    return Curriculum(stages)


def check_stages(player: Player, objective: Objective, stages: Sequence[tuple[int, int]], data: Samples) -> None:
    """Raises SpecError where the first stage is so short that nothing is observed within it."""
    if not stages or not isinstance(objective, RolloutObjective):
        return
    steps = objective.horizon = stages[0][0]
    try:
        for indices in torch.split(torch.arange(len(data)), _AT_ONCE):
            if any(bool((weight > 0).any()) for weight in objective.weights(data.batch(indices)).values()):
                return
    finally:
        objective.horizon = None
    raise SpecError(
        f"the first stage trains {steps} steps, and nothing is observed that soon after the start of any window: begin "
        "with more steps",
        key=f"training.{player}.curriculum",
    )
