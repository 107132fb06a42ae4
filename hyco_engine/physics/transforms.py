"""Smooth transforms that keep parameters within open bounds: unconstrained number (raw) <-> value.

No transform clamps, because a clamp has no gradient beyond its edge and a quasi-Newton search stalls there. `scale` is
the size of a step: on the linear scale, a step of 0.03 in raw changes the value by about 0.03 * scale; on the log
scale, it changes the value by about 3 % of its distance to the lower bound.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from torch import Tensor

REACH = 2.0
"""The trust region of a step on a logarithmic scale."""


@attrs.frozen(kw_only=True)
class Transform:
    """An increasing map of all reals onto (lower, upper)."""

    lower: float = -math.inf
    upper: float = math.inf
    log: bool = False
    """Whether steps are relative to the distance to the lower bound, which is then finite."""
    scale: float = 1.0

    def to_value(self, raw: Tensor) -> Tensor:
        """Map raw to value, elementwise; the gradient is never zero (until exp underflows, far from useful values)."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return self._between(raw * self._gain)
        if self.log:
            return self.lower + torch.exp(raw)
        if math.isfinite(self.lower):
            return self.lower + self.scale * _softplus(raw)
        if math.isfinite(self.upper):
            return self.upper - self.scale * _softplus(-raw)
        return self.scale * raw

    def to_raw(self, value: Tensor) -> Tensor:
        """Invert `to_value`, for values strictly within the bounds."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return torch.log((value - self.lower) / (self.upper - value)) / self._gain
        if self.log:
            return torch.log(value - self.lower)
        if math.isfinite(self.lower):
            return _inverse_softplus((value - self.lower) / self.scale)
        if math.isfinite(self.upper):
            return -_inverse_softplus((self.upper - value) / self.scale)
        return value / self.scale

    @property
    def reach(self) -> float:
        """The trust region: the longest step in raw, a factor of about e^2 where the map saturates, else infinite.

        Beyond it, a value is practically on its bound, and a linearisation at this point cannot say how far to go.
        """
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return REACH / self._gain
        return REACH if math.isfinite(self.lower) or math.isfinite(self.upper) else math.inf

    @property
    def _gain(self) -> float:
        """The factor that makes the slope midway between two bounds equal to `scale` (linear), or 1 (log)."""
        return 1.0 if self.log else 4.0 * self.scale / (self.upper - self.lower)

    def _between(self, raw: Tensor) -> Tensor:
        # computed from the nearer bound: sigmoid rounds to 1, and its gradient to 0, long before it underflows to 0
        below = raw < 0
        # not by abs or clamp, whose derivative midway is 0 in some version of torch
        distance = (self.upper - self.lower) * torch.sigmoid(torch.where(below, raw, -raw))
        return torch.where(below, self.lower + distance, self.upper - distance)


def _softplus(raw: Tensor) -> Tensor:
    # torch's own softplus is exactly linear beyond 20, where the inverse below is not
    return torch.logaddexp(raw, torch.zeros_like(raw))


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))


def choose_transform(
    kind: Literal["auto", "linear", "log"], lower: float, upper: float, typical: float, *, positive: bool
) -> Transform:
    """Return the transform for these bounds.

    `typical` is the size of the start value; `positive` says whether the start lies above zero. "auto" is the log scale
    if the lower bound is not negative and the start is positive.
    """
    log = kind == "log" or (kind == "auto" and lower >= 0 and positive)
    span = upper - lower
    scale = typical if typical > 0 else 1.0
    if math.isfinite(span):
        scale = min(scale, span / 4)
    return Transform(lower=lower, upper=upper, log=log, scale=scale)
