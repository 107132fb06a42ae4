"""Training one model in one phase, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Solver
from hyco_engine.training.state import PhaseState, TrainingState, copied


def fit(solver: Solver[Any], problem: Problem, state: TrainingState) -> Iterator[Progress]:
    """Step until the problem's epochs are done, or nothing is left to gain.

    Training can go on from `state` at every yield: called with it, `fit` does what it would have done.
    """
    if state.phase is None:
        state.solver = solver.init(problem, state.solver)
        state.phase = PhaseState(start=copied(problem.model.state_dict()), first=state.solver.epochs == 0)
    phase = state.phase
    while phase.epochs < problem.epochs and not phase.converged:
        progress = solver.step(problem, state.solver)
        if progress.metrics is not None:
            phase.epochs += 1
            phase.converged = progress.converged
            phase.record = {
                "epoch": state.solver.epochs,
                "step": state.solver.steps,
                **progress.metrics,
                **{f"param/{name}": value for name, value in problem.unknowns.means().items()},
                **problem.prior.metrics(),
                **({"converged": True} if phase.converged else {}),
            }
        yield progress
