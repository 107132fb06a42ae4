"""Fields in `.npy`, `.npz` and `.mat` files."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.sources.array_axes import AxisPlan, EndLook, Evidence, even_spacing, plan_axis, side_kinds
from hyco_engine.builtin.sources.array_ends import FieldSamples
from hyco_engine.builtin.sources.array_fields import FieldArray, common_cells, common_length, find_fields
from hyco_engine.builtin.sources.array_files import Array, content_hash, open_arrays
from hyco_engine.builtin.sources.options import SPACE, ArraysOptions
from hyco_engine.builtin.sources.truth import true_values
from hyco_engine.data.fields import Grid, StateLayout
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import Trajectory, TrajectorySource

log = logging.getLogger("hyco_engine")

GLIMPSED = 2**25
"""Number of values of a simulation that can be read in well under a second."""


MOST = 64
"""An array with more numbers for each simulation is no list of parameters."""


class ArraysSource(TrajectorySource):
    """Arrays with named axes; they hold one simulation, or one for each entry along s.

    They are read piece by piece where the format allows it (`.npy`, `.mat` of version 7.3). `array_axes` decides which
    cells the samples along an axis become; the source logs it.
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
        self._truth = true_values(options.truth, self.layout.grid)
        log.info("%s", self.describe())

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self._truth

    def frames(self, index: int) -> int:
        return self.num_frames

    def scalars(self, index: int) -> dict[str, float]:
        return {name: float(values[index]) for name, values in self._scalars.items()}

    @cached_property
    def _scalars(self) -> dict[str, Array]:
        """The arrays beside the fields that hold a finite number, or a line of them, for each simulation.

        `[simulations]` by name; those of an array `p` of several numbers for each simulation are `p[0]`, `p[1]`, ...
        """
        used = {array.name for array in self.arrays} | {self.options.time, *self.options.coordinates.values()}
        found: dict[str, Array] = {}
        for name in sorted(self.reader.arrays.keys() - used):
            shape = self.reader.arrays[name].shape
            one = math.prod(shape) == self.num_simulations and max(shape, default=1) == self.num_simulations
            several = len(shape) == 2 and shape[0] == self.num_simulations > 1 and shape[1] <= MOST
            if not (one or several):
                continue
            values = self.reader.read(name).astype(np.float64).reshape(self.num_simulations, -1)
            if np.isfinite(values).all():
                found |= {name if one else f"{name}[{k}]": values[:, k] for k in range(values.shape[1])}
        return found

    def origin(self, field: str, index: int) -> str:
        name = next(array.name for array in self.arrays if array.info.name == field)
        return f"{self.reader.path}, array {name!r}"

    def fingerprint(self) -> str:
        """Return a hash of the files' content (see `content_hash`) and of how it is read, not of the files' place."""
        described = {
            "arrays": [[array.name, array.axes, array.static] for array in self.arrays],
            "keep": [[axis, plan.keep.start, plan.keep.stop] for axis, plan in self.plans.items()],
            "content": content_hash(self.reader.files(array.name for array in self.arrays)),
        }
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def load(self, index: int) -> Trajectory:
        parts: dict[bool, list[Array]] = {False: [], True: []}
        for array in self.arrays:
            samples = self._samples(array, index)
            if array.static:  # its end samples are left out without a check
                values = _one_frame(samples)
            else:
                samples.check(self.plans)
                values = samples.values
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
            raise DataError(f"the data has {self.num_frames} frame along t, and at least 2 are needed", key="data.axes")
        if self.options.dt is not None:
            return self.options.dt
        times = self._numbers(self.options.time, self.num_frames, "frames", "data.time")
        return even_spacing(times, "data.time", f"the times {self.options.time!r}")[1]

    def _numbers(self, name: str, length: int, what: str, key: str) -> Array:
        """Return an array of `length` numbers, one for each of `what`, without its axes of length 1."""
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
            evidence=Evidence(look=lambda side: self._look(axis, side), repeats=lambda: self._repeats(axis)),
        )
        if plan.keep != slice(0, n) and any(array.info.sampling == "staggered" for array in self.arrays):
            raise DataError(
                f"staggered fields lie on the faces of cells, and the samples along {axis} are nodes; give bounds "
                f"instead of coordinates",
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
        if values.dtype.kind not in "fiub":
            raise DataError(f"{where} holds {values.dtype}, and the engine reads only real numbers", key="data.path")
        axes = array.axes.replace("s", "")
        for axis in "ct":
            if axis not in axes:
                values, axes = values[None], axis + axes
        small = values.dtype.kind == "f" and values.dtype.itemsize <= 4
        ordered = values.transpose([axes.index(axis) for axis in "tc" + self.space])
        return FieldSamples(
            info=array.info,
            values=ordered.astype(np.float32 if small else np.float64, copy=False),
            space=self.space,
            where=f"{where}: the field {array.info.name!r} of simulation {index}",
        )


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
