"""Levenberg-Marquardt for sums of squares, for several starts at a time.

Minimises F(theta) = sum_i r_i(theta)^2. With the Jacobian J = dr/dtheta, g = J^T r and H = J^T J, a step solves

    (H + lambda diag H) delta = -g

which is Gauss-Newton's step for lambda -> 0 and a short, scaled step downhill for large lambda. The gain ratio, actual
over predicted decrease, decides: uphill and non-finite steps are rejected and lambda grows, else it shrinks. A step
moves no parameter by more than its `reach`: where a map to values saturates, beyond it the linearisation says nothing.
The step is then the model's minimum within that box, in which the other parameters go as far as they want.
Sources: D. W. Marquardt, SIAM J. Appl. Math. 11 (1963), for the scaling by diag H; K. Madsen, H. B. Nielsen,
O. Tingleff, "Methods for non-linear least squares problems" (2004), sec. 3.2, for the rule for lambda.
"""

from __future__ import annotations

from typing import Protocol

import attrs
import torch
from torch import Tensor

START_DAMPING = 1e-3
TRIALS = 10
"""Steps tried at one point, each with a larger damping: the last one is shorter by 2^55."""
_LEAST_GAIN = 1e-4
# beyond the smallest damping a step is Gauss-Newton's to all digits
_DAMPING = (1e-15, 1e15)


