"""Linear systems of steady states on grids with many cells: GMRES with a multigrid cycle as its preconditioner.

Factors of a matrix on a grid grow faster than the matrix: with 32 cells along each of three axes they have a hundred
times as many entries. A multigrid cycle takes some products with the matrix: it smooths the error on each of ever
coarser grids, and solves on the coarsest one. Coarse matrices are R A P with linear interpolation P and its transpose
R, so that they know the boundaries and the coefficients of A, and the cycle of the transposed matrix is the transposed
cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix, csr_matrix, eye, kron
from scipy.sparse.linalg import LinearOperator, gmres, splu

if TYPE_CHECKING:
    from scipy.sparse.linalg import SuperLU

Floats = npt.NDArray[np.float64]

TOLERANCE = 1e-9
"""A solution is found when the norm of what is left is this share of that of the right side."""
BETWEEN = 30
"""The number of iterations of GMRES between restarts."""
RESTARTS = 3
"""The number of such rounds after which a solution counts as not found."""
SMALL = 500
"""A grid with at most so many unknowns is not made coarser."""
SHORT = 4
"""An axis with at most so many cells is not made coarser."""
WEAK = 0.2
"""An axis along which neighbours are joined so much more weakly than along another one is not made coarser."""
DAMPING = tuple(1 / (0.625 + sign * 0.375 * 0.5**0.5) for sign in (1, -1))
"""The two steps of a smoother that are best for errors with eigenvalues from a quarter of the largest one, which is 1
where the sums of magnitudes in a row scale it (Chebyshev)."""


@attrs.frozen(kw_only=True, eq=False)
class _Level:
    matrix: csr_matrix
    transposed: csr_matrix
    scale: Floats
    prolong: csr_matrix
    restrict: csr_matrix

    def smoothed(self, found: Floats, right: Floats, *, transposed: bool) -> Floats:
        matrix = self.transposed if transposed else self.matrix
        for step in DAMPING:
            found = found + step * self.scale * (right - matrix @ found)
        return found


class Multigrid:
    """Solves with one matrix, like factors of it: `solve(right [n, m], "N" or "T")`."""

    def __init__(self, matrix: csc_matrix, resolution: Sequence[int], periodic: Sequence[bool]) -> None:
        """Raise RuntimeError where the matrix, or one on a coarser grid, is singular in an obvious way."""
        self._levels: list[_Level] = []
        own = matrix.tocsr()
        while own.shape[0] > SMALL and max(resolution) > SHORT:
            sums = np.asarray(abs(own).sum(axis=1)).reshape(-1)
            if not sums.all():
                raise RuntimeError("a row of the matrix is 0")
            prolong, resolution = _prolongation(own, tuple(resolution), periodic)
            restrict = prolong.T.tocsr()
            self._levels.append(
                _Level(
                    matrix=own,
                    transposed=own.T.tocsr(),
                    scale=np.sign(own.diagonal()) / sums,
                    prolong=prolong,
                    restrict=restrict,
                )
            )
            own = (restrict @ own @ prolong).tocsr()
        self._coarsest: SuperLU = splu(own.tocsc())

    def solve(self, right: Floats, way: str) -> Floats | None:
        """Return the solutions `[n, m]`, None if one is not found."""
        transposed = way == "T"
        first = self._levels[0]
        matrix = first.transposed if transposed else first.matrix
        cycle: Any = LinearOperator(matrix.shape, lambda left: self._cycle(left, transposed=transposed), dtype=float)
        found = np.empty_like(right)
        for column in range(right.shape[1]):
            if not np.isfinite(right[:, column]).all():
                found[:, column] = np.nan
                continue
            found[:, column], missed = gmres(
                matrix, right[:, column], M=cycle, rtol=TOLERANCE, restart=BETWEEN, maxiter=RESTARTS
            )
            if missed or not np.isfinite(found[:, column]).all():
                return None
        return found

    def _cycle(self, right: Floats, *, transposed: bool, depth: int = 0) -> Floats:
        if depth == len(self._levels):
            solved: Floats = self._coarsest.solve(right, "T" if transposed else "N")
            return solved
        level = self._levels[depth]
        matrix = level.transposed if transposed else level.matrix
        found = level.smoothed(np.zeros_like(right), right, transposed=transposed)
        left = level.restrict @ (right - matrix @ found)
        found = found + level.prolong @ self._cycle(left, transposed=transposed, depth=depth + 1)
        return level.smoothed(found, right, transposed=transposed)


def _prolongation(
    matrix: csr_matrix, resolution: Sequence[int], periodic: Sequence[bool]
) -> tuple[csr_matrix, tuple[int, ...]]:
    """Return the interpolation from a coarser grid, and the resolution of that grid."""
    strides = np.cumprod([1, *resolution[:0:-1]])[::-1]
    joined = [abs(matrix.diagonal(int(stride))).mean() for stride in strides]
    most = max(own for own, n in zip(joined, resolution, strict=True) if n > SHORT)
    parts = [
        _linear(n, closed=closed) if n > SHORT and own >= WEAK * most else eye(n, format="csr")
        for own, n, closed in zip(joined, resolution, periodic, strict=True)
    ]
    components = matrix.shape[0] // int(np.prod(resolution))
    every = reduce(lambda one, other: kron(one, other, format="csr"), [eye(components, format="csr"), *parts])
    return every, tuple(part.shape[1] for part in parts)


def _linear(n: int, *, closed: bool) -> csr_matrix:
    """Return the linear interpolation from pairs of cells to cells along an axis."""
    coarse = (n + 1) // 2
    cell = np.arange(n)
    near = cell // 2
    far = near + np.where(cell % 2, 1, -1)
    far = far % coarse if closed and n % 2 == 0 else far.clip(0, coarse - 1)
    weights = np.repeat([0.75, 0.25], n)
    return csr_matrix((weights, (np.tile(cell, 2), np.concatenate([near, far]))), shape=(n, coarse))
