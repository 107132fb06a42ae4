"""`two-arms`: two strategies or more from the same start; of each model the best on held-out real data is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Arm, Augmentation, CycleContext, Phase, Player, Strategy, StrategyContext

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

    def check(self, models: Mapping[Player, nn.Module], *, heldout: bool) -> None:
        if not heldout:
            raise SpecError(
                "arms are chosen by their errors on held-out data, and nothing is held out: give validation data",
                key="augmentation.kind",
            )

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        raise RuntimeError("the arms are asked, not the strategy that has them")


def build(options: TwoArmsOptions, context: StrategyContext) -> TwoArms:
    """The registered factory."""
    names = [choice.kind for choice in options.arms]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, start=1)]
    arms = []
    for index, (name, choice) in enumerate(zip(names, options.arms, strict=True)):
        strategy = context.registry.build("hyco_strategies", choice.kind, choice.options, context)
        if strategy.arms():
            raise SpecError(
                f"{choice.kind!r} has arms itself: name its arms here", key=f"augmentation.arms[{index}].kind"
            )
        arms.append(Arm(name=name, strategy=strategy, alpha=choice.alpha))
    return TwoArms(arms)
