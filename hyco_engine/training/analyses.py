"""What a physics with learned start states knows of the last frames of its windows, as forecasts of the weather do."""

from __future__ import annotations

import torch
from torch import Tensor

from hyco_engine.interfaces import Samples
from hyco_engine.rollout import evaluating, rollout
from hyco_engine.training.problem import to_device
from hyco_engine.training.trainer import Trainer


def analyses(trainer: Trainer, data: Samples, chosen: Tensor) -> Tensor:
    """Return the states `[n, C_dyn, *S]` that rollouts from the learned start states reach at the ends of samples.

    `data` are the real samples whose start states `trainer` has learned, and `chosen` the indices of at least one.
    """
    initial, ends = trainer.state.initial, []
    assert initial is not None
    for indices in torch.split(chosen, trainer.settings.batch_size):
        states, targets = initial(to_device(data.batch(indices), trainer.device), indices)
        # samples of fields on a grid
        assert isinstance(states, Tensor)
        assert isinstance(targets, Tensor)
        with torch.no_grad(), evaluating(trainer.model):
            # the first target is the observed start
            ends.append(rollout(trainer.model, states, targets.shape[1] - 1)[:, -1].cpu())
    return torch.cat(ends)
