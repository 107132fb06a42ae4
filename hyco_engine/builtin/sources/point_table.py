"""Tables of sensor observations: the meaning of their columns, and the simulation and sensor of each row."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch

from hyco_engine.builtin.sources.options import SPACE, PointsOptions
from hyco_engine.data.array_files import Array, content_hash, open_arrays
from hyco_engine.data.csv_form import CsvForm
from hyco_engine.data.csv_table import SUFFIXES as CSV
from hyco_engine.data.csv_table import CsvTable, read_csv
from hyco_engine.data.joined import KEY, each_file, file_of, names_of
from hyco_engine.data.parquet_table import SUFFIXES as PARQUET
from hyco_engine.data.parquet_table import ParquetTable, read_parquet
from hyco_engine.data.points import SENSOR_NAMES, TIME_NAMES, begins_far, moment, on_one_clock, places_of
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import Points

if TYPE_CHECKING:
    from hyco_engine.interfaces import SourceContext


log = logging.getLogger("hyco_engine")

SUFFIXES = (*CSV, *PARQUET, ".npy", ".npz", ".mat")
"""The files of a folder that hold observations."""


@attrs.frozen(kw_only=True)
class _Rows:
    """The rows of a file by column, `[N]` each, without the columns that are not read."""

    columns: tuple[str, ...]
    """The names of all columns of the file, in order."""
    numbers: Mapping[str, Array]
    sensor: Array | None
    """The number of the sensor of each row, None if places tell the sensors apart."""
    labels: tuple[str, ...] = ()
    """The names of the sensors, where a column gives them."""
    units: Mapping[str, str] = attrs.Factory(dict)
    lines: Sequence[int] = ()
    """The line of each row, where the file has lines."""
    begins: np.datetime64 | None = None
    """The first date-time of the file, from which the times count; None if they are numbers."""
    rounding: float = 0.0
    """How far apart the positions of one place may be, because of the digits that the file holds."""


class Table:
    """The rows of a file by simulation, with the sensors that train and those that validate.

    Several files hold sensors of the same simulations.
    """

    def __init__(self, options: PointsOptions, context: SourceContext, begun: Set[str] | None = None) -> None:
        """`begun` are the fields, and the components, whose first frame is known, for rollouts."""
        self.options = options
        each = each_file(options, suffixes=SUFFIXES)
        paths = [file_of(own) for own in each]
        self.where = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files such as {paths[0]}"
        """The name of the files, to begin a message with."""
        every = [_read(own) for own in each]
        for own, path in zip(every, paths, strict=True):
            _refuse_holes(own, path)
        rows = every[0] if len(every) == 1 else _together(every, names_of(paths))
        number = rows.numbers.get("s", np.zeros(len(rows.numbers["t"])))
        owners = [number == simulation for simulation in np.unique(number)]
        self.scalars: Mapping[str, Sequence[float]] = {} if begun is None else _known(rows, owners, begun)
        """The known numbers of the simulations, by name."""
        names = [name for name in rows.numbers if name not in self.scalars]
        self.units = rows.units
        """The units of columns, where the file gives them."""
        self.axes = tuple(axis for axis in SPACE if axis in names)
        self.components = _components([name for name in names if name not in ("s", "t", *SPACE)], self.axes)
        """Names of each field's components; a scalar has none."""
        if not self.axes and (options.resolution or options.dt is None):
            more = "" if options.resolution else "; series without places need data.dt, the time between two frames"
            raise SpecError(f"the columns {names} hold no position (x, y or z){more}", key="data.columns")
        if not self.components:
            raise SpecError(f"the columns {names} hold no field", key="data.columns")
        self.first_rows = [] if self.axes or begun is None else [c for c in self.columns if not begun & _names(c)]
        """The columns whose first frame is the first row of a simulation: those of series without places."""
        time = rows.numbers["t"]
        places = torch.from_numpy(np.array([rows.numbers[axis] for axis in self.axes]).reshape(-1, len(time)).T)
        sensor = places_of(places, rows.rounding).numpy() if rows.sensor is None else rows.sensor
        held = np.isin(sensor, self._held_out(int(sensor.max()) + 1, rows.labels, context))
        self.starts = starts = self._starts([time[own] for own in owners], rows.begins is not None)
        """The times of the first frames."""
        self.simulations = []
        for own, start in zip(owners, starts, strict=True):
            since = time[own] - start
            self.simulations.append(
                Points(
                    frame=torch.from_numpy(since) / (options.dt or 1.0),
                    time=torch.from_numpy(since),
                    position=places[torch.from_numpy(own)],
                    value=torch.from_numpy(np.stack([rows.numbers[name][own] for name in self.columns], axis=1)),
                    heldout=torch.from_numpy(held[own]),
                )
            )
        files = [*paths, *([options.train_sensors] if options.train_sensors else [])]
        described = f"{rows.columns} {options.interval} {options.heldout} {context.seed}"
        if options.start is not None or options.csv != CsvForm():
            described += f" {options.start} {options.csv}"
        self.content = hashlib.sha256((content_hash(files) + described).encode()).hexdigest()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the column of each channel: the fields in order, each with its components."""
        return tuple(
            column_of(field, component)
            for field, components in self.components.items()
            for component in components or ("",)
        )

    def unit(self, field: str) -> str:
        """Return the unit of a field; "1" where the file gives none. Raise SpecError if its components differ in it."""
        own = {self.units.get(column_of(field, component), "1") for component in self.components[field] or ("",)}
        if len(own) > 1:
            raise SpecError(
                f"{self.where}: the components of {field!r} are in {' and '.join(sorted(own))}; give all in one unit",
                key="data.columns",
            )
        return own.pop()

    def _starts(self, times: Sequence[Array], dated: bool) -> list[float]:
        """Return the time of the first frame of each simulation, and tell it where it is not 0."""
        begins = [float(own.min()) for own in times]
        start, first = self.options.start, min(begins)
        if start is None:
            span = max(float(own.max()) - begin for own, begin in zip(times, begins, strict=True))
            why = "the times are date-times" if dated else f"it holds the first frame of {', '.join(self.first_rows)}"
            if begins_far(first, span, self.options.dt):
                why = "the times begin very far from 0"
            elif not (dated or self.first_rows):
                why = ""
            if why:
                log.info(
                    "%s: the first frame of a simulation is at its first observation, t = %.10g, since %s; data.start "
                    "sets another time",
                    self.where,
                    first,
                    why,
                )
                return begins
            start = 0.0
        if first - start < -1e-9 * max(float(np.abs(own).max()) for own in times):
            raise DataError(
                f"{self.where}: an observation is at t = {first:g}, before the first frame, which is at "
                f"{start:g}; data.start sets the time of the first frame",
                key="data.start",
            )
        return [start] * len(times)

    def _held_out(self, count: int, labels: Sequence[str], context: SourceContext) -> Array:
        """Return the sensors that validate in a split by sensor."""
        file = self.options.train_sensors
        if file is None:
            order = torch.randperm(count, generator=context.generator("sensors")).numpy()
            share = round(self.options.heldout * count)
            return order[: max(share, 1) if self.options.heldout and count > 1 else share]
        named = _entries(file, labels)
        if labels:
            known = {label: number for number, label in enumerate(labels)}
            if strange := [name for name in named if name not in known]:
                raise DataError(
                    f"{file} names the sensor {strange[0]!r}, which {self.where} does not "
                    f"have{did_you_mean(strange[0], labels)}",
                    key="data.train_sensors",
                )
            return np.setdiff1d(np.arange(count), [known[name] for name in named])
        if strange := [name for name in named if not (name.isdecimal() and int(name) < count)]:
            raise DataError(
                f"{file} must hold sensor numbers from 0 to {count - 1}, and holds {strange[0]}",
                key="data.train_sensors",
            )
        return np.setdiff1d(np.arange(count), [int(name) for name in named])


def _known(rows: _Rows, owners: Sequence[Array], begun: Set[str]) -> dict[str, list[float]]:
    """Return the columns without a first frame in which each simulation has one number, beside missing ones.

    They are known beside a field: there are none if all columns are of this kind.
    """
    columns = [name for name in rows.numbers if name not in ("s", "t", *SPACE)]
    found = {}
    for name in columns:
        if name not in begun and "." not in name:
            every = [np.unique(rows.numbers[name][own & ~np.isnan(rows.numbers[name])]) for own in owners]
            if all(len(own) == 1 for own in every):
                found[name] = [float(own[0]) for own in every]
    return found if len(found) < len(columns) else {}


def _refuse_holes(rows: _Rows, path: Path) -> None:
    """Raise DataError for rows without a time, a position or a simulation, and for infinite values."""
    for name, values in rows.numbers.items():
        needed = name in ("s", "t", *SPACE)
        bad = ~np.isfinite(values) if needed else np.isinf(values)
        if bad.any():
            row = int(bad.argmax())
            place = f"line {rows.lines[row]}" if rows.lines else f"row {row}"
            raise DataError(
                f"{path}: {place} has {values[row]:g} in the column {name!r}; "
                + (
                    "each row needs a time, a position and a simulation, and only fields may be NaN, where they "
                    "were not observed"
                    if needed
                    else "if it was not observed, write NaN instead"
                ),
                key="data.path",
            )


def _together(every: Sequence[_Rows], names: Sequence[str]) -> _Rows:
    """Return the rows of several files, one after another. Raise DataError if they do not fit together."""
    first = every[0]
    for rows, name in zip(every, names, strict=True):
        for what, own, wanted in (
            ("the columns", sorted(rows.numbers), sorted(first.numbers)),
            ("the units", sorted(rows.units.items()), sorted(first.units.items())),
            ("date-times", rows.begins is not None, first.begins is not None),
            ("named sensors", rows.sensor is not None, first.sensor is not None),
        ):
            if own != wanted:
                told = f"{what} {own}, not {wanted}" if isinstance(own, list) else f"{'' if own else 'no '}{what}"
                raise DataError(f"{name} does not fit to {names[0]}: it has {told}", key=KEY)
    if "s" in first.numbers:
        raise DataError(
            'files of sensors are one simulation, and these have a column s: join them, or leave files = "sensors" out',
            key="data.files",
        )
    begins = [rows.begins for rows in every if rows.begins is not None]
    parts = [dict(rows.numbers) for rows in every]
    for part, since in zip(parts, on_one_clock(begins), strict=False):
        part["t"] = part["t"] + since
    sensor, labels = None, first.labels
    if first.sensor is not None:
        # a name is that of one sensor in all files; numbers by place in an array are not names
        named = [
            [rows.labels[k] if rows.labels else f"{name}/{k}" for k in np.asarray(rows.sensor).tolist()]
            for rows, name in zip(every, names, strict=True)
        ]
        sensor, labels = _numbered([label for own in named for label in own])
    return attrs.evolve(
        first,
        numbers={name: np.concatenate([part[name] for part in parts]) for name in first.numbers},
        sensor=sensor,
        labels=labels,
        lines=(),
        begins=min(begins, default=None),
        rounding=max(rows.rounding for rows in every),
    )


def _names(column: str) -> set[str]:
    """Return the names under which the first frame of a column may be given: its own, and that of its field."""
    return {column, column.rpartition(".")[0]}


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


def _read(options: PointsOptions) -> _Rows:
    suffix = file_of(options).suffix.lower()
    if suffix in CSV:
        return _of_table(read_csv(file_of(options), options.csv, named=bool(options.columns)), options)
    if suffix in PARQUET:
        return _of_table(read_parquet(file_of(options)), options)
    values, columns, begins = _read_arrays(options)
    # [..., sensors, columns]: the second last axis counts the sensors
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    numbers = {name: rows[:, k] for k, name in enumerate(columns) if name}
    own = next((numbers.pop(name) for name in SENSOR_NAMES if name in numbers), None)
    sensor, labels = (None, ()) if own is None else _numbered([_label(str(entry)) for entry in own.tolist()])
    if sensor is None and values.ndim > 2:
        sensor = np.broadcast_to(np.arange(values.shape[-2]), values.shape[:-1]).reshape(-1)
    if options.steady:
        numbers["t"] = _steady_times(options, "t" in numbers, len(rows))
    elif "t" not in numbers:
        times = _times(options, values.shape).reshape(-1, *(1 for _ in values.shape[1:-1]))
        numbers["t"] = np.broadcast_to(times, values.shape[:-1]).reshape(-1)
    exact = values.dtype.kind != "f"
    largest = max(
        (float(np.nanmax(np.abs(numbers[axis]), initial=0.0)) for axis in SPACE if axis in numbers), default=0
    )
    rounding = 0.0 if exact else 4 * float(np.finfo(values.dtype).eps) * largest
    return _Rows(columns=columns, numbers=numbers, sensor=sensor, labels=labels, begins=begins, rounding=rounding)


def _read_arrays(options: PointsOptions) -> tuple[Array, tuple[str, ...], np.datetime64 | None]:
    """Return (`[..., sensors, columns]`, the columns, the first of the times if they are date-times).

    They are those of one array, or of several that hold a column each.
    """
    reader = open_arrays(file_of(options))
    if not options.array and len(reader.arrays) > 1:
        columns = tuple(name for name in options.columns or reader.arrays if name)
        lengths = {tuple(n for n in reader.find(name, "data.columns").shape if n > 1) for name in columns}
        if len(lengths) != 1 or len(next(iter(lengths))) != 1:
            raise SpecError(
                f"{options.path} holds several arrays, {reader.listing()}: name one of them, or in data.columns those "
                f"that hold a column each",
                key="data.array",
            )
        for name in sorted(reader.refused.keys() - set(options.columns)):
            if name in SENSOR_NAMES:
                raise DataError(
                    f"{options.path}: the array {name!r} cannot be used: {reader.refused[name]}; number the sensors",
                    key="data.path",
                )
            log.info("%s: the array %r is left out: %s", options.path, name, reader.refused[name])
        begins = None
        read = []
        for name in columns:
            values = reader.read(name).reshape(-1)
            if name == "t" and values.dtype.kind == "M":
                log.info("%s: t is counted in seconds since %s", options.path, begins := np.nanmin(values))
                values = (values - begins) / np.timedelta64(1, "s")
            read.append(_real(values, name, options))
        return np.stack(read, axis=-1), columns, begins
    name = options.array or next(iter(reader.arrays), "")
    stored = reader.find(name, "data.array")
    if len(stored.shape) < 2:
        raise DataError(f"{options.path}: {name!r} {stored.shape} has no columns", key="data.path")
    values = _real(reader.read(name), name, options)
    return values, _checked_columns(options, values.shape[-1]), None


def _real(values: Array, name: str, options: PointsOptions) -> Array:
    """Return real numbers. Raise DataError for what is none."""
    if values.dtype.kind == "c" and not np.abs(values.imag).max(initial=0.0):
        return np.asarray(values.real)
    if values.dtype.kind not in "fiub":
        raise DataError(
            f"{options.path}: the array {name!r} holds {values.dtype}, and a table of observations holds real numbers",
            key="data.path",
        )
    return values


def _of_table(table: CsvTable | ParquetTable, options: PointsOptions) -> _Rows:
    columns = _checked_columns(options, table.width, table.names)
    named = {name: k for k, name in enumerate(columns) if name}
    notes = list(table.notes)
    given = next((name for name in named if name.lower() in TIME_NAMES), None)
    if given is not None and "t" not in named and not options.columns:
        named["t"] = named.pop(given)
        notes.append(f"the column {given!r} is the time t")
    own = next((named.pop(name) for name in SENSOR_NAMES if name in named), None)
    sensor, labels = (None, ()) if own is None else _numbered([_label(entry) for entry in table.text(own)])
    numbers: dict[str, Array] = {}
    begins = None
    for name, k in named.items():
        if name == "t" and table.are_moments(k):
            numbers[name], first = table.seconds(k)
            notes.append(f"t is counted in seconds since {first}")
            begins = moment(first)
        elif name == "s" and table.is_text(k):
            numbers[name] = _numbered(table.text(k))[0].astype(np.float64)
        elif table.is_text(k):
            raise SpecError(
                f"{options.path}: the column {name!r} holds text, such as {table.text(k)[0][:40]!r}, and not numbers; "
                f"an empty name in its place in data.columns leaves it out",
                key="data.columns",
            )
        else:
            numbers[name] = table.numbers(k)
    if options.steady:
        numbers["t"] = _steady_times(options, "t" in numbers, table.count)
    elif "t" not in numbers:
        _times(options, (table.count, table.width))
    units = {name: table.units[k] for name, k in named.items() if table.units[k]}
    if own_units := [
        f"{name} in {units[name]}"
        for name in ("t", *SPACE)
        if name in units and not (begins is not None and name == "t")
    ]:
        notes.append(f"the numbers stay as they are, {', '.join(own_units)}, and so must be dt and bounds")
    if notes:
        log.info("%s: %s", options.path, "; ".join(notes))
    return _Rows(
        columns=columns,
        numbers=numbers,
        sensor=sensor,
        labels=labels,
        units=units,
        lines=table.lines,
        begins=begins,
    )


def _checked_columns(options: PointsOptions, width: int, header: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the names of the columns. Raise SpecError if the spec and the file do not give one for each."""
    columns = options.columns or header
    if not columns:
        raise SpecError(f"{options.path} does not name its {width} columns: name them in columns", key="data.columns")
    if len(columns) != width:
        raise SpecError(
            f"{options.path} has {width} columns, and the spec names {len(columns)}: {', '.join(columns)}",
            key="data.columns",
        )
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise SpecError(
            f"{options.path} has several columns {twice[0]!r}: name them in columns, and leave empty what is not read",
            key="data.columns",
        )
    return columns


