"""A first guess from observed start states, before start states are learned in long windows.

The loss of a long window has many minima in the parameters as long as its start may follow any of them. Short rollouts
from observed frames have few, but noise biases what they find. So a search over windows that grow to a third of the
whole ones gives the point where the joint search begins, if the loss there is lower than at the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from hyco_engine.hooks.attribution import attributed
from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Wrapped, Wrapper
from hyco_engine.training.solver.full_batch import FullBatch, FullBatchState

PARTS = (24, 8, 3)
"""Windows of the first guess have this part of the steps of the whole ones."""
ITERATIONS = 8
"""Iterations for each length of the windows."""


@attrs.define(kw_only=True, eq=False)
class GuessedState(Wrapped[FullBatchState]):
    """The state of the inner solver; `guessed` is true once a first guess was made, which the first phase does."""

    guessed: bool = False


@attrs.frozen
class Guessed(Wrapper[GuessedState]):
    """Searches from observed start states before the first step, then steps as `solver` does."""

    solver: FullBatch[Any]

    def init(self, problem: Problem, before: GuessedState | None = None) -> GuessedState:
        inner = self.solver.init(problem, None if before is None else before.inner)
        return GuessedState(inner=inner, guessed=before is not None and before.guessed)

    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> GuessedState:
        return GuessedState(inner=self.solver.load(saved["inner"], parameters), guessed=saved["guessed"])

    def step(self, problem: Problem, state: GuessedState) -> Progress:
        if not state.guessed:
            with attributed(problem.who, "the first guess"):
                self.solver.freeze(problem, state.inner)
                self._guess(problem)
            state.guessed = True
        return self.solver.step(problem, state.inner)

    def _guess(self, problem: Problem) -> None:
        unknowns, steps = problem.unknowns, problem.steps
        start = unknowns.point()
        before, _ = problem.value()
        for part in PARTS:
            shorter = problem.from_observed((steps or 0) // part)
            if shorter is not None:
                ends = self.solver.search(shorter, unknowns.point()[None], ITERATIONS)
                unknowns.move_to(ends.points[0])
        unknowns.settle_steps()
        after, _ = problem.value()
        # a loss that is not finite is no reason to stay
        if not after <= before and before == before:
            unknowns.move_to(start)
            unknowns.settle_steps()
