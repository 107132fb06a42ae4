"""Tables of sensor observations: the meaning of their columns, and the simulation and sensor of each row."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hyco_engine.builtin.sources.array_files import Array, content_hash, open_arrays
from hyco_engine.builtin.sources.options import SPACE, PointsOptions
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import Points

if TYPE_CHECKING:
    from hyco_engine.interfaces import SourceContext


class Table:
    """The rows of a file by simulation, with the sensors that train and those that validate."""

    def __init__(self, options: PointsOptions, context: SourceContext) -> None:
        self.options = options
        values, columns = _read(options)
        names = [name for name in columns if name]
        self.axes = tuple(axis for axis in SPACE if axis in names)
        self.components = _components([name for name in names if name not in ("s", "t", *SPACE)], self.axes)
        """Names of each field's components; a scalar has none."""
        if not self.axes or not self.components:
            raise SpecError(
                f"the columns {list(columns)} hold no {'position (x, y or z)' if not self.axes else 'field'}",
                key="data.columns",
            )
        # [..., sensors, columns]: the second last axis counts the sensors
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
                    frame=torch.from_numpy(time[own]) / (options.dt or 1.0),
                    time=torch.from_numpy(time[own].copy()),
                    position=torch.from_numpy(position[own]),
                    value=torch.from_numpy(np.stack([by_name[name][own] for name in self.columns], axis=1)),
                    heldout=torch.from_numpy(held[own]),
                )
            )
        files = [options.path, *([options.train_sensors] if options.train_sensors else [])]
        described = f"{columns} {options.interval} {options.heldout} {context.seed}"
        self.content = hashlib.sha256((content_hash(files) + described).encode()).hexdigest()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the column of each channel: the fields in order, each with its components."""
        return tuple(
            column_of(field, component)
            for field, components in self.components.items()
            for component in components or ("",)
        )

    def _times(self, shape: tuple[int, ...]) -> Array:
        if self.options.interval is None or len(shape) < 3:
            raise SpecError(
                "the times are missing: name a column t, or give as interval the time between entries of the first "
                f"axis of an array [times, sensors, columns]; this one is {list(shape)}",
                key="data.columns" if self.options.interval is None else "data.interval",
            )
        return np.arange(shape[0]) * self.options.interval

    def _refuse_holes(self, time: Array, position: Array) -> None:
        bad = ~np.isfinite(time) | ~np.isfinite(position).all(axis=1)
        if bad.any():
            raise DataError(
                f"{self.options.path}: row {int(bad.argmax())} has a time or position that is not finite; only "
                f"fields may be NaN, where they were not observed",
                key="data.path",
            )
        if (time < -1e-9 * np.abs(time).max()).any():
            raise DataError(
                f"{self.options.path}: row {int(time.argmin())} is at t = {float(time.min()):g}, before the first "
                "frame, which is at 0",
                key="data.path",
            )

    def _held_out(self, count: int, context: SourceContext) -> Array:
        """Return the sensors that validate in a split by sensor."""
        file = self.options.train_sensors
        if file is None:
            order = torch.randperm(count, generator=context.generator("sensors")).numpy()
            return order[: round(self.options.heldout * count)]
        rows, _ = _read_csv(file) if file.suffix == ".csv" else (_one_array(file), None)
        chosen = rows.reshape(-1)
        if not ((chosen == np.round(chosen)) & (chosen >= 0) & (chosen < count)).all():
            raise DataError(
                f"{file} must hold sensor numbers from 0 to {count - 1}, and holds {chosen.min():g} to "
                f"{chosen.max():g}",
                key="data.train_sensors",
            )
        return np.setdiff1d(np.arange(count), chosen.astype(np.int64))


def column_of(field: str, component: str) -> str:
    """Return the name of the column that holds a component of a field; a scalar's component is ""."""
    return f"{field}.{component}" if component else field


def _components(columns: Sequence[str], axes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return each field's components: `velocity.x` and `velocity.y` are those of `velocity`, in the order of the axes.

    Raise SpecError where a vector of the axes lacks one, and where a name is that of a scalar and of a vector.
    """
    found: dict[str, list[str]] = {}
    for column in columns:
        name, _, component = column.rpartition(".") if "." in column else (column, "", "")
        if not name or ("." in column and not component):
            raise SpecError(f"the column {column!r} names no component: write field.x", key="data.columns")
        found.setdefault(name, []).append(component)
    for name, components in found.items():
        if "" in components and len(components) > 1:
            raise SpecError(
                f"{name!r} is a column, and so is {column_of(name, max(components))!r}: a field must be either one "
                f"number or one for each component",
                key="data.columns",
            )
        if set(components) & set(SPACE):
            lacking = [axis for axis in axes if axis not in components]
            strange = [component for component in components if component not in axes]
            if lacking or strange:
                raise SpecError(
                    f"the vector {name!r} has the components {', '.join(components)}, and the positions have the axes "
                    f"{', '.join(axes)}: give a column for each, with empty entries for a component that was not "
                    f"observed",
                    key="data.columns",
                )
            components.sort()
    return {name: tuple(c for c in components if c) for name, components in found.items()}


def _read(options: PointsOptions) -> tuple[Array, tuple[str, ...]]:
    """Return (`[..., sensors, columns]`, the columns' names)."""
    path = options.path
    if path.suffix == ".csv":
        values, header = _read_csv(path)
        columns = options.columns or header
    else:
        reader = open_arrays(path)
        name = options.array or next(iter(reader.arrays))
        stored = reader.find(name, "data.array")
        if len(reader.arrays) > 1 and not options.array:
            raise SpecError(f"{path} holds several arrays, {reader.listing()}: name one of them", key="data.array")
        if len(stored.shape) < 2:
            raise DataError(f"{path}: {name!r} {stored.shape} has no columns", key="data.path")
        values, columns = reader.read(name), options.columns
    if not columns:
        raise SpecError(
            f"{path} does not name its {values.shape[-1]} columns: name them in columns", key="data.columns"
        )
    if len(columns) != values.shape[-1]:
        raise SpecError(
            f"{path} has {values.shape[-1]} columns, and the spec names {len(columns)}: {', '.join(columns)}",
            key="data.columns",
        )
    return values, tuple(columns)


def _one_array(path: Path) -> Array:
    reader = open_arrays(path)
    return reader.read(next(iter(reader.arrays)))


def _read_csv(path: Path) -> tuple[Array, tuple[str, ...]]:
    """Return (numbers `[rows, columns]`, the names in the first line or none). An empty entry becomes NaN."""
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
