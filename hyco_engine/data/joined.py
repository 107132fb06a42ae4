"""Several files as one data set: a list, a glob or a folder in `data.path`."""

from __future__ import annotations

import glob
import hashlib
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import attrs
from torch import Tensor

from hyco_engine.data.contracts import Points, Trajectory, TrajectorySource
from hyco_engine.data.csv_table import SUFFIXES as TEXT
from hyco_engine.data.fields import Boundary, StateLayout
from hyco_engine.errors import DataError, Problem, SpecError

log = logging.getLogger("hyco_engine")

KEY = "data.path"
MOST_TOLD = 5
"""The number of files that cannot be used of which an error tells why."""
FILE = "file"
"""The label that names the file of a simulation."""


class WithPath(Protocol):
    """The options of a source that reads files."""

    @property
    def path(self) -> Path | tuple[Path, ...] | None: ...


O = TypeVar("O", bound=WithPath)


def open_files(
    options: O, make: Callable[[O], TrajectorySource], *, suffixes: Sequence[str] = (), parts: Sequence[str] = ()
) -> TrajectorySource:
    """Return `make(options)` for the file or folder in `options.path`, or the joined sources of several.

    A folder with files of one of `suffixes` is joined of these; files of `parts` are read by the source where they are
    named, but a folder with one of them is read as a whole. Raises DataError and SpecError.
    """
    each = each_file(options, suffixes=suffixes, parts=parts)
    if len(each) == 1:
        return make(each[0])
    sources: list[TrajectorySource] = []
    problems: list[Problem] = []
    for own in each:
        try:
            source = make(own)
        except DataError as error:
            # what is wrong with other keys is wrong for all files
            if any(problem.key != KEY for problem in error.problems):
                raise
            problems += error.problems
            continue
        source.release()
        sources.append(source)
    if problems:
        listed = isinstance(options.path, tuple)  # then the spec names them itself
        advice = f"{len(each) - len(sources)} of {len(each)} files cannot be used; a list in data.path leaves them out"
        raise DataError([*problems[:MOST_TOLD], *([] if listed else [Problem(message=advice, key=KEY)])])
    return JoinedSource(sources, names_of([file_of(own) for own in each]))


def each_file(options: O, *, suffixes: Sequence[str] = (), parts: Sequence[str] = ()) -> list[O]:
    """Return the options for each file or folder in `options.path`. Raises DataError and SpecError."""
    paths = expanded(options.path, suffixes, parts)
    return [cast("O", attrs.evolve(cast("Any", options), path=path)) for path in paths]


def file_of(options: WithPath) -> Path:
    """Return the file or folder of the options that `open_files` gives to a source."""
    assert isinstance(options.path, Path)
    return options.path


def expanded(path: Path | tuple[Path, ...] | None, suffixes: Sequence[str], parts: Sequence[str]) -> list[Path]:
    """Return the files and folders that `data.path` names, in the order of the list, and of the numbers in names."""
    if path is None or path == ():
        raise SpecError("required but missing (the file or folder with the data, a list of them, or a glob)", key=KEY)
    found: dict[Path, None] = {}
    for entry in path if isinstance(path, tuple) else (path,):
        for single in _expanded(entry.absolute(), suffixes, parts):
            if single in found:
                raise SpecError(f"path names {single} twice", key=KEY)
            found[single] = None
    return list(found)


def _expanded(path: Path, suffixes: Sequence[str], parts: Sequence[str]) -> list[Path]:
    if path.is_dir():
        inside = [p for p in path.iterdir() if not p.name.startswith(".")]
        return [path] if _readable(inside, parts) else _apart(_readable(inside, suffixes)) or [path]
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    matching = [Path(name) for name in glob.glob(str(path), recursive=True)]
    readable = (*suffixes, *parts)
    found = sorted([*_apart(_readable(matching, readable)), *(p for p in matching if p.is_dir())], key=in_order)
    if not found:
        other = f"; {matching[0].name} is no {' or '.join(readable)} file" if matching else ""
        raise DataError(f"no file or folder with data matches {path}{other}", key=KEY)
    if left := sorted(set(matching) - set(found)):
        log.info("%s: %d file(s) such as %s hold no data and are not read", path, len(left), left[0].name)
    return found


def _readable(paths: Iterable[Path], suffixes: Sequence[str]) -> list[Path]:
    return sorted((p for p in paths if p.suffix.lower() in suffixes and p.is_file()), key=in_order)


def _apart(paths: list[Path]) -> list[Path]:
    """Leave out text tables beside other files, of which they tell something."""
    return [path for path in paths if path.suffix.lower() not in TEXT] or paths


