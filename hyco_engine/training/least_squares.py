"""Levenberg-Marquardt for sums of squares, for several starts at a time.

Minimises F(theta) = sum_i r_i(theta)^2. With the Jacobian J = dr/dtheta, g = J^T r and H = J^T J, a step solves

    (H + lambda diag H) delta = -g

which is Gauss-Newton's step for lambda -> 0 and a short, scaled step downhill for large lambda. The gain ratio, actual
over predicted decrease, decides: uphill and non-finite steps are rejected and lambda grows, else it shrinks. A step
moves no parameter out of its trust region, since the linearisation says nothing where a map to values saturates. The
step is then the minimum of the quadratic model within that box, and does not bound the other parameters.
Sources: D. W. Marquardt, SIAM J. Appl. Math. 11 (1963), for the scaling by diag H; K. Madsen, H. B. Nielsen,
O. Tingleff, "Methods for non-linear least squares problems" (2004), sec. 3.2, for the rule for lambda.
"""

from __future__ import annotations

import math
from typing import Protocol

import attrs
import torch
from torch import Tensor

START_DAMPING = 1e-3
TRIALS = 10
"""Steps tried at one point, each with a larger damping: the last one is shorter by 2^55."""
_LEAST_GAIN = 1e-4
_SHORT = 1.5
"""A step with a larger gain ratio ends before half of the way to the lowest point of its line."""
_LONGEST = 8.0
"""At most so many steps are taken at once."""
_GOOD = 0.1
"""The gain ratio of a good step differs from 1 by less."""
_HIDDEN = 0.03
"""A gain of so much of the variance of a residual moves a parameter by at most 0.17 of its standard error."""
# with a damping below the smallest one, a step equals Gauss-Newton's to all digits
_DAMPING = (1e-15, 1e15)


class Quadratic(Protocol):
    """The quadratic model of a sum of squares around points `[S, P]`, from its linearised residuals."""

    @property
    def values(self) -> Tensor:
        """F at the points, float64 `[S]`."""

    @property
    def noise(self) -> Tensor:
        """The variance of one residual at each point `[S]`, if they are noise; 0 where nothing is known of it."""

    @property
    def usable(self) -> Tensor:
        """True for a point at which F and its derivatives are finite: bool `[S]`."""

    def decrease(self) -> Tensor:
        """Return g^T H^-1 g `[S]`, the gain of Gauss-Newton's full step if F were quadratic."""

    def step(self, starts: Tensor, damping: Tensor, trust_region: Tensor | None) -> Tensor:
        """Return the damped step `[s, P]` of the points at `starts [s]`, within the trust region."""

    def predicted(self, starts: Tensor, delta: Tensor) -> Tensor:
        """Return the gain `[s]` of the steps `delta [s, P]` if F were quadratic."""


class SquaredSum(Protocol):
    """A sum of squares, evaluated for several parameter vectors `[S, P]` at a time; all results are float64.

    `starts [S]` are the indices of their starts, for sums that differ from start to start.
    """

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        """Return F `[S]`, which is not finite where the model is not."""

    def normal_equations(self, points: Tensor, starts: Tensor) -> Quadratic:
        """Return the quadratic model around the points."""


