"""`trust`: a teacher teaches as far as it is at least as good as its pupil on held-out real data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from hyco_engine.augment.balance import generated_count
from hyco_engine.builtin.strategies.starts import (
    LEAD,
    States,
    check_steppers,
    drawn_starts,
    mixed_starts,
    random_starts,
)
from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, Player, Recipe, Strategy

if TYPE_CHECKING:
    from hyco_engine.builtin.strategies import TrustOptions


def trust(e_teacher: float, e_pupil: float) -> float:
    """tau = min(1, (e_pupil / e_teacher)^2); 0 for a teacher that diverges."""
    if not math.isfinite(e_teacher):
        return 0.0
    return 1.0 if e_pupil >= e_teacher else (e_pupil / e_teacher) ** 2


class Trust(Strategy):
    """`int(n_real * alpha * tau)` rollouts, each counting as much as a real sample.

    Both errors are measured on the same held-out real data right before each phase. A teacher's samples carry its
    squared error; with their number in proportion to tau, the error they import is at most alpha times the pupil's own
    held-out loss. Where no sample is left the phase is that of a model trained alone, to the last bit.

    From new starts that bound holds only as far as the teacher errs there as it does on the data. In the few parameters
    of a physics a surrogate's errors average out; a network copies those of a wrong physics. So a physics that is worse
    than the surrogate is not accepted as its teacher, unless it starts as the data does.
    """

    def __init__(self, options: TrustOptions) -> None:
        self.options = options

    def phases(self, cycle: int) -> Sequence[Phase]:
        """As usual, but both first learn from real data alone.

        An initial guess is no teacher, and to an untrained pupil any teacher seems good.
        """
        if cycle:
            return super().phases(cycle)
        warmup = Phase(player="physical", epochs=self.options.warmup, taught=False)
        return warmup, Phase(player="synthetic", taught=False), Phase(player="physical")

    def check(self, models: Mapping[Player, nn.Module], *, heldout: bool) -> None:
        check_steppers(models)
        if not heldout:
            raise SpecError(
                "this strategy weighs the models by their errors on held-out data, and nothing is held out: give "
                'validation data, or set augmentation.kind = "count", which needs none',
                key="augmentation.kind",
            )

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        if generated_count(len(context.real), context.alpha) == 0:
            return None  # nothing to measure for
        errors = context.errors()
        e_teacher, e_pupil = errors[phase.teacher], errors[phase.player]
        tau = trust(e_teacher, e_pupil)
        accepted = tau == 1 or phase.player == "physical" or self.options.starts == "real"
        count = generated_count(len(context.real), context.alpha * tau) if accepted else 0
        record = {"e_teacher": e_teacher, "e_pupil": e_pupil, "tau": tau, "accepted": count > 0}
        recipe = self._recipe(phase, context, count) if count else None
        return Augmentation(recipe=recipe, expected_ratio=context.alpha * tau if accepted else 0.0, record=record)

    def _recipe(self, phase: Phase, context: CycleContext, count: int) -> Recipe:
        generator = context.generator("starts")
        if self.options.starts == "real":
            return context.rollout_recipe(phase.teacher, random_starts(context.real, count, generator), count)
        states: States
        if self.options.starts == "drawn":
            states = drawn_starts(context.models["physical"], context.generator)
        elif context.layout is None:
            raise RunError("new starts are states of fields, and this data has none")
        else:
            states = mixed_starts(context.real, context.layout, count, generator)
        lead = torch.randint(1, LEAD + 1, (count,), generator=generator)
        return context.rollout_recipe(phase.teacher, states, count, lead)
