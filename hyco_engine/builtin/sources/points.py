"""Tables of what sensors saw: one observation a row, wherever and whenever it was made."""

from __future__ import annotations

import csv
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.sources.array_files import Array, content_hash, open_arrays
from hyco_engine.builtin.sources.options import SPACE, PointsOptions
from hyco_engine.builtin.sources.truth import field_from_file, true_values
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.points import select_points
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import Batch, Points, Samples, SampleSource, Trajectory, TrajectorySource
from hyco_engine.physics.parameters import profile
from hyco_engine.spec.choices import ArrayFile, Profile

if TYPE_CHECKING:
    from hyco_engine.interfaces import BuildContext

log = logging.getLogger("hyco_engine")


class PointsSource(TrajectorySource):
    """Observations of fields that a model rolls out on a grid of its own, from a given first frame."""

    def __init__(self, options: PointsOptions, context: BuildContext) -> None:
        self.options = options
        self.table = Table(options, context)
        if options.dt is None:
            raise SpecError("the time between two frames of the rollouts is missing", key="data.dt")
        self.dt: float = options.dt
        grid = _grid(options)
        if grid.axes != self.table.axes:
            raise SpecError(
                f"the positions have the columns {', '.join(self.table.axes)}, the grid the axes "
                f"{', '.join(grid.axes)}",
                key="data.resolution",
            )
        boundary = _boundary(options, grid.axes)
        fields = tuple(FieldInfo(name=name, boundary=boundary) for name in self.table.fields)
        self.layout = StateLayout(grid=grid, dynamic=fields)
        self._initial = torch.cat([self._first(name) for name in self.table.fields])
        for name in options.initial:
            if name not in self.table.fields:
                raise SpecError(
                    f"there is no field {name!r}{did_you_mean(name, self.table.fields)} (the columns hold "
                    f"{', '.join(self.table.fields)})",
                    key=f"data.initial.{name}",
                )
        last = max(float(points.time.max()) for points in self.table.simulations)
        # a time that falls on a frame but for rounding needs no frame after it
        self.num_frames = context.num_frames or math.ceil(last / self.dt - 1e-3) + 1
        self.num_simulations = len(self.table.simulations)
        self._truth = true_values(options.truth, grid)
        self._points = [self._inside(points) for points in self.table.simulations]
        log.info(
            "%s: %d simulation(s), %d observations of %s, rolled out over %d frames",
            options.path,
            self.num_simulations,
            sum(len(points.time) for points in self._points),
            ", ".join(self.table.fields),
            self.num_frames,
        )

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self._truth

    def frames(self, index: int) -> int:
        return self.num_frames

    def origin(self, field: str, index: int) -> str:
        return str(self.options.path)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.table.content.encode())
        digest.update(self._initial.numpy().tobytes())
        digest.update(str((self.num_frames, self.num_simulations)).encode())
        return digest.hexdigest()

    def load(self, index: int) -> Trajectory:
        dynamic = torch.full((self.num_frames, *self._initial.shape), torch.nan, dtype=torch.float64)
        dynamic[0] = self._initial
        return Trajectory(dynamic=dynamic, static=self._initial[:0])

    def points(self, index: int) -> Points:
        return self._points[index]

    def _inside(self, points: Points) -> Points:
        """Those on the grid, or as near to it as the next sample beyond a boundary with a fixed value."""
        grid = self.layout.grid
        keep = torch.ones(len(points.time), dtype=torch.bool)
        for place, axis in enumerate(grid.axes):
            periodic = self.layout.dynamic[0].boundary.is_periodic(axis)
            reach = 0.0 if periodic else 0.5 * grid.spacing[place] * (1 + 1e-6)
            where = points.position[:, place]
            keep &= (where >= grid.lower[place] - reach) & (where <= grid.upper[place] + reach)
        if not bool(keep.any()):
            box = ", ".join(
                f"{a} in [{lo:g}, {up:g}]" for a, lo, up in zip(grid.axes, grid.lower, grid.upper, strict=True)
            )
            raise DataError(f"{self.options.path}: no sensor is inside of the domain, {box}", key="data.bounds")
        if not bool(keep.all()):
            outside = int((~keep).sum())
            log.warning(
                "%s: %d of %d observations are outside of the domain and left out",
                self.options.path,
                outside,
                len(keep),
            )
        return select_points(points, keep)

    def _first(self, name: str) -> Tensor:
        """The first frame of one field, `[1, *S]`."""
        key, grid = f"data.initial.{name}", self.layout.grid
        value = self.options.initial.get(name)
        if value is None:
            raise SpecError(
                f"rollouts need the first frame of {name!r}: a number, a profile, or a file of the grid's shape "
                f"{grid.resolution}",
                key=key,
            )
        if isinstance(value, ArrayFile):
            return field_from_file(value, grid, key)[None]
        if isinstance(value, Profile):
            return profile(value, grid).double()[None]
        return torch.full((1, *grid.resolution), value, dtype=torch.float64)


