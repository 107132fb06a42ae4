"""The return to a good state, with half the learning rate, when a batch diverges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from hyco_engine.training.divergence import Diverged
from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Wrapped, Wrapper
from hyco_engine.training.solver.minibatch import Minibatch, MinibatchState

MOST_ROLLBACKS = 5
"""One model's training may go back so often; the last time with a thirty-second of the learning rate."""


@attrs.define(kw_only=True, eq=False)
class RollbackState(Wrapped[MinibatchState]):
    """The states to which training can go back.

    `start` is the state at the start of the epoch under way, `good` that of the phase's best epoch so far, which has
    the loss `lowest`. `count` is the number of times that training has gone back, in all phases.
    """

    count: int = 0
    start: Any = None
    first_step: int = 0
    good: Any = None
    lowest: float | None = None

    @property
    def rollbacks(self) -> int:
        return self.count


@attrs.frozen
class Rollback(Wrapper[RollbackState]):
    """Takes the steps of `solver`. When a batch diverges, the phase goes back to its best state so far."""

    solver: Minibatch

    def init(self, problem: Problem, before: RollbackState | None = None) -> RollbackState:
        inner = self.solver.init(problem, None if before is None else before.inner)
        return RollbackState(inner=inner, count=0 if before is None else before.count)

    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> RollbackState:
        return RollbackState(**{**saved, "inner": self.solver.load(saved["inner"], parameters)})

    def step(self, problem: Problem, state: RollbackState) -> Progress:
        if state.inner.epoch is None:
            state.start, state.first_step = self.solver.snapshot(problem, state.inner), state.steps
        try:
            progress = self.solver.step(problem, state.inner)
        except Diverged as error:
            self._go_back(problem, state, error)
            return Progress()
        if progress.metrics is not None:
            loss = progress.metrics.get("train/loss")
            if loss is not None and (state.lowest is None or loss <= state.lowest):
                state.good, state.lowest = state.start, loss
            state.start = None
        return progress

    def _go_back(self, problem: Problem, state: RollbackState, error: Diverged) -> None:
        # if no step led there, a smaller step would not help
        unmoved = state.good is None and state.steps == state.first_step
        if state.count == MOST_ROLLBACKS or unmoved:
            raise error
        # the last steps before an epoch may have lost its start already
        self.solver.restore(problem, state.inner, state.start if state.good is None else state.good)
        state.count += 1
        state.inner.steps = state.first_step
        state.inner.rate *= 0.5
        state.inner.notes.append(
            f"{error.what}. It went back to the phase's best state so far, and goes on with {state.inner.rate:g} "
            f"of the learning rate (rollback {state.count} of at most {MOST_ROLLBACKS})"
        )

    def changed(self, state: RollbackState) -> None:
        state.lowest = None
        self.solver.changed(state.inner)
