"""Smooth transforms that keep parameters within open bounds: raw (unconstrained) <-> value.

None of them clamps: a clamp has no gradient beyond its edge, and a quasi-Newton search stalls there. `scale` is the
size of a step: on the linear scale a step of 0.03 in raw changes the value by about 0.03 * scale, on the log scale by
about 3 % of its distance to the lower bound.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from torch import Tensor

REACH = 2.0
"""Of a step on a scale of logarithms."""


@attrs.frozen(kw_only=True)
class Transform:
    """An increasing map of all reals onto (lower, upper)."""

    lower: float = -math.inf
    upper: float = math.inf
    log: bool = False
    """Steps are relative to the distance to the lower bound, which is then finite."""
    scale: float = 1.0

    def to_value(self, raw: Tensor) -> Tensor:
        """Elementwise; its gradient is nowhere zero (until exp underflows, far beyond any useful value)."""
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
        """The inverse, for values strictly within the bounds."""
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
        """How far in raw a search may go in one step: a factor of about e^2 where the map saturates, else any length.

        Beyond, a value is as good as on its bound, and no linearisation made here says how far is far enough.
        """
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return REACH / self._gain
        return REACH if math.isfinite(self.lower) or math.isfinite(self.upper) else math.inf

    @property
    def _gain(self) -> float:
        """Between two bounds: makes the slope in the middle equal to `scale` (linear) or keeps it logistic (log)."""
        return 1.0 if self.log else 4.0 * self.scale / (self.upper - self.lower)

    def _between(self, raw: Tensor) -> Tensor:
        # from the nearer bound: sigmoid rounds to 1, and its gradient to 0, long before it underflows at the other end
        span = self.upper - self.lower
        near_lower = self.lower + span * torch.sigmoid(torch.clamp(raw, max=0.0))
        near_upper = self.upper - span * torch.sigmoid(torch.clamp(-raw, max=0.0))
        return torch.where(raw < 0, near_lower, near_upper)


def _softplus(raw: Tensor) -> Tensor:
    # torch's own turns exactly linear at 20, where the inverse below does not
    return torch.logaddexp(raw, torch.zeros_like(raw))


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))


def choose_transform(
    kind: Literal["auto", "linear", "log"], lower: float, upper: float, typical: float, *, positive: bool
) -> Transform:
    """The transform for these bounds.

    `typical` is the size of the start value; `positive`: the start lies above zero. "auto" is the log scale where the
    lower bound is not negative and the start positive.
    """
    log = kind == "log" or (kind == "auto" and lower >= 0 and positive)
    span = upper - lower
    scale = typical if typical > 0 else 1.0
    if math.isfinite(span):
        scale = min(scale, span / 4)
    return Transform(lower=lower, upper=upper, log=log, scale=scale)
