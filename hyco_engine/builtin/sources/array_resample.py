"""Interpolation of samples at uneven positions or times to even ones, where the spec asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt

from hyco_engine.builtin.sources.array_axes import UNEVEN, is_uneven
from hyco_engine.errors import DataError

Array = npt.NDArray[Any]
Method = Literal["linear", "cubic", "missing"]

_SAME = 1e-3
"""The largest distance of a sample from an even place, in steps, at which it counts as being there."""
_LONGEST = 100
"""Samples are laid out among missing ones only if at most so many times as many places result."""


@attrs.frozen(kw_only=True, eq=False)
class Resampling:
    """The interpolation of samples at `given` to the even places `even`, both increasing and with the same ends."""

    given: Array
    even: Array
    method: Method

    @classmethod
    def of(cls, given: Array, method: Method) -> Resampling:
        """Lay out even places: the multiples of the smallest step if all samples are on them, else as many as samples.

        Raises ValueError where samples are missing and none may be interpolated.
        """
        given = given.astype(np.float64)
        count = len(given)
        step = float(np.diff(given).min())
        places = (given - given[0]) / step
        # the smallest step is the least exact one, so that the last sample gives a better one
        whole = round(places[-1])
        on_step = whole < _LONGEST * count and bool((np.abs(_steps(given, whole) - _near(given, whole)) <= _SAME).all())
        if method == "missing" and not on_step:
            raise ValueError("the samples are not at multiples of one step, of which some are missing")
        return cls(given=given, even=np.linspace(given[0], given[-1], whole + 1 if on_step else count), method=method)

    @property
    def missing(self) -> int:
        """The number of even places without a sample, if the samples are at even places."""
        return len(self.even) - len(self.given)

    def __call__(self, values: Array, axis: int) -> Array:
        """Return values at the even places along an axis; those at places without a sample are NaN if `missing`."""
        moved = np.moveaxis(values, axis, 0)
        if self.method == "missing":
            out = np.full((len(self.even), *moved.shape[1:]), np.nan, moved.dtype)
            out[_near(self.given, len(self.even) - 1).astype(int)] = moved
        else:
            out = _interpolated(self.given, moved, self.even, self.method)
        return np.moveaxis(out, 0, axis)

    def error(self, values: Array, axis: int) -> float:
        """Estimate the error of the interpolation, relative to the standard deviation of the values.

        Every second sample is interpolated from the others, whose distance is twice as large: the error there is
        reduced by the order of the method.
        """
        moved = np.moveaxis(values, axis, 0).astype(np.float64)
        spread = float(np.nanstd(moved))
        if self.method == "missing" or len(moved) < 5 or not spread:
            return 0.0
        found = _interpolated(self.given[::2], moved[::2], self.given[1:-1:2], self.method)
        off = float(np.sqrt(np.nanmean((found - moved[1:-1:2]) ** 2)))
        return off / spread / {"linear": 4, "cubic": 16}[self.method]


@attrs.frozen(kw_only=True)
class Evened:
    """The even places of the samples of a file, along the axes where they are uneven and the spec asks for it."""

    method: Method | Literal[""]
    by_axis: dict[str, Resampling] = attrs.Factory(dict)

    def places(self, given: Array, axis: str, what: str, key: str) -> Array:
        """Return even places, and note how samples are interpolated to them; `given` itself if none are asked for.

        Raises DataError.
        """
        if not self.method or not is_uneven(given):
            return given
        try:
            found = Resampling.of(given, self.method)
        except ValueError as error:
            raise DataError(f"{what}: {error}; {UNEVEN}", key=key) from None
        if found.method == "missing" and axis != "t":
            raise DataError(f'{what} are uneven, and data.resample = "missing" concerns frames; {UNEVEN}', key=key)
        self.by_axis[axis] = found
        return found.even

    def __call__(
        self, samples: Array, dims: Mapping[str, int], *, name: str, origin: str, tell: Callable[[str], None]
    ) -> Array:
        """Return the samples of the field `name` at the even places along those of its axes that `dims` numbers."""
        for axis, resampling in self.by_axis.items():
            if axis not in dims:
                continue
            if resampling.method == "cubic" and not np.isfinite(samples).all():
                raise DataError(
                    f'{origin} holds values that were not observed, which data.resample = "cubic" cannot interpolate; '
                    '"linear" can',
                    key="data.resample",
                )
            if resampling.method == "missing":
                tell(f"{axis}: {resampling.missing} of {len(resampling.even)} frames are missing, and not observed")
            else:
                tell(
                    f"{name}: {len(resampling.given)} samples at uneven places along {axis} are interpolated to "
                    f"{len(resampling.even)} even ones ({resampling.method}); the error is about "
                    f"{resampling.error(samples, dims[axis]):.2g} of the field's standard deviation"
                )
            samples = resampling(samples, dims[axis])
        return samples


def _steps(given: Array, whole: int) -> Array:
    """Return the positions in units of one of `whole` steps between the first and the last."""
    return np.asarray((given - given[0]) / (given[-1] - given[0]) * whole)


def _near(given: Array, whole: int) -> Array:
    return np.round(_steps(given, whole))


def _interpolated(given: Array, values: Array, wanted: Array, method: Method) -> Array:
    """Interpolate along axis 0; what is NaN makes only values next to it NaN if the method is linear."""
    if method == "cubic" and len(given) > 3:
        from scipy.interpolate import make_interp_spline

        return np.asarray(make_interp_spline(given, values, k=3)(wanted)).astype(values.dtype)
    low = np.clip(np.searchsorted(given, wanted, side="right") - 1, 0, len(given) - 2)
    share = ((wanted - given[low]) / (given[low + 1] - given[low])).reshape(-1, *[1] * (values.ndim - 1))
    share = share.clip(0.0, 1.0)
    # a share of 0 or 1 leaves the other sample out, also if it is NaN
    inner = (1 - share) * values[low] + share * values[low + 1]
    out = np.where(share == 0, values[low], np.where(share == 1, values[low + 1], inner))
    return np.asarray(out).astype(values.dtype)
