"""A whole loss as a sum of squares: values and normal equations of batched starts, by forward mode."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.physics.within import internal_steps
from hyco_engine.training.arrow import (
    Arrow,
    ArrowPart,
    DenseCurvature,
    OwnedStarts,
    ProductCurvature,
    StartCurvature,
)
from hyco_engine.training.initial_states import MOST_NUMBERS
from hyco_engine.training.jacobian import ForwardJacobian, push_each, push_forward
from hyco_engine.training.least_squares import NormalEquations
from hyco_engine.training.problem import Chunk, Problem
from hyco_engine.training.tangents import NotCaptured, Replay, TangentRollout

logger = logging.getLogger(__name__)

MOST_WORK = 2**29
"""So many derivatives are pushed through all steps at most; beyond that, products with them must do."""

GRADIENTS_OF_PRODUCTS = 100
"""About so many gradients cost as much as the products with start states that one step of Gauss-Newton takes."""

KEPT_BYTES = 2**28
"""Rollouts with derivatives are kept up to this size."""

Linear = tuple[Chunk, Tensor, Tensor]
Product = Callable[[Tensor], Tensor]
"""Returns C_w x_w for K vectors each, `[K, b, D]`."""
Rolled = tuple[Tensor, "Tensor | None"]


@attrs.frozen(kw_only=True, eq=False)
class _Kept:
    """The rollouts for the tensors `given`, and all else that must be alike."""

    alike: tuple[Any, ...]
    given: tuple[Tensor, ...]
    rolled: Rolled

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.rolled if part is not None)


def may_take_products(layout: StateLayout, frames: int) -> bool:
    """Return True if products may replace derivatives by learned start states of rollouts over so many frames in all.

    All values of a start count as learned, since the data tell later how many of its waves are.
    """
    values = layout.n_dynamic * math.prod(layout.spatial)
    return frames * values**2 > MOST_WORK


class Linearizer:
    """Residuals of a model with derivatives by its parameters, in the fastest way that works, which is then kept.

    `way` is "captured" (a graph of the step with its tangents) or a way of `ForwardJacobian`, which takes the starts
    one by one; `reason` says why no faster way worked. A linearizer lives as long as the model, since graphs are
    costly to make; `compiles` has the meaning that it has in `TangentRollout`.
    """

    def __init__(self, model: nn.Module, *, compiles: bool = True) -> None:
        self.model = model
        self._rollout = TangentRollout.of(model, compiles=compiles)
        self._jacobian = ForwardJacobian()
        self._call = _Call(model)
        self._starts = 1
        self._known: tuple[tuple[Any, ...], Arrow] | None = None
        self._kept: list[_Kept] | None = None
        self._reason = "" if self._rollout else "the model is not one of declared physics"

    @property
    def way(self) -> str:
        return "captured" if self._rollout is not None else self._jacobian.way

    @property
    def reason(self) -> str:
        return self._jacobian.reason or self._reason

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Within the context, compute the rollouts of problems once that differ in their targets alone.

        It is for few evaluations, which also take the graphs that exist.
        """
        self._kept = []
        try:
            with nullcontext() if self._rollout is None else self._rollout.frugal():
                yield
        finally:
            self._kept = None

    def linearized(self, whole: Problem, points: Tensor, shard: int | None = None) -> Iterator[Linear]:
        """Yield for each chunk its residuals `[S, B, N]` and their derivatives `[S, B, N, P]` at `points [S, P]`.

        The chunks are those of one shard, or all.
        """
        x = points.to(dtype=whole.unknowns.dtype, device=whole.device)
        draws = whole.draws()
        with torch.no_grad():
            for chunk in whole.chunks(shard):
                captured = self._captured(whole, chunk, x, draws, tangents=True)
                yield captured if captured is not None else self._one_by_one(whole, chunk, x, draws)

    def residuals(self, whole: Problem, points: Tensor) -> Iterator[tuple[Chunk, Tensor]]:
        """Yield for each chunk its residuals `[S, B, N]` at `points [S, P]`; the model must be able to compute them."""
        x = points.to(dtype=whole.unknowns.dtype, device=whole.device)
        draws = whole.draws()
        with torch.no_grad():
            for chunk in whole.chunks():
                captured = self._captured(whole, chunk, x, draws, tangents=False)
                yield chunk, _at_each(whole, chunk, x, draws) if captured is None else captured[1]

    def values(self, whole: Problem, points: Tensor) -> Tensor:
        """Return F at `points [S, P]`, as float64 `[S]`."""
        if len(points) > 1 and self._rollout is not None:
            computable = torch.tensor([whole.computable(point) for point in points])
            x = points.to(dtype=whole.unknowns.dtype, device=whole.device)
            draws = whole.draws()
            with torch.no_grad():
                own = whole.shards.each(lambda shard: self._shard_values(whole, shard, x, draws))
                captured = [values for values in own if values is not None]
                if whole.shards.every(len(captured) == len(own)):
                    total = whole.shards.sum(captured)
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

    def _shard_values(self, whole: Problem, shard: int, x: Tensor, draws: torch.Generator) -> Tensor | None:
        """Return a shard's part of F at points `x [S, P]`, from graphs; None where the model has none."""
        total = torch.zeros(len(x), dtype=torch.float64)
        for chunk in whole.chunks(shard):
            captured = self._captured(whole, chunk, x, draws, tangents=False)
            if captured is None:
                return None
            total += captured[1].double().square().flatten(1).sum(1).cpu()
        return total

    def normal_equations(self, whole: Problem, points: Tensor) -> NormalEquations:
        """Return F, J^T r and J^T J of the parameters alone, as float64 on the CPU."""

        def of(shard: int) -> Tensor:
            parts = [_normal(residual, jacobian) for _, residual, jacobian in self.linearized(whole, points, shard)]
            if whole.prior and shard == whole.shards.count - 1:
                parts.append(_prior(whole, points.to(dtype=whole.unknowns.dtype, device=whole.device)))
            sums = [torch.stack(kind).sum(0) for kind in zip(*parts, strict=True)]
            return torch.cat([one.reshape(len(points), -1) for one in sums], dim=1)

        found = whole.shards.each(of)
        count = points.shape[1]
        value, gradient, hessian = torch.split(whole.shards.sum(found), [1, count, count**2], dim=1)
        return NormalEquations(values=value[:, 0], gradient=gradient, hessian=hessian.reshape(-1, count, count))

    def arrow(self, whole: Problem) -> Arrow:
        """Return the quadratic model of the parameters and of the start states that are learned, at the present point.

        A converged search, the phase after it and the error bars ask for the same one, which is computed once.
        """
        if whole.data.n_generated or whole.terms:
            return self._arrow(whole)
        here = (
            whole.point(),
            whole.data.real,
            dict(whole.weights),
            whole.objective.horizon,
            whole.unknowns.internal_steps,
        )
        if self._known is None or not _same(self._known[0], here):
            self._known = (here, self._arrow(whole))
        return self._known[1]

    def _arrow(self, whole: Problem) -> Arrow:
        assert whole.initial is not None
        x = whole.unknowns.point()[None].to(dtype=whole.unknowns.dtype, device=whole.device)
        with torch.no_grad():
            found = whole.shards.each(lambda shard: self._of_starts(whole, shard, x))
        owned = [
            OwnedStarts(one.part, curvature) for one, curvature in zip(found, _curvatures(whole, found), strict=True)
        ]
        arrow = Arrow.joined(owned, whole.shards, len(whole.data), len(whole.initial.scaled))
        if whole.prior:
            value, gradient, hessian = _prior(whole, x)
            arrow = arrow.with_prior(value[0], gradient[0], hessian[0])
        return arrow

    def _of_starts(self, whole: Problem, shard: int, x: Tensor) -> _Linearized:
        """Return what the samples of one shard contribute, with derivatives by their starts."""
        parts: list[ArrowPart] = []
        blocks: list[Tensor] = []
        products: list[tuple[int, Product]] = []
        draws = whole.draws()
        for chunk in whole.chunks(shard):
            learned = ~chunk.generated
            dense = self._affordable(whole, chunk, x.shape[1])
            linear = self._captured(whole, chunk, x, draws, tangents=True, of_state=True) if dense else None
            if linear is not None:
                _, (residual,), (jacobian,) = linear
                own = jacobian[learned, :, x.shape[1] :].double()
                pull: Product = partial(_pulled, own, learned)
                jacobian = jacobian[:, :, : x.shape[1]]
                blocks.append((own.mT @ own).cpu())
                products.append((len(own), partial(torch.einsum, "wde,kwe->kwd", blocks[-1])))
            else:
                linear = self._captured(whole, chunk, x, draws, tangents=True)
                _, (residual,), (jacobian,) = linear or self._one_by_one(whole, chunk, x, draws)
                derivatives = StartDerivatives(whole, chunk, self._rollout, x)
                pull = derivatives.pull
                products.append((derivatives.count, derivatives.product))
            parts.append(ArrowPart.of(residual, jacobian, learned, pull))
        return _Linearized(ArrowPart.joined(parts), blocks, products)

    def _affordable(self, whole: Problem, chunk: Chunk, parameters: int) -> bool:
        """Return True if the derivatives by the start states of all windows take a bounded time and memory."""
        assert whole.initial is not None
        windows, numbers, values = len(whole.initial.scaled), whole.initial.count, whole.initial.learned.numel()
        frames = 1 + (whole.objective.steps(chunk.batch) or 0)
        derivatives = (parameters + numbers) * values * frames
        work = windows * derivatives * internal_steps(self.model)
        return work <= MOST_WORK and max(derivatives, windows * numbers**2) <= MOST_NUMBERS

    def _captured(
        self,
        whole: Problem,
        chunk: Chunk,
        x: Tensor,
        draws: torch.Generator,
        *,
        tangents: bool,
        of_state: bool = False,
    ) -> Linear | None:
        """Return the residuals and derivatives of a chunk from graphs; None where the model has none.

        With `of_state`, derivatives by the D values of each sample's own start follow: `[S, B, N, P + D]`.
        """
        steps = whole.objective.steps(chunk.batch)
        states = chunk.batch[0]
        if self._rollout is None or steps is None or whole.terms or not isinstance(states, Tensor):
            return None
        count = len(x)
        # a graph is captured for one number of starts, so copies replace the starts that have dropped out
        self._starts = max(self._starts, count)
        if 1 < count < self._starts:
            x = torch.cat([x, x[-1:].expand(self._starts - count, -1)])
        basis = whole.initial.basis if of_state and whole.initial is not None else None
        try:
            predictions, derivatives = self._rolled(states, steps, x, tangents, basis)
            predictions = predictions[:count]
            derivatives = None if derivatives is None else derivatives[:count]
        except NotCaptured as error:
            self._rollout, self._reason = None, str(error)
            logger.info("derivatives are not captured: %s", error)
            return None

        def residuals(predictions: Tensor, begun: Tensor) -> Tensor:
            return whole.residuals(Replay(predictions), _starting(chunk, begun), draws)

        if derivatives is None:
            return chunk, torch.stack([residuals(one, states) for one in predictions]), predictions
        # the start itself is the first residual of a rollout whose start is learned
        moves = states.new_zeros(derivatives.shape[1], *states.shape)
        if basis is not None:
            moves[-len(basis) :, :, : basis.shape[1]] = basis[:, None]
        pairs = [
            push_each(residuals, (prediction, states), (rates, moves))
            for prediction, rates in zip(predictions, derivatives, strict=True)
        ]
        jacobian = self._rollout.spread(torch.stack([j.movedim(0, -1) for _, j in pairs]), states)
        return chunk, torch.stack([r for r, _ in pairs]), jacobian

    def _rolled(self, states: Tensor, steps: int, x: Tensor, tangents: bool, basis: Tensor | None) -> Rolled:
        """Return what the captured rollouts return, from those that are kept where these were asked for before."""
        assert self._rollout is not None
        alike = (steps, tangents, basis is not None, internal_steps(self.model))
        given = (states, x) if basis is None else (states, x, basis)
        for kept in self._kept or ():
            if kept.alike == alike and all(map(torch.equal, kept.given, given)):
                return kept.rolled
        found = _Kept(alike=alike, given=given, rolled=self._rollout(states, steps, x, tangents, basis))
        if self._kept is not None and sum(kept.nbytes for kept in [*self._kept, found]) <= KEPT_BYTES:
            self._kept.append(found)
        return found.rolled

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

    def normal_equations(self, points: Tensor, starts: Tensor) -> NormalEquations:
        return self._linearizer.normal_equations(self._whole, points)


