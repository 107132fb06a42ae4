"""`two-arms`: two strategies or more train from the same start; held-out real data choose the best for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Arm, Augmentation, CycleContext, Phase, Player, Strategy, StrategyContext

if TYPE_CHECKING:
    from hyco_engine.builtin.strategies import TwoArmsOptions


class TwoArms(Strategy):
    """Holds its candidate strategies; only after training can held-out data tell which one is right.

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
                "the candidates of two-arms are chosen by their errors on held-out data, and no data is held out: set "
                "data.split.val",
                key="augmentation.kind",
            )

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        raise RuntimeError("two-arms augments nothing itself: call augment of one of its candidates")


def build(options: TwoArmsOptions, context: StrategyContext) -> TwoArms:
    """Build the strategy; the registry calls this factory."""
    names = [choice.kind for choice in options.arms]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, start=1)]
    arms = []
    for index, (name, choice) in enumerate(zip(names, options.arms, strict=True)):
        strategy = context.registry.build("hyco_strategies", choice.kind, choice.options, context)
        if strategy.arms():
            raise SpecError(
                f"the candidate {choice.kind!r} has candidates itself: list its arms here instead",
                key=f"augmentation.arms[{index}].kind",
            )
        arms.append(Arm(name=name, strategy=strategy, alpha=choice.alpha))
    return TwoArms(arms)
