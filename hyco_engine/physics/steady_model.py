"""The model of a physics whose states do not change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from hyco_engine.interfaces import PhysicsContext, StepExecution
from hyco_engine.physics.model import DeclaredModel, Physics
from hyco_engine.physics.steady import (
    Inverses,
    Residual,
    Stencil,
    Work,
    inverse,
    solved_with,
    steady_state,
    steady_states,
)


class SteadyPhysics(Physics):
    """A physics of which a state is known by what is 0 for it."""

    stencil: Stencil
    alike: bool
    """Whether the derivative of the residual by the dynamic fields depends on parameters alone."""

    @abstractmethod
    def residual(self, dynamic: Tensor, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
        """Return `[B, C_dyn, *S]`, which is 0 for steady states `dynamic`.

        `fields` holds all fields of the states by name. Parameters are 0-d or `[*resolution]`; those in which samples
        differ are `[B, 1, ...]` or `[B, *resolution]`.
        """


class SteadyModel(DeclaredModel):
    """Gives the steady state, from whatever state; where there is none, or none is found, it is NaN."""

    physics: SteadyPhysics
    steady = True

    def __init__(self, physics: SteadyPhysics, context: PhysicsContext) -> None:
        # no graph can hold a solution whose number of operations depends on values
        super().__init__(physics, attrs.evolve(context, compile="eager"))

    @property
    def execution(self) -> tuple[StepExecution, str]:
        return "eager", "steady states are solved for by a library"

    def _step(self, state: Tensor, *values: Tensor) -> Tensor:
        work = Work()
        found = steady_states(state, work, self._solved, values)
        step = solved_with(work, self._residual(found, state, values).flatten(1))
        return (found - step.reshape(found.shape)).to(state.dtype)

    def _residual(self, dynamic: Tensor, state: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Return the residual of `dynamic [B, C_dyn, *S]`, with the static fields of `state`, in float64."""
        state = state.double()
        parameters = {name: value.double() for name, value in zip(self.learnables.names, values, strict=True)}
        own = self._own(state, parameters)
        for name, value in own.items():
            parameters[name] = value if value.dim() > 1 else value.reshape(-1, *[1] * self.layout.n_axes)
        return self.physics.residual(dynamic, self._split(state), parameters)

    def _solved(self, state: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, Inverses]:
        """Return the steady states `[B, C_dyn, *S]` in float64, and solves with their matrices."""
        stencil = self.physics.stencil
        guess = state[:, : self.layout.n_dynamic].double()

        def residual(sample: int) -> Residual:
            return lambda u: self._residual(u[None], state[sample : sample + 1], values)[0]

        known = self.learnables
        if self.physics.alike and not (known.given or known.index):
            matrix = stencil.jacobian(residual(0), guess[0])
            shared = Inverses([inverse(matrix, stencil)])
            step = shared.solve(self._residual(guess, state, values).flatten(1))
            return guess - step.reshape(guess.shape), shared
        every = [steady_state(residual(sample), guess[sample], stencil) for sample in range(len(state))]
        return torch.stack([found for found, _ in every]), Inverses([solves for _, solves in every])