class PointSampleSource(SampleSource):
    """Observations for predictors alone: inputs `position [n_axes]` and `time []`, a target for each field."""

    def __init__(self, options: PointsOptions, context: BuildContext) -> None:
        self.table = Table(options, context)
        for name in ("dt", "initial", "bounds", "boundary"):
            if getattr(options, name) not in (None, {}):
                raise SpecError("belongs to rollouts on a grid, and there is no resolution", key=f"data.{name}")
        self._dtype = context.dtype

    def fingerprint(self) -> str:
        return self.table.content

    def samples(self, split: str) -> Samples:
        parts = [select_points(p, p.heldout if split == "val" else ~p.heldout) for p in self.table.simulations]
        if split == "test":
            parts = [select_points(p, torch.zeros_like(p.heldout)) for p in parts]
        return _Rows(parts, self.table.fields, self._dtype)


class _Rows(Samples):
    def __init__(self, parts: Sequence[Points], fields: Sequence[str], dtype: torch.dtype) -> None:
        self._time = torch.cat([p.time for p in parts]).to(dtype)
        self._position = torch.cat([p.position for p in parts]).to(dtype)
        self._value = torch.cat([p.value for p in parts]).to(dtype)
        self._fields = fields

    def __len__(self) -> int:
        return len(self._time)

    def batch(self, indices: Tensor) -> Batch:
        inputs = {"position": self._position[indices], "time": self._time[indices]}
        return inputs, {name: self._value[indices, k] for k, name in enumerate(self._fields)}


class Table:
    """The rows of a file, by simulation; which sensors train and which validate."""

    def __init__(self, options: PointsOptions, context: BuildContext) -> None:
        self.options = options
        values, columns = _read(options)
        names = [name for name in columns if name]
        self.axes = tuple(axis for axis in SPACE if axis in names)
        self.fields = tuple(name for name in names if name not in ("s", "t", *SPACE))
        if not self.axes or not self.fields:
            raise SpecError(
                f"columns {list(columns)} hold no {'position (x, y or z)' if not self.axes else 'field'}",
                key="data.columns",
            )
        # [..., sensors, columns]: the sensor is the place before the columns
        sensor = np.broadcast_to(np.arange(values.shape[-2]), values.shape[:-1]).reshape(-1)
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        by_name = {name: rows[:, k] for k, name in enumerate(columns) if name}
        if "t" in by_name:
            time = by_name["t"]
        else:
            time = np.broadcast_to(
                self._times(values.shape).reshape(-1, *(1 for _ in values.shape[1:-1])), values.shape[:-1]
            ).reshape(-1)
        position = np.stack([by_name[axis] for axis in self.axes], axis=1)
        self._refuse_holes(time, position)
        number = by_name.get("s", np.zeros(len(rows)))
        held = np.isin(sensor, self._held_out(values.shape[-2], context))
        self.simulations = []
        for simulation in np.unique(number):
            own = number == simulation
            self.simulations.append(
                Points(
                    frame=torch.from_numpy(time[own] / (options.dt or 1.0)),
                    time=torch.from_numpy(time[own].copy()),
                    position=torch.from_numpy(position[own]),
                    value=torch.from_numpy(np.stack([by_name[name][own] for name in self.fields], axis=1)),
                    heldout=torch.from_numpy(held[own]),
                )
            )
        files = [options.path, *([options.train_sensors] if options.train_sensors else [])]
        described = f"{columns} {options.interval} {options.heldout} {context.seed}"
        self.content = hashlib.sha256((content_hash(files) + described).encode()).hexdigest()

    def _times(self, shape: tuple[int, ...]) -> Array:
        if self.options.interval is None or len(shape) < 3:
            raise SpecError(
                "the times are missing: name a column t, or give the interval between the entries of the first axis "
                f"of an array [times, sensors, columns]; this one is {list(shape)}",
                key="data.columns" if self.options.interval is None else "data.interval",
            )
        return np.arange(shape[0]) * self.options.interval

    def _refuse_holes(self, time: Array, position: Array) -> None:
        bad = ~np.isfinite(time) | ~np.isfinite(position).all(axis=1)
        if bad.any():
            raise DataError(
                f"{self.options.path}: row {int(bad.argmax())} has no finite time and position; only the fields may be "
                "NaN, where they were not observed",
                key="data.path",
            )
        if (time < -1e-9).any():
            raise DataError(
                f"{self.options.path}: row {int(time.argmin())} is at t = {float(time.min()):g}, before the first "
                "frame, which is at 0",
                key="data.path",
            )

    def _held_out(self, count: int, context: BuildContext) -> Array:
        """The sensors that validate in a split by sensor."""
        file = self.options.train_sensors
        if file is None:
            order = torch.randperm(count, generator=context.generator("sensors")).numpy()
            return order[: round(self.options.heldout * count)]
        rows, _ = _read_csv(file) if file.suffix == ".csv" else (_one_array(file), None)
        chosen = rows.reshape(-1)
        if not ((chosen == np.round(chosen)) & (chosen >= 0) & (chosen < count)).all():
            raise DataError(
                f"{file} must hold sensors from 0 to {count - 1}, and holds {chosen.min():g} to {chosen.max():g}",
                key="data.train_sensors",
            )
        return np.setdiff1d(np.arange(count), chosen.astype(np.int64))


