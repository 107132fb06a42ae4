"""The base of L-BFGS and Gauss-Newton: one step is one iteration over all samples, and one epoch.

The curvature that such a solver has learned belongs to one training set, so each phase with generated samples learns
it anew.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs
import torch
from torch import Tensor

from hyco_engine.hooks.attribution import attributed
from hyco_engine.interfaces import Player
from hyco_engine.training.divergence import Diverged, Outgrown
from hyco_engine.training.problem import Problem
from hyco_engine.training.shown_waves import waves_to_learn
from hyco_engine.training.solver.base import Progress, Solver, State

SLOWER = tuple(4.0**-k for k in range(1, 9))
"""Start values at which the loss is not finite are made smaller by that of these factors which has the lowest loss."""


@attrs.frozen(kw_only=True)
class Iteration:
    """The end of one iteration: the loss there, and true for `converged` if nothing is left to gain.

    `near` is true where the minimum is within about one standard error, which some solvers cannot tell.
    """

    loss: float
    metrics: dict[str, float]
    converged: bool = False
    near: bool = False


@attrs.frozen(kw_only=True, eq=False)
class Ends:
    """The ends of searches from several starts: `points [S, P]`, `losses [S]`, and bool `converged [S]`."""

    points: Tensor
    losses: Tensor
    converged: Tensor


@attrs.define(kw_only=True, eq=False)
class FullBatchState(State):
    """The state of a full-batch solver.

    `nonfinite` counts the steps of the present phase that the solver took back because the loss was not finite there.
    `slowed` is the factor by which the start values of the physics were made smaller, since the loss was not finite.
    `dropped` is true once waves of the start states were dropped that the fit did not show, and `settled` once those
    that are learned stay.
    `weights` are those of the loss terms, frozen for the phase; None until they are found. `real_only` is true if the
    solver learned the curvature from real samples alone. `minimum` is the point at which it then converged, with the
    loss there.
    """

    epochs: int = 0
    steps: int = 0
    nonfinite: int = 0
    slowed: float = 1.0
    dropped: bool = False
    settled: bool = False
    real_only: bool = True
    weights: dict[str, float] | None = None
    minimum: tuple[Tensor, float] | None = None

    def counts(self) -> dict[str, object]:
        """Return all but the curvature, as plain values."""
        names = ("epochs", "steps", "nonfinite", "slowed", "dropped", "settled", "real_only", "weights", "minimum")
        return {name: getattr(self, name) for name in names}


F = TypeVar("F", bound=FullBatchState)


class FullBatch(Solver[F], Generic[F]):
    """A solver that iterates over all samples, with the loss terms' weights frozen at the start of a phase."""

    player: Player

    def init(self, problem: Problem, before: F | None = None) -> F:
        state = self.fresh(problem) if before is None else before
        real_only = problem.data.n_generated == 0 and not problem.terms
        if not (real_only and state.real_only):
            self.forget(state)
            state.minimum = None
        state.real_only = real_only
        state.nonfinite, state.weights = 0, None
        return state

    def step(self, problem: Problem, state: F) -> Progress:
        with attributed(problem.who, f"epoch {state.epochs + 1}"):
            self.freeze(problem, state)
            done = self._still(problem, state)
            if done is None:
                done = self.advance(problem, state)
                if done.converged and state.real_only:
                    state.minimum = problem.point(), done.loss
        if not math.isfinite(done.loss) and self._slow_down(problem, state):
            return self.step(problem, state)
        if not math.isfinite(done.loss):
            left = problem.left_finite()
            told = f"the {problem.player} model's loss is {done.loss} over all samples in epoch {state.epochs + 1}"
            advice = problem.cause() or (left and left.advice(problem.player))
            raise Diverged(
                told if left is None else f"{told}, since {left.text}",
                advice=advice or "Start closer, or narrow the parameters' bounds",
                left=left,
            )
        problem.normalization.step(problem.context(state.epochs, state.steps))
        state.epochs += 1
        state.steps += 1
        return Progress(metrics=done.metrics, converged=done.converged)

    def advance(self, problem: Problem, state: F) -> Iteration:
        """Iterate once, with internal steps that are short enough.

        Near the minimum, the search settles which waves of the start states it learns, before it goes on to the end.
        It drops waves once, so that it ends.
        """
        done = stably(problem, lambda: self.iterate(problem, state), lambda: self.forget(state))
        initial = problem.initial
        if initial is None or state.settled or not state.real_only or not (done.converged or done.near):
            return done
        waves = waves_to_learn(problem, drop=not state.dropped)
        if waves is None:
            state.settled = True
            return done
        state.dropped |= bool((initial.learned.cpu() & ~waves).any())
        initial.learn(waves, problem.data)
        self.forget(state)
        return attrs.evolve(done, converged=False, near=False)

    def _slow_down(self, problem: Problem, state: F) -> bool:
        """Make the physics' start values smaller, so that the loss is finite; return False if none of them helps.

        Most parameters are rates. Where they are far too large for the time between two frames, noise that makes a
        population negative, for one, grows without bounds, and no search begins at such a point.
        """
        # steps that are too long would become so again
        if state.epochs or state.slowed < 1 or problem.unknowns.physics is None or problem.cause():
            return False
        start = problem.unknowns.point()
        points = [problem.unknowns.slower(factor) for factor in SLOWER]
        losses = []
        for point in points:
            problem.unknowns.move_to(point)
            problem.unknowns.settle_steps()
            losses.append(problem.value()[0])
        best = int(torch.tensor(losses, dtype=torch.float64).nan_to_num(math.inf).argmin())
        helps = math.isfinite(losses[best])
        problem.unknowns.move_to(points[best] if helps else start)
        problem.unknowns.settle_steps()
        if helps:
            state.slowed = SLOWER[best]
            self.forget(state)
        return helps

    @staticmethod
    def _still(problem: Problem, state: F) -> Iteration | None:
        """Return the end of an iteration that would find nothing to gain, as an earlier one did on the same loss."""
        if state.minimum is None or not torch.equal(state.minimum[0], problem.point()):
            return None
        loss, metrics = problem.value()
        # other data, weights or steps would give another loss
        return Iteration(loss=loss, metrics=metrics, converged=True) if loss == state.minimum[1] else None

    def freeze(self, problem: Problem, state: F) -> None:
        """Set the weights of the problem's terms for the phase; the first call of a phase finds them."""
        if state.weights is None:
            state.weights = dict(problem.freeze(state.epochs, state.steps, commit=True))
        problem.weights = state.weights

    def changed(self, state: F) -> None:
        self.forget(state)
        state.weights, state.minimum, state.settled = None, None, False

    def report(self, state: F, *, first: bool) -> list[str]:
        notes = []
        if first and state.slowed < 1:
            notes.append(
                f"the loss of the {self.player} model is not finite at the start values of its parameters, so training "
                f"began at these divided by {1 / state.slowed:.0f}"
            )
        if state.nonfinite:
            took = f"{self.name} took back {state.nonfinite} steps of the {self.player} model"
            notes.append(f"{took} to where its loss is not finite")
        return notes

    @abstractmethod
    def fresh(self, problem: Problem) -> F:
        """Return a state that has learned nothing yet."""

    @abstractmethod
    def forget(self, state: F) -> None:
        """Forget the curvature."""

    @abstractmethod
    def iterate(self, problem: Problem, state: F) -> Iteration:
        """Take one iteration; it takes back a step to a point at which the loss is not finite."""

    @abstractmethod
    def search(self, problem: Problem, starts: Tensor, iterations: int) -> Ends:
        """Iterate at most `iterations` times from each of `starts [S, P]`. The model may end at any of the ends."""


T = TypeVar("T")


def stably(problem: Problem, attempt: Callable[[], T], forget: Callable[[], None]) -> T:
    """Return `attempt()`; after each try that met points for which internal steps are too long, make them shorter.

    The next try begins where the first one did, with a solver that has to `forget` the loss of longer steps.
    """
    start = [parameter.detach().clone() for parameter in problem.parameters]
    while True:
        try:
            return attempt()
        except Outgrown as error:
            for parameter, value in zip(problem.parameters, start, strict=True):
                parameter.data.copy_(value)
            if not problem.unknowns.settle_steps(error.point):
                raise
            forget()


def stacked(points: list[Tensor], losses: list[float], converged: list[bool]) -> Ends:
    """Return the ends of searches that ran one after the other."""
    return Ends(
        points=torch.stack(points),
        losses=torch.tensor(losses, dtype=torch.float64),
        converged=torch.tensor(converged),
    )
