"""`weight`: as many samples are generated as there are real ones; alpha is the weight of each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from hyco_engine.builtin.strategies.starts import check_steppers, random_starts
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, Player, Strategy


class Weight(Strategy):
    """Generates one rollout from every real window's start state, each with the weight `alpha`."""

    proposes = False

    def max_generated(self, n_real: int, alpha: float) -> int:
        return n_real if alpha > 0 else 0

    def check(self, models: Mapping[Player, nn.Module], *, heldout: bool) -> None:
        check_steppers(models)

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        count = self.max_generated(len(context.real), context.alpha)
        if count == 0:
            return None
        states = random_starts(context.real, count, context.generator("starts"))
        recipe = context.rollout_recipe(phase.teacher, states, count)
        return Augmentation(recipe=recipe, weight=context.alpha, expected_ratio=context.alpha)
