"""The choice of a surrogate's training from the size of the data and a budget.

A budget is a time, for which the step is timed on this machine once, or a number of epochs. Without one, the surrogate
may do as much work as two usual processor cores do in three minutes. That work is counted, not timed, so that the same
spec trains the same way on every machine.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.training.budget import Budget
from hyco_engine.training.losses import Objective
from hyco_engine.training.settings import SurrogateTraining, TrainingSettings

DEFAULT_SECONDS = 180.0
OPERATIONS_PER_SECOND = 2e10
"""Speed of convolutions on two usual cores."""
OVERHEAD = 3e-3
"""Seconds of a step that do not depend on its operations."""

MOST_STEPS = 5000
"""On a bistable reaction, the lowest held-out error came after 1000 of so many steps of the optimizer."""
BATCHES = 8
"""The least number of batches in an epoch, as long as each has at least four samples."""
EPOCH_SAMPLES = 1000
"""The number of samples that a good teacher makes of fewer real ones."""
EPOCH_VALUES = 1 << 20
"""The most values in the states of so many samples: those of large grids take the physics long to generate."""
PATIENCE = 0.4
"""The part of all epochs after which training ends without a lower error on held-out data."""


@attrs.frozen(kw_only=True)
class Plan:
    """The settings of a surrogate's training, and what was chosen in one sentence."""

    settings: TrainingSettings
    text: str


@attrs.frozen(kw_only=True, eq=False)
class Size:
    """What the choice depends on, beside the budget.

    `samples` is the number of samples in an epoch, and `phases` the number of phases in the run, where a quarter of a
    phase counts as 0.25; `hidden` is true if some values of the data are not observed, and `noisy` if they have noise.
    """

    layout: StateLayout
    samples: int
    horizon: int
    phases: float
    validates: bool
    hidden: bool = False
    noisy: bool = False


def most_in_epoch(layout: StateLayout) -> int:
    """Return up to how many samples a good teacher may add to the real ones."""
    return min(EPOCH_SAMPLES, EPOCH_VALUES // (layout.n_all * math.prod(layout.spatial)))


def batch_size(samples: int) -> int:
    """Return the usual number of samples in a step, a power of two."""
    return max(4, min(16, 1 << int(math.log2(max(samples / BATCHES, 1)))))


def operations(wanted: SurrogateTraining, budget: Budget, samples: int) -> float:
    """Return how many operations a step may spend on one sample if all steps are to fit into the budget.

    This, too, is counted: a network has the same size on every machine.
    """
    batch = wanted.settled(batch_size=batch_size(samples)).batch_size
    steps = MOST_STEPS if budget.epochs is None else budget.epochs * math.ceil(samples / batch)
    seconds = (budget.seconds or DEFAULT_SECONDS) - steps * OVERHEAD
    return max(0.0, seconds) * OPERATIONS_PER_SECOND / (steps * batch)


def plan(wanted: SurrogateTraining, budget: Budget, size: Size, model: nn.Module, objective: Objective) -> Plan:
    """Choose what `wanted` leaves open for a stepper that is trained on rollouts by stochastic gradient descent."""
    # one step a rollout costs least, and unobserved or noisy frames need longer ones
    short = size.horizon > 1 and not size.hidden and not size.noisy
    choices: dict[str, Any] = {
        "batch_size": batch_size(size.samples),
        "lr": _rate(model),
        "curriculum": ((1, 1),) if short else (),
        "input_noise": 0.0 if size.noisy else 0.1,
    }
    first = wanted.settled(**choices)
    batches = math.ceil(size.samples / first.batch_size)
    steps = first.curriculum[0][0] if first.curriculum else size.horizon
    if budget.epochs is not None:
        total, why = budget.epochs, f"run.budget = {budget.epochs} epochs"
    else:
        step = _step(model, objective.at_horizon(steps), size.layout, first.batch_size, steps)
        seconds = _counted(step) if budget.seconds is None else _timed(step)
        most = (budget.seconds or DEFAULT_SECONDS) / seconds
        total = math.ceil(min(most, MOST_STEPS) / batches)
        why = "about three minutes on two cores" if budget.seconds is None else f"{budget.seconds:g} s here"
        why = f"at most {why}" if most < MOST_STEPS else f"{MOST_STEPS} steps, less than {why}"
    each = max(1, round(total / size.phases))
    total = math.ceil(each * size.phases)
    choices |= {"epochs_per_cycle": each, "curriculum": ((1, total),) if short else ()}
    chosen = wanted.settled(**choices, patience=max(1, round(PATIENCE * total)) if size.validates else 0)
    return Plan(settings=chosen, text=_text(chosen, size, batches, why))


def _rate(model: nn.Module) -> float:
    """Return a learning rate with one digit: 0.01 for up to 10 000 weights, less as their root for more."""
    count = sum(weight.numel() for weight in model.parameters())
    return float(f"{max(1e-3, 1e-2 * min(1.0, math.sqrt(1e4 / max(count, 1)))):.0e}")


def _text(settings: TrainingSettings, size: Size, batches: int, why: str) -> str:
    each, rate = settings.epochs_per_cycle, f"learning rate {settings.lr:g}"
    rate += " falling to 0" if settings.schedule == "cosine" else ""
    epochs = f"{each} epochs" if size.phases == 1 else f"{size.phases:g} x {each} epochs"
    steps = settings.curriculum[0][0] if settings.curriculum else size.horizon
    parts = [f"{epochs} of {batches} batches of {settings.batch_size} ({why})", rate, f"rollouts of {steps} step(s)"]
    if settings.input_noise:
        parts.append(f"noise of {settings.input_noise:g} of a frame's change")
    if settings.patience:
        parts.append(f"ending after {settings.patience} epochs without a lower error on held-out data")
    return ", ".join(parts)


def _step(model: nn.Module, objective: Objective, layout: StateLayout, batch: int, steps: int) -> Callable[[], None]:
    """Return a step without an optimizer of a copy of the model, on a batch of zeros."""
    own = copy.deepcopy(model)
    weights = next(parameter for parameter in own.parameters() if parameter.is_floating_point())
    states = weights.new_zeros(batch, layout.n_all, *layout.spatial).detach()
    targets = weights.new_zeros(batch, steps, layout.n_dynamic, *layout.spatial).detach()

    def step() -> None:
        total = torch.stack([term.mean() for term in objective(own, (states, targets))]).sum()
        total.backward()  # type: ignore[no-untyped-call]

    return step


def counted_work(model: nn.Module, objective: Objective, layout: StateLayout, steps: int) -> float:
    """Return the seconds that a step on one sample takes two usual cores, without what any step takes."""
    return _counted(_step(model, objective.at_horizon(steps), layout, 1, steps)) - OVERHEAD


def _counted(step: Callable[[], None]) -> float:
    """Return the seconds of a step on two usual cores, from its number of operations."""
    from torch.utils.flop_counter import FlopCounterMode

    # a physics within the model is captured at the first step, and its check takes gradients, which the counter refuses
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) / OPERATIONS_PER_SECOND + OVERHEAD


def _timed(step: Callable[[], None], count: int = 5) -> float:
    """Return the median seconds of a step on this machine."""
    seconds = []
    for _ in range(count + 1):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    # the first step also prepares what later ones use
    return sorted(seconds[1:])[count // 2]
