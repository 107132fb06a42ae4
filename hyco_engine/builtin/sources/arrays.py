"""Fields in `.npy`, `.npz` and `.mat` files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.sources.array_axes import AxisPlan, End, Evidence, even_spacing, plan_axis, side_kinds
from hyco_engine.builtin.sources.array_fields import FieldArray, common_cells, common_length, find_fields
from hyco_engine.builtin.sources.array_files import Array, content_hash, open_arrays
from hyco_engine.builtin.sources.options import SPACE, ArraysOptions
from hyco_engine.data.fields import FieldInfo, Grid, Rule, StateLayout
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import Trajectory, TrajectorySource
from hyco_engine.physics.parameters import profile
from hyco_engine.spec.choices import ArrayFile, Profile

log = logging.getLogger("hyco_engine")

END_TOLERANCE = 1e-5
"""How far end samples may be from a fixed value, or from what they repeat, relative to the field's largest value."""
_SIDES = ("lower", "upper")


class ArraysSource(TrajectorySource):
    """Arrays whose axes are named; one simulation, or one for each entry along s.

    Read piece by piece where the format allows it (`.npy`, `.mat` of version 7.3). What samples along an axis become is
    decided in `array_axes` and logged.
    """

    def __init__(self, options: ArraysOptions) -> None:
        self.options = options
        self.reader = open_arrays(options.path)
        self.arrays = find_fields(options, self.reader)
        self.space = "".join(axis for axis in SPACE if axis in self.arrays[0].axes)
        self._check_axes()
        self.num_simulations = common_length(self.arrays, "s") or 1
        self.num_frames = common_length(self.arrays, "t") or 0
        self.dt = self._time_step()
        self.plans = {axis: self._plan(axis) for axis in self.space}
        self.layout = self._layout()
        self._truth = {name: self._true(name, value) for name, value in options.truth.items()}
        log.info("%s", self.describe())

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self._truth

    def frames(self, index: int) -> int:
        return self.num_frames

    def origin(self, field: str, index: int) -> str:
        name = next(array.name for array in self.arrays if array.info.name == field)
        return f"{self.reader.path}, array {name!r}"

    def fingerprint(self) -> str:
        """Of the files' content (see `content_hash`) and of how it is read; not of where the files are."""
        described = {
            "arrays": [[array.name, array.axes, array.static] for array in self.arrays],
            "keep": [[axis, plan.keep.start, plan.keep.stop] for axis, plan in self.plans.items()],
            "content": content_hash(self.reader.files(array.name for array in self.arrays)),
        }
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def load(self, index: int) -> Trajectory:
        parts: dict[bool, list[Array]] = {False: [], True: []}
        keep = (..., *(plan.keep for plan in self.plans.values()))
        for array in self.arrays:
            values = self._samples(array, index)
            self._check_ends(array, values, index)
            if array.static:
                values = self._one_frame(array, values, index)
            staggered = array.info.sampling == "staggered"  # then nothing is left out, and the shape may be larger
            parts[array.static].append(values if staggered else values[keep])
        if index == self.num_simulations - 1:
            self.reader.release()
        n_static = self.layout.n_all - self.layout.n_dynamic
        dtype = np.result_type(*(values.dtype for group in parts.values() for values in group))
        dynamic = _join(parts[False], (self.num_frames, self.layout.n_dynamic, *self.layout.spatial), dtype)
        static = _join(parts[True], (1, n_static, *self.layout.spatial), dtype)
        return Trajectory(dynamic=torch.from_numpy(dynamic), static=torch.from_numpy(static)[0])

    def describe(self) -> str:
        """What was made of the files, in a few lines."""
        lines = [
            f"{self.reader.path}: {self.num_simulations} simulation(s) of {self.num_frames} frames, dt {self.dt:.6g}",
            *(f"{a.info.name}: array {a.name!r} {a.shape}, axes {a.axes!r}" for a in self.arrays),
            *(plan.text for plan in self.plans.values()),
        ]
        return "\n  ".join(lines)

    # --- time and space ---

    def _check_axes(self) -> None:
        for group, names in (("bounds", self.options.bounds), ("coordinates", self.options.coordinates)):
            for axis in names:
                if axis not in self.space:
                    raise SpecError(
                        f"the fields have no axis {axis}, only {', '.join(self.space)}", key=f"data.{group}.{axis}"
                    )

    def _time_step(self) -> float:
        if self.num_frames < 2:
            raise DataError(f"there is {self.num_frames} frame along t, and at least 2 are needed", key="data.axes")
        if self.options.dt is not None:
            return self.options.dt
        times = self._numbers(self.options.time, self.num_frames, "frames", "data.time")
        return even_spacing(times, "data.time", f"the times {self.options.time!r}")[1]

    def _numbers(self, name: str, length: int, what: str, key: str) -> Array:
        """An array of one number for each of `length` things, whatever axes of length 1 it has."""
        shape = self.reader.find(name, key).shape
        if tuple(n for n in shape if n > 1) != (length,):
            raise DataError(
                f"{self.reader.path}: {name!r} {shape} must hold one number for each of the {length} {what}", key=key
            )
        return self.reader.read(name).reshape(-1)

    def _plan(self, axis: str) -> AxisPlan:
        n = common_cells(self.arrays, axis)
        name = self.options.coordinates.get(axis)
        key = f"data.coordinates.{axis}"
        plan = plan_axis(
            axis,
            n,
            positions=None if name is None else self._numbers(name, n, f"samples along {axis}", key),
            bounds=self.options.bounds.get(axis),
            sides=side_kinds([array.info for array in self._moving], axis),
            points=self.options.points,
            evidence=Evidence(end=lambda side: self._end(axis, side), repeats=lambda: self._repeats(axis)),
        )
        if plan.keep != slice(0, n) and any(array.info.sampling == "staggered" for array in self.arrays):
            raise DataError(
                f"staggered fields lie on the faces of cells, and the samples along {axis} are nodes; give bounds alone",
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

    def _samples(self, array: FieldArray, index: int) -> Array:
        """One simulation as `[T, C, *samples]`; float32, or float64 for everything finer."""
        where = f"{self.reader.path}, array {array.name!r}"
        chosen = tuple(index if axis == "s" else slice(None) for axis in array.axes)
        if self.reader.arrays[array.name].shape == array.shape:
            values = self.reader.read(array.name, chosen)
        else:
            values = self.reader.read(array.name).reshape(array.shape)[chosen]
        if values.dtype.kind not in "fiub":
            raise DataError(f"{where} holds {values.dtype}, and only real numbers are read", key="data.path")
        axes = array.axes.replace("s", "")
        for axis in "ct":
            if axis not in axes:
                values, axes = values[None], axis + axes
        small = values.dtype.kind == "f" and values.dtype.itemsize <= 4
        ordered = values.transpose([axes.index(axis) for axis in "tc" + self.space])
        return ordered.astype(np.float32 if small else np.float64, copy=False)

    def _one_frame(self, array: FieldArray, values: Array, index: int) -> Array:
        changed = np.flatnonzero([not np.array_equal(frame, values[0], equal_nan=True) for frame in values])
        if len(changed):
            raise DataError(
                f"{self.origin(array.info.name, index)}: the field {array.info.name!r} is said to be static, but in "
                f"simulation {index} frame {changed[0]} differs from frame 0",
                key=f"data.variables.{array.info.name}.static",
            )
        return values[:1]

    def _true(self, name: str, value: float | Profile | ArrayFile) -> Tensor:
        key = f"data.truth.{name}"
        grid = self.layout.grid
        if isinstance(value, Profile):
            return profile(value, grid)
        if isinstance(value, ArrayFile):
            reader = open_arrays(value.file)
            shape = next(iter(reader.arrays.values())).shape
            if shape != grid.resolution:
                raise DataError(f"{value.file} has the shape {shape}; the grid has {grid.resolution} cells", key=key)
            return torch.from_numpy(reader.read(next(iter(reader.arrays))).astype(np.float64))
        return torch.tensor(value, dtype=torch.float64)

    # --- the ends of an axis ---

    def _end(self, axis: str, side: int) -> End:
        """What the end samples of the first simulation look like; the corners, which two sides share, left out."""
        looks: set[End] = set()
        for array in self._moving:
            ends, scale = self._end_samples(array, self._samples(array, 0), axis, side, inner=True)
            off = np.abs(ends - _fixed_values(array.info, axis, side)).max()
            spread = np.ptp(ends, axis=tuple(i for i in range(ends.ndim) if i != 1)).max()
            tolerance = END_TOLERANCE * scale
            looks.add("fixed value" if off <= tolerance else "another value" if spread <= tolerance else "varies")
        # one field on the boundary is proof that the points are; one that does something else there is a mistake
        return looks.pop() if len(looks) == 1 else "varies"

    def _repeats(self, axis: str) -> bool:
        return all(self._jump(array, self._samples(array, 0), axis)[0] for array in self._moving)

    def _jump(self, array: FieldArray, values: Array, axis: str) -> tuple[bool, float, float]:
        """(whether the last samples repeat the first, largest difference, tolerance)."""
        (first, scale), (last, _) = (self._end_samples(array, values, axis, side) for side in (0, 1))
        off, tolerance = float(np.abs(last - first).max()), END_TOLERANCE * scale
        return off <= tolerance, off, tolerance

    def _end_samples(
        self, array: FieldArray, values: Array, axis: str, side: int, inner: bool = False
    ) -> tuple[Array, float]:
        """`[T, C, ...]` at one end of an axis, and the field's largest absolute value; NaN counts as 0."""
        index: list[Any] = [slice(None), slice(None)]
        for other in self.space:
            whole = slice(1, -1) if inner and array.size(other) > 2 else slice(None)
            index.append(-side if other == axis else self.plans[other].keep if not inner else whole)
        ends = np.nan_to_num(values[tuple(index)].astype(np.float64))
        return ends, float(np.nan_to_num(np.abs(values)).max())

    def _check_ends(self, array: FieldArray, values: Array, index: int) -> None:
        """End samples that are left out must say what the boundary says. Of static fields they are just left out."""
        for axis, plan in self.plans.items():
            if plan.repeats:
                same, off, tolerance = self._jump(array, values, axis)
                if not same:
                    raise DataError(
                        f"{self._where(array, index)} along {axis} includes both ends of a period, but the last samples "
                        f"differ from the first by up to {off:.3g} (allowed: {tolerance:.3g}): a grid that does not match "
                        f'the boundary; correct bounds or boundary, or set points = "cells"',
                        key="data.boundary",
                    )
            for side in (side for side in (0, 1) if plan.drops[side] and not array.static):
                ends, scale = self._end_samples(array, values, axis, side)
                fixed = _fixed_values(array.info, axis, side)
                off = np.abs(ends - fixed.reshape(-1, *[1] * (ends.ndim - 2)))
                frame, component, *_ = np.unravel_index(int(off.argmax()), off.shape)
                if off.max() > END_TOLERANCE * scale:
                    raise DataError(
                        f"{self._where(array, index)} has nodes on the {_SIDES[side]} end of {axis}, where the boundary "
                        f"fixes it to {fixed[component]:g}, but it is {ends.flat[int(off.argmax())]:.6g} in frame {frame} "
                        f"(allowed difference: {END_TOLERANCE * scale:.3g}): a grid that does not match the boundary; "
                        f'correct boundary or bounds, or set points = "cells" if the samples lie in the middle of cells',
                        key="data.boundary",
                    )

    def _where(self, array: FieldArray, index: int) -> str:
        return f"{self.origin(array.info.name, index)}: the field {array.info.name!r} of simulation {index}"


def _fixed_values(info: FieldInfo, axis: str, side: int) -> Array:
    """`[C]`: the values that a boundary fixes on one side."""

    def of(rule: Rule, component: int) -> float:
        if rule.normal is not None and rule.tangential is not None:
            across = bool(info.components) and info.components[component] == axis
            return of(rule.normal if across else rule.tangential, component)
        return rule.value[component] if isinstance(rule.value, tuple) else rule.value

    return np.array([of(info.boundary.sides[axis][side], c) for c in range(info.channels)])


def _join(parts: Sequence[Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Arrays `[T, C_i, *S_i]` side by side along C in a new one; what they do not fill is zero."""
    out = np.zeros(shape, dtype)
    start = 0
    for values in parts:
        stop = start + values.shape[1]
        out[(slice(None), slice(start, stop), *(slice(n) for n in values.shape[2:]))] = values
        start = stop
    return out
