"""Files whose frames follow each other, read as one: the times put them in order, whatever their names are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray

from hyco_engine.data.array_files import Stored
from hyco_engine.errors import DataError
from hyco_engine_xarray.reader import XarrayReader, seconds_in

KEY = "data.path"
LONGEST = 1.5
"""A step from one file to the next that is so many times the median one leaves a gap; months differ by less."""
OTHERWISE = 'files = "simulations" reads each file as a simulation of its own'


class FramesReader(XarrayReader):
    """Files with the same variables on the same grid, whose arrays are joined along the dimension of time.

    A part of an array is read from all files when it is asked for, and nothing is held.
    """

    def __init__(self, readers: Sequence[XarrayReader], dimension: str, *, gaps: bool) -> None:
        """Raises DataError for files that do not fit together. `gaps` allows frames to be missing between them."""
        self._dimension = dimension
        self._time = readers[0].times_along(dimension)
        if not self._time:
            raise DataError(
                f"{readers[0].path} holds no times of its frames, and only times say in which order files follow each "
                f"other; {OTHERWISE}",
                key=KEY,
            )
        for reader in readers[1:]:
            _refuse_another_grid(reader, readers[0], dimension, self._time)
        moments = _moments(readers, self._time)
        order = sorted(range(len(readers)), key=lambda k: float(moments[k][0]))
        self._parts = [readers[k] for k in order]
        self._moments = np.concatenate([moments[k] for k in order])
        self._check([moments[k] for k in order], gaps)
        super().__init__(self._parts[0].path, self._parts[0].group)
        lengths = [part.dimensions[dimension] for part in self._parts]
        self._join_shapes(sum(lengths))
        self.notes = [
            f"{len(lengths)} files are joined along {dimension!r}: {self.path.name} to {self._parts[-1].path.name}"
        ]

    def _check(self, moments: Sequence[np.ndarray[Any, Any]], gaps: bool) -> None:
        """Raise DataError where two files overlap, or where frames are missing between them."""
        names = [part.path.name for part in self._parts]
        usual = float(np.median(np.diff(self._moments)))
        for k, (earlier, later) in enumerate(pairwise(moments)):
            step = float(later[0] - earlier.max())
            if step <= 0:
                raise DataError(
                    f"{names[k + 1]} begins before {names[k]} ends (the times {self._time!r}): frames of one "
                    f"simulation follow each other; {OTHERWISE}",
                    key=KEY,
                )
            if step > LONGEST * usual and not gaps:
                raise DataError(
                    f"frames are missing between {names[k]} and {names[k + 1]}: the step of the times {self._time!r} "
                    f'is {step:g}, and {usual:g} elsewhere; data.resample = "missing" takes them as not observed, or '
                    f"{OTHERWISE}",
                    key=KEY,
                )

    def _join_shapes(self, total: int) -> None:
        """Declare the joined arrays, and refuse those that differ between files."""
        arrays = {}
        for name, own in self.arrays.items():
            dims = self.dimensions_of(name)
            if self._dimension not in dims:
                arrays[name] = own
                continue
            if unlike := next(
                (p for p in self._parts if not _alike(p, self._parts[0], name, name == self._time)), None
            ):
                self.refused[name] = f"{unlike.path.name} lacks it, or has it with other dimensions or another unit"
                continue
            shape = tuple(total if dim == self._dimension else n for dim, n in zip(dims, own.shape, strict=True))
            arrays[name] = Stored(shape, np.result_type(*(part.arrays[name].dtype for part in self._parts)))
        self.arrays = arrays

    def leave_out(self, dimensions: Iterable[str]) -> None:
        left = list(dimensions)
        for part in self._parts:
            part.leave_out(left)
        super().leave_out(left)
        self._join_shapes(len(self._moments))

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray[Any, np.dtype[Any]]:
        dims = self.dimensions_of(name)
        if self._dimension not in dims:
            return super().read(name, index)
        if name == self._time:
            seconds_in(self.attribute(name, "units"), self.path, name)
            return np.asarray((self._moments - self._moments[0])[index])
        axis = dims.index(self._dimension)
        full = (*index, *(slice(None) for _ in dims[len(index) :]))
        every = (*full[:axis], slice(None), *full[axis + 1 :])
        place = sum(isinstance(own, slice) for own in full[:axis])
        joined = np.concatenate([part.read(name, every) for part in self._parts], axis=place)
        return np.asarray(joined[(*(slice(None) for _ in range(place)), full[axis])])

    def content(self, names: Iterable[str]) -> str:
        wanted = list(names)
        return " ".join(part.content(wanted) for part in self._parts)


def _alike(reader: XarrayReader, first: XarrayReader, name: str, is_time: bool) -> bool:
    """Return whether a file has a variable as the first one has it, but for its length in time."""
    if name not in reader.arrays or reader.dimensions_of(name) != first.dimensions_of(name):
        return False
    return is_time or reader.attribute(name, "units") == first.attribute(name, "units")


def _refuse_another_grid(reader: XarrayReader, first: XarrayReader, dimension: str, time: str) -> None:
    """Raise DataError where a file has another grid than the first one, or no times."""
    two = f"{reader.path.name} and {first.path.name}"
    mine, other = ({d: n for d, n in r.dimensions.items() if d != dimension} for r in (reader, first))
    if time not in reader.arrays or reader.dimensions_of(time) != first.dimensions_of(time):
        raise DataError(
            f"{reader.path.name} has no times {time!r} along {dimension!r}, as {first.path.name} has", key=KEY
        )
    for name in other:
        if name not in mine or mine[name] != other[name]:
            raise DataError(
                f"{two} differ in their grid: {name!r} has {mine.get(name, 'no')} entries and {other[name]}; "
                f"{OTHERWISE}",
                key=KEY,
            )
        if name in first.arrays and name in reader.arrays:
            own, wanted = (r.read(name).astype(np.float64) for r in (reader, first))
            slack = 1e-5 * float(np.abs(np.diff(wanted)).min(initial=np.inf)) if len(wanted) > 1 else 0.0
            if (np.abs(own - wanted) > slack).any():
                raise DataError(
                    f"{two} differ in their grid: {name!r} reaches from {own[0]:g} to {own[-1]:g}, and from "
                    f"{wanted[0]:g} to {wanted[-1]:g}; {OTHERWISE}",
                    key=KEY,
                )


def _moments(readers: Sequence[XarrayReader], time: str) -> list[np.ndarray[Any, Any]]:
    """Return the times in each file on one clock: in seconds where they count from dates, else as they are.

    Times in a unit whose length is not known, such as months, stay as they are too if all count from the same date.
    """
    units = [reader.attribute(time, "units") for reader in readers]
    calendars = [reader.attribute(time, "calendar").lower() or "standard" for reader in readers]
    counted = [reader.counted(time) for reader in readers]
    same = len(set(units)) == 1
    if not same and not all(" since " in unit for unit in units):
        raise DataError(f"the times {time!r} are in {' and '.join(sorted(set(units)))}; give all in one unit", key=KEY)
    if len({"standard" if name == "gregorian" else name for name in calendars}) > 1:
        raise DataError(f"the times {time!r} are of the calendars {' and '.join(sorted(set(calendars)))}", key=KEY)
    if " since " not in units[0]:
        return counted
    if same:
        # order and gaps tell without the length of the unit; reading the times asks for it
        factor = seconds_in(units[0])
        return [values * (factor or 1.0) for values in counted]
    begins = [_begin(unit, calendars[0]) for unit in units]
    return [
        values * seconds_in(unit, reader.path, time) + _seconds_between(begins[0], begin)
        for values, unit, begin, reader in zip(counted, units, begins, readers, strict=True)
    ]


def _begin(units: str, calendar: str) -> Any:
    """Return the date that times count from."""
    text = f"seconds since {units.partition(' since ')[2]}"
    try:
        found = xarray.decode_cf(xarray.Dataset({"begin": ((), 0, {"units": text, "calendar": calendar})}))
        return found["begin"].values[()]
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot tell when times in {units!r} begin: {str(error).splitlines()[0]}", key=KEY) from None


def _seconds_between(first: Any, second: Any) -> float:
    span = second - first
    return float(span / np.timedelta64(1, "s")) if isinstance(span, np.timedelta64) else float(span.total_seconds())
