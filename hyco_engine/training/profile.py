"""Profile intervals, for parameters of which the curvature at the minimum says too little: near bounds, hardly
determined, or with several minima.

The interval of a parameter is the set of its values at which the loss, minimised over all others, exceeds its
minimum by no more than q^2 s^2, where an interval from the curvature reaches q standard errors. Where it always is, the
data do not bound the parameter on that side, and the interval ends at the parameter's own bound. If another minimum
fits as well, the interval reaches to the far side of it.

The others follow by Gauss-Newton steps with the parameter held, from the line through the minimum and the last point
where they are known. The root of the excess is linear where the loss is a parabola, so secants find the end soon.
Source: D. J. Venzon, S. H. Moolgavkar, J. R. Stat. Soc. C 37 (1988).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hyco_engine.physics.transforms import Transform
from hyco_engine.training.divergence import Outgrown
from hyco_engine.training.least_squares import SquaredSum

POINTS = 12
"""The most points that are tried for one end."""
STEPS = 4
"""The most Gauss-Newton steps of the others at one point, of which each linearises the loss once."""
CLOSE = 0.1
"""An end may lie so far beyond the true one, in parts of the distance to it where the loss is a parabola."""
FAR = 15.0
"""After so many times the longest step of the search, a parameter is practically at its bound."""
_FOLLOWED = 0.05
"""The others are at their minimum if their next step gains less than this part of the allowed excess."""
_GROWTH = 4.0


class NoProfile(Exception):
    """Raised where an interval is not found; the message says why, without a full stop."""


class Profiles:
    """The loss around its minimum `point`, as functions of one parameter each, minimised over the others.

    `trust_region [P]` bounds the steps of the parameters, and `computable` tells whether the loss at a point means
    something. All profiles together take up to `left` linearisations.
    """

    def __init__(
        self,
        problem: SquaredSum,
        point: Tensor,
        *,
        trust_region: Tensor,
        left: int,
        computable: Callable[[Tensor], bool] = lambda point: True,
    ) -> None:
        self._problem, self._point, self._trust_region, self._computable = problem, point, trust_region, computable
        self._left = self._given = left
        self._allowed = math.nan
        self._least = self._linearised(point)[0]

    def interval(
        self, index: int, transform: Transform, *, excess: float, size: float, others: Sequence[Tensor] = ()
    ) -> tuple[float, float]:
        """Return the ends of the interval of the parameter `index`, infinite where the data do not bound it.

        There the loss has the allowed `excess`; `size` is half the width that the curvature gives. `others` are other
        minima. Raises NoProfile.
        """
        self._allowed = excess
        lower, known = self._end(index, transform, -1.0, size, others, None)
        upper, _ = self._end(index, transform, 1.0, size, others, known)
        return lower, upper

    def _end(
        self,
        index: int,
        transform: Transform,
        side: float,
        size: float,
        others: Sequence[Tensor],
        neighbour: Tensor | None,
    ) -> tuple[float, Tensor | None]:
        """Return the end of the interval on one side, and the last point at which the others are known.

        `neighbour` is such a point already.
        """
        here = float(self._point[index])
        edge = _edge(transform, side)
        far = side * (edge - here)
        if far <= 0:
            return side * math.inf, neighbour
        inner, low, outer, high = 0.0, 0.0, math.inf, math.inf
        for other in others:
            distance = side * float(other[index] - here)
            if distance > inner:
                root, there = self._root(other, index)
                if root <= 1:
                    inner, low, neighbour = distance, root, there
        aim = 1 + CLOSE / 2
        tried = inner + min(aim * size, far / _GROWTH)
        for count in range(POINTS):
            root, neighbour = self._root(self._on_line(index, here + side * tried, neighbour), index)
            if root > 1:
                outer, high = tried, root
            elif tried >= far:
                return side * math.inf, neighbour
            else:
                inner, low = tried, root
            if high <= 1 + CLOSE:
                break
            if math.isinf(outer):
                grown = inner * aim / low if low > 0 else math.inf
                tried = min(far, max(inner + size / _GROWTH, min(grown, _GROWTH * inner)))
                continue
            # secants in the value, on which predictions depend more evenly than on a number that saturates at a bound
            share = (aim - low) / (high - low) if math.isfinite(high) and count % 3 < 2 else 0.5
            ends = transform.to_value(here + side * torch.tensor([inner, outer], dtype=torch.float64))
            between = transform.to_raw(ends[0] + min(max(share, 0.1), 0.9) * (ends[1] - ends[0]))
            tried = side * (float(between) - here)
            if not inner < tried < outer:
                tried = (inner + outer) / 2
        if math.isfinite(outer) and math.isinf(high):
            raise NoProfile("further out, its loss is not finite or asks for shorter internal steps")
        # the outer one, so that the interval is never too short
        return here + side * outer, neighbour

    def _on_line(self, index: int, place: float, neighbour: Tensor | None) -> Tensor:
        """Return the point with the parameter at `place` on the line through the minimum and a neighbour."""
        point = self._point.clone()
        if neighbour is not None:
            moved = neighbour - self._point
            along = float(moved[index])
            if along:
                moved = moved * ((place - float(point[index])) / along)
                numbers = len(self._trust_region)
                moved[:numbers] = moved[:numbers].clamp(-self._trust_region, self._trust_region)
                point += moved
        point[index] = place
        return point

    def _root(self, point: Tensor, index: int) -> tuple[float, Tensor]:
        """Return the root of the smallest excess with the parameter at its place in `point`, and where that is.

        The excess is in units of the allowed one.
        """
        limit = self._trust_region.clone()
        limit[index] = 0.0
        value, gain, step = self._linearised(point, limit)
        for _ in range(STEPS - 1):
            # what is that far above the limit will not come below it
            if gain <= _FOLLOWED * self._allowed or value - gain > self._least + _GROWTH * self._allowed:
                break
            after = self._linearised(point + step, limit)
            if after[0] < value:
                point, (value, gain, step) = point + step, after
            else:
                # half a Gauss-Newton step gains three quarters of it
                gain, step = 0.75 * gain, step / 2
        return math.sqrt(max(0.0, value - gain - self._least) / self._allowed), point + step

    def _linearised(self, point: Tensor, limit: Tensor | None = None) -> tuple[float, float, Tensor]:
        """Return (the loss at a point, the gain of a step within `limit` if it were a parabola, that step)."""
        nowhere = math.inf, 0.0, torch.zeros_like(point)
        try:
            if not self._computable(point):
                return nowhere
        except Outgrown:
            return nowhere
        if self._left <= 0:
            raise NoProfile(f"profiles took {self._given} evaluations, as many as the identification is worth")
        self._left -= 1
        only = torch.zeros(1, dtype=torch.int64)
        model = self._problem.normal_equations(point[None], only)
        if not bool(model.usable):
            return nowhere
        if limit is None:
            return float(model.values), 0.0, nowhere[2]
        step = model.step(only, torch.zeros(1, dtype=torch.float64), limit)
        return float(model.values), max(0.0, float(model.predicted(only, step))), step[0]


def _edge(transform: Transform, side: float) -> float:
    """Return the unconstrained number at which a value is practically at its bound on one side, if it has one."""
    bound = transform.lower if side < 0 else transform.upper
    return side * FAR * transform.reach if math.isfinite(bound) or transform.log else side * math.inf
