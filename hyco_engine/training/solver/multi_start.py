"""Several starts: a search finds all minima that it can, and the phase continues from the lowest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from hyco_engine.hooks.attribution import attributed
from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Wrapped, Wrapper
from hyco_engine.training.solver.full_batch import Ends, FullBatch, FullBatchState
from hyco_engine.training.solver.minima import Minima, Minimum
from hyco_engine.training.unknowns import Unknowns, draw_starts

SAME = 0.02
"""Minima closer than this in every unconstrained parameter (two percent on the log scale) count as one."""


@attrs.define(kw_only=True, eq=False)
class MultiStartState(Wrapped[FullBatchState]):
    """The state of the inner solver, and the minima `found`; None before the search, which the first phase makes."""

    found: Minima | None = None

    @property
    def minima(self) -> Minima | None:
        return self.found

    def state_dict(self) -> dict[str, Any]:
        found = None if self.found is None else self.found.to_data()
        return {"inner": self.inner.state_dict(), "found": found}


@attrs.frozen
class MultiStart(Wrapper[MultiStartState]):
    """Searches from `starts` starts before the first step, then steps as `solver` does from the lowest minimum."""

    solver: FullBatch[Any]
    starts: int

    def init(self, problem: Problem, before: MultiStartState | None = None) -> MultiStartState:
        inner = self.solver.init(problem, None if before is None else before.inner)
        return MultiStartState(inner=inner, found=None if before is None else before.found)

    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> MultiStartState:
        found = None if saved["found"] is None else Minima.from_data(saved["found"])
        return MultiStartState(inner=self.solver.load(saved["inner"], parameters), found=found)

    def step(self, problem: Problem, state: MultiStartState) -> Progress:
        if state.found is None:
            with attributed(problem.who, f"epoch {state.epochs + 1}"):
                self.solver.freeze(problem, state.inner)
                state.found = self._search(problem, state)
        return self.solver.step(problem, state.inner)

    def _search(self, problem: Problem, state: MultiStartState) -> Minima:
        physics = problem.unknowns.physics
        assert physics is not None  # only a physics has several starts
        starts = draw_starts(physics, self.starts, problem.generator("starts", state.epochs))
        return _gather(problem.unknowns, self.solver.search(problem, starts, problem.epochs))

    def report(self, state: MultiStartState, *, first: bool) -> list[str]:
        notes = super().report(state, first=first)
        message = None if state.found is None or not first else state.found.message
        return notes if message is None else [message, *notes]


def _gather(unknowns: Unknowns, ends: Ends) -> Minima:
    """Group the ends into minima, and give the model the parameters of the lowest one."""
    points, values, done = ends.points, ends.losses, ends.converged
    kept = values.isfinite().nonzero().flatten()
    order = kept[values[kept].argsort()].tolist()
    groups: list[list[int]] = []
    for start in order:
        near = (g for g in groups if float((points[g[0]] - points[start]).abs().max()) < SAME)
        group = next(near, None)
        if group is None:
            groups.append([start])
        else:
            group.append(start)
    means = [_means(unknowns, points[start]) for start in order]
    minima = tuple(
        Minimum(
            loss=float(values[group[0]]),
            starts=len(group),
            converged=bool(done[group[0]]),
            values=means[order.index(group[0])],
        )
        for group in groups
    )
    if order:
        unknowns.move_to(points[order[0]])
    spread = {name: (min(m[name] for m in means), max(m[name] for m in means)) for name in (means[0] if means else ())}
    return Minima(starts=len(points), lost=len(points) - len(kept), minima=minima, spread=spread)


def _means(unknowns: Unknowns, point: Tensor) -> dict[str, float]:
    assert unknowns.physics is not None
    values = unknowns.means(point)
    return {name: values[name] for name in unknowns.physics.learnables.learned}