class JointProblem:
    """A whole loss in the form that Levenberg-Marquardt asks for, of the parameters and the learned start states.

    The model and the start states are at the point of the last normal equations, on which products with them depend.
    """

    def __init__(self, whole: Problem, linearizer: Linearizer) -> None:
        self._whole = whole
        self._linearizer = linearizer

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        here, found = self._whole.point(), []
        try:
            for point in points:
                self._whole.move_to(point)
                found.append(self._whole.value()[0])
        finally:
            self._whole.move_to(here)
        return torch.tensor(found, dtype=torch.float64)

    def normal_equations(self, points: Tensor, starts: Tensor) -> Arrow:
        self._whole.move_to(points[0])
        return self._linearizer.arrow(self._whole)


class StartDerivatives:
    """Products with the derivatives of a chunk's residuals by its learned start states, of D values each.

    They belong to the parameters `point [1, P]`. `rollout` computes forward derivatives from graphs; without it, or
    where there is no graph, torch.func does on every operation.
    """

    def __init__(self, whole: Problem, chunk: Chunk, rollout: TangentRollout | None, point: Tensor) -> None:
        assert whole.initial is not None
        assert isinstance(chunk.batch[0], Tensor)  # rollouts begin from states
        self._whole = whole
        self._chunk = chunk
        self._rollout = rollout
        self._point = point
        self._states = chunk.batch[0]
        self._learned = ~chunk.generated
        self._initial = whole.initial
        self._dynamic = len(whole.initial.learned)
        self._forward = True
        self.count = int(self._learned.sum())

    def push(self, starts: Tensor) -> Tensor:
        """Return J x `[K, B, N]` for x `[K, b, D]`."""
        moves = self._states.new_zeros(len(starts), *self._states.shape)
        moves[:, self._learned, : self._dynamic] = self._initial.states(starts.to(moves))
        captured = self._captured(moves)
        return torch.stack([self._one(move) for move in moves]) if captured is None else captured

    def _captured(self, moves: Tensor) -> Tensor | None:
        steps = self._whole.objective.steps(self._chunk.batch)
        if self._rollout is None or steps is None or self._whole.terms:
            return None
        try:
            (predictions,), (rates,) = self._rollout.along(self._states, steps, self._point, moves)
        except NotCaptured:
            self._rollout = None
            return None

        def residuals(predictions: Tensor, begun: Tensor) -> Tensor:
            return self._whole.residuals(Replay(predictions), _starting(self._chunk, begun), self._whole.draws())

        return push_each(residuals, (predictions, self._states), (rates, moves))[1]

    def _one(self, move: Tensor) -> Tensor:
        if self._forward:
            try:
                _, change = push_forward(self._residuals, (self._states,), (move,))
                return change
            except Exception as error:
                # a step may raise any error under torch.func
                logger.info("forward derivatives by the start states failed (%s); differences replace them", error)
                self._forward = False
        # a chunk whose starts do not move at all has a slope of zero, whatever the difference
        largest = float(self._initial.in_sizes(move[:, : self._dynamic]).abs().max()) or 1.0
        h = torch.finfo(move.dtype).eps ** (1 / 3) / largest
        change = self._residuals(self._states + h * move) - self._residuals(self._states - h * move)
        slope: Tensor = change / (2 * h)
        return slope

    def pull(self, values: Tensor) -> Tensor:
        """Return J^T u `[K, b, D]` for u `[K, B, N]`."""
        return self._initial.numbers_of(self.pull_states(values))

    def pull_states(self, values: Tensor) -> Tensor:
        """Return the gradients `[K, b, C_dyn, *S]` of products u r by the start states, for u `[K, B, N]`."""
        with torch.enable_grad():
            states = self._states.detach().requires_grad_()
            residuals = self._residuals(states)
            last = len(values) - 1
            found = [
                torch.autograd.grad(residuals, states, one.to(states), retain_graph=k < last)[0]
                for k, one in enumerate(values)
            ]
        return torch.stack([one[self._learned, : self._dynamic] for one in found])

    def product(self, starts: Tensor) -> Tensor:
        """Return J^T J x `[K, b, D]` for x `[K, b, D]`, float64 on the CPU."""
        with torch.no_grad():
            return self.pull(self.push(starts)).double().cpu()

    def residuals(self) -> Tensor:
        """Return the residuals r `[B, N]`."""
        return self._residuals(self._states)

    def _residuals(self, states: Tensor) -> Tensor:
        return self._whole.residuals(self._whole.model, _starting(self._chunk, states), self._whole.draws())


