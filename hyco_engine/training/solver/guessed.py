"""A first guess from short windows, before start states are learned in long ones.

The loss of a long window has many minima in the parameters as long as its start may follow any of them. Short rollouts
from observed frames have few, but noise biases what they find. So a search over such windows gives the point where
joint searches of parameters and start states begin, if the loss is lower there than at the start. Their windows grow to
a third of the whole ones, which begin at the parameters that they find.

Where waves turn many times from frame to frame, noise makes minima in short rollouts from observed frames, too: waves
that hold nothing else have any phase. Another search runs over smoothed frames, which hold no such waves, as full
waveform inversion begins with low frequencies. Smoothing biases what it finds where the field is as rough as the noise,
so the better of both counts. Source: C. Bunks et al., Geophysics 60 (1995).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.smoothing import smoothed
from hyco_engine.hooks.attribution import attributed
from hyco_engine.interfaces import Samples
from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Progress, Wrapped, Wrapper
from hyco_engine.training.solver.full_batch import FullBatch, FullBatchState

OBSERVED = (24, 8)
"""Windows that begin at observed frames have this part of the steps of the whole ones, but at least `LEAST` steps."""
LEAST = 3
LEARNED = (8, 3)
"""Windows whose start states are learned have this part of the frames of the whole ones."""
ITERATIONS = 8
"""The most iterations for each length of the windows, and as many once hidden waves were found."""


@attrs.define(kw_only=True, eq=False)
class GuessedState(Wrapped[FullBatchState]):
    """The state of the inner solver; `guessed` is true once a first guess was made, which the first phase does."""

    guessed: bool = False


@attrs.frozen
class Guessed(Wrapper[GuessedState]):
    """Searches in short windows before the first step, then steps as `solver` does."""

    solver: FullBatch[Any]
    layout: StateLayout | None = None

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
                for part in LEARNED:
                    self._join(problem, part)
            state.guessed = True
        return self.solver.step(problem, state.inner)

    def _guess(self, problem: Problem) -> None:
        """Move to the best of the present point and those that searches from observed and from smoothed frames find."""
        start, real = problem.unknowns.point(), problem.data.real
        every = [real, None if self.layout is None else smoothed(real, self.layout)]
        points = [start, *(self._found(problem, windows, start) for windows in every if windows is not None)]
        losses = []
        for point in points:
            _move(problem, point)
            losses.append(problem.value()[0])
        # a loss that is not finite is no reason to stay
        _move(problem, points[int(torch.tensor(losses, dtype=torch.float64).nan_to_num(math.inf).argmin())])

    def _found(self, problem: Problem, windows: Samples, start: Tensor) -> Tensor:
        """Return where searches over rollouts from frames of `windows` end, which begin at `start`."""
        _move(problem, start)
        steps = problem.steps or 0
        for horizon in sorted({max(LEAST, steps // part) for part in OBSERVED}):
            shorter = problem.from_frames(windows, horizon)
            if shorter is not None:
                ends = self.solver.search(shorter, problem.unknowns.point()[None], ITERATIONS)
                # a first step that was too long had asked for short internal steps
                _move(problem, ends.points[0])
        return problem.unknowns.point()

    def _join(self, problem: Problem, part: int) -> None:
        """Move close to where a search in windows with this `part` of the frames ends, with learned start states.

        Hidden waves that it finds stay its own: in few frames, chance shows some that are none.
        """
        shorter = problem.from_starts(((problem.steps or 0) + 1) // part - 1)
        if shorter is None:
            return
        before, state = problem.unknowns.point(), self.solver.init(shorter)
        # where a guess ends hardly depends on waves too many
        state.dropped = True
        for _ in range(2 * ITERATIONS):
            done = self.solver.advance(shorter, state)
            if not math.isfinite(done.loss):
                _move(problem, before)
                return
            if done.converged or (done.near and state.settled):
                return


def _move(problem: Problem, point: Tensor) -> None:
    problem.unknowns.move_to(point)
    problem.unknowns.settle_steps()
