"""`curriculum`: the number of generated samples follows a schedule; all samples have the same weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from hyco_engine.augment.balance import generated_count
from hyco_engine.builtin.strategies.starts import random_starts
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, Recipe, Strategy, StrategyContext
from hyco_engine_curriculum.starts import perturbed

if TYPE_CHECKING:
    from hyco_engine_curriculum import CurriculumOptions


def largest_alpha(options: CurriculumOptions, alpha: float) -> float:
    """Return the largest alpha of all cycles, which is at one end of a schedule, since schedules are monotonic."""
    return alpha if options.schedule == "constant" else alpha * max(1.0, options.initial_share)


def scheduled_alpha(options: CurriculumOptions, alpha: float, cycle: int) -> float:
    """Return the alpha of `cycle`, which is `alpha` from cycle `ramp_cycles` on."""
    done = min(1.0, cycle / options.ramp_cycles)
    match options.schedule:
        case "constant":
            done = 1.0
        case "linear":
            pass
        case "cosine":
            # 0.25 and the like exactly, which int() would otherwise cut to one sample less
            done = round((1 - math.cos(math.pi * done)) / 2, 12)
        case "step":
            done = math.floor(done)
    # rounding must not carry it beyond what was declared
    return min(alpha * ((1 - done) * options.initial_share + done), largest_alpha(options, alpha))


class Curriculum(Strategy):
    """`int(n_real * alpha(cycle))` rollouts, drawn afresh each cycle; each counts as much as a real sample."""

    def __init__(self, options: CurriculumOptions) -> None:
        self.options = options

    def max_generated(self, n_real: int, alpha: float) -> int:
        return generated_count(n_real, largest_alpha(self.options, alpha))

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation:
        alpha = scheduled_alpha(self.options, context.alpha, context.cycle)
        count = generated_count(len(context.real), alpha)
        recipe = self._recipe(phase, context, count) if count else None
        return Augmentation(recipe=recipe, expected_ratio=alpha, record={"alpha": alpha})

    def _recipe(self, phase: Phase, context: CycleContext, count: int) -> Recipe:
        states = random_starts(context.real, count, context.generator("starts"))
        lead = None
        if self.options.starts == "perturbed":
            if context.layout is None:
                raise RunError("perturbed starts are states of fields, and this data has none")
            states = perturbed(states, context.layout, self.options.noise, context.generator)
        elif self.options.starts == "rolled-out":
            lead = torch.randint(1, self.options.lead_steps + 1, (count,), generator=context.generator("lead"))
        return context.rollout_recipe(phase.teacher, states, count, lead)


def build(options: CurriculumOptions, context: StrategyContext) -> Curriculum:
    """Build the strategy `curriculum`."""
    return Curriculum(options)
