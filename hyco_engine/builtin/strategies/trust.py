"""`trust`: the better a teacher is on held-out real data, compared with its pupil, the more samples it generates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from hyco_engine.augment.balance import generated_count
from hyco_engine.builtin.strategies.starts import (
    SPIN_UP,
    States,
    check_steppers,
    drawn_starts,
    mixed_starts,
    random_starts,
)
from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, Player, Recipe, Strategy
from hyco_engine.physics.within import instability

if TYPE_CHECKING:
    from hyco_engine.builtin.strategies import TrustOptions


def trust(e_teacher: float, e_pupil: float) -> float:
    """Return tau = min(1, (e_pupil / e_teacher)^2); 0 for a teacher that diverges."""
    if not math.isfinite(e_teacher):
        return 0.0
    return 1.0 if e_pupil >= e_teacher else (e_pupil / e_teacher) ** 2


class Trust(Strategy):
    """Generates `int(n_real * alpha * tau)` rollouts, each with the weight of a real sample.

    Both errors are measured on the same held-out real data right before each phase. A teacher's samples carry its
    squared error; since their number is proportional to tau, the error that they add is at most alpha times the pupil's
    own held-out loss. A phase for which no sample is left is bitwise that of a model trained alone.

    With new starts this bound holds only if the teacher's error there is its error on the data. A surrogate's errors
    average out in the few parameters of a physics, whereas a network copies the errors of a wrong physics. So a physics
    that is worse than the surrogate is not accepted as its teacher, unless its rollouts start from real windows.
    """

    def __init__(self, options: TrustOptions) -> None:
        self.options = options

    def phases(self, cycle: int) -> Sequence[Phase]:
        """Plan the usual phases, and before the first cycle's let both models learn from real data alone.

        A physics with guessed parameters is no teacher, and any teacher has a smaller error than an untrained pupil.
        """
        if cycle:
            return super().phases(cycle)
        warmup = Phase(player="physical", epochs=self.options.warmup, taught=False)
        return warmup, Phase(player="synthetic", taught=False), Phase(player="physical")

    def check(self, models: Mapping[Player, nn.Module], *, heldout: bool) -> None:
        check_steppers(models)
        if not heldout:
            raise SpecError(
                "this strategy compares the models' errors on held-out data, and no data is held out: set "
                'data.split.val, or set augmentation.kind = "count", which needs no held-out data',
                key="augmentation.kind",
            )

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        if generated_count(len(context.real), context.alpha) == 0:
            return None  # no sample would be generated, so the errors need not be measured
        errors = context.errors()
        e_teacher, e_pupil = errors[phase.teacher], errors[phase.player]
        # what diverges in generated rollouts may still be finite over the few frames that are held out
        unstable = instability(context.models[phase.teacher], context.real.inputs(torch.arange(1))) is not None
        tau = 0.0 if unstable else trust(e_teacher, e_pupil)
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
            raise RunError(
                'the starts "mixed" are mixtures of fields on a grid, and this data has none; set starts = "real"'
            )
        else:
            states = mixed_starts(context.real, context.layout, count, generator)
        spin_up = torch.randint(1, SPIN_UP + 1, (count,), generator=generator)
        return context.rollout_recipe(phase.teacher, states, count, spin_up)
