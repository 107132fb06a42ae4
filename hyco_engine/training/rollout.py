"""Autoregressive rollouts: the prediction is the next input, static channels are carried along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def rollout(model: nn.Module, state: Tensor, steps: int) -> Tensor:
    """`steps` predictions of a stepper from `state [B, C_all, *S]`: `[B, steps, C_dyn, *S]`."""
    predictions = []
    for _ in range(steps):
        prediction = model(state)
        predictions.append(prediction)
        state = torch.cat([prediction, state[:, prediction.shape[1] :]], dim=1)
    return torch.stack(predictions, dim=1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