@attrs.frozen(kw_only=True, eq=False)
class NormalEquations:
    """The quadratic model of few parameters: F `[S]`, g = J^T r `[S, P]` and H = J^T J `[S, P, P]`."""

    values: Tensor
    gradient: Tensor
    hessian: Tensor

    @property
    def noise(self) -> Tensor:
        return torch.zeros_like(self.values)

    @property
    def usable(self) -> Tensor:
        finite = self.gradient.isfinite().all(1) & self.hessian.isfinite().flatten(1).all(1)
        return self.values.isfinite() & finite

    def decrease(self) -> Tensor:
        # the solver refuses what is not finite
        gradient = torch.where(self.usable[:, None], self.gradient, 0.0)
        identity = torch.eye(gradient.shape[1], dtype=torch.float64)
        return decrease(torch.where(self.usable[:, None, None], self.hessian, identity), gradient)

    def step(self, starts: Tensor, damping: Tensor, trust_region: Tensor | None) -> Tensor:
        return within_box(self.hessian[starts], self.gradient[starts], damping, trust_region)

    def predicted(self, starts: Tensor, delta: Tensor) -> Tensor:
        curved = torch.einsum("sp,spq,sq->s", delta, self.hessian[starts], delta)
        return -2 * (self.gradient[starts] * delta).sum(1) - curved


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """The result of one iteration from each start."""

    points: Tensor
    """The point that each start has reached, `[S, P]`."""
    values: Tensor
    """F at these points, `[S]`."""
    moved: Tensor
    """True for a start that took a step: bool `[S]`."""
    converged: Tensor
    """True where no step can lower F within the precision of the numbers and of the data: bool `[S]`."""
    near: Tensor
    """True where the full step would gain no more than the variance of one residual, if they are noise: bool `[S]`."""
    nonfinite: Tensor
    """Number of steps rejected because F was not finite there: int `[S]`."""
    uphill: Tensor
    """Number of steps rejected because F was larger there: int `[S]`."""


