"""Profile intervals, for parameters of which the curvature at the minimum says too little: near bounds, hardly
determined, or with several minima.

The interval of a parameter is the set of its values at which the loss, minimised over all others, exceeds its
minimum by no more than q^2 s^2, where an interval from the curvature reaches q standard errors. Where it always is, the
data do not bound the parameter on that side, and the interval ends at the parameter's own bound.
Source: D. J. Venzon, S. H. Moolgavkar, J. R. Stat. Soc. C 37 (1988).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyco_engine.training.divergence import Outgrown
from hyco_engine.training.least_squares import within_box
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.problem import Problem

EVALUATIONS = 24
"""The most evaluations of the loss for both ends of one interval, each with the derivatives if there are others."""
FAR = 30.0
"""An unconstrained number that is so far from 0 is at its bound, where there is one."""
_CLOSE = 0.02


def profile(
    whole: Problem, linearizer: Linearizer, index: int, *, size: float, excess: float, far: float
) -> tuple[float, float]:
    """Return the ends of the interval of the unconstrained parameter `index`, infinite where the data do not bound it.

    `size` is half the width that the curvature gives, and `excess` the allowed excess of the loss. A
    distance of `far` counts as infinite.
    """
    point = whole.unknowns.point()
    found = _Profile(whole, linearizer, index, point, excess, far)
    try:
        return found.end(-1.0, size), found.end(1.0, size)
    finally:
        whole.unknowns.move_to(point)


class _Profile:
    """The loss as a function of one parameter, minimised over the others."""

    def __init__(
        self, whole: Problem, linearizer: Linearizer, index: int, point: Tensor, excess: float, far: float
    ) -> None:
        self._whole, self._linearizer, self._far = whole, linearizer, far
        self._index, self._point = index, point
        self._others = torch.arange(len(point)) != index
        self._limit = self._value(point) + excess

    def end(self, side: float, size: float) -> float:
        """Return the end of the interval on one side."""
        inner, outer = 0.0, min(size, self._far / 4)
        point, left = self._point, EVALUATIONS // 2
        while left:
            left -= 1
            value, there = self._minimised(point, side * outer)
            if value > self._limit:
                break
            if outer >= self._far:
                return side * math.inf
            inner, point, outer = outer, there, min(self._far, 2 * outer)
        else:
            return side * math.inf
        while left and outer - inner > _CLOSE * outer:
            left -= 1
            middle = (inner + outer) / 2
            value, there = self._minimised(point, side * middle)
            if value > self._limit:
                outer = middle
            else:
                inner, point = middle, there
        # the outer one, so that the interval is never too short
        return float(self._point[self._index]) + side * outer

    def _minimised(self, point: Tensor, distance: float) -> tuple[float, Tensor]:
        """Return the smallest loss at a distance of the parameter, and where it is, by a step from `point`."""
        point = point.clone()
        point[self._index] = self._point[self._index] + distance
        if not bool(self._others.any()):
            return self._value(point), point
        try:
            model = self._linearizer.normal_equations(self._whole, point[None])
        except Outgrown:
            return math.inf, point
        if not bool(model.usable.all()):
            return math.inf, point
        own = model.hessian[:, self._others][:, :, self._others]
        limit = self._whole.unknowns.trust_region()[self._others]
        step = within_box(own, model.gradient[:, self._others], torch.zeros(1, dtype=torch.float64), limit)[0]
        moved = point.clone()
        moved[self._others] += step
        after = self._value(moved)
        before = float(model.values[0])
        return (after, moved) if after < before else (before, point)

    def _value(self, point: Tensor) -> float:
        try:
            value = float(self._linearizer.values(self._whole, point[None])[0])
        except Outgrown:
            return math.inf
        return value if math.isfinite(value) else math.inf
