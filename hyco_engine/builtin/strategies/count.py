"""`count`: alpha sets how many samples are generated; all samples weigh the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from hyco_engine.augment.balance import generated_count
from hyco_engine.builtin.strategies.starts import check_steppers, random_starts
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, Player, Strategy


class Count(Strategy):
    """Generates `int(n_real * alpha)` rollouts from a random subset of the real windows' starts, new each cycle."""

    proposes = False

    def check(self, models: Mapping[Player, nn.Module], *, heldout: bool) -> None:
        check_steppers(models)

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        n_real = len(context.real)
        count = generated_count(n_real, context.alpha)
        if count == 0:
            return None
        states = random_starts(context.real, count, context.generator("starts"))
        recipe = context.rollout_recipe(phase.teacher, states, count)
        return Augmentation(recipe=recipe, expected_ratio=context.alpha)