class LevenbergMarquardt:
    """Iterations that keep each start's damping.

    `trust_region [P]` bounds how far a step moves each number; None sets no bound.
    """

    def __init__(
        self, starts: int = 1, precision: torch.dtype = torch.float64, trust_region: Tensor | None = None
    ) -> None:
        self._trust_region = None if trust_region is None else trust_region.double()
        self.damping = torch.full((starts,), START_DAMPING, dtype=torch.float64)
        self.growth = torch.full((starts,), 2.0, dtype=torch.float64)
        self._eps = torch.finfo(precision).eps

    def iterate(self, problem: SquaredSum, points: Tensor) -> Step:
        """Iterate once from `points [S, P]`: linearise once, then try steps until one goes downhill."""
        points = points.double()
        model = problem.normal_equations(points, torch.arange(len(points)))
        values, usable = model.values, model.usable
        decrease = model.decrease()
        converged = usable & (decrease <= self._eps * values)
        # rounding in a long rollout may hide so little, and it is less than what noise hides
        hidden = decrease <= torch.minimum(math.sqrt(self._eps) * values, model.noise)
        open_ = usable & ~converged
        moved = torch.zeros_like(open_)
        nonfinite, uphill = torch.zeros_like(open_, dtype=torch.int64), torch.zeros_like(open_, dtype=torch.int64)
        for _ in range(TRIALS):
            starts = open_.nonzero().flatten()
            if not len(starts):
                break
            delta = model.step(starts, self.damping[starts], self._trust_region)
            tiny = (delta.abs() <= self._eps * (1 + points[starts].abs())).all(1)
            converged[starts[tiny]] = True
            open_[starts[tiny]] = False
            starts, delta = starts[~tiny], delta[~tiny]
            if not len(starts):
                break
            tried = problem.values(points[starts] + delta, starts)
            gain = (values[starts] - tried) / model.predicted(starts, delta)
            rounded = hidden[starts] & tried.isfinite() & (gain < 0.5)
            converged[starts[rounded]] = True
            open_[starts[rounded]] = False
            accepted = tried.isfinite() & (gain > _LEAST_GAIN) & ~rounded
            nonfinite[starts] += (~tried.isfinite()).long()
            uphill[starts] += (tried.isfinite() & ~accepted).long()
            self._adapt(starts, gain, accepted)
            # a search whose steps are as good as predicted ends by itself, others creep
            left = decrease[starts] / (2 - gain).clamp(min=1 / _LONGEST, max=1)
            over = accepted & ((gain - 1).abs() > _GOOD) & (left <= _HIDDEN * model.noise[starts])
            converged[starts[over]] = True
            starts, steps = starts[accepted], (delta[accepted], tried[accepted], gain[accepted])
            delta, tried = self._longer(problem, points, starts, steps)
            points = points.index_add(0, starts, delta)
            values = values.index_copy(0, starts, tried)
            moved[starts] = True
            open_[starts] = False
        # a point from which no length of step goes downhill is a minimum, as far as rounding shows
        converged |= open_ & (uphill > 0)
        near = usable & (decrease < model.noise)
        return Step(
            points=points,
            values=values,
            moved=moved,
            converged=converged,
            near=near,
            nonfinite=nonfinite,
            uphill=uphill,
        )

    def _longer(
        self, problem: SquaredSum, points: Tensor, starts: Tensor, steps: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return steps `[s, P]` and F at their ends; `steps` are those taken, with F there and their gain ratio.

        H overestimates the curvature where second derivatives of the residuals matter: noise that a start follows in a
        wave, for one, resists another phase of it, though it would follow that as well. The curvature along a step is
        2 - gain times that of H, so that the lowest point of its line is 1 / (2 - gain) steps away.
        """
        delta, values, gain = steps
        factor = torch.where(gain < 2, 1 / (2 - gain), _LONGEST).clamp(max=_LONGEST)
        if self._trust_region is not None:
            size = delta[:, : len(self._trust_region)].abs()
            factor = torch.minimum(factor, (self._trust_region / size).amin(1))
        longer = (gain > _SHORT) & (factor > 1)
        if bool(longer.any()):
            further = factor[longer, None] * delta[longer]
            found = torch.full_like(values, torch.inf)
            found[longer] = problem.values(points[starts[longer]] + further, starts[longer])
            better = found < values
            delta = delta.clone()
            delta[better] = further[better[longer]]
            values = torch.where(better, found, values)
        return delta, values

    def _adapt(self, starts: Tensor, gain: Tensor, accepted: Tensor) -> None:
        shrunk = self.damping[starts] * (1 - (2 * gain.clamp(max=1e3) - 1) ** 3).clamp(min=1 / 3)
        grown = self.damping[starts] * self.growth[starts]
        self.damping[starts] = torch.where(accepted, shrunk, grown).clamp(*_DAMPING)
        self.growth[starts] = torch.where(accepted, 2.0, 2 * self.growth[starts])

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a later iteration depends on."""
        return {"damping": self.damping.clone(), "growth": self.growth.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.damping, self.growth = state["damping"].clone(), state["growth"].clone()


def unit_scale(hessian: Tensor) -> Tensor:
    """Return `[..., P]`: rows and columns divided by it have the diagonal 1. A parameter without any effect has 1."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    return torch.where(diagonal > 0, diagonal, 1.0).sqrt()


def decrease(hessian: Tensor, gradient: Tensor) -> Tensor:
    """Return g^T H^-1 g `[S]`."""
    scale = unit_scale(hessian)
    scaled = hessian / (scale[:, :, None] * scale[:, None, :])
    g = gradient / scale
    return (g * _shortest(scaled, g)).sum(1)


def within_box(hessian: Tensor, gradient: Tensor, damping: Tensor, bound: Tensor | None) -> Tensor:
    """Return the step `[S, P]` of the normal equations, damped by `damping [S]`, with no number beyond its `bound [P]`.

    The other numbers are solved anew where some would go beyond.
    """
    scale = unit_scale(hessian)
    scaled = hessian / (scale[:, :, None] * scale[:, None, :])
    damped = scaled + torch.diag_embed(damping[:, None].expand_as(scale))
    limit = torch.full_like(scale, torch.inf) if bound is None else bound * scale
    free, step = torch.ones_like(scale, dtype=torch.bool), torch.zeros_like(scale)
    for _ in range(scale.shape[1] + 1):
        pull = gradient / scale + torch.einsum("spq,sq->sp", damped, torch.where(free, 0.0, step))
        both = free[:, :, None] & free[:, None, :]
        own = torch.where(both, damped, torch.diag_embed((~free).double()))
        step = torch.where(free, -_shortest(own, torch.where(free, pull, 0.0)), step)
        beyond = free & (step.abs() > limit)
        if not bool(beyond.any()):
            break
        step = torch.where(beyond, step.sign() * limit, step)
        free &= ~beyond
    return step / scale


def _shortest(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the shortest solution: exactly dependent parameters make the matrix singular once the damping is small."""
    solution: Tensor = torch.linalg.lstsq(matrix, right[:, :, None], driver="gelsd").solution
    return solution[:, :, 0]
