"""Optimizers by name, the choice of one by the number of parameters, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Player
from hyco_engine.training.full_batch import LBFGS, FullBatch, GaussNewton, step_reach
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.losses import Objective, RolloutObjective
from hyco_engine.training.settings import TrainingSettings

FEW = 50
"""Parameters up to which "auto" takes gauss-newton: one forward derivative each, error bars for free."""
MODERATE = 1_000_000
"""Parameters up to which "auto" takes lbfgs; it keeps forty vectors of that length."""

FULL_BATCH = ("gauss-newton", "lbfgs")
"""See all samples in each iteration, and need an objective that stays the same."""


def choose_optimizer(name: str, count: int, squared: bool = True) -> str:
    """What "auto" means for a physics with `count` numbers to learn; `squared`: its loss is a sum of squares."""
    if name != "auto":
        return name
    if count <= FEW and squared:
        return "gauss-newton"
    return "lbfgs" if count <= MODERATE else "adam"


def optimizer_name(model: nn.Module, player: Player, settings: TrainingSettings, objective: Objective) -> str:
    """What `settings.optimizer` means for this model. Raises SpecError where it cannot be."""
    asked, squared = settings.optimizer, objective.squared
    if asked == "gauss-newton" and not squared:
        kinds = ", ".join(f"{spec.name} ({spec.kind})" for spec in objective.specs)
        raise SpecError(
            f"gauss-newton needs squared errors; the loss terms are {kinds}: use lbfgs or adam",
            key=f"training.{player}.optimizer",
        )
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    name = choose_optimizer(asked, count, squared) if asked != "auto" or player == "physical" else "adam"
    if settings.initial_states == "learned":
        name = "lbfgs" if asked == "auto" else name
        rollouts = isinstance(objective, RolloutObjective)
        if name != "lbfgs" or player != "physical" or not rollouts or settings.starts > 1:
            raise SpecError(
                "initial states are learned with a physics, on rollouts, by lbfgs, from one start; this is "
                f'the {player} model under {name}: leave initial_states out, or choose optimizer = "lbfgs"',
                key=f"training.{player}.initial_states",
            )
    if settings.starts > 1 and (name not in FULL_BATCH or player != "physical"):
        raise SpecError(
            f"several starts are for a physics under gauss-newton or lbfgs; this is the {player} model under {name}: "
            "leave starts out, or choose another optimizer",
            key=f"training.{player}.starts",
        )
    return name


def make_optimizer(
    name: str, parameters: Sequence[nn.Parameter], settings: TrainingSettings, linearizer: Linearizer
) -> torch.optim.Optimizer | FullBatch:
    """The optimizer of that name; `linearizer` is of the model whose parameters these are."""
    # on the CPU torch takes one small operation after the other unless asked, on others it groups them by itself;
    # fused, it takes numbers as they lie in memory, and state that comes from a checkpoint may lie otherwise
    plain = all(p.device.type == "cpu" and p.is_floating_point() and p.is_contiguous() for p in parameters)
    fused = True if plain else None
    match name:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
        case "sgd":
            return torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
        case "lbfgs":
            reach = step_reach(linearizer.model)
            # learned initial states go anywhere
            more = sum(parameter.numel() for parameter in parameters) - len(reach)
            return LBFGS(parameters, torch.cat([reach, reach.new_full((more,), math.inf)]))
        case "gauss-newton":
            return GaussNewton(parameters, linearizer)
        case _:
            return torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def learning_rate(settings: TrainingSettings, fraction: float) -> float:
    """At `fraction` (0 to 1) of the whole run."""
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))