def _steady_times(options: PointsOptions, given: bool, count: int) -> Array:
    """Return the time of the frame that holds the state, for all rows."""
    if given:
        raise SpecError(
            f"{options.path} has a column t, and states that do not change have no time: leave data.steady out, or "
            "give the column an empty name in data.columns",
            key="data.steady",
        )
    return np.ones(count)


def _times(options: PointsOptions, shape: tuple[int, ...]) -> Array:
    if options.interval is None or len(shape) < 3:
        raise SpecError(
            "the times are missing: name a column t, or give as interval the time between entries of the first "
            f"axis of an array [times, sensors, columns]; this one is {list(shape)}",
            key="data.columns" if options.interval is None else "data.interval",
        )
    return np.arange(shape[0]) * options.interval


def _numbered(labels: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """Return (the number of each label, the labels in the order in which they first appear)."""
    known = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([known[label] for label in labels]), tuple(known)


def _label(entry: str) -> str:
    """Return the name of a sensor; one that is a whole number is the same however it is written."""
    return entry.removesuffix(".0") if entry.removesuffix(".0").isdecimal() else entry


def _entries(path: Path, labels: Sequence[str]) -> list[str]:
    """Return all entries of a file, as names of sensors; the first one may be a header if it names none of them."""
    if path.suffix.lower() in CSV:
        found = [_label(entry) for row in read_csv(path, header=False).rows for entry in row if entry]
        named = found[0] in labels or found[0].isdecimal()
        return found if named or len(found) == 1 else found[1:]
    reader = open_arrays(path)
    return [_label(str(entry)) for entry in reader.read(next(iter(reader.arrays))).reshape(-1).tolist()]
