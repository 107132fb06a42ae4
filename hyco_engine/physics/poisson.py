"""The direct solution of Poisson's equation at cell centres by torch operations that can be captured.

It needs no iteration and no tolerance. The three-point Laplacian is diagonal in cosines (closed axes), sines (open
axes) or Fourier waves (periodic axes). The transforms are products with orthogonal matrices: real, exact to rounding,
and as fast as an FFT up to some 256 cells along an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hyco_engine.data.fields import Grid

Side = Literal["closed", "open", "periodic"]
"""The condition on p at both ends of an axis: no gradient across the outer faces, p = 0 on them, or periodic."""


class FastPoisson:
    """Solves `lap p = f`, where lap is the difference Laplacian of second order.

    If no axis is open, `f` must sum to zero: its mean is subtracted, and `p` has zero mean.
    """

    def __init__(self, grid: Grid, sides: Sequence[Side]) -> None:
        self._bases: list[Tensor] = []
        square = torch.zeros((), dtype=torch.float64)
        for n, dx, side in zip(grid.resolution, grid.spacing, sides, strict=True):
            basis, frequency = _modes(n, side)
            self._bases.append(basis)
            square = square.unsqueeze(-1) + (2 / dx * torch.sin(frequency / 2)).square()
        singular = square < 1e-12 * square.max()
        self._inverse = torch.where(singular, 0.0, -1 / torch.where(singular, 1.0, square))

    def solve(self, f: Tensor) -> Tensor:
        """Return `p` for `f [..., *resolution]`, in the same shape."""
        bases = [basis.to(f) for basis in self._bases]
        return _transform(_transform(f, bases) * self._inverse.to(f), [basis.T for basis in bases])


def _transform(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    for matrix in matrices:
        axis = values.dim() - len(matrices)
        # contracts the first space axis and appends the new one, so that the axes end in their order
        values = torch.tensordot(values, matrix, dims=([axis], [1]))
    return values


def _modes(n: int, side: Side) -> tuple[Tensor, Tensor]:
    """Return orthonormal modes `[n, n]`, one per row, and their phase change from cell to cell `[n]`."""
    place = torch.arange(n, dtype=torch.float64) + 0.5
    number = torch.arange(n, dtype=torch.float64)
    if side == "periodic":
        frequency = 2 * math.pi / n * torch.div(number + 1, 2, rounding_mode="floor")
        # the shortest wave of an even axis has a sine alone, because its cosine is zero at cell centres
        cosine = (number % 2 == 1) & (number < n - 1 + n % 2) | (number == 0)
        phase = frequency[:, None] * place
        rows = torch.where(cosine[:, None], torch.cos(phase), torch.sin(phase))
    elif side == "closed":
        frequency = math.pi / n * number
        rows = torch.cos(frequency[:, None] * place)
    else:
        frequency = math.pi / n * (number + 1)
        rows = torch.sin(frequency[:, None] * place)
    return rows / rows.norm(dim=1, keepdim=True), frequency