def in_order(path: Path) -> list[tuple[str, float]]:
    """Return a key that sorts run_2 before run_10, and nu_0.01 before nu_0.1."""
    parts = re.findall(r"(\D*)(\d+(?:\.\d+)?|)", str(path), re.ASCII)
    return [(text, float(number or -1)) for text, number in parts]


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return the names of the files from the folder on that has them all."""
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).as_posix() for path in paths]


class JoinedSource(TrajectorySource):
    """The simulations of several sources with the same fields, grid and time between frames, in order.

    The label `file` of a simulation is the name of its source. One source at a time holds what it read.
    """

    def __init__(self, sources: Sequence[TrajectorySource], names: Sequence[str]) -> None:
        """Raises DataError that names two sources that do not fit together."""
        first = sources[0]
        for source, name in zip(sources, names, strict=True):
            if difference := _difference(source, first):
                raise DataError(f"{name} does not fit to {names[0]}: {difference}", key=KEY)
        self.layout, self.dt = first.layout, first.dt
        self._sources = tuple(sources)
        self._names = tuple(names)
        self._places = [(k, own) for k, source in enumerate(sources) for own in range(source.num_simulations)]
        self.num_simulations = len(self._places)
        self.guesses_scalars = any(source.guesses_scalars for source in sources)
        self.marks_missing = any(source.marks_missing for source in sources)
        self.guesses_start = first.guesses_start
        known = [set(source.scalars(0)) for source in sources]
        self._scalars = set.intersection(*known)
        if (lost := sorted(set.union(*known) - self._scalars)) and not self.guesses_scalars:
            lacks = next(name for name, own in zip(names, known, strict=True) if lost[0] not in own)
            log.warning("%s is not known of all simulations, and left out: %s does not give it", lost[0], lacks)
        self._reading = first

    def start(self, index: int) -> float:
        source, own = self._place(index)
        return source.start(own)

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self._sources[0].truth

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for source in self._sources:
            digest.update(f"{source.num_simulations} {source.fingerprint()}\n".encode())
        return digest.hexdigest()

    def load(self, index: int) -> Trajectory:
        source, own = self._place(index)
        if source is not self._reading:
            self.release()
            self._reading = source
        return source.load(own)

    def release(self) -> None:
        self._reading.release()

    def points(self, index: int) -> Points | None:
        source, own = self._place(index)
        return source.points(own)

    def frames(self, index: int) -> int | None:
        source, own = self._place(index)
        return source.frames(own)

    def read_whole(self, index: int) -> int:
        source, own = self._place(index)
        return source.read_whole(own)

    def together(self, index: int) -> range:
        source, own = self._place(index)
        found, first = source.together(own), index - own
        return range(first + found.start, first + found.stop)

    def scalars(self, index: int) -> Mapping[str, float]:
        source, own = self._place(index)
        return {name: value for name, value in source.scalars(own).items() if name in self._scalars}

    def labels(self, index: int) -> Mapping[str, str]:
        source, own = self._place(index)
        return {FILE: self._names[self._places[index][0]], **source.labels(own)}

    def glimpse(self) -> Trajectory | None:
        return self._sources[0].glimpse()

    def origin(self, field: str, index: int) -> str:
        source, own = self._place(index)
        return source.origin(field, own)

    def _place(self, index: int) -> tuple[TrajectorySource, int]:
        """Return the source of a simulation, and the simulation's number in it."""
        k, own = self._places[index]
        return self._sources[k], own


def _difference(source: TrajectorySource, first: TrajectorySource) -> str:
    """Say in what a source differs from the first one, so that they cannot be one data set; empty if in nothing."""
    mine, other = source.layout, first.layout
    if _fields(mine) != _fields(other):
        return f"it has the fields {_fields(mine)}, not {_fields(other)}"
    if (mine.grid.axes, mine.grid.resolution) != (other.grid.axes, other.grid.resolution):
        cells = ["x".join(map(str, layout.grid.resolution)) for layout in (mine, other)]
        return f"it has {cells[0]} cells, not {cells[1]}"
    for place, axis in enumerate(mine.grid.axes):
        own, wanted = ((grid.lower[place], grid.upper[place]) for grid in (mine.grid, other.grid))
        slack = 1e-5 * other.grid.spacing[place]
        if any(abs(a - b) > slack for a, b in zip(own, wanted, strict=True)):
            return f"its {axis} reaches from {own[0]:g} to {own[1]:g}, not from {wanted[0]:g} to {wanted[1]:g}"
    for field, wanted_field in zip(mine.fields, other.fields, strict=True):
        if field.boundary != wanted_field.boundary:
            return unlike_boundaries(field.name, field.boundary, wanted_field.boundary)
    if not math.isclose(source.dt, first.dt, rel_tol=1e-5):
        return f"its frames are {source.dt:g} apart, not {first.dt:g}"
    return ""


def unlike_boundaries(field: str, own: Boundary, wanted: Boundary) -> str:
    """Say at which sides the boundary of a field differs from that of other simulations, and what to do about it."""
    unlike = {
        f"{axis}.{side}": rules
        for axis in wanted.sides
        for side, *rules in zip(("lower", "upper"), own.sides[axis], wanted.sides[axis], strict=True)
        if rules[0] != rules[1]
    }
    told = ", ".join(f"{mine.to_data()!r}, not {other.to_data()!r} at {side}" for side, (mine, other) in unlike.items())
    if any(rule.kind != "constant" for rules in unlike.values() for rule in rules):
        advice = "All simulations of a data set share the rules at their sides: give those of each rule their own spec"
    else:
        advice = (
            f"Values that differ between simulations are a parameter of an equation: set data.boundary."
            f'{next(iter(unlike))} = "wall", and physical.parameters.wall = {{ from = "..." }} with the number of the '
            f"data, or the column of data.table, that holds them"
        )
    return f"the boundary of {field!r} is {told}. {advice}"


def _fields(layout: StateLayout) -> str:
    groups = ((layout.dynamic, ""), (layout.static, ", static"))
    return ", ".join(
        f"{field.name} ({field.channels} {field.sampling}{more})" for group, more in groups for field in group
    )
