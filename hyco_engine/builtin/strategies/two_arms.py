"""`two-arms`: two strategies from the same start; of each model the better one on held-out real data is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyco_engine.interfaces import Arm, Augmentation, BuildContext, CycleContext, Phase, Strategy

if TYPE_CHECKING:
    from hyco_engine.builtin.strategies import TwoArmsOptions


class TwoArms(Strategy):
    """Nothing but its arms: which of them is right is known only afterwards, from data that neither has seen.

    Where the misfit has several minima, cooperation from the first step and cooperation after a warm-up end in
    different ones.
    """

    def __init__(self, arms: Sequence[Arm]) -> None:
        self._arms = tuple(arms)

    def arms(self) -> Sequence[Arm]:
        return self._arms

    def max_generated(self, n_real: int, alpha: float) -> int:
        return max(arm.max_generated(n_real, alpha) for arm in self._arms)

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        raise RuntimeError("the arms are asked, not the strategy that has them")


def build(options: TwoArmsOptions, context: BuildContext) -> TwoArms:
    """The registered factory."""
    names = [choice.kind for choice in options.arms]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, start=1)]
    return TwoArms(
        [
            Arm(
                name=name,
                strategy=context.registry.build("hyco_strategies", choice.kind, choice.options, context),
                alpha=choice.alpha,
            )
            for name, choice in zip(names, options.arms, strict=True)
        ]
    )
