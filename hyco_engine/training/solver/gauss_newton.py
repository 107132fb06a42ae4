"""Gauss-Newton with Levenberg-Marquardt's damping and forward-mode derivatives, for few parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.interfaces import Player
from hyco_engine.training.least_squares import LevenbergMarquardt
from hyco_engine.training.linearized import BatchedProblem, JointProblem, Linearizer
from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.full_batch import Ends, FullBatch, FullBatchState, Iteration, stably
from hyco_engine.training.unknowns import Unknowns


@attrs.define(kw_only=True, eq=False)
class GaussNewtonState(FullBatchState):
    """The state of Gauss-Newton, which keeps its damping over the phases."""

    damped: LevenbergMarquardt

    def state_dict(self) -> dict[str, Any]:
        return {**self.counts(), "damped": self.damped.state_dict()}


@attrs.frozen(kw_only=True)
class GaussNewton(FullBatch[GaussNewtonState]):
    """Levenberg-Marquardt iterations; see `least_squares`. `linearizer` computes the model's derivatives."""

    player: Player
    linearizer: Linearizer
    name: str = "gauss-newton"

    @property
    def passes(self) -> Literal["tangents"]:
        return "tangents"

    def fresh(self, problem: Problem) -> GaussNewtonState:
        return GaussNewtonState(damped=self._damped(problem.unknowns))

    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> GaussNewtonState:
        damped = self._damped(Unknowns(self.linearizer.model))
        damped.load_state_dict(saved["damped"])
        return GaussNewtonState(**{**saved, "damped": damped})

    def forget(self, state: GaussNewtonState) -> None:
        state.damped = self._damped(Unknowns(self.linearizer.model))

    def _damped(self, unknowns: Unknowns, starts: int = 1) -> LevenbergMarquardt:
        return LevenbergMarquardt(starts=starts, precision=unknowns.dtype, trust_region=unknowns.trust_region())

    def iterate(self, problem: Problem, state: GaussNewtonState) -> Iteration:
        kind = BatchedProblem if problem.initial is None else JointProblem
        step = state.damped.iterate(kind(problem, self.linearizer), problem.point()[None])
        state.nonfinite += int(step.nonfinite)
        problem.move_to(step.points[0])
        loss, metrics = problem.value()
        more = {"train/damping": float(state.damped.damping), "train/rejected": float(step.nonfinite + step.uphill)}
        return Iteration(loss=loss, metrics=metrics | more, converged=bool(step.converged), near=bool(step.near))

    def search(self, problem: Problem, starts: Tensor, iterations: int) -> Ends:
        """Iterate from all starts at once: one batched rollout evaluates them together."""
        batched = BatchedProblem(problem, self.linearizer)
        damped = self._damped(problem.unknowns, len(starts))
        points, done = starts, torch.zeros(len(starts), dtype=torch.bool)
        values = torch.full((len(starts),), math.inf, dtype=torch.float64)
        for start in starts:
            # one number of internal steps serves all starts
            if problem.unknowns.step_load(start) > 1:
                problem.unknowns.settle_steps(start)
        for _ in range(iterations):
            step = stably(problem, partial(damped.iterate, batched, points), lambda: None)
            points, values = step.points, step.values
            done = step.converged | ~step.moved
            if bool(done.all()):
                break
        return Ends(points=points, losses=values, converged=done)

    def report(self, state: GaussNewtonState, *, first: bool) -> list[str]:
        notes = super().report(state, first=first)
        if not first or self.linearizer.way != "differences":
            return notes
        why = f"since forward mode fails: {self.linearizer.reason}"
        return [f"the {self.player} model's derivatives are finite differences, {why}", *notes]
