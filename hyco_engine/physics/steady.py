"""Steady states: Newton's method with sparse solves, and derivatives by the implicit function theorem.

A steady state u solves F(u, p) = 0. Newton's method finds it without derivatives; one more step of it,
`u - J^-1 F(u, p)` with the matrix J = dF/du held fixed, does not change u, and its derivatives by p are those of the
steady state: du/dp = -J^-1 dF/dp. So autograd needs no more than a linear solve whose transpose is a solve as well.

Residuals are local: J is sparse, and products with few vectors determine it, in which unknowns that no residual
shares are disturbed together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from hyco_engine.physics.colouring import Box, Ints, apart, colours
from hyco_engine.physics.forward_mode import load_rules
from hyco_engine.physics.multigrid import Multigrid

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
AT_ONCE = range(4, 33)
"""The number of products with J that are computed together: as many as have `AT_ONCE_VALUES`, within these bounds."""
AT_ONCE_VALUES = 2**20
LEAST = (math.inf, 3e4, 4e3)
"""The number of unknowns, by the number of axes, beyond which multigrid takes less time than factors
(`tests/benchmarks/steady.py --solves`)."""
MOST_ENTRIES = 2**28
"""The most entries of factors that are tried; they take 3 GB."""


@attrs.frozen(kw_only=True, eq=False)
class Stencil:
    """The unknowns on which residuals depend: those in `boxes` of cells about them, of all components."""

    components: int
    resolution: tuple[int, ...]
    periodic: tuple[bool, ...]
    boxes: frozenset[Box]

    @cached_property
    def _reach(self) -> Box:
        return tuple(map(max, zip(*self.boxes, strict=True)))

    @property
    def entries(self) -> float:
        """About how many entries factors of the matrix have.

        They are those of the unknowns that part a grid of equal sides in halves, the halves in halves, and so on.
        """
        *across, longest = sorted(self.resolution)
        if not across:
            return 4.0 * longest * (self.components * self._reach[0]) ** 2
        parting = self.components * max(self._reach) * math.prod(across)
        parts = 20.0 if len(across) == 2 else 6 * math.log2(across[0])
        return parts * parting**2 * longest / across[-1]

    @property
    def iterates(self) -> bool:
        """Whether systems are solved by multigrid, and by factors only where that fails."""
        return self.components * math.prod(self.resolution) > LEAST[len(self.resolution) - 1]

    @cached_property
    def _colours(self) -> Ints:
        return colours(self.boxes, self.resolution, self.periodic)

    @cached_property
    def _places(self) -> tuple[Ints, Ints]:
        """Cells, and the cells on which their residuals depend; each pair once."""
        every = np.arange(math.prod(self.resolution), dtype=np.int64).reshape(self.resolution)
        rows, columns = [], []
        for offset in apart(self.boxes, self.resolution, self.periodic):
            axes = zip(offset, self.resolution, self.periodic, strict=True)
            inside = tuple(slice(None) if closed else slice(max(0, -far), n - max(0, far)) for far, n, closed in axes)
            rows.append(every[inside].reshape(-1))
            columns.append(np.roll(every, -offset, tuple(range(len(offset))))[inside].reshape(-1))
        return np.concatenate(rows), np.concatenate(columns)

    def jacobian(self, residual: Residual, state: Tensor) -> csc_matrix:
        """Return dF/du at a state `[C, *S]`, in float64."""

        def product(seed: Tensor) -> Tensor:
            pair: Any = torch.func.jvp(residual, (state,), (seed,))
            moved: Tensor = pair[1]
            return moved

        load_rules()
        together = min(max(AT_ONCE_VALUES // state.numel(), AT_ONCE[0]), AT_ONCE[-1])
        n, cells = self.components, math.prod(self.resolution)
        colour = torch.from_numpy(self._colours).to(state.device)
        disturbed = torch.stack([colour == own for own in range(int(colour.max()) + 1)])
        unit = torch.eye(n).reshape(1, n, n, *[1] * colour.dim()).to(state)
        seeds = (disturbed[:, None, None] * unit).flatten(0, 1)
        products = torch.func.vmap(product, chunk_size=together)(seeds).cpu().numpy()
        row, column = self._places
        # `[entries, component of the unknown, component of the residual]`
        values = products.reshape(-1, n, n, cells)[self._colours.reshape(-1)[column], :, :, row]
        unknown, own = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
        rows = row[:, None, None] + cells * own
        columns = column[:, None, None] + cells * unknown
        size = n * cells
        matrix = csc_matrix((values.reshape(-1), (rows.reshape(-1), columns.reshape(-1))), shape=(size, size))
        matrix.eliminate_zeros()
        return matrix


class Inverse:
    """Solves with the matrix of one sample: by its factors, or by multigrid, and by factors as soon as that fails."""

    def __init__(self, matrix: csc_matrix, stencil: Stencil) -> None:
        """Raise RuntimeError if the matrix is singular or not finite."""
        if not np.isfinite(matrix.data).all():
            raise RuntimeError("the matrix is not finite")
        self._matrix = matrix
        self._entries = stencil.entries
        self._way: Multigrid | SuperLU | None = None
        if stencil.iterates:
            with suppress(RuntimeError):
                self._way = Multigrid(matrix, stencil.resolution, stencil.periodic)
        if self._way is None:
            self._way = self._factors()

    def solve(self, right: Tensor, *, transposed: bool = False) -> Tensor:
        """Return the solutions for right sides `[m, n]`, NaN if they are not found."""
        columns, way = right.numpy().T.copy(), "T" if transposed else "N"
        found = None if self._way is None else self._way.solve(columns, way)
        if found is None and isinstance(self._way, Multigrid):
            try:
                self._way = self._factors()
            except RuntimeError:
                self._way = None
            found = None if self._way is None else self._way.solve(columns, way)
        if found is None:
            found = np.full_like(columns, np.nan)
        return torch.from_numpy(np.ascontiguousarray(found.T))

    def _factors(self) -> SuperLU | None:
        if self._entries > MOST_ENTRIES:
            warnings.warn(
                f"multigrid did not solve for a steady state with {self._matrix.shape[0]} unknowns, and factors of the "
                f"matrix would have about {self._entries:.1g} entries, of which {MOST_ENTRIES:.1g} are allowed: the "
                "state counts as not found. Use a coarser grid, or check signs and bounds of parameters",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        return splu(self._matrix)


class Inverses:
    """Solves with the matrices of samples: one for each, or one for all; None where there is no solution."""

    def __init__(self, parts: Sequence[Inverse | None]) -> None:
        self._parts = list(parts)

    def solve(self, right: Tensor, *, transposed: bool = False) -> Tensor:
        """Return the solutions for right sides `[..., B, n]`."""
        flat = right.detach().cpu().double().reshape(-1, *right.shape[-2:])
        found = torch.full_like(flat, torch.nan)
        if len(self._parts) == 1 and self._parts[0] is not None:
            found[:] = self._parts[0].solve(flat.flatten(0, 1), transposed=transposed).reshape(flat.shape)
        else:
            for sample in range(flat.shape[1]):
                part = self._parts[min(sample, len(self._parts) - 1)]
                if part is not None:
                    found[:, sample] = part.solve(flat[:, sample], transposed=transposed)
        return found.reshape(right.shape).to(right)


def inverse(matrix: csc_matrix, stencil: Stencil) -> Inverse | None:
    """Return solves with a matrix, None if it is singular or not finite."""
    try:
        return Inverse(matrix, stencil)
    except RuntimeError:
        return None


def steady_state(residual: Residual, guess: Tensor, stencil: Stencil) -> tuple[Tensor, Inverse | None]:
    """Return the solution `[C, *S]` that Newton's method finds from a guess, and the solves with J there.

    Where it finds none, the state is NaN.
    """
    state, right = guess, residual(guess)
    for _ in range(MOST):
        solves = inverse(stencil.jacobian(residual, state), stencil)
        if solves is None:
            break
        step = solves.solve(right.reshape(1, -1).cpu()).reshape(state.shape).to(state)
        part, size = 1.0, float(right.norm())
        while part >= SHORTEST:
            moved = state - part * step
            left = residual(moved)
            if float(left.norm()) < (1 - 1e-4 * part) * size or size == 0.0:
                break
            # what only rounding keeps from 0 is a solution
            if part == 1.0 and float(step.abs().max()) <= TOLERANCE * float(state.abs().max()):
                return state, solves
            part /= 2
        else:
            break
        done = part == 1.0 and float(step.abs().max()) <= TOLERANCE * float(moved.abs().max())
        state, right = moved, left
        if done or size == 0.0:
            return state, solves
    return torch.full_like(guess, torch.nan), None


@attrs.define(eq=False)
class Work:
    """What one call of a model leaves for its derivatives."""

    inverses: Inverses = attrs.Factory(lambda: Inverses([None]))


Solver = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Inverses]]


class Newton(torch.autograd.Function):
    """`Newton.apply(state, work, solver, *values)`: the steady states, as numbers that depend on nothing."""

    @staticmethod
    def forward(state: Tensor, work: Work, solver: Solver, *values: Tensor) -> Tensor:
        found, work.inverses = solver(state, values)
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
    """`Solve.apply(right [B, n], work, transposed)`: the solutions with the matrices in `work`, which stay fixed."""

    @staticmethod
    def forward(right: Tensor, work: Work, transposed: bool) -> Tensor:
        return work.inverses.solve(right, transposed=transposed)

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
    """Return what `solver` finds, as numbers that depend on nothing, and leave solves with its matrices in `work`."""
    found: Tensor = Newton.apply(state, work, solver, *values)  # type: ignore[no-untyped-call]
    return found
