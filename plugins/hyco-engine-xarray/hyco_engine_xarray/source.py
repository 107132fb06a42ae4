"""The source `xarray`: what CF metadata say of a data set becomes options of the source `arrays`, which reads it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs

from hyco_engine.builtin.sources.arrays import ArraysSource
from hyco_engine.builtin.sources.options import ArraysOptions, Variable
from hyco_engine.data.joined import each_file, file_of, open_files
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import SourceContext, TrajectorySource
from hyco_engine_xarray.joining import FramesReader
from hyco_engine_xarray.reader import XarrayReader

if TYPE_CHECKING:
    from hyco_engine_xarray import XarrayOptions

log = logging.getLogger("hyco_engine")

SPACE = "xyz"

NAMES = {
    "t": ("t", "time", "times"),
    "x": (
        *("x", "lon", "longitude", "projection_x_coordinate", "x_coordinate", "grid_longitude", "rlon"),
        *("xi_rho", "west_east", "xc", "nx", "ni", "i"),
    ),
    "y": (
        *("y", "lat", "latitude", "projection_y_coordinate", "y_coordinate", "grid_latitude", "rlat"),
        *("eta_rho", "south_north", "yc", "ny", "nj", "j"),
    ),
    "z": ("z", "lev", "level", "depth", "height", "altitude", "z_coordinate", "plev", "pressure_level", "s_rho", "nz"),
    "s": (
        *("s", "simulation", "sample", "member", "ensemble", "ensemble_member", "realization", "number"),
        *("trajectory", "batch"),
    ),
    "c": ("c", "component", "channel", "vector"),
}
"""The names and CF standard names of the dimension of each axis, and those that common models use, in lower case."""


SUFFIXES = (".nc", ".nc4", ".cdf")
"""The files of a folder that are joined."""


def build(options: XarrayOptions, context: SourceContext) -> TrajectorySource:
    """Build the source `xarray`. Raise SpecError or DataError where the data set does not say what it must."""
    if options.files == "simulations":
        return open_files(options, lambda own: _source(own, _opened(own)), suffixes=SUFFIXES)
    each = each_file(options, suffixes=SUFFIXES)
    readers = [_opened(own) for own in each]
    if len(readers) == 1:
        return _source(each[0], readers[0])
    letters = _letters(each[0], readers[0])
    dimension = next((name for name, letter in letters.items() if letter == "t"), "")
    if not dimension:
        raise SpecError(
            f"{file_of(each[0])} has no dimension that is known as that of time, along which files are joined; "
            f'data.dimensions names it, such as {{ t = "time" }}',
            key="data.dimensions",
        )
    joined = FramesReader(readers, dimension, gaps=bool(options.resample) and options.dt is None)
    return _source(attrs.evolve(cast("Any", options), path=joined.path), joined)


def _opened(options: XarrayOptions) -> XarrayReader:
    reader = XarrayReader(file_of(options), options.group)
    if not reader.variables and reader.groups:
        raise SpecError(
            f"{options.path} holds no variable in {f'its group {options.group!r}' if options.group else 'its root'}; "
            f"it has the groups {', '.join(reader.groups)}",
            key="data.group",
        )
    return reader


def _source(options: XarrayOptions, reader: XarrayReader) -> ArraysSource:
    letters = _letters(options, reader)
    # such as the one level, or the one member, that was taken out of many
    left = [name for name, n in reader.dimensions.items() if n == 1 and letters.get(name) != "t"]
    if left := [name for name in left if name not in options.dimensions.values()]:
        reader.leave_out(left)
        log.info("%s: the dimensions of length 1 are left out: %s", options.path, ", ".join(left))
    variables = _variables(options, reader, letters)
    used = {letter for variable in variables.values() for letter in variable.axes}
    dimension = {letter: name for name, letter in letters.items() if letter in used}
    positions = {axis: dimension[axis] for axis in SPACE if axis in dimension and dimension[axis] in reader.arrays}
    time = "" if options.dt is not None else reader.times_along(dimension.get("t", ""))
    if options.dt is None and not time:
        raise SpecError(
            f"{options.path} holds no times of its frames; give dt, the time between two of them", key="data.dt"
        )
    log.info(
        "%s: %s",
        options.path,
        "; ".join(f"{axis} is the dimension {name!r}{_unit(reader, name)}" for axis, name in dimension.items()),
    )
    try:
        arrays = ArraysOptions(
            path=options.path,
            variables=variables,
            dt=options.dt,
            time=time,
            bounds=options.bounds,
            coordinates=positions | dict(options.coordinates),
            boundary=options.boundary,
            points=options.points,
            resample=options.resample,
            tolerance=options.tolerance,
            truth=options.truth,
        )
    except ValueError as error:  # the options of `arrays` check what is given here
        raise SpecError(f"{options.path}: {error}", key="data") from None
    return ArraysSource(arrays, reader)


def _unit(reader: XarrayReader, name: str) -> str:
    unit = reader.attribute(name, "units")
    return f" in {unit}" if unit else ""


def _letters(options: XarrayOptions, reader: XarrayReader) -> dict[str, str]:
    """Return the letter of each dimension that has one."""
    found = {}
    for letter, name in options.dimensions.items():
        if name not in reader.dimensions:
            known = list(reader.dimensions)
            raise SpecError(
                f"{options.path} has no dimension {name!r}{did_you_mean(name, known)} (it has {', '.join(known)})",
                key=f"data.dimensions.{letter}",
            )
        found[name] = letter
    for name in reader.dimensions:
        letter = "t" if reader.counts_from_a_date(name) else _letter(reader, name)
        if name not in found and letter and letter not in found.values():
            found[name] = letter
    return found


def _letter(reader: XarrayReader, name: str) -> str:
    """Return the letter of a dimension by the CF attributes of its coordinate, else by its name; "" if unknown."""
    axis = reader.attribute(name, "axis").lower()
    if axis in ("x", "y", "z", "t"):
        return axis
    words = (reader.attribute(name, "standard_name").lower(), name.lower())
    return next((letter for word in words for letter, known in NAMES.items() if word in known), "")


def _variables(options: XarrayOptions, reader: XarrayReader, letters: Mapping[str, str]) -> dict[str, Variable]:
    """Return the fields with the letters of their axes and their units filled in."""
    if not options.variables:
        fields = {name: Variable(variable=name) for name in _fields(options, reader, letters)}
    else:
        fields = {
            field: Variable(variable=given) if isinstance(given, str) else given
            for field, given in options.variables.items()
        }
    return {field: _filled(field, variable, options, reader, letters) for field, variable in fields.items()}


def _fields(options: XarrayOptions, reader: XarrayReader, letters: Mapping[str, str]) -> list[str]:
    """Return the variables that vary in time and along as many axes as any, but for those that describe others."""
    own = {name: [letters.get(d, "") for d in reader.dimensions_of(name)] for name in reader.variables}
    described = set(reader.named_by("bounds")) | set(reader.named_by("ancillary_variables"))
    moving = [name for name, axes in own.items() if "t" in axes and name not in described and not reader.is_flag(name)]
    known = {name: len(set(own[name]) & set(SPACE)) for name in moving if "" not in own[name]}
    most = max(known.values(), default=-1)
    # a series beside fields whose dimensions are not known is not what the file is about
    if most < 0 or (most == 0 and len(known) < len(moving)):
        listed = ", ".join(f"{name} ({', '.join(reader.dimensions_of(name))})" for name in reader.variables)
        raise DataError(
            f"{options.path}: no variable has a dimension of time and only such dimensions as are known (it has "
            f'{listed or "no variable"}); data.dimensions names them, such as {{ t = "time", x = "lon" }}',
            key="data.dimensions",
        )
    return [name for name, count in known.items() if count == most]


def _filled(
    field: str, variable: Variable, options: XarrayOptions, reader: XarrayReader, letters: Mapping[str, str]
) -> Variable:
    name = variable.variable or field
    reader.find(name, f"data.variables.{field}")
    own = reader.dimensions_of(name)
    if strange := [dimension for dimension in own if dimension not in letters]:
        raise SpecError(
            f"{options.path}: {name!r} has the dimension {strange[0]!r}, of which nothing says what it is; "
            f"data.dimensions names the dimension of each axis: s simulation, t time, c component, x, y, z",
            key="data.dimensions",
        )
    unit = reader.attribute(name, "units") if variable.unit == "1" else variable.unit
    axes = variable.axes or "".join(letters[dimension] for dimension in own)
    return cast("Variable", attrs.evolve(cast("Any", variable), variable=name, axes=axes, unit=unit or "1"))
