"""Observations of sensors, one a row, at any position and time."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from hyco_engine.builtin.sources.options import SPACE, PointsOptions
from hyco_engine.builtin.sources.point_table import SUFFIXES, Table, column_of
from hyco_engine.builtin.sources.truth import field_from_file, true_values
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.joined import KEY, each_file
from hyco_engine.data.points import select_points, warn_of_shared_places
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import Batch, Points, Samples, SampleSource, Trajectory, TrajectorySource
from hyco_engine.physics.parameters import profile
from hyco_engine.physics.settings import ArrayFile, Profile
from hyco_engine.resources import free_memory
from hyco_engine.spec.places import key_text

if TYPE_CHECKING:
    from hyco_engine.hooks.records import ModelRecord
    from hyco_engine.interfaces import SourceContext

log = logging.getLogger("hyco_engine")

_ENDLESS = 1e200
"""More steps than any rollout has, where a time over dt is infinite."""


class PointsSource(TrajectorySource):
    """Observations of fields that a model rolls out from a given first frame, on a grid of its own or without places.

    Without places, the first row of a simulation is its first frame, unless that is given. A column without a first
    frame that has one number in all rows of a simulation is a known number of it.
    """

    guesses_scalars = True

    def __init__(self, options: PointsOptions, context: SourceContext) -> None:
        self.options = options
        self._begun = _begun(context)
        begun = None if options.steady else {*options.initial, *self._begun}
        self.table = Table(options, context, begun=begun)
        if options.dt is None and not options.steady:
            raise SpecError("the time between two frames of the rollouts is missing", key="data.dt")
        self.dt: float = options.dt or 1.0
        self.guesses_start = options.steady
        grid = _grid(options)
        if grid.axes != self.table.axes:
            raise SpecError(
                f"the positions have the columns {', '.join(self.table.axes)}, the grid the axes "
                f"{', '.join(grid.axes) or 'none'}",
                key="data.resolution",
            )
        boundary = _boundary(options, grid.axes)
        fields = tuple(
            FieldInfo(
                name=name,
                components=components,
                boundary=boundary,
                unit=self.table.unit(name),
            )
            for name, components in self.table.components.items()
        )
        static = tuple(FieldInfo(name=name, boundary=_alike(boundary, grid.axes)) for name in options.static)
        self.layout = StateLayout(grid=grid, dynamic=fields, static=static)
        self._initial = torch.cat([self._first(field) for field in fields])
        known_on_grid = [_on_grid(value, grid, f"data.static.{name}") for name, value in options.static.items()]
        self._static = torch.stack(known_on_grid) if known_on_grid else self._initial[:0]
        known = [*self.table.components, *self.table.columns]
        for name in options.initial:
            if name not in known:
                raise SpecError(
                    f"the data has no field {name!r}{did_you_mean(name, known)} (its columns hold "
                    f"{', '.join(self.table.columns)})",
                    key=_initial_key(name),
                )
        last = max(float(points.time.max()) for points in self.table.simulations)
        # a time that equals a frame's up to rounding needs no frame after it
        self.num_frames = context.num_frames or math.ceil(min(last / self.dt, _ENDLESS) - 1e-3) + 1
        needed = 8 * self.num_frames * self._initial.numel()
        if needed > (free := free_memory()):
            raise DataError(
                f"{self.table.where}: up to its last observation, at {last:g}, a rollout has "
                f"{self.num_frames:.15g} frames of {self.dt:g}, which take {needed / 1e9:.3g} GB, and "
                f"{free / 1e9:.3g} GB of memory are free; correct dt, or set data.start to the time of the first frame",
                key="data.dt",
            )
        self.num_simulations = len(self.table.simulations)
        self._starts = [self._start(index, points) for index, points in enumerate(self.table.simulations)]
        self._truth = true_values(options.truth, grid)
        self._points = [self._inside(points) for points in self.table.simulations]
        log.info(
            "%s: %d simulation(s), %d observations of %s, rolled out over %d frames",
            self.table.where,
            self.num_simulations,
            sum(len(points.time) for points in self._points),
            ", ".join(self.table.columns),
            self.num_frames,
        )

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self._truth

    def start(self, index: int) -> float:
        return self.table.starts[index]

    def frames(self, index: int) -> int:
        return self.num_frames

    def scalars(self, index: int) -> Mapping[str, float]:
        return {name: values[index] for name, values in self.table.scalars.items()}

    def origin(self, field: str, index: int) -> str:
        return self.table.where

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.table.content.encode())
        digest.update(self._initial.numpy().tobytes())
        if len(self._static):
            digest.update(f"{list(self.options.static)}".encode() + self._static.numpy().tobytes())
        if self._begun:
            digest.update(f"{sorted(self._begun)}".encode())
        digest.update(str((self.num_frames, self.num_simulations)).encode())
        return digest.hexdigest()

    def load(self, index: int) -> Trajectory:
        dynamic = torch.full((self.num_frames, *self._initial.shape), torch.nan, dtype=torch.float64)
        dynamic[0] = self._starts[index]
        return Trajectory(dynamic=dynamic, static=self._static)

    def points(self, index: int) -> Points:
        return self._points[index]

    def _start(self, index: int, points: Points) -> Tensor:
        """Return the first frame of a simulation. Raises DataError if neither the spec nor its first row gives it."""
        if not self.table.first_rows:
            return self._initial
        seen = points.value[points.frame.abs() < 1e-9].nanmean(0)
        start = torch.where(self._initial.isnan(), seen, self._initial)
        for column, value in zip(self.table.columns, start, strict=True):
            if value.isnan():
                raise DataError(
                    f"{self.table.where}: simulation {index} has no value of {column!r} at its first frame, t = "
                    f"{self.table.starts[index]:g}: give one number for all simulations, or in physical.initial a "
                    f'formula of parameters, such as "dose/V"',
                    key=_initial_key(column),
                )
        return start

    def _inside(self, points: Points) -> Points:
        """Return the points on the grid or at most half a cell beyond it, where a fixed boundary value may lie.

        Where the physics gives the start, nothing is known before the frame after it.
        """
        grid = self.layout.grid
        if self._begun:
            early = points.time < self.dt * (1 - 1e-4)
            if lost := int((early & ~points.value.isnan().all(1)).sum()):
                log.warning(
                    "%s: physical.initial gives the first frame, and %d observations between it and the next one are "
                    "left out; a shorter data.dt keeps more of them",
                    self.table.where,
                    lost,
                )
            points = select_points(points, ~early)
        keep = torch.ones(len(points.time), dtype=torch.bool)
        for place, axis in enumerate(grid.axes):
            periodic = self.layout.dynamic[0].boundary.is_periodic(axis)
            margin = 0.0 if periodic else 0.5 * grid.spacing[place] * (1 + 1e-6)
            where = points.position[:, place]
            keep &= (where >= grid.lower[place] - margin) & (where <= grid.upper[place] + margin)
        if not bool(keep.any()):
            box = ", ".join(
                f"{a} in [{lo:g}, {up:g}]" for a, lo, up in zip(grid.axes, grid.lower, grid.upper, strict=True)
            )
            raise DataError(f"{self.table.where}: no sensor lies inside the domain, {box}", key="data.bounds")
        if not bool(keep.all()):
            outside = int((~keep).sum())
            log.warning(
                "%s: %d of %d observations lie outside the domain and are left out",
                self.table.where,
                outside,
                len(keep),
            )
        return select_points(points, keep)

    def _first(self, field: FieldInfo) -> Tensor:
        """Return the first frame of one field, `[C, *S]`, given as a whole or component by component."""
        grid, name, given = self.layout.grid, field.name, self.options.initial
        whole = given.get(name)
        if isinstance(whole, ArrayFile):
            found = field_from_file(whole, grid, _initial_key(name), field.components)
            return found.reshape(-1, *grid.resolution)
        parts = []
        for column in [column_of(name, component) for component in field.components or ("",)]:
            value = given.get(column, whole)
            if value is None and (self.options.steady or {name, column} & self._begun):
                value = 0.0
            if value is None and column in self.table.first_rows:
                value = math.nan
            if value is None:
                raise SpecError(
                    f"rollouts need the first frame of {column!r}: give a number, a profile, or a file of the grid's "
                    f"shape {grid.resolution}",
                    key=_initial_key(column),
                )
            parts.append(_on_grid(value, grid, _initial_key(column)))
        return torch.stack(parts)


def _begun(context: SourceContext) -> frozenset[str]:
    """Return the fields and components whose start state the physics gives."""
    if (choice := context.physical) is None:
        return frozenset()
    record = cast("ModelRecord", context.registry.get("hyco_models", choice.kind, "physical"))
    return frozenset() if record.gives_start is None else frozenset(record.gives_start(choice.options))


def _on_grid(value: float | Profile | ArrayFile, grid: Grid, key: str) -> Tensor:
    """Return a number, a profile or a file as a field, `[*resolution]`."""
    if isinstance(value, ArrayFile):
        return field_from_file(value, grid, key)
    if isinstance(value, Profile):
        return profile(value, grid).double()
    return torch.full(grid.resolution, value, dtype=torch.float64)


def _alike(boundary: Boundary, axes: Sequence[str]) -> Boundary:
    """Return the boundary of a static field: periodic where the fields are, else continued with zero gradient."""
    sides = {axis: "periodic" if boundary.is_periodic(axis) else "zero-gradient" for axis in axes}
    return Boundary.parse(sides, axes)


class PointSampleSource(SampleSource):
    """Observations for predictors: inputs `position [n_axes]` and `time []`; targets `[]`, or `[C]` for vectors."""

    def __init__(self, options: PointsOptions, context: SourceContext) -> None:
        """Raises DataError and SpecError, also for files that hold other fields than the first one."""
        each = [options] if options.files == "sensors" else each_file(options, suffixes=SUFFIXES)
        tables = [Table(own, context) for own in each]
        self._columns = tables[0].components
        for table in tables:
            held, wanted = ([*one.axes, *one.columns] for one in (table, tables[0]))
            if held != wanted:
                told = f"it has the columns {', '.join(held)}, not {', '.join(wanted)}"
                raise DataError(f"{table.where} does not fit to {tables[0].where}: {told}", key=KEY)
        self._simulations = [points for table in tables for points in table.simulations]
        self._content = " ".join(table.content for table in tables)
        warn_of_shared_places(self._simulations)
        for name in ("initial", "bounds", "boundary"):
            if getattr(options, name) not in (None, {}):
                raise SpecError(f"data.{name} is for rollouts, and data.resolution is missing", key=f"data.{name}")
        self._dtype = context.dtype

    def fingerprint(self) -> str:
        return self._content

    def samples(self, split: str) -> Samples:
        parts = [select_points(p, p.heldout if split == "val" else ~p.heldout) for p in self._simulations]
        if split == "test":
            parts = [select_points(p, torch.zeros_like(p.heldout)) for p in parts]
        return _Rows(parts, self._columns, self._dtype)


class _Rows(Samples):
    def __init__(self, parts: Sequence[Points], components: Mapping[str, tuple[str, ...]], dtype: torch.dtype) -> None:
        self._time = torch.cat([p.time for p in parts]).to(dtype)
        self._position = torch.cat([p.position for p in parts]).to(dtype)
        value = torch.cat([p.value for p in parts]).to(dtype)
        columns = torch.split(value, [max(1, len(own)) for own in components.values()], dim=1)
        self._values = {
            name: column if own else column[:, 0]
            for (name, own), column in zip(components.items(), columns, strict=True)
        }

    def __len__(self) -> int:
        return len(self._time)

    def batch(self, indices: Tensor) -> Batch:
        inputs = {"position": self._position[indices], "time": self._time[indices]}
        return inputs, {name: values[indices] for name, values in self._values.items()}


def _initial_key(name: str) -> str:
    return f"data.initial.{key_text([name])}"


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
    if not axes and options.boundary is not None:
        raise SpecError("the fields have no axes of space, and no boundary: leave it out", key="data.boundary")
    if not axes:
        return Boundary(sides={})
    if options.boundary is None:
        raise SpecError('rollouts need the boundary of the fields: a number, "periodic", ...', key="data.boundary")
    return options.boundary.on(axes)
