"""Rollouts of a physics with the derivatives of all their values by its learned numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from hyco_engine.interfaces import PhysicalModel
from hyco_engine.rollout import rollout
from hyco_engine.training.jacobian import ForwardJacobian
from hyco_engine.training.tangents import NotCaptured, TangentRollout
from hyco_engine.training.unknowns import Unknowns


class Sensitivities:
    """Rolls a physics out at its own parameters; derivatives are captured where the step has a graph.

    Results are `path [B, steps, C_dyn, *S]` and its derivatives `[B, steps, C_dyn, *S, P]` by the P unconstrained
    numbers that the physics learns.
    """

    def __init__(self, model: PhysicalModel) -> None:
        self._model = model
        self._unknowns = Unknowns(model)
        # a few rollouts take less time than compiling them would
        self._rollout = TangentRollout.of(model, compiles=False)
        self._jacobian = ForwardJacobian()

    def __call__(self, states: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        point = self._unknowns.point()
        with torch.no_grad():
            if self._rollout is not None:
                try:
                    return self._captured(self._rollout, states, steps, point)
                except NotCaptured:
                    self._rollout = None
            return self._as_written(states, steps, point)

    def _captured(self, run: TangentRollout, states: Tensor, steps: int, point: Tensor) -> tuple[Tensor, Tensor]:
        at = point[None].to(dtype=self._unknowns.dtype, device=states.device)
        paths, derivatives = run(states, steps, at, tangents=True)
        assert derivatives is not None
        flat = derivatives.movedim(1, -1).flatten(2, -2)
        return paths[0], run.spread(flat, states)[0].reshape(*paths.shape[1:], -1)

    def _as_written(self, states: Tensor, steps: int, point: Tensor) -> tuple[Tensor, Tensor]:
        def path(theta: Tensor) -> Tensor:
            named = self._unknowns.at(theta)
            model = _At(self._model, named)
            return rollout(model, states, steps).flatten()

        at = point.to(dtype=self._unknowns.dtype, device=states.device)
        found, jacobian = self._jacobian(path, at, states.numel())
        shape = (len(states), steps, -1, *states.shape[2:])
        return found.view(shape), jacobian.view(*found.view(shape).shape, len(point))


class _At(torch.nn.Module):
    """A physics with other numbers in place of its own."""

    def __init__(self, model: PhysicalModel, named: dict[str, Tensor]) -> None:
        super().__init__()
        self._model = model
        self._named = named

    def forward(self, state: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(self._model, self._named, (state,))
        return found
