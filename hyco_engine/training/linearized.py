"""A whole loss as a sum of squares: values and normal equations of batched starts, by forward mode."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hyco_engine.physics.model import DeclaredModel
from hyco_engine.training.jacobian import ForwardJacobian, push_forward
from hyco_engine.training.problem import Chunk, Problem
from hyco_engine.training.tangents import NotCaptured, Replay, TangentRollout

logger = logging.getLogger(__name__)

Linear = tuple[Chunk, Tensor, Tensor]


class Linearizer:
    """Residuals of a model with derivatives by its parameters, in the fastest way that works, which is then kept.

    `way` is "captured" (a graph of the step with its tangents) or a way of `ForwardJacobian`, which takes the starts
    one by one; `reason` says why no faster way worked. A linearizer lives as long as the model, since graphs are
    costly to make; `compiles` has the meaning that it has in `TangentRollout`.
    """

    def __init__(self, model: nn.Module, *, compiles: bool = True) -> None:
        self.model = model
        self._rollout = TangentRollout(model, compiles=compiles) if isinstance(model, DeclaredModel) else None
        self._jacobian = ForwardJacobian()
        self._call = _Call(model)
        self._starts = 1
        self._reason = "" if self._rollout else "the model is not one of declared physics"

    @property
    def way(self) -> str:
        return "captured" if self._rollout is not None else self._jacobian.way

    @property
    def reason(self) -> str:
        return self._jacobian.reason or self._reason

    def linearized(self, whole: Problem, points: Tensor) -> Iterator[tuple[Chunk, Tensor, Tensor]]:
        """Yield for each chunk its residuals `[S, B, N]` and their derivatives `[S, B, N, P]` at `points [S, P]`."""
        x = points.to(dtype=whole.unknowns.dtype, device=whole.device)
        draws = whole.draws()
        with torch.no_grad():
            for chunk in whole.chunks():
                captured = self._captured(whole, chunk, x, draws, tangents=True)
                yield captured if captured is not None else self._one_by_one(whole, chunk, x, draws)

    def values(self, whole: Problem, points: Tensor) -> Tensor:
        """Return F at `points [S, P]`, as float64 `[S]`."""
        if len(points) > 1 and self._rollout is not None:
            computable = torch.tensor([whole.computable(point) for point in points])
            x = points.to(dtype=whole.unknowns.dtype, device=whole.device)
            total, draws = torch.zeros(len(points), dtype=torch.float64), whole.draws()
            with torch.no_grad():
                for chunk in whole.chunks():
                    captured = self._captured(whole, chunk, x, draws, tangents=False)
                    if captured is None:
                        break
                    total += captured[1].double().square().flatten(1).sum(1).cpu()
                else:
                    if whole.prior:
                        total += torch.stack(
                            [whole.prior.value(whole.unknowns.at(point)).double() for point in x]
                        ).cpu()
                    return torch.where(computable, total, torch.inf)
        here = whole.unknowns.point()
        found = []
        try:
            for point in points:
                whole.unknowns.move_to(point)
                found.append(whole.value()[0])
        finally:
            whole.unknowns.move_to(here)
        return torch.tensor(found, dtype=torch.float64)

    def normal_equations(self, whole: Problem, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return F `[S]`, J^T r `[S, P]` and J^T J `[S, P, P]`, as float64 on the CPU."""
        parts = [_normal(residual, jacobian) for _, residual, jacobian in self.linearized(whole, points)]
        if whole.prior:
            parts.append(_prior(whole, points.to(dtype=whole.unknowns.dtype, device=whole.device)))
        value, gradient, hessian = (torch.stack(kind).sum(0) for kind in zip(*parts, strict=True))
        return value, gradient, hessian

    def _captured(
        self, whole: Problem, chunk: Chunk, x: Tensor, draws: torch.Generator, *, tangents: bool
    ) -> Linear | None:
        steps = whole.objective.steps(chunk.batch)
        states = chunk.batch[0]
        if self._rollout is None or steps is None or whole.terms or not isinstance(states, Tensor):
            return None
        count = len(x)
        # a graph is captured for one number of starts, so copies replace the starts that have dropped out
        self._starts = max(self._starts, count)
        if 1 < count < self._starts:
            x = torch.cat([x, x[-1:].expand(self._starts - count, -1)])
        try:
            predictions, derivatives = self._rollout(states, steps, x, tangents)
            predictions = predictions[:count]
            derivatives = None if derivatives is None else derivatives[:count]
        except NotCaptured as error:
            self._rollout, self._reason = None, str(error)
            logger.info("derivatives are not captured: %s", error)
            return None

        def residuals(predictions: Tensor) -> Tensor:
            return whole.residuals(Replay(predictions), chunk, draws)

        if derivatives is None:
            return chunk, torch.stack([residuals(one) for one in predictions]), predictions
        pairs = []
        for prediction, rates in zip(predictions, derivatives, strict=True):
            columns = [push_forward(residuals, (prediction,), (rate,)) for rate in rates]
            pairs.append((columns[0][0], torch.stack([column for _, column in columns], dim=2)))
        return chunk, torch.stack([r for r, _ in pairs]), torch.stack([j for _, j in pairs])

    def _one_by_one(self, whole: Problem, chunk: Chunk, x: Tensor, draws: torch.Generator) -> Linear:
        state, count = draws.get_state(), len(chunk.indices)

        def residuals(theta: Tensor) -> Tensor:
            draws.set_state(state)
            named = {f"model.{name}": value for name, value in whole.unknowns.at(theta).items()}
            found = torch.func.functional_call(
                self._call, named, (lambda model: whole.residuals(model, chunk, draws).flatten(),)
            )
            assert isinstance(found, Tensor)
            return found

        # torch.func cannot capture a graph within it, but it can use one that exists already
        size = len(residuals(x[0]))
        pairs = [self._jacobian(residuals, point, size) for point in x]
        return (
            chunk,
            torch.stack([value.view(count, -1) for value, _ in pairs]),
            torch.stack([jacobian.reshape(count, -1, x.shape[1]) for _, jacobian in pairs]),
        )


class BatchedProblem:
    """A whole loss in the form that Levenberg-Marquardt asks for."""

    def __init__(self, whole: Problem, linearizer: Linearizer) -> None:
        self._whole = whole
        self._linearizer = linearizer

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        return self._linearizer.values(self._whole, points)

    def normal_equations(self, points: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._linearizer.normal_equations(self._whole, points)


class _Call(nn.Module):
    """A module that calls any function of the model, so that `functional_call` can give it other parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: object) -> Tensor:
        assert callable(function)
        result = function(self.model)
        assert isinstance(result, Tensor)
        return result


def _prior(whole: Problem, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the prior's part of the normal equations."""

    def residuals(point: Tensor) -> Tensor:
        return whole.prior.residuals(whole.unknowns.at(point))

    values = torch.stack([residuals(point) for point in points])
    jacobians = torch.stack([torch.func.jacrev(residuals)(point) for point in points])
    return _normal(values[:, None], jacobians[:, None])


def _normal(residual: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r, j = residual.flatten(1).double(), jacobian.flatten(1, 2).double()
    return r.square().sum(1).cpu(), torch.einsum("snp,sn->sp", j, r).cpu(), (j.mT @ j).cpu()