def _read(options: PointsOptions) -> tuple[Array, tuple[str, ...]]:
    """(`[..., sensors, columns]`, the columns' names)."""
    path = options.path
    if path.suffix == ".csv":
        values, header = _read_csv(path)
        columns = options.columns or header
    else:
        reader = open_arrays(path)
        name = options.array or next(iter(reader.arrays))
        stored = reader.find(name, "data.array")
        if len(reader.arrays) > 1 and not options.array:
            raise SpecError(f"{path} holds several arrays, {reader.listing()}: name one", key="data.array")
        if len(stored.shape) < 2:
            raise DataError(f"{path}: {name!r} {stored.shape} has no columns", key="data.path")
        values, columns = reader.read(name), options.columns
    if not columns:
        raise SpecError(f"{path} does not name its {values.shape[-1]} columns: give columns", key="data.columns")
    if len(columns) != values.shape[-1]:
        raise SpecError(
            f"{path} has {values.shape[-1]} columns, and {len(columns)} are named: {', '.join(columns)}",
            key="data.columns",
        )
    return values, tuple(columns)


def _one_array(path: Path) -> Array:
    reader = open_arrays(path)
    return reader.read(next(iter(reader.arrays)))


def _read_csv(path: Path) -> tuple[Array, tuple[str, ...]]:
    """(numbers `[rows, columns]`, the names in the first line or none). An empty entry is NaN."""
    try:
        with path.open(newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}", key="data.path") from None
    header: tuple[str, ...] = ()
    if lines and not all(_is_number(entry) for entry in lines[0]):
        header, lines = tuple(entry.strip() for entry in lines[0]), lines[1:]
    if not lines:
        raise DataError(f"{path} holds no rows", key="data.path")
    width = len(lines[0])
    for number, line in enumerate(lines, start=2 if header else 1):
        if len(line) != width or not all(_is_number(entry) for entry in line):
            raise DataError(f"{path}: line {number} does not hold {width} numbers", key="data.path")
    return np.array([[float(entry) if entry.strip() else math.nan for entry in line] for line in lines]), header


def _is_number(entry: str) -> bool:
    try:
        float(entry or "nan")
    except ValueError:
        return not entry.strip()
    return True


def _grid(options: PointsOptions) -> Grid:
    axes = tuple(axis for axis in SPACE if axis in options.resolution)
    bounds = [options.bounds.get(axis, (0.0, 1.0)) for axis in axes]
    return Grid(
        axes=axes,
        resolution=tuple(options.resolution[axis] for axis in axes),
        lower=tuple(lower for lower, _ in bounds),
        upper=tuple(upper for _, upper in bounds),
    )


def _boundary(options: PointsOptions, axes: tuple[str, ...]) -> Boundary:
    if options.boundary is None:
        raise SpecError('rollouts need what holds at the edges: a number, "periodic", ...', key="data.boundary")
    try:
        return Boundary.parse(options.boundary.value, axes)
    except ValueError as error:
        raise SpecError(str(error), key="data.boundary") from None
