"""The end of a phase once the error on held-out data stops falling."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Solver, State, Wrapped, Wrapper

CHECKS = 8
"""The number of measurements of held-out data in the time that patience lasts."""


@attrs.define(kw_only=True, eq=False)
class PatientState(Wrapped[State]):
    """The lowest error on held-out data in all phases, the weights that had it, and the epochs `waited` since."""

    error: float = math.inf
    best: Mapping[str, Tensor] | None = None
    waited: int = 0


@attrs.frozen(eq=False)
class Patient(Wrapper[PatientState]):
    """Takes the steps of `solver`, and ends a phase `patience` epochs after the lowest error on held-out data.

    Each phase ends with the weights of that error. A phase whose samples are new lasts at least half as long as
    patience does. `error` measures the model as it is.
    """

    solver: Solver[Any]
    patience: int
    error: Callable[[], float]

    def init(self, problem: Problem, before: PatientState | None = None) -> PatientState:
        inner = self.solver.init(problem, None if before is None else before.inner)
        if before is None:
            return PatientState(inner=inner)
        return attrs.evolve(before, inner=inner, waited=min(before.waited, self.patience // 2))

    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> PatientState:
        return PatientState(**{**saved, "inner": self.solver.load(saved["inner"], parameters)})

    def step(self, problem: Problem, state: PatientState) -> Progress:
        progress = self.solver.step(problem, state.inner)
        if progress.metrics is None:
            return progress
        done = state.epochs - problem.begun
        state.waited += 1
        over = progress.converged or done >= problem.epochs
        if over or done % max(1, self.patience // CHECKS) == 0:
            error = self.error()
            if error < state.error:
                state.error, state.waited = error, 0
                state.best = copy.deepcopy(problem.model.state_dict())
            over = over or state.waited >= self.patience
        if over and state.best is not None:
            problem.model.load_state_dict(state.best)
        return attrs.evolve(progress, converged=over and (progress.converged or state.waited > 0))
