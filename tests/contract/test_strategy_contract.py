"""The built-in strategies keep the public contract."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch

from hyco_engine.builtin.strategies import InteractionOptions, TrustOptions, hyco_strategies
from hyco_engine.builtin.strategies.count import Count
from hyco_engine.builtin.strategies.interaction import Interaction
from hyco_engine.builtin.strategies.trust import Trust
from hyco_engine.builtin.strategies.two_arms import TwoArms
from hyco_engine.builtin.strategies.weight import Weight
from hyco_engine.interfaces import Arm, Augmentation, Phase, Strategy
from hyco_engine.testing.strategies import StrategyContract


class TestCount(StrategyContract):
    def make(self) -> Strategy:
        return Count()


class TestWeight(StrategyContract):
    def make(self) -> Strategy:
        return Weight()


class TestTrust(StrategyContract):
    def make(self) -> Strategy:
        return Trust(TrustOptions())


class TestTrustFromDrawnStarts(StrategyContract):
    def make(self) -> Strategy:
        return Trust(TrustOptions(starts="drawn", warmup=0))


class TestTrustFromRealStarts(StrategyContract):
    def make(self) -> Strategy:
        return Trust(TrustOptions(starts="real"))


class TestInteraction(StrategyContract):
    def make(self) -> Strategy:
        return Interaction(InteractionOptions(points=8))


class TestTwoArms(StrategyContract):
    def make(self) -> Strategy:
        arms = Arm(name="count", strategy=Count(), alpha=2.0), Arm(name="trust", strategy=Trust(TrustOptions()))
        return TwoArms(arms)


def test_every_built_in_strategy_is_here() -> None:
    assert {record.kind for record in hyco_strategies()} == {"count", "weight", "trust", "interaction", "two-arms"}


class Greedy(Count):
    def augment(self, phase: Phase, context: Any) -> Augmentation | None:
        twice = context.rollout_recipe(phase.teacher, context.real.inputs, 2 * int(len(context.real) * context.alpha))
        return Augmentation(recipe=twice, expected_ratio=2 * context.alpha)


class Undeclared(Count):
    def augment(self, phase: Phase, context: Any) -> Augmentation | None:
        answer = super().augment(phase, context)
        return answer and Augmentation(recipe=answer.recipe, expected_ratio=0.5 * context.alpha)


class Counting(Count):
    asked = 0

    def augment(self, phase: Phase, context: Any) -> Augmentation | None:
        self.asked += 1
        return Augmentation(record={"asked": self.asked})


class Global(Count):
    def augment(self, phase: Phase, context: Any) -> Augmentation | None:
        torch.rand(1)
        return None


class Drawing(Count):
    """Starts that are drawn anew each time they are asked for."""

    def augment(self, phase: Phase, context: Any) -> Augmentation | None:
        generator = context.generator("starts")
        count = int(len(context.real) * context.alpha)

        def states(indices: torch.Tensor) -> torch.Tensor:
            return torch.rand(len(indices), 1, 8, generator=generator)

        return Augmentation(recipe=context.rollout_recipe(phase.teacher, states, count), expected_ratio=context.alpha)


class Moody(Count):
    calls = 0

    def phases(self, cycle: int) -> Any:
        self.calls += 1
        return [Phase(player="synthetic", epochs=self.calls)]


class Understated(TwoArms):
    def max_generated(self, n_real: int, alpha: float) -> int:
        return 0


BROKEN: list[tuple[type[Strategy], str, str]] = [
    (Moody, "phases_are", r"phases\(3\) differs from call to call"),
    (Greedy, "no_more", r"with alpha 0.3 and errors .*: 14 samples, more than max_generated\(24, 0.3\) = 7"),
    (Undeclared, "what_is_made", "the plan declares"),
    (Counting, "answers_depend", "a strategy that was asked before answers differently from a new one"),
    (Global, "answers_depend", "draws from torch's global generator; draw from the generator that is passed instead"),
    (Drawing, "recipes_are", "an index gives another sample in another batch"),
]


def test_the_contract_notices_arms_that_are_not_announced() -> None:
    arms = Arm(name="a", strategy=Count()), Arm(name="b", strategy=Count(), alpha=0.5)
    contract = type("Broken", (StrategyContract,), {"make": lambda self: Understated(arms)})()
    with pytest.raises(AssertionError, match="the arm 'a' may ask for 4 samples, but max_generated allows 0"):
        contract.test_arms_have_names_and_are_announced()


@pytest.mark.parametrize(("strategy", "test", "message"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_the_contract_notices(strategy: type[Strategy], test: str, message: str) -> None:
    contract = type("Broken", (StrategyContract,), {"make": lambda self: strategy()})()
    (name,) = [name for name in dir(contract) if name.startswith(f"test_{test}")]
    with pytest.raises(AssertionError, match=message):
        getattr(contract, name)()


class CountsItsCalls(Count):
    """Stands for a part that depends on what else its process did."""

    asked = 0

    def augment(self, phase: Phase, context: Any) -> Augmentation | None:
        CountsItsCalls.asked += 1
        answer = super().augment(phase, context)
        return None if answer is None else attrs.evolve(answer, weight=answer.weight + CountsItsCalls.asked)


def test_a_strategy_that_depends_on_its_process_is_found() -> None:
    class Own(StrategyContract):
        def make(self) -> Strategy:
            return CountsItsCalls()

    with pytest.raises(AssertionError, match="the strategy gives something else on rank 0 of two than in one process"):
        Own().test_ranks_get_the_same_answers()
