"""A horizon curriculum: short rollouts come first, whose loss has few minima, then longer and longer ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Solver, State, Wrapped, Wrapper


@attrs.define(kw_only=True, eq=False)
class StagedState(Wrapped[State]):
    """The state of the inner solver, and the number of the curriculum's epochs `done`.

    A stage that converges early counts as done in full.
    """

    done: int = 0


@attrs.frozen
class Staged(Wrapper[StagedState]):
    """Takes the steps of `solver`, on rollouts of the stage's length.

    Each of `stages` is (steps of the rollouts, epochs); after the last one, rollouts have their full length.
    """

    solver: Solver[Any]
    stages: Sequence[tuple[int, int]]

    def horizon(self, done: int) -> int | None:
        """Return the number of rollout steps after `done` epochs; None stands for the full length."""
        stage = self._stage(done)
        return None if stage is None else stage[0]

    def after(self, done: int, converged: bool) -> int:
        """Return the number of epochs done after one more, which may have `converged`."""
        stage = self._stage(done)
        return stage[1] if stage is not None and converged else done + 1

    def _stage(self, done: int) -> tuple[int, int] | None:
        """Return (steps, epochs at its end) of the present stage; None after the last one."""
        end = 0
        for steps, epochs in self.stages:
            end += epochs
            if done < end:
                return steps, end
        return None

    def init(self, problem: Problem, before: StagedState | None = None) -> StagedState:
        done = 0 if before is None else before.done
        inner = self.solver.init(problem.at_horizon(self.horizon(done)), None if before is None else before.inner)
        return StagedState(inner=inner, done=done)

    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> StagedState:
        return StagedState(inner=self.solver.load(saved["inner"], parameters), done=saved["done"])

    def step(self, problem: Problem, state: StagedState) -> Progress:
        horizon = self.horizon(state.done)
        progress = self.solver.step(problem.at_horizon(horizon), state.inner)
        if progress.metrics is None:
            return progress
        state.done = self.after(state.done, progress.converged)
        if self.horizon(state.done) != horizon:
            self.solver.changed(state.inner)
        metrics = {**progress.metrics, "train/horizon": horizon or problem.steps}
        return Progress(metrics=metrics, converged=progress.converged and horizon is None)
