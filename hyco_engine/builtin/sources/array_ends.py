"""Comparison of the samples at the ends of an axis with the values of the boundary."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import attrs
import numpy as np

from hyco_engine.builtin.sources.array_axes import AxisPlan, EndLook
from hyco_engine.data.array_files import Array
from hyco_engine.data.fields import FieldInfo, Rule
from hyco_engine.errors import DataError

SIDES = ("lower", "upper")


@attrs.frozen(kw_only=True, eq=False)
class FieldSamples:
    """One simulation of one field: `values [T, C, *samples]`, the spatial axes in the order of `space`."""

    info: FieldInfo
    values: Array
    space: str
    where: str
    """The name of these values and where they come from, to begin a message with."""
    allowed: float
    """The allowed difference of end samples from a fixed or repeated value, relative to the range of the values."""
    rounding: float
    """By how much the file rounds its numbers, relative to the largest of them."""

    @cached_property
    def tolerance(self) -> float:
        """The largest difference that counts as equal: a share of the range, and rounding; NaN is left out.

        The size of the values says nothing: a pressure around 101325 may vary by 1.
        """
        seen = self.values[np.isfinite(self.values)]
        if not seen.size:
            return 0.0
        low, high = float(seen.min()), float(seen.max())
        return self.allowed * (high - low) + self.rounding * max(abs(low), abs(high))

    def end(self, axis: str, side: int, others: dict[str, slice], depth: int = 0) -> Array:
        """Return the samples at one end, `[T, C, ...]`, cut along the other axes by `others`, with 0 for NaN."""
        own = -1 - depth if side else depth
        index: list[Any] = [slice(None), slice(None), *(own if a == axis else others[a] for a in self.space)]
        ends: Array = np.nan_to_num(self.values[tuple(index)].astype(np.float64))
        return ends

    def inner(self) -> dict[str, slice]:
        """Return slices without the end samples of each axis, since the corners, which two sides share, fit neither."""
        lengths = dict(zip(self.space, self.values.shape[2:], strict=True))
        return {axis: slice(1, -1) if n > 2 else slice(None) for axis, n in lengths.items()}

    def look(self, axis: str, side: int) -> EndLook:
        """Return whether the end samples keep the boundary's fixed value, keep another one, or vary."""
        ends, fixed = self.end(axis, side, self.inner()), self._fixed(axis, side)
        least, most = (reduce(ends, axis=tuple(i for i in range(ends.ndim) if i != 1)) for reduce in (np.min, np.max))
        fixed = np.where(np.isnan(fixed), least, fixed)  # a formula may have any value
        worst = int(np.abs(most - fixed).argmax())
        if max(np.abs(least - fixed).max(), np.abs(most - fixed).max()) <= self.tolerance:
            return EndLook(kind="fixed value")
        if (most - least).max() > self.tolerance:
            return EndLook(kind="varies")
        detail = f"{self.where} keeps the value {self._shown(most[worst])}, and the boundary gives {fixed[worst]:.9g}"
        return EndLook(kind="another value", detail=detail)

    def repeats(self, axis: str) -> bool | None:
        """Return whether the last samples repeat the first; None where the field could as well be symmetric or flat."""
        if self._jump(axis, self.inner()) > self.tolerance:
            return False
        return True if self._jump(axis, self.inner(), depth=1) > self.tolerance else None

    def _jump(self, axis: str, others: dict[str, slice], depth: int = 0) -> float:
        """Return the largest difference between the samples `depth` samples inside of the two ends."""
        lower, upper = (self.end(axis, side, others, depth) for side in (0, 1))
        return float(np.abs(upper - lower).max())

    def check(self, plans: dict[str, AxisPlan]) -> None:
        """Raise DataError where end samples that are left out differ from the boundary's values."""
        keep = {axis: plan.keep for axis, plan in plans.items()}
        for axis, plan in plans.items():
            if plan.repeats and (jump := self._jump(axis, keep)) > self.tolerance:
                raise DataError(
                    f"{self.where} has nodes on both ends of the period along {axis}, but its last samples differ from "
                    f"the first by up to {jump:.3g} (allowed: {self.tolerance:.3g}): the grid does not match the "
                    f'boundary; correct bounds or boundary, set points = "cells", or allow more by data.tolerance',
                    key="data.boundary",
                )
            for side in (side for side in (0, 1) if plan.drops[side]):
                self._check_fixed(axis, side, keep)

    def _check_fixed(self, axis: str, side: int, keep: dict[str, slice]) -> None:
        ends, fixed = self.end(axis, side, keep), self._fixed(axis, side)
        off = np.abs(ends - fixed.reshape(-1, *[1] * (ends.ndim - 2)))
        bad = off > self.tolerance
        if bad.any():
            first = np.unravel_index(int(bad.argmax()), bad.shape)
            raise DataError(
                f"{self.where} has nodes on the {SIDES[side]} end of {axis}, where the boundary gives "
                f"{fixed[first[1]]:.9g}, but a sample is {self._shown(ends[first])} in frame {first[0]} (allowed "
                f"difference: {self.tolerance:.3g}): the grid does not match the boundary; correct boundary or "
                f"bounds. If these are measured values at a wall whose value is known, write that value into the "
                f"file, or allow more by data.tolerance; if the samples lie in the middle of cells, set points = "
                f'"cells"',
                key="data.boundary",
            )

    def _shown(self, value: float) -> str:
        """Return a number for a message, with rounding errors around zero shown as 0."""
        return "0" if abs(value) <= self.tolerance else f"{value:.9g}"

    def _fixed(self, axis: str, side: int) -> Array:
        """Return the values that the boundary fixes on one side, `[C]`; NaN for those of a formula."""
        rule = self.info.boundary.sides[axis][side]
        return np.array([_value(rule, self.info, axis, component) for component in range(self.info.channels)])


def _value(rule: Rule, info: FieldInfo, axis: str, component: int) -> float:
    if rule.normal is not None and rule.tangential is not None:
        across = bool(info.components) and info.components[component] == axis
        return _value(rule.normal if across else rule.tangential, info, axis, component)
    if rule.kind == "formula":
        return math.nan
    return rule.value[component] if isinstance(rule.value, tuple) else rule.value
