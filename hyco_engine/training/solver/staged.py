"""A horizon curriculum: short rollouts first, whose loss has few minima, then longer and longer ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Solver, State, Wrapped


@attrs.define(kw_only=True, eq=False)
class StagedState(Wrapped[State]):
    """`done` counts the curriculum's epochs; a stage that converges early counts as done in full."""

    done: int = 0


@attrs.frozen
class Staged(Solver[StagedState]):
    """Steps as `solver` does, on rollouts as long as the stage says.

    `stages` are (steps of the rollouts, epochs) each; after the last one rollouts have their full length.
    """

    solver: Solver[Any]
    stages: Sequence[tuple[int, int]]

    @property
    def name(self) -> str:
        return self.solver.name

    def horizon(self, done: int) -> int | None:
        """Return the steps of the rollouts after so many epochs; None for the full length."""
        stage = self._stage(done)
        return None if stage is None else stage[0]

    def after(self, done: int, converged: bool) -> int:
        """Return how many epochs are done after one more, which may have `converged`."""
        stage = self._stage(done)
        return stage[1] if stage is not None and converged else done + 1

    def _stage(self, done: int) -> tuple[int, int] | None:
        """Return (steps, epochs when it ends) of the present stage; None beyond the last one."""
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

    def changed(self, state: StagedState) -> None:
        self.solver.changed(state.inner)

    def report(self, state: StagedState, *, first: bool) -> list[str]:
        return self.solver.report(state.inner, first=first)
