"""The check of a horizon curriculum; `solver.staged` trains it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Player, Samples
from hyco_engine.training.losses import Objective

# Number of windows that are checked together.
_AT_ONCE = 64


def check_stages(player: Player, objective: Objective, stages: Sequence[tuple[int, int]], data: Samples) -> None:
    """Raise SpecError if the first stage is so short that the data has no observation within it."""
    if not stages or not objective.rolls_out:
        return
    steps = stages[0][0]
    first = objective.at_horizon(steps)
    for indices in torch.split(torch.arange(len(data)), _AT_ONCE):
        if any(bool((weight > 0).any()) for weight in first.weights(data.batch(indices)).values()):
            return
    raise SpecError(
        f"the first stage trains {steps} steps, and nothing is observed that soon after the start of any window: begin "
        "with more steps",
        key=f"training.{player}.curriculum",
    )
