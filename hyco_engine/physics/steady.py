"""Steady states: Newton's method with sparse direct solves, and derivatives by the implicit function theorem.

A steady state u solves F(u, p) = 0. Newton's method finds it without derivatives; one more step of it,
`u - J^-1 F(u, p)` with the matrix J = dF/du held fixed, does not change u, and its derivatives by p are those of the
steady state: du/dp = -J^-1 dF/dp. So autograd needs no more than a linear solve whose transpose is a solve as well.

Residuals are local: J is sparse, and products with few vectors determine it, in which unknowns that no residual
shares are disturbed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from hyco_engine.physics.forward_mode import load_rules

if TYPE_CHECKING:
    from scipy.sparse.linalg import SuperLU

Residual = Callable[[Tensor], Tensor]
"""F of one state, `[C, *S] -> [C, *S]`."""
MOST = 50
"""The most iterations of Newton's method."""
TOLERANCE = 1e-9
"""A step that changes no value by more than this share of the largest one is the last, since convergence is
quadratic."""
SHORTEST = 2.0**-10
"""The smallest part of a step that is tried."""
AT_ONCE = 32
"""The number of products with J that are computed together."""

Ints = npt.NDArray[np.int64]


@attrs.frozen(kw_only=True, eq=False)
class Stencil:
    """The unknowns on which residuals depend: those within `reach` cells along each axis, of all components."""

    components: int
    resolution: tuple[int, ...]
    periodic: tuple[bool, ...]
    reach: tuple[int, ...]

    @cached_property
    def _periods(self) -> tuple[int, ...]:
        """After how many cells along each axis an unknown may be disturbed together with the first one."""
        found = []
        for n, closed, reach in zip(self.resolution, self.periodic, self.reach, strict=True):
            apart = min(n, 2 * reach + 1)
            # around a periodic axis, the last one must be as far from the first one
            fits = (p for p in range(apart, n + 1) if not closed or n % p == 0 or n % p >= apart)
            found.append(next(fits))
        return tuple(found)

    @cached_property
    def _places(self) -> tuple[Ints, Ints, Ints]:
        """Cells, the cells on which their residuals depend, and the group with which the latter are disturbed."""
        row: Ints = np.zeros(1, np.int64)
        column, group = row, row
        for n, closed, reach, period in zip(self.resolution, self.periodic, self.reach, self._periods, strict=True):
            own = np.arange(n)
            far = np.abs(own[:, None] - own[None, :])
            far = np.minimum(far, n - far) if closed else far
            i, j = (index.astype(np.int64) for index in np.nonzero(far <= reach))
            row = (row[:, None] * n + i).reshape(-1)
            column = (column[:, None] * n + j).reshape(-1)
            group = (group[:, None] * period + j % period).reshape(-1)
        return row, column, group

    @cached_property
    def _seeds(self) -> Tensor:
        """The disturbances `[groups * C, C, *S]`."""
        group = torch.zeros((1,) * len(self.resolution), dtype=torch.int64)
        for axis, (n, period) in enumerate(zip(self.resolution, self._periods, strict=True)):
            shape = [-1 if other == axis else 1 for other in range(len(self.resolution))]
            group = group * period + (torch.arange(n) % period).reshape(shape)
        which = torch.arange(math.prod(self._periods)).reshape(-1, *[1] * len(self.resolution))
        disturbed = (group[None] == which).double()
        unit = torch.eye(self.components, dtype=torch.float64).reshape(
            1, self.components, self.components, *[1] * len(self.resolution)
        )
        return (disturbed[:, None, None] * unit).flatten(0, 1)

    def jacobian(self, residual: Residual, state: Tensor) -> csc_matrix:
        """Return dF/du at a state `[C, *S]`, in float64."""

        def product(seed: Tensor) -> Tensor:
            pair: Any = torch.func.jvp(residual, (state,), (seed,))
            moved: Tensor = pair[1]
            return moved

        load_rules()
        products = torch.func.vmap(product, chunk_size=AT_ONCE)(self._seeds.to(state)).cpu().numpy()
        row, column, group = self._places
        n, cells = self.components, math.prod(self.resolution)
        by_group = products.reshape(-1, n, n, cells)
        # `[entries, component of the unknown, component of the residual]`
        values = by_group[group, :, :, row]
        unknown, own = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
        rows = row[:, None, None] + cells * own
        columns = column[:, None, None] + cells * unknown
        size = n * cells
        matrix = csc_matrix((values.reshape(-1), (rows.reshape(-1), columns.reshape(-1))), shape=(size, size))
        matrix.eliminate_zeros()
        return matrix


