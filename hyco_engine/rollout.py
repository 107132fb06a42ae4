"""Autoregressive rollouts: each prediction is the next input. Static channels stay as they are, but for the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyco_engine.data.clock import later
from hyco_engine.ensemble import Prediction, members_of
from hyco_engine.interfaces import PhysicalModel


def rollout(model: nn.Module, state: Tensor, steps: int, *, checkpoint_every: int | None = None) -> Tensor:
    """Roll a stepper out from `state [B, C_all, *S]` and return its predictions `[B, steps, C_dyn, *S]`.

    With `checkpoint_every`, the backward pass keeps the state after every so many steps and recomputes the steps
    between. The numbers are the same, at the cost of one more forward pass; memory grows by states, not by all that a
    step computes. The prediction of an ensemble is the mean of its members' own rollouts.
    """
    if len(members_of(model)) > 1:
        return member_rollouts(model, state, steps, checkpoint_every=checkpoint_every).mean(0)
    if checkpoint_every is None or checkpoint_every >= steps or not torch.is_grad_enabled():
        return torch.stack(_predictions(model, state, steps), dim=1)
    with torch.no_grad():
        # a model may prepare something when it meets a new shape; that must not become part of the checkpointed step
        model(state)
    parts: list[Tensor] = []
    for start in range(0, steps, checkpoint_every):
        count = min(checkpoint_every, steps - start)
        parts += checkpoint(_predictions, model, state, count, use_reentrant=False)
        state = _next(model, parts[-1], state, count)
    return torch.stack(parts, dim=1)


def member_rollouts(model: nn.Module, state: Tensor, steps: int, *, checkpoint_every: int | None = None) -> Tensor:
    """Return the rollouts `[N, B, steps, C_dyn, *S]` of all members of an ensemble; any other model has one member."""
    paths = [rollout(member, state, steps, checkpoint_every=checkpoint_every) for member in members_of(model)]
    return torch.stack(paths)


def rollout_with_bands(model: nn.Module, state: Tensor, steps: int) -> Prediction:
    """Roll a stepper out from `state [B, C_all, *S]`; an ensemble has a spread, and bands where some were calibrated.

    One lead time after the last that was calibrated, bands take the factor of that one.
    """
    paths = member_rollouts(model, state, steps)
    mean, bands = paths.mean(0), getattr(model, "bands", None)
    spread = paths.std(0) if len(paths) > 1 else None
    if bands is None:
        return Prediction(mean=mean, spread=spread)
    half = bands.half_width(paths)
    return Prediction(mean=mean, spread=spread, lower=mean - half, upper=mean + half)


def _predictions(model: nn.Module, state: Tensor, steps: int) -> list[Tensor]:
    predictions = []
    step = model.bound() if isinstance(model, PhysicalModel) else model
    for _ in range(steps):
        predictions.append(step(state))
        state = _next(model, predictions[-1], state)
    return predictions


def _next(model: nn.Module, prediction: Tensor, state: Tensor, frames: int = 1) -> Tensor:
    """Return the state that a prediction so many frames after `state` belongs to.

    `advances` of a model are those of the layout of its states.
    """
    if state.shape[1] == prediction.shape[1]:
        return prediction
    static = state[:, prediction.shape[1] :]
    static = later(static, getattr(model, "advances", ()), frames, static.dim() - 2)
    return torch.cat([prediction, static], dim=1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode within the context, and restore the mode of every submodule afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
