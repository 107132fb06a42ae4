"""Optimal design: the measurements that tell most about parameters, chosen one after the other.

With the covariance C of the parameters now, a measurement is a block A `[n, P]`: the derivatives of its n readings by
the parameters, each in standard deviations of its noise. After it, the covariance is

    C' = (C^-1 + A^T A)^-1 = C - C A^T (I + V)^-1 A C,   V = A C A^T

so that log det falls by log det(I + V) (the criterion "d"), and the trace of W C by that of (I + V)^-1 A C W C A^T
("a"). W holds one over the variances now, so that "a" is the mean share of the variances that is left, whatever the
units. For n = 1 this is the update of rank one. Each step takes the best measurement that is left.
Sources: V. V. Fedorov, "Theory of Optimal Experiments" (1972); for the greedy choice, whose log det is at least
1 - 1/e of the best one, A. Krause, A. Singh, C. Guestrin, J. Mach. Learn. Res. 9 (2008).
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

Criterion = Literal["d", "a"]
AT_ONCE = 2**24
"""The most values of a tensor over all measurements; more measurements are taken part by part."""


@attrs.frozen(kw_only=True, eq=False)
class Chosen:
    """The chosen measurements in order, and the covariance `[P, P]` after each of them."""

    indices: tuple[int, ...]
    covariances: tuple[Tensor, ...]
    gains: Tensor
    """The gain of each measurement as the first one, `[K]`."""


def greedy(covariance: Tensor, measurements: Tensor, number: int, criterion: Criterion = "d") -> Chosen:
    """Choose `number` of the `measurements [K, n, P]`, none of them twice, from the `covariance [P, P]` now.

    Of measurements with equal gains, the first one is taken.
    """
    weights = 1 / covariance.diagonal()
    first = gains(covariance, measurements, weights, criterion)
    chosen: list[int] = []
    after = [covariance]
    for rank in range(number):
        found = gains(after[-1], measurements, weights, criterion) if rank else first
        left = found.index_fill(0, torch.tensor(chosen, dtype=torch.int64), -torch.inf)
        chosen.append(int(left.argmax()))
        after.append(updated(after[-1], measurements[chosen[-1]]))
    return Chosen(indices=tuple(chosen), covariances=tuple(after[1:]), gains=first)


def gains(covariance: Tensor, measurements: Tensor, weights: Tensor, criterion: Criterion) -> Tensor:
    """Return by how much each measurement lowers log det C ("d") or the trace of diag(weights) C ("a"): `[K]`."""
    rows, size = measurements.shape[1:]
    parts = []
    for block in torch.split(measurements, max(1, AT_ONCE // (rows * max(rows, size)))):
        moved = block @ covariance
        inner = torch.eye(rows, dtype=block.dtype) + moved @ block.mT
        factor = torch.linalg.cholesky(inner)
        if criterion == "d":
            parts.append(2 * factor.diagonal(dim1=1, dim2=2).log().sum(1))
        else:
            solved = torch.linalg.solve_triangular(factor, moved, upper=False)
            parts.append((solved.square() * weights).sum((1, 2)))
    return torch.cat(parts)


def updated(covariance: Tensor, block: Tensor) -> Tensor:
    """Return the covariance after the readings `block [n, P]`."""
    moved = block @ covariance
    factor = torch.linalg.cholesky(torch.eye(len(block), dtype=block.dtype) + moved @ block.T)
    solved = torch.linalg.solve_triangular(factor, moved, upper=False)
    after: Tensor = covariance - solved.T @ solved
    return after


def shortened(measurements: Tensor) -> Tensor:
    """Return measurements with the same information A^T A in at most P rows each."""
    return (
        measurements if measurements.shape[1] <= measurements.shape[2] else torch.linalg.qr(measurements, mode="r")[1]
    )
