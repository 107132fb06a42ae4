"""The training of one model in one phase, step by step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Solver, State
from hyco_engine.training.state import PhaseState, TrainingState


def fit(solver: Solver[Any], problem: Problem, state: TrainingState) -> Iterator[Progress]:
    """Step until the problem's epochs are done, or nothing is left to gain.

    Training can continue from `state` at every yield: another call with it does what this one would have done.
    """
    if state.phase is None:
        begun: State = solver.init(problem, state.solver)
        state.solver = begun
        state.phase = PhaseState(
            start=copy.deepcopy(problem.model.state_dict()),
            before=problem.unknowns.copies(),
            first=begun.epochs == 0,
        )
    phase, inner = state.phase, state.solver
    assert inner is not None  # a phase has begun
    while phase.epochs < problem.epochs and not phase.converged:
        progress = solver.step(problem, inner)
        # whoever uses the model between two steps finds internal steps that are stable
        settled = problem.unknowns.settle_steps()
        if settled:
            solver.changed(inner)
        if progress.metrics is not None:
            phase.epochs += 1
            phase.converged = progress.converged and not settled
            phase.record = {
                **state.at,
                **progress.metrics,
                **{f"param/{name}": value for name, value in problem.unknowns.means().items()},
                **problem.prior.metrics(),
                **({"converged": True} if phase.converged else {}),
            }
        yield progress