class Factors:
    """The factorized matrices of samples: one for each, or one for all; None where there is no solution."""

    def __init__(self, parts: Sequence[SuperLU | None]) -> None:
        self._parts = list(parts)

    def solve(self, right: Tensor, *, transposed: bool = False) -> Tensor:
        """Return the solutions for right sides `[..., B, n]`."""
        flat = right.detach().cpu().double().reshape(-1, *right.shape[-2:])
        found = torch.full_like(flat, torch.nan)
        way = "T" if transposed else "N"
        if len(self._parts) == 1 and self._parts[0] is not None:
            found[:] = _solved(self._parts[0], flat.flatten(0, 1), way).reshape(flat.shape)
        else:
            for sample in range(flat.shape[1]):
                part = self._parts[min(sample, len(self._parts) - 1)]
                if part is not None:
                    found[:, sample] = _solved(part, flat[:, sample], way)
        return found.reshape(right.shape).to(right)


def _solved(factors: SuperLU, right: Tensor, way: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(factors.solve(right.numpy().T.copy(), way).T))


def factorized(matrix: csc_matrix) -> SuperLU | None:
    """Return the factors of a matrix, None if it is singular or not finite."""
    if not np.isfinite(matrix.data).all():
        return None
    try:
        return splu(matrix)
    except RuntimeError:
        return None


def steady_state(residual: Residual, guess: Tensor, stencil: Stencil) -> tuple[Tensor, SuperLU | None]:
    """Return the solution `[C, *S]` that Newton's method finds from a guess, and the factors of J there.

    Where it finds none, the state is NaN.
    """
    state, right = guess, residual(guess)
    for _ in range(MOST):
        factors = factorized(stencil.jacobian(residual, state))
        if factors is None:
            break
        step = Factors([factors]).solve(right.reshape(1, -1)).reshape(state.shape)
        part, size = 1.0, float(right.norm())
        while part >= SHORTEST:
            moved = state - part * step
            left = residual(moved)
            if float(left.norm()) < (1 - 1e-4 * part) * size or size == 0.0:
                break
            # what only rounding keeps from 0 is a solution
            if part == 1.0 and float(step.abs().max()) <= TOLERANCE * float(state.abs().max()):
                return state, factors
            part /= 2
        else:
            break
        done = part == 1.0 and float(step.abs().max()) <= TOLERANCE * float(moved.abs().max())
        state, right = moved, left
        if done or size == 0.0:
            return state, factors
    return torch.full_like(guess, torch.nan), None


@attrs.define(eq=False)
class Work:
    """What one call of a model leaves for its derivatives."""

    factors: Factors = attrs.Factory(lambda: Factors([None]))


Solver = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Factors]]


class Newton(torch.autograd.Function):
    """`Newton.apply(state, work, solver, *values)`: the steady states, as numbers that depend on nothing."""

    @staticmethod
    def forward(state: Tensor, work: Work, solver: Solver, *values: Tensor) -> Tensor:
        found, work.factors = solver(state, values)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)
        ctx.count = len(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return (None,) * ctx.count

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        raise NotImplementedError("steady states of several sets of parameters are not solved for together")


class Solve(torch.autograd.Function):
    """`Solve.apply(right [B, n], work, transposed)`: the solutions with the factors in `work`, which stay fixed."""

    @staticmethod
    def forward(right: Tensor, work: Work, transposed: bool) -> Tensor:
        return work.factors.solve(right, transposed=transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.work, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return solved_with(ctx.work, gradients[0], transposed=not ctx.transposed), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        return solved_with(ctx.work, tangent, transposed=ctx.transposed)

    @staticmethod
    def vmap(info: Any, in_dims: Any, right: Tensor, work: Work, transposed: bool) -> Any:
        return solved_with(work, right.movedim(in_dims[0], 0), transposed=transposed), 0


def solved_with(work: Work, right: Tensor, *, transposed: bool = False) -> Tensor:
    """Return the solutions for right sides `[..., B, n]`, differentiable by them."""
    found: Tensor = Solve.apply(right, work, transposed)  # type: ignore[no-untyped-call]
    return found


def steady_states(state: Tensor, work: Work, solver: Solver, values: Sequence[Tensor]) -> Tensor:
    """Return what `solver` finds, as numbers that depend on nothing, and leave the factors in `work`."""
    found: Tensor = Newton.apply(state, work, solver, *values)  # type: ignore[no-untyped-call]
    return found
