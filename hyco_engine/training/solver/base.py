"""The contract of a solver, and the base class of its states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import attrs
from torch import nn

from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.minima import Minima


@attrs.frozen(kw_only=True)
class Progress:
    """The result of one step.

    `metrics` are those of the epoch that the step ended; None within an epoch. `converged` is true if no further step
    would gain anything.
    """

    metrics: Mapping[str, Any] | None = None
    converged: bool = False


class State(ABC):
    """All that a solver needs to continue, beside the model's weights and the normalizer's state."""

    @property
    @abstractmethod
    def epochs(self) -> int:
        """The number of epochs so far, in all phases."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of optimizer steps so far, in all phases."""

    @property
    def rollbacks(self) -> int:
        """The number of returns to a good state so far, in all phases."""
        return 0

    @property
    def minima(self) -> Minima | None:
        """The minima that searches from several starts found; None if there was no such search."""
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, not copied."""


S = TypeVar("S", bound=State)


@attrs.define(kw_only=True, eq=False)
class Wrapped(State, Generic[S]):
    """The state of a solver that wraps another one, whose state is `inner`."""

    inner: S

    @property
    def epochs(self) -> int:
        return self.inner.epochs

    @property
    def steps(self) -> int:
        return self.inner.steps

    @property
    def rollbacks(self) -> int:
        return self.inner.rollbacks

    @property
    def minima(self) -> Minima | None:
        return self.inner.minima

    def state_dict(self) -> dict[str, Any]:
        own = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return {**own, "inner": self.inner.state_dict()}


class Solver(ABC, Generic[S]):
    """Improves the unknowns of a problem."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in messages and results."""

    @abstractmethod
    def init(self, problem: Problem, before: S | None = None) -> S:
        """Return the state in which a phase on `problem` begins.

        The new state keeps what `before`, the state at the end of the last phase, has learned and what still holds.
        """

    @abstractmethod
    def step(self, problem: Problem, state: S) -> Progress:
        """Take one step: one batch, or one iteration over all samples. Training can go on from `state` afterwards.

        Raises Diverged where the loss is not finite; the unknowns are then as they were before the step.
        """

    @abstractmethod
    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> S:
        """Return the state of which `saved` is the state dict, for these parameters."""

    @property
    def passes(self) -> Literal["batches", "gradients", "tangents"]:
        """What the solver computes of samples: batch after batch, or gradients or tangents of all of them."""
        return "batches"

    def changed(self, state: S) -> None:
        """Forget what the solver learned of the problem's loss, which is another one from here on."""

    def report(self, state: S, *, first: bool) -> list[str]:
        """Return messages about the phase that ends; those of the `first` phase include what holds for all phases."""
        return []


W = TypeVar("W", bound=Wrapped[Any])


class Wrapper(Solver[W], Generic[W]):
    """A solver that adds something to the steps of another one, `solver`."""

    solver: Solver[Any]

    @property
    def name(self) -> str:
        return self.solver.name

    @property
    def passes(self) -> Literal["batches", "gradients", "tangents"]:
        return self.solver.passes

    def changed(self, state: W) -> None:
        self.solver.changed(state.inner)

    def report(self, state: W, *, first: bool) -> list[str]:
        return self.solver.report(state.inner, first=first)
