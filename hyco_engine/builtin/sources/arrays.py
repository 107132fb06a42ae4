"""Fields in `.npy`, `.npz`, `.mat`, `.h5` and `.csv` files."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.sources.array_axes import (
    UNEVEN,
    AxisPlan,
    EndLook,
    Evidence,
    downwards,
    even_spacing,
    plan_axis,
    side_kinds,
    thin_axis,
)
from hyco_engine.builtin.sources.array_ends import FieldSamples
from hyco_engine.builtin.sources.array_fields import FieldArray, common_cells, common_length, find_fields
from hyco_engine.builtin.sources.array_resample import Evened
from hyco_engine.builtin.sources.options import SPACE, ArraysOptions
from hyco_engine.builtin.sources.truth import true_values
from hyco_engine.data.array_files import DATES, Array, ArrayReader, open_arrays
from hyco_engine.data.csv_form import CsvForm
from hyco_engine.data.fields import Grid, StateLayout
from hyco_engine.data.joined import file_of
from hyco_engine.data.numbered import STAR, NumberedReader, patterns
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import Trajectory, TrajectorySource

log = logging.getLogger("hyco_engine")

GLIMPSED = 2**25
"""Number of values of a simulation that can be read in well under a second."""
NEGLIGIBLE = 1e-6
"""Imaginary parts of this size, relative to the largest number, are what rounding leaves, also in single precision."""


MOST = 64
"""An array with more numbers for each simulation is no list of parameters."""


STEADY_FRAMES = 2
"""The frames of a state that does not change: a first guess, and the state."""


class ArraysSource(TrajectorySource):
    """Arrays with named axes; they hold one simulation, or one for each entry along s.

    They are read piece by piece where the format allows it (`.npy`, `.mat` of version 7.3). `array_axes` decides which
    cells the samples along an axis become; the source logs it.
    """

    guesses_scalars = True

    def __init__(self, options: ArraysOptions, reader: ArrayReader | None = None) -> None:
        self.options = options
        along = {options.time: "t"} | {name: axis for axis, name in sorted(options.coordinates.items())}
        self.reader = NumberedReader(reader or open_arrays(file_of(options), options.csv, along), along)
        self.marks_missing = self.reader.marks_missing
        self.guesses_start = options.steady
        self.arrays = find_fields(options, self.reader)
        self.space = "".join(axis for axis in SPACE if axis in self.arrays[0].axes)
        self._told: set[str] = set()
        self._check_axes()
        self.num_simulations = common_length(self.arrays, "s") or 1
        self._evened = Evened(method=options.resample)
        self.num_frames = STEADY_FRAMES if options.steady else common_length(self.arrays, "t") or 0
        self._starts = [0.0] * self.num_simulations
        self.dt = self._time_step()
        self._downwards: set[str] = set()
        self.plans = {axis: self._plan(axis) for axis in self.space}
        self.layout = self._layout()
        self._truth = true_values(options.truth, self.layout.grid)
        log.info("%s", self.describe())

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self._truth

    def frames(self, index: int) -> int:
        return self.num_frames

    def read_whole(self, index: int) -> int:
        return self.reader.read_whole(array.name for array in self.arrays)

    def together(self, index: int) -> range:
        return range(self.num_simulations) if self.reader.whole else super().together(index)

    def scalars(self, index: int) -> dict[str, float]:
        return {name: float(values[index]) for name, values in self._scalars.items()}

    @cached_property
    def _scalars(self) -> dict[str, Array]:
        """The arrays beside the fields that hold a finite number, or a line of them, for each simulation.

        `[simulations]` by name; those of an array `p` of several numbers for each simulation are `p[0]`, `p[1]`, ...
        """
        used = {array.name for array in self.arrays} | {self.options.time, *self.options.coordinates.values()}
        found: dict[str, Array] = {}
        stars = patterns(self.reader.arrays) if any(STAR in array.name for array in self.arrays) else {}
        alike = {
            name
            for name, own in stars.items()
            if len(own) == self.num_simulations
            and all(math.prod(self.reader.arrays[each].shape) == 1 for each in own.values())
        }
        for name in sorted((self.reader.arrays.keys() | alike) - used):
            shape = self.reader.find(name, "data.scalars").shape
            if self.reader.arrays[name].dtype.kind not in "fiub":
                continue
            one = math.prod(shape) == self.num_simulations and max(shape, default=1) == self.num_simulations
            several = len(shape) == 2 and shape[0] == self.num_simulations > 1 and shape[1] <= MOST
            if not (one or several):
                continue
            values = self.reader.read(name).astype(np.float64).reshape(self.num_simulations, -1)
            if np.isfinite(values).all():
                found |= {name if one else f"{name}[{k}]": values[:, k] for k in range(values.shape[1])}
        return found

    def release(self) -> None:
        self.reader.release()

    def origin(self, field: str, index: int) -> str:
        name = next(array.name for array in self.arrays if array.info.name == field)
        return f"{self.reader.path}, array {name!r}"

    def fingerprint(self) -> str:
        """Return a hash of the files' content (see `content_hash`) and of how it is read, not of the files' place."""
        described = {
            "arrays": [[array.name, array.axes, array.static] for array in self.arrays],
            "keep": [[axis, plan.keep.start, plan.keep.stop] for axis, plan in self.plans.items()],
            "content": self.reader.content(array.name for array in self.arrays),
            **({"flipped": sorted(self._downwards)} if self._downwards else {}),
            **({"resample": [self.options.resample, sorted(self._evened.by_axis)]} if self._evened.by_axis else {}),
            **({} if self.options.csv == CsvForm() else {"csv": repr(self.options.csv)}),
            **({"parts": [array.part for array in self.arrays]} if any(array.part for array in self.arrays) else {}),
        }
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def start(self, index: int) -> float:
        return self._starts[index]

    def load(self, index: int) -> Trajectory:
        parts: dict[bool, list[Array]] = {False: [], True: []}
        for array in self.arrays:
            samples = self._samples(array, index)
            if array.static:  # its end samples are left out without a check
                values = _one_frame(samples)
            else:
                samples.check(self.plans)
                values = samples.values
                if self.options.steady:
                    values = np.concatenate([np.zeros_like(values), values])
            # a staggered field may have more samples than the grid has cells; none are left out
            staggered = array.info.sampling == "staggered"
            keep = [slice(None) if staggered else plan.keep for plan in self.plans.values()]
            parts[array.static].append(values[(slice(None), slice(None), *keep)])
        if index == 0:
            self._warn_of_nodes()
        if index == self.num_simulations - 1:
            self.reader.release()
        n_static = self.layout.n_all - self.layout.n_dynamic
        dtype = np.result_type(*(values.dtype for group in parts.values() for values in group))
        dynamic = _join(parts[False], (self.num_frames, self.layout.n_dynamic, *self.layout.spatial), dtype)
        static = _join(parts[True], (1, n_static, *self.layout.spatial), dtype)
        return Trajectory(dynamic=torch.from_numpy(dynamic), static=torch.from_numpy(static)[0])

    def glimpse(self) -> Trajectory | None:
        values = self.num_frames * self.layout.n_all * math.prod(self.layout.spatial)
        return self.load(0) if values <= GLIMPSED else None

    def describe(self) -> str:
        """Return a few lines that say how the files were read."""
        lines = [
            f"{self.reader.path}: {self.num_simulations} simulation(s) of {self.num_frames} frames, dt {self.dt:.6g}",
            *(f"{a.info.name}: array {a.name!r} {a.shape}, axes {a.axes!r}" for a in self.arrays),
            *(plan.text for plan in self.plans.values()),
            *self.reader.notes,
            *(f"{axis}: the samples run downwards in the file, and are flipped" for axis in sorted(self._downwards)),
        ]
        return "\n  ".join(lines)

    # --- time and space ---

    def _check_axes(self) -> None:
        for group, names in (("bounds", self.options.bounds), ("coordinates", self.options.coordinates)):
            for axis in names:
                if axis not in self.space:
                    raise SpecError(
                        f"the fields have no axis {axis}, only {', '.join(self.space) or 'time'}",
                        key=f"data.{group}.{axis}",
                    )

    def _time_step(self) -> float:
        if self.num_frames < 2:
            raise DataError(f"the data has {self.num_frames} frame along t, and at least 2 are needed", key="data.axes")
        if self.options.steady:
            return 1.0
        if self.options.dt is not None:
            return self.options.dt
        times = self._times()
        what = f"{self.reader.path}: the times {self.options.time!r}"
        times = self._evened.places(times, "t", what, "data.time")
        self.num_frames = len(times)
        return even_spacing(times, "data.time", f"the times {self.options.time!r}", UNEVEN)[1]

    def _times(self) -> Array:
        """Return the times of the frames; a file may repeat them for each simulation, or each cell."""
        name, key = self.options.time, "data.time"
        others, every = self._repeated(name, "t", key)
        if not others:
            times = self._numbers(name, self.num_frames, "frames", key)
            self._starts = [float(times[0])] * self.num_simulations
            return times
        since = (every - every[..., :1]).reshape(-1, self.num_frames)
        if not np.allclose(since, since[0], rtol=0.0, atol=1e-3 * float(np.diff(since[0]).min())):
            raise DataError(
                f"{self.reader.path}: the times {name!r} differ between simulations; give a file for each simulation, "
                'as a list in data.path, or a table: kind = "points" reads series at their own times',
                key=key,
            )
        if "s" in others:
            firsts = np.moveaxis(every[..., 0], others.index("s"), 0).reshape(self.num_simulations, -1)[:, 0]
            self._starts = firsts.tolist()
        else:
            self._starts = [float(every.flat[0])] * self.num_simulations
        return since[0]  # type: ignore[no-any-return]

    def _repeated(self, name: str, axis: str, key: str) -> tuple[str, Array]:
        """Return (the other axes, `[..., n]`) of an array that repeats its numbers along one axis for others.

        Where its shape leaves several axes, those count whose lines differ least. There are none for a plain line.
        """
        if name == STAR:
            return "", np.empty(0)
        array, shape = self.arrays[0], self.reader.find(name, key).shape
        if self.reader.squeezes:
            shape = tuple(n for n in shape if n > 1)
        letters = array.axes.replace("c", "")
        readings = [
            own
            for count in range(2, len(letters) + 1)
            for own in combinations(letters, count)
            if axis in own and tuple(map(array.size, own)) == shape
        ]
        if not readings or self.reader.arrays[name].dtype.kind not in "fiu":
            return "", np.empty(0)
        values = self.reader.read(name).reshape(shape).astype(np.float64)
        every = [np.moveaxis(values, own.index(axis), -1) for own in readings]
        own, lines = min(zip(readings, every, strict=True), key=lambda each: _difference(each[1]))
        return "".join(own).replace(axis, ""), lines

    def _numbers(self, name: str, length: int, what: str, key: str) -> Array:
        """Return an array of `length` numbers, one for each of `what`, without its axes of length 1.

        Date-times become seconds since the first of them.
        """
        if name == STAR:
            return self.reader.numbers(self.arrays[0].name, key)
        shape = self.reader.find(name, key).shape
        if tuple(n for n in shape if n > 1) != (length,) and shape != (1,) * len(shape):
            raise DataError(
                f"{self.reader.path}: {name!r} {shape} must hold one number for each of the {length} {what}", key=key
            )
        values = self.reader.read(name).reshape(-1)
        if values.dtype.kind in DATES:
            spans = "spans of time" if values.dtype.kind == "m" else "date-times"
            self._tell(f"{name}: {spans} are read as seconds since {values[0]}")
            return (values - values[0]) / np.timedelta64(1, "s")  # type: ignore[no-any-return]
        if values.dtype.kind == "c":
            raise DataError(f"{self.reader.path}: {name!r} holds complex numbers, and not {what}", key=key)
        return values

    def _positions(self, name: str, axis: str, n: int, key: str) -> Array:
        """Return the positions of the samples along an axis; a file may repeat them for others."""
        others, every = self._repeated(name, axis, key)
        if not others:
            return self._numbers(name, n, f"samples along {axis}", key)
        lines = every.reshape(-1, n)
        off = np.abs(lines - lines[0]).max()
        if not off <= 1e-3 * np.abs(np.diff(lines[0])).min():
            raise DataError(
                f"{self.reader.path}: the positions {name!r} along {axis} differ by up to {off:.3g} between lines of "
                f"the grid, which must be one of straight, even lines; "
                f'kind = "points" takes samples as sensors at any place',
                key=key,
            )
        return lines[0]  # type: ignore[no-any-return]

    def _tell(self, message: str) -> None:
        """Log a message about the file once."""
        if message not in self._told:
            self._told.add(message)
            log.info("%s: %s", self.reader.path, message)

    def _plan(self, axis: str) -> AxisPlan:
        n = common_cells(self.arrays, axis)
        name = self.options.coordinates.get(axis)
        key = f"data.coordinates.{axis}"
        positions = None if name is None else self._positions(name, axis, n, key)
        if positions is not None and downwards(positions):
            # before the plan, which looks at the samples
            self._downwards.add(axis)
            positions = positions[::-1]
        if positions is not None:
            positions = self._evened.places(positions, axis, f"{self.reader.path}: the positions along {axis}", key)
            n = len(positions)
        if n == 1 and len(self.space) > 1:
            return thin_axis(axis, positions, self.options.bounds.get(axis))
        plan = plan_axis(
            axis,
            n,
            positions=positions,
            bounds=self.options.bounds.get(axis),
            sides=side_kinds([array.info for array in self._moving], axis),
            points=self.options.points,
            evidence=Evidence(look=lambda side: self._look(axis, side), repeats=lambda: self._repeats(axis)),
        )
        flipped = axis in self._downwards
        uneven = axis in self._evened.by_axis
        moved = uneven or flipped or plan.keep != slice(0, n)
        if moved and any(array.info.sampling == "staggered" for array in self.arrays):
            raise DataError(
                f"staggered fields lie on the faces of cells, and the samples along {axis} "
                f"{'are uneven' if uneven else 'run downwards' if flipped else 'are nodes'}; give bounds instead of "
                f"coordinates",
                key=key,
            )
        return plan

    def _layout(self) -> StateLayout:
        plans = [self.plans[axis] for axis in self.space]
        grid = Grid(
            axes=tuple(self.space),
            resolution=tuple(plan.resolution for plan in plans),
            lower=tuple(plan.lower for plan in plans),
            upper=tuple(plan.upper for plan in plans),
        )
        dynamic, static = (tuple(a.info for a in self.arrays if a.static is fixed) for fixed in (False, True))
        return StateLayout(grid=grid, dynamic=dynamic, static=static)

    @property
    def _moving(self) -> list[FieldArray]:
        return [array for array in self.arrays if not array.static]

    # --- samples ---

    def _look(self, axis: str, side: int) -> EndLook:
        """Describe the end samples of the first simulation; where its fields differ, they count as varying."""
        looks = [self._samples(array, 0).look(axis, side) for array in self._moving]
        return looks[0] if len({look.kind for look in looks}) == 1 else EndLook(kind="varies")

    def _repeats(self, axis: str) -> bool | None:
        found = {self._samples(array, 0).repeats(axis) for array in self._moving}
        return False if False in found else True if True in found else None

    def _warn_of_nodes(self) -> None:
        """Warn where end values suggest nodes while bounds alone, which do not decide, are taken to mean cells."""
        for axis in self.space:
            guessed = self.options.points == "auto" and axis not in self.options.coordinates
            fixed = side_kinds([array.info for array in self._moving], axis) == ("fixed", "fixed")
            if guessed and fixed and all(self._look(axis, side).kind == "fixed value" for side in (0, 1)):
                log.warning(
                    "%s: the samples at both ends of %s keep the boundary's value, as nodes on the bounds do, but are "
                    'taken for cell centres half a cell inside; set points = "nodes" or "cells" to say which they are',
                    self.reader.path,
                    axis,
                )

    def _samples(self, array: FieldArray, index: int) -> FieldSamples:
        """Return one simulation of one field, in float32 or, for finer types, float64."""
        where = self.origin(array.info.name, index)
        chosen = tuple(index if axis == "s" else slice(None) for axis in array.axes)
        if self.reader.arrays[array.name].shape == array.shape:
            values = self.reader.read(array.name, chosen)
        else:
            values = self.reader.read(array.name).reshape(array.shape)[chosen]
        if values.dtype.kind == "c":
            values = self._real(array, values, where)
        if values.dtype.kind not in "fiub":
            raise DataError(f"{where} holds {values.dtype}, and the engine reads only numbers", key="data.path")
        axes = array.axes.replace("s", "")
        for axis in "ct":
            if axis not in axes:
                values, axes = values[None], axis + axes
        # longdouble holds more digits than any tensor
        exact = values.dtype.kind != "f"
        rounding = float(np.finfo(np.float64 if exact else values.dtype).eps)
        small = not exact and values.dtype.itemsize <= 4
        ordered = values.transpose([axes.index(axis) for axis in "tc" + self.space])
        flipped = tuple(2 + k for k, axis in enumerate(self.space) if axis in self._downwards)
        samples = np.flip(ordered, flipped).astype(np.float32 if small else np.float64, copy=False)
        samples = self._evened(
            samples,
            ({} if array.static else {"t": 0}) | {axis: 2 + k for k, axis in enumerate(self.space)},
            name=array.info.name,
            origin=where,
            tell=self._tell if index == 0 else lambda _: None,
        )
        return FieldSamples(
            info=array.info,
            values=samples,
            space=self.space,
            where=f"{where}: the field {array.info.name!r} of simulation {index}",
            allowed=self.options.tolerance,
            rounding=4 * max(rounding, float(np.finfo(np.float64).eps)),
        )

    def _real(self, array: FieldArray, values: Array, where: str) -> Array:
        """Return the real numbers that are made of complex ones. Raise DataError where the spec must say which."""
        if array.part:
            return np.abs(values) if array.part == "abs" else np.asarray(getattr(values, array.part))
        seen = values[np.isfinite(values)]
        imaginary, largest = (float(np.abs(part).max(initial=0.0)) for part in (seen.imag, seen))
        if imaginary > NEGLIGIBLE * largest:
            raise DataError(
                f"{where} holds complex numbers up to {largest:.3g}, with imaginary parts up to {imaginary:.3g}; set "
                f'part = "real", "imag" or "abs"',
                key=f"data.variables.{array.info.name}.part",
            )
        self._tell(
            f"array {array.name!r} holds complex numbers, of which the real parts are read; the imaginary parts are "
            + ("0" if not imaginary else f"at most {imaginary / largest:.1g} of the largest number")
        )
        return np.asarray(values.real)


def _difference(lines: Array) -> float:
    """Return by how much lines `[..., n]` differ beside their first entries."""
    since = lines - lines[..., :1]
    return float(np.ptp(since.reshape(-1, since.shape[-1]), axis=0).max())


def _one_frame(samples: FieldSamples) -> Array:
    """Return the first frame, `[1, C, *samples]`. Raise DataError if another one differs."""
    values = samples.values
    for frame in range(1, len(values)):
        if not np.array_equal(values[frame], values[0], equal_nan=True):
            raise DataError(
                f"{samples.where} is declared static, but frame {frame} differs from frame 0",
                key=f"data.variables.{samples.info.name}.static",
            )
    return values[:1]


def _join(parts: Sequence[Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new array that holds the parts `[T, C_i, *S_i]` one after another along C, padded with zeros."""
    out = np.zeros(shape, dtype)
    start = 0
    for values in parts:
        stop = start + values.shape[1]
        out[(slice(None), slice(start, stop), *(slice(n) for n in values.shape[2:]))] = values
        start = stop
    return out