@attrs.frozen(eq=False)
class _Linearized:
    """What the samples of one shard contribute.

    `products` has the number of learned starts of each chunk, and the product with their curvature; `blocks` has that
    curvature of the chunks whose derivatives are held as numbers.
    """

    part: ArrowPart
    blocks: list[Tensor]
    products: list[tuple[int, Product]]

    def product(self, starts: Tensor) -> Tensor:
        """Return C_w x_w for K vectors each, `[K, b, D]`."""
        own = torch.split(starts, [count for count, _ in self.products], dim=1)
        return torch.cat([product(x) for (_, product), x in zip(self.products, own, strict=True)], dim=1)


def _curvatures(whole: Problem, found: Sequence[_Linearized]) -> Sequence[StartCurvature]:
    """Return the curvature of the starts of each of this rank's shards."""
    if whole.shards.every(all(len(one.blocks) == len(one.products) for one in found)):
        return [DenseCurvature(torch.cat(one.blocks)) for one in found]
    assert whole.initial is not None
    generator = whole.generator("curvature", whole.begun)
    # as many vectors as the equations have right sides, since each number of them has a graph of its own
    shape = (1 + whole.unknowns.point().numel(), *whole.initial.scaled.shape)
    signs = 2.0 * torch.randint(0, 2, shape, generator=generator).double() - 1
    ends = whole.shards.cut(len(whole.data))
    own = [signs[:, slice(*ends[shard])] for shard in whole.shards.own]
    # the mean of the diagonal, by Hutchinson's estimate
    sums = [(x * one.product(x)).sum() for one, x in zip(found, own, strict=True)]
    scale = float(whole.shards.sum(sums)) / signs.numel()
    return [ProductCurvature(one.product, scale) for one in found]


def _pulled(own: Tensor, learned: Tensor, values: Tensor) -> Tensor:
    """Return J^T u `[K, b, D]` for u `[K, B, N]` and derivatives `[b, N, D]` by the starts of the samples `learned`."""
    products: Tensor = torch.einsum("bnd,kbn->kbd", own, values[:, learned].double())
    return products


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


def _at_each(whole: Problem, chunk: Chunk, points: Tensor, draws: torch.Generator) -> Tensor:
    """Return the residuals `[S, B, N]` of a chunk at `points [S, P]`, one after the other."""
    state, here, found = draws.get_state(), whole.unknowns.point(), []
    try:
        for point in points:
            draws.set_state(state)
            whole.unknowns.move_to(point)
            found.append(whole.residuals(whole.model, chunk, draws))
    finally:
        whole.unknowns.move_to(here)
    return torch.stack(found)


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Return True if points (the first entries) and samples (the second ones) are the same, and all else is equal."""
    return torch.equal(one[0], other[0]) and one[1] is other[1] and one[2:] == other[2:]


def _starting(chunk: Chunk, states: Tensor) -> Chunk:
    """Return the chunk with other start states."""
    return attrs.evolve(chunk, batch=(states, chunk.batch[1]))


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
