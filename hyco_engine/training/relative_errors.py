"""Errors relative to the truth, which are the same in every unit of the field.

nrmse = rmse / sqrt(mean y^2) and vrmse = rmse / std(y). vrmse does not change when a constant is added to the field.
Where the truth is 0, or has no spread, they are undefined and NaN; a rollout that is not finite has the error inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

LEAST = 1e-12
"""The least relative error in a geometric mean, which a single perfect step would make 0."""
_CANCELLED = 1e-12
"""A variance below this share of the square of the mean, around the reference, is rounding."""


@attrs.define
class RelativeErrors:
    """Sums over the observed values of errors and truth, of any shape, in float64.

    The truth is summed around a reference near it, since squares of a field far from 0 leave no digits for its spread.
    """

    squares: Tensor
    total: Tensor
    energy: Tensor
    count: Tensor
    _reference: float | None = None
    _rounding: float = 0.0
    _together: bool = False

    @classmethod
    def zeros(cls, *shape: int, together: bool = False) -> RelativeErrors:
        """Return empty sums; `together` takes the spread over the last axis, the same for all of it."""
        squares, total, energy, count = torch.zeros(4, *shape, dtype=torch.float64)
        return cls(squares, total, energy, count, together=together)

    def add(
        self, predictions: Tensor, truth: Tensor, observed: Tensor, into: Callable[[Tensor, Tensor], object]
    ) -> tuple[Tensor, Tensor]:
        """Add values of any shape; `into(sums, values)` adds them to the sums where they belong.

        Return the errors and the truth minus the reference, 0 where it is not observed. The first observed values give
        the reference, and their type the rounding that hides a spread.
        """
        self._rounding = max(self._rounding, torch.finfo(truth.dtype).eps)
        truth = truth.double()
        if self._reference is None and bool(observed.any()):
            self._reference = float(truth[observed].mean())
        error = torch.where(observed, predictions.double() - truth, 0.0)
        known = torch.where(observed, truth - (self._reference or 0.0), 0.0)
        into(self.squares, error.square())
        into(self.total, known)
        into(self.energy, known.square())
        into(self.count, observed.double())
        return error, known

    def least_spread(self, offset: Tensor) -> Tensor:
        """Return the spread that rounding alone can give to a constant `offset` above the reference."""
        level = offset + (self._reference or 0.0)
        return 4 * self._rounding * level.abs() + math.sqrt(_CANCELLED) * offset.abs()

    @property
    def rmse(self) -> Tensor:
        """Return rmse; NaN where nothing was observed."""
        rmse = (self.squares / torch.where(self.count > 0, self.count, math.nan)).sqrt()
        return torch.where(self.count > 0, rmse.nan_to_num(math.inf, math.inf), math.nan)

    @property
    def size(self) -> Tensor:
        """Return sqrt(mean y^2); NaN where it is 0."""
        offset, variance = self._moments()
        size = (variance + (offset + (self._reference or 0.0)).square()).sqrt()
        return torch.where(size > 0, size, math.nan)

    @property
    def spread(self) -> Tensor:
        """Return std(y); NaN where there is none."""
        if self._together:
            total, energy, count = (part.sum(-1, keepdim=True) for part in (self.total, self.energy, self.count))
            one = attrs.evolve(self, total=total, energy=energy, count=count, together=False)
            return one.spread.expand_as(self.count)
        offset, variance = self._moments()
        return torch.where(variance.sqrt() > self.least_spread(offset), variance.sqrt(), math.nan)

    @property
    def nrmse(self) -> Tensor:
        return self._over(self.size)

    @property
    def vrmse(self) -> Tensor:
        return self._over(self.spread)

    def pooled(self) -> RelativeErrors:
        """Return the sums over the first axis."""
        squares, total, energy, count = (part.sum(0) for part in (self.squares, self.total, self.energy, self.count))
        return attrs.evolve(self, squares=squares, total=total, energy=energy, count=count)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return mean, relative to the reference, and variance of the truth."""
        count = self.count.clamp(min=1)
        offset = self.total / count
        return offset, (self.energy / count - offset.square()).clamp(min=0)

    def _over(self, size: Tensor) -> Tensor:
        rmse = self.rmse
        return torch.where(rmse.isinf(), rmse, rmse / size)


def over_steps(errors: Tensor) -> float | None:
    """Return the geometric mean of the errors that are defined, None if there are none."""
    defined = errors[~errors.isnan()]
    return float(defined.clamp(min=LEAST).log().mean().exp()) if len(defined) else None


def mean_of(values: list[float | None]) -> float | None:
    """Return the arithmetic mean of the values that are defined, None if there are none; inf if one is not finite."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and all(map(math.isfinite, known)) else math.inf if known else None