class SquaredSum(Protocol):
    """A sum of squares, evaluated for several lanes of parameters `[S, P]` at a time; all results are float64.

    `lanes` `[S]` says which lanes these are, for sums that differ from lane to lane.
    """

    def values(self, points: Tensor, lanes: Tensor) -> Tensor:
        """F: `[S]`; not finite where the model is not."""

    def normal_equations(self, points: Tensor, lanes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F `[S]`, g = J^T r `[S, P]` and H = J^T J `[S, P, P]`."""


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """What one iteration did in each lane."""

    points: Tensor
    """`[S, P]`: where each lane is now."""
    values: Tensor
    """F there."""
    moved: Tensor
    """bool `[S]`."""
    converged: Tensor
    """bool `[S]`: nothing is left to gain here, to the precision of the numbers."""
    nonfinite: Tensor
    """int `[S]`: steps rejected because F was not finite there."""
    uphill: Tensor
    """int `[S]`: steps rejected because F was larger there."""


class LevenbergMarquardt:
    """Iterations that keep each lane's damping. `reach [P]` bounds what a step changes; None: nothing does."""

    def __init__(self, lanes: int = 1, precision: torch.dtype = torch.float64, reach: Tensor | None = None) -> None:
        self._reach = None if reach is None else reach.double()
        self.damping = torch.full((lanes,), START_DAMPING, dtype=torch.float64)
        self.growth = torch.full((lanes,), 2.0, dtype=torch.float64)
        self._eps = torch.finfo(precision).eps

    def iterate(self, problem: SquaredSum, points: Tensor) -> Step:
        """One iteration from `points [S, P]`: one linearisation, and steps until one goes downhill."""
        points = points.double()
        values, gradient, hessian = problem.normal_equations(points, torch.arange(len(points)))
        usable = values.isfinite() & gradient.isfinite().all(1) & hessian.isfinite().flatten(1).all(1)
        gradient = torch.where(usable[:, None], gradient, 0.0)
        hessian = torch.where(usable[:, None, None], hessian, torch.eye(points.shape[1], dtype=torch.float64))
        converged = usable & (_decrease(hessian, gradient) <= self._eps * values)
        open_ = usable & ~converged
        moved = torch.zeros_like(open_)
        nonfinite, uphill = torch.zeros_like(open_, dtype=torch.int64), torch.zeros_like(open_, dtype=torch.int64)
        for _ in range(TRIALS):
            lanes = open_.nonzero().flatten()
            if not len(lanes):
                break
            delta = self._solve(hessian[lanes], gradient[lanes], self.damping[lanes])
            tiny = (delta.abs() <= self._eps * (1 + points[lanes].abs())).all(1)
            converged[lanes[tiny]] = True
            open_[lanes[tiny]] = False
            lanes, delta = lanes[~tiny], delta[~tiny]
            if not len(lanes):
                break
            tried = problem.values(points[lanes] + delta, lanes)
            curved = torch.einsum("sp,spq,sq->s", delta, hessian[lanes], delta)
            predicted = -2 * (gradient[lanes] * delta).sum(1) - curved
            gain = (values[lanes] - tried) / predicted
            accepted = tried.isfinite() & (gain > _LEAST_GAIN)
            nonfinite[lanes] += (~tried.isfinite()).long()
            uphill[lanes] += (tried.isfinite() & ~accepted).long()
            self._adapt(lanes, gain, accepted)
            points = points.index_add(0, lanes[accepted], delta[accepted])
            values = values.index_copy(0, lanes[accepted], tried[accepted])
            moved[lanes[accepted]] = True
            open_[lanes[accepted]] = False
        # where no length of step goes downhill, the lane is at a minimum as far as rounding lets one see
        converged |= open_ & (uphill > 0)
        return Step(points=points, values=values, moved=moved, converged=converged, nonfinite=nonfinite, uphill=uphill)

    def _solve(self, hessian: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
        """`[S, P]`. What would go beyond its reach is held there, and the others are solved for anew."""
        scale = unit_scale(hessian)
        scaled = hessian / (scale[:, :, None] * scale[:, None, :])
        damped = scaled + torch.diag_embed(damping[:, None].expand_as(scale))
        reach = torch.full_like(scale, torch.inf) if self._reach is None else self._reach * scale
        free, step = torch.ones_like(scale, dtype=torch.bool), torch.zeros_like(scale)
        for _ in range(scale.shape[1] + 1):
            pull = gradient / scale + torch.einsum("spq,sq->sp", damped, torch.where(free, 0.0, step))
            both = free[:, :, None] & free[:, None, :]
            own = torch.where(both, damped, torch.diag_embed((~free).double()))
            step = torch.where(free, -_least_squares(own, torch.where(free, pull, 0.0)), step)
            beyond = free & (step.abs() > reach)
            if not bool(beyond.any()):
                break
            step = torch.where(beyond, step.sign() * reach, step)
            free &= ~beyond
        return step / scale

    def _adapt(self, lanes: Tensor, gain: Tensor, accepted: Tensor) -> None:
        shrunk = self.damping[lanes] * (1 - (2 * gain.clamp(max=1e3) - 1) ** 3).clamp(min=1 / 3)
        grown = self.damping[lanes] * self.growth[lanes]
        self.damping[lanes] = torch.where(accepted, shrunk, grown).clamp(*_DAMPING)
        self.growth[lanes] = torch.where(accepted, 2.0, 2 * self.growth[lanes])

    def state_dict(self) -> dict[str, Tensor]:
        """All that a later iteration depends on."""
        return {"damping": self.damping.clone(), "growth": self.growth.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave."""
        self.damping, self.growth = state["damping"].clone(), state["growth"].clone()


def unit_scale(hessian: Tensor) -> Tensor:
    """`[..., P]`: dividing rows and columns by it makes the diagonal 1; 1 for a parameter without any effect."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    return torch.where(diagonal > 0, diagonal, 1.0).sqrt()


def _decrease(hessian: Tensor, gradient: Tensor) -> Tensor:
    """g^T H^-1 g `[S]`: what Gauss-Newton's full step would gain if F were quadratic."""
    scale = unit_scale(hessian)
    scaled = hessian / (scale[:, :, None] * scale[:, None, :])
    g = gradient / scale
    return (g * _least_squares(scaled, g)).sum(1)


def _least_squares(matrix: Tensor, right: Tensor) -> Tensor:
    """The shortest solution: exactly dependent parameters make the matrix singular once the damping is small."""
    solution: Tensor = torch.linalg.lstsq(matrix, right[:, :, None], driver="gelsd").solution
    return solution[:, :, 0]
