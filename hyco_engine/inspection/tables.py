"""The guess of a `[data]` section from a table of observations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
import torch

from hyco_engine.data.array_files import open_arrays
from hyco_engine.data.csv_form import CsvForm
from hyco_engine.data.csv_table import CsvTable
from hyco_engine.data.npy import Array
from hyco_engine.data.numbered import STAR, members, patterns
from hyco_engine.data.parquet_table import ParquetTable
from hyco_engine.data.points import SENSOR_NAMES, TIME_NAMES, begins_far, moment, on_one_clock, places_of
from hyco_engine.data.table_grid import by_simulation
from hyco_engine.errors import DataError
from hyco_engine.inspection.contents import Stored
from hyco_engine.inspection.guessing import Vector, fields_section, is_time, split_line

SPACE = "xyz"
_WORDS = {
    "t": ("t", *TIME_NAMES),
    "x": ("x", "position", "distance", "lon", "longitude"),
    "y": ("y", "lat", "latitude"),
    "z": ("z",),
    "sensor": ("sensor", "sensor_id", "station", "site", "probe"),
}
"""Words that name the columns of a table, in small letters."""
_UNITS = (
    "s",
    "sec",
    "min",
    "h",
    "hr",
    "hrs",
    "hours",
    "d",
    "day",
    "days",
    "yr",
    "nm",
    "um",
    "mm",
    "cm",
    "m",
    "km",
    "deg",
)
_REPEATS = ("rep", "replicate", "repeat", "run", "trial", "sim", "sample")
"""Words before the number of columns that repeat one measurement."""
_PLACES = 5
"""The fewest places along each axis that are read as a grid."""
_MOST_APART = 3
"""The most columns that tell simulations apart."""
_LEAST_ROWS = 3
"""The fewest rows of simulations with times of their own, on average."""
_FINE = 100
"""The fewest frames of series without places, between which readings are linear."""
_FINEST = 250
_PARTS = (1, 2, 5, 10, 20, 50, 100)
"""Into how many frames the shortest time between two rows is divided."""
_FEW_SIMULATIONS = 2
"""So many simulations are divided in time."""
_STEPS = 20
_TRAINING = 15
"""The frames that train if the split is in time."""


@attrs.frozen(kw_only=True)
class Columns:
    """The columns of a table by the names that the source `points` gives them; those of text are left out."""

    path: Path
    header: tuple[str, ...]
    """The names of all columns in the file, in order."""
    numbers: Mapping[str, Array]
    begins: np.datetime64 | None = None
    """The date-time from which the times count; None if they are numbers."""

    @classmethod
    def of_table(cls, table: CsvTable | ParquetTable) -> Columns:
        """Return the columns of a table. Raises DataError for what cannot be read."""
        numbers: dict[str, Array] = {}
        begins = None
        for k, name in enumerate(table.names):
            own = _own_name(name, table.names)
            if own == "t" and table.are_moments(k):
                numbers[own], first = table.seconds(k)
                begins = moment(first)
            elif not (table.is_text(k) or table.are_moments(k)):
                numbers[own] = table.numbers(k)
        return cls(path=table.path, header=table.names, numbers=numbers, begins=begins)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Stored], path: Path) -> Columns | None:
        """Return the columns that a file holds as arrays of one length, None if they are no observations."""
        lengths = {tuple(n for n in stored.shape if n > 1) for stored in arrays.values()}
        if len(lengths) != 1 or len(next(iter(lengths))) != 1:
            return None
        numbers = {
            name: values.reshape(-1).astype(np.float64)
            for name, stored in arrays.items()
            if stored.dtype.kind in "fiu" and (values := stored.read()) is not None
        }
        found = cls(path=path, header=tuple(arrays), numbers=numbers)
        return found if found.are_observations and len(numbers) == len(arrays) else None

    @classmethod
    def of_sensors(cls, every: Sequence[Columns]) -> Columns | None:
        """Return the columns of files that hold one sensor each of the same simulation, None if they do not."""
        if any("s" in own.numbers or _has_several_sensors(own) for own in every):
            return None
        begins = [own.begins for own in every if own.begins is not None]
        if len(begins) not in (0, len(every)) or len({tuple(sorted(own.numbers)) for own in every}) > 1:
            return None
        since = on_one_clock(begins) or [0.0] * len(every)
        numbers = {name: np.concatenate([own.numbers[name] for own in every]) for name in every[0].numbers}
        numbers["t"] = np.concatenate([own.numbers["t"] + shift for own, shift in zip(every, since, strict=True)])
        found = cls(path=every[0].path, header=every[0].header, numbers=numbers, begins=min(begins, default=None))
        return found if _has_several_sensors(found) else None

    @property
    def start(self) -> float:
        """The time of the first frame: 0, or the first observation where times count from something else."""
        first, last = self.span("t")
        return first if self.begins is not None or begins_far(first, last - first, None) or first < 0 else 0.0

    def span(self, name: str) -> tuple[float, float]:
        """Return the least and the largest number of a column; 0 and 1 if it holds none."""
        values = self.numbers[name][np.isfinite(self.numbers[name])]
        return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)

    @property
    def axes(self) -> list[str]:
        return [axis for axis in SPACE if axis in self.numbers]

    @property
    def fields(self) -> list[str]:
        return [name for name in self.numbers if name and name not in ("t", "s", *SPACE, *SENSOR_NAMES)]

    @property
    def are_observations(self) -> bool:
        """Whether there is a time, a place and a value."""
        return bool("t" in self.numbers and self.axes and self.fields and len(self.numbers["t"]))


def _own_name(name: str, header: Sequence[str]) -> str:
    """Return the name of a column that the source `points` takes: that of a time, a place or a sensor."""
    for own, words in _WORDS.items():
        given = next((other for other in header if _stem(other) in words), None)
        if name == given and own not in header:
            return own
    return name


def _stem(name: str) -> str:
    """Return a name in small letters, without the unit that may follow it."""
    stem, _, unit = name.lower().rpartition("_")
    return stem if unit in _UNITS else name.lower()


def grid_section(table: CsvTable) -> str | None:
    """Return the section for the source `arrays` if each row is a point of an even grid of times and places."""
    columns = [_own_name(name, table.names) for name in table.names]
    along = {
        name: own for own in ("t", *SPACE) for name, given in zip(table.names, columns, strict=True) if own == given
    }
    if (
        "t" not in along.values()
        or len(along) < 2
        or set(columns) & set(SENSOR_NAMES)
        or any(map(table.is_text, map(table.names.index, along)))
    ):
        return None
    lines = {name: set(table.text(table.names.index(name))) for name in along}
    count, rest = divmod(table.count, math.prod(map(len, lines.values())))
    if rest or not count:
        return None
    told = _apart(table, [name for name in table.names if name not in along], count)
    if told is None:
        return None
    form = attrs.evolve(cast("Any", table.form), simulation=told or CsvForm().simulation)
    try:
        reader = open_arrays(table.path, form, along)
    except DataError:
        return None
    vectors = {letter: Vector(name=name, values=reader.read(name)) for name, letter in along.items()}
    fields = [
        name for name, stored in reader.arrays.items() if len(stored.shape) == len(reader.axes) and name not in along
    ]
    sizes = {letter: len(vector.values) for letter, vector in vectors.items()}
    even = all(own.even for own in vectors.values())
    # a few places are those of sensors
    if not fields or not even or sizes["t"] < 3 or min(n for letter, n in sizes.items() if letter != "t") < _PLACES:
        return None
    read, axes = {name: reader.read(name) for name in fields}, reader.axes
    star = next((name for name, own in patterns(fields).items() if len(own) == len(fields)), "")
    if star and star.lower().partition(STAR)[0].strip("_ ") in _REPEATS and "s" not in axes:
        read, axes = {star: np.stack([read[name] for name in members(star, fields).values()])}, f"s{axes}"
    shape = next(iter(read.values())).shape
    time = vectors.pop("t")
    section = fields_section(table.path, read, list(read), shape, axes, True, time, vectors, {})
    more = (
        [f"csv.simulation = {json.dumps(list(told))}   # <- together, their entries tell simulations apart"]
        if told
        else []
    )
    return with_lines(section, more)


def _apart(table: CsvTable, names: Sequence[str], count: int) -> tuple[str, ...] | None:
    """Return the fewest columns whose entries together tell `count` simulations apart, None if there are none."""
    if count == 1:
        return ()
    entries = {name: table.text(table.names.index(name)) for name in names if name}
    few = [name for name, own in entries.items() if 1 < len(set(own)) <= count]
    for size in range(1, _MOST_APART + 1):
        for own in combinations(few, size):
            if len(set(zip(*(entries[name] for name in own), strict=True))) == count:
                return own
    return None


def with_lines(section: str, more: Sequence[str]) -> str:
    """Return a section with lines more below its path."""
    lines = section.splitlines()
    return "\n".join([*lines[:3], *more, *lines[3:]])


def table_section(columns: Columns) -> str:
    """Return the section for the source `points`."""
    return _section(_text(str(columns.path)), [columns])


def tables_section(every: Sequence[Columns], path: str) -> str:
    """Return the section for several files, which `path`, TOML, names: simulations, or sensors of one."""
    if (together := Columns.of_sensors(every)) is not None:
        return _section(path, [together], 'files = "sensors"   # <- each file holds one place; else "simulations"')
    return _section(path, every)


def _section(path: str, every: Sequence[Columns], *more: str) -> str:
    """Return the section for simulations in files with the columns of `every`."""
    from hyco_engine.spec.places import key_text

    columns = every[0]
    # rounded up, so that these steps reach the last observation
    longest = max(own.span("t")[1] - own.start for own in every)
    dt = float(f"{1.005 * longest / _STEPS:.3g}") or 1.0
    ends = {axis: [own.span(axis) for own in every if axis in own.numbers] for axis in columns.axes}
    sides = {axis: (min(low for low, _ in own), max(high for _, high in own)) for axis, own in ends.items()}
    bounds = ", ".join(f"{a} = {[low, high if low < high else low + 1.0]!r}" for a, (low, high) in sides.items())
    # the first frame of a vector may be one number for all components
    whole = dict.fromkeys(key_text([name.rpartition(".")[0] or name]) for name in columns.fields)
    names = [_own_name(name, columns.header) for name in columns.header]
    by = "sensor" if _has_several_sensors(columns) else "simulation" if len(every) >= 3 else "time"
    steps = _TRAINING - 1 if by == "time" else _STEPS
    lines = ["[data]", 'kind = "points"', f"path = {path}", *more]
    if any(name not in columns.numbers for name in names):
        listed = ", ".join(_text(name if name in columns.numbers or name in SENSOR_NAMES else "") for name in names)
        lines.append(f"columns = [{listed}]   # an empty name leaves a column out")
    time = f', train = "0:{_TRAINING}", val = "{_TRAINING}:{_STEPS + 1}"' if by == "time" else ""
    lines.append(f'split = {{ by = "{by}"{time} }}')
    first = min(own.span("t")[0] for own in every)
    if first < 0:
        lines.append(f"start = {first!r}   # <- the time of the first frame; this is the first observation")
    lines += [
        f"dt = {dt!r}   # <- the time between two frames of the models' rollouts",
        f"num_predict_steps = {steps}   # <- the steps of a rollout, chosen so that it reaches the last observation",
        f"resolution = {{ {', '.join(f'{a} = 64' for a in columns.axes)} }}   # <- the grid of the models",
        f"bounds = {{ {bounds} }}   # <- the ends of the domain; these are the outermost sensors",
        'boundary = "periodic"   # <-',
        f"initial = {{ {', '.join(f'{name} = 0.0' for name in whole)} }}   # <- the first frame: a number, or a file",
    ]
    return "\n".join(lines)


def series_table_section(table: CsvTable | ParquetTable) -> str | None:
    """Return the section for the source `points` if simulations without places have times of their own, else None.

    So it is also where no row is complete, as in tables of doses, which have one value beside many missing ones.
    """
    from hyco_engine.spec.places import key_text

    timed = next((k for k, name in enumerate(table.names) if is_time(name)), None)
    if timed is None or not (table.are_moments(timed) or not table.is_text(timed)):
        return None
    times = table.seconds(timed)[0] if table.are_moments(timed) else table.numbers(timed)
    own = {k: by_simulation([(entry,) for entry in table.text(k)]) for k in range(table.width) if table.names[k]}
    if "s" in table.names:
        own = {k: number for k, number in own.items() if table.names[k] == "s"}
    apart = [k for k, number in own.items() if k != timed and number.max() and _tell_apart(number, times)]
    if not apart or not np.isfinite(times).all():
        return None
    simulation = max(apart, key=lambda k: int(own[k].max()))  # the first of the finest
    rows = [np.flatnonzero(own[simulation] == k) for k in range(int(own[simulation].max()) + 1)]
    since = [times[k] - times[k[0]] for k in rows]
    steps = np.concatenate([np.diff(one) for one in since])
    if not (steps > 0).any():
        return None
    gap, longest = float(steps[steps > 0].min()), float(max(one[-1] for one in since))
    names = [
        "" if table.is_text(k) or name in ("s", "t", *SENSOR_NAMES) else name for k, name in enumerate(table.names)
    ]
    names[simulation], names[timed] = "s", "t"
    numbers = {name: table.numbers(k) for k, name in enumerate(names) if name not in ("", "s", "t")}
    fields = {
        name: values
        for name, values in numbers.items()
        if any(len(np.unique(one[~np.isnan(one)])) != 1 for one in (values[k] for k in rows))
    }
    common = len(set(map(len, since))) == 1 and np.allclose(np.array(since), since[0], rtol=0.0, atol=1e-3 * gap)
    if not fields or (common and np.isfinite(list(numbers.values())).all(0).any()):
        return None
    known = [name for name in numbers if name not in fields]
    told = "s: simulation, t: time, an empty name: left out" + (f"; known numbers: {', '.join(known)}" if known else "")
    parts = next((k for k in _PARTS if longest * k >= _FINE * gap), 1)
    dt = float(f"{max(gap / parts, longest / _FINEST):.4g}")
    steps_to_last = math.ceil(longest / dt - 1e-3)
    lines = [
        "[data]",
        'kind = "points"',
        f"path = {_text(str(table.path))}",
        f"columns = [{', '.join(map(_text, names))}]   # {told}",
        f"dt = {dt!r}   # <- the time between two frames of the models; readings between them are linear",
    ]
    if lacking := [name for name, values in fields.items() if any(np.isnan(values[k[0]]) for k in rows)]:
        listed = ", ".join(f"{key_text([name])} = 0.0" for name in lacking)
        lines.append(
            f"initial = {{ {listed} }}   # <- not in first rows: a number, or by a formula in physical.initial"
        )
    if len(rows) > _FEW_SIMULATIONS:
        return "\n".join([*lines, f"num_predict_steps = {steps_to_last}", split_line(steps_to_last + 1, len(rows))])
    train = 1 + round(_TRAINING / _STEPS * steps_to_last)
    lines.append(f"num_predict_steps = {train - 1}   # <- as many steps as training frames")
    lines.append(f'split = {{ by = "time", train = "0:{train}", val = "{train}:{steps_to_last + 1}" }}')
    return "\n".join(lines)


def _tell_apart(simulation: Array, times: Array) -> bool:
    """Return whether times do not decrease within any simulation, each of which has several rows."""
    if len(times) < _LEAST_ROWS * (int(simulation.max()) + 1):
        return False
    order = np.argsort(simulation, kind="stable")
    falls = (np.diff(times[order]) < 0) & (np.diff(simulation[order]) == 0)
    return not falls.any()


def _has_several_sensors(columns: Columns) -> bool:
    position = np.stack([columns.numbers[axis] for axis in columns.axes], axis=1)
    position = position[np.isfinite(position).all(axis=1)]
    named = any(_own_name(name, columns.header) in SENSOR_NAMES for name in columns.header)
    return named or not len(position) or int(places_of(torch.from_numpy(position)).max()) > 0


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
