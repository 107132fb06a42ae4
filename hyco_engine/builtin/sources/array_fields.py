"""Assignment of arrays to fields, and the meaning of their axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import attrs

from hyco_engine.builtin.sources.options import SPACE, ArraysOptions, Variable
from hyco_engine.data.array_files import ArrayReader
from hyco_engine.data.fields import Boundary, FieldInfo, Grid
from hyco_engine.errors import DataError, SpecError


@attrs.frozen(kw_only=True)
class FieldArray:
    """The array of one field: `shape[i]` is its length along `axes[i]`, without axes of length 1 that a file adds."""

    info: FieldInfo
    name: str
    axes: str
    shape: tuple[int, ...]
    static: bool
    part: Literal["", "real", "imag", "abs"]
    """Which real numbers are made of complex ones; empty: the real parts, if the others are rounding."""

    def size(self, axis: str) -> int:
        """Return its length along one of its axes."""
        return self.shape[self.axes.index(axis)]


def find_fields(options: ArraysOptions, reader: ArrayReader) -> tuple[FieldArray, ...]:
    """Return the fields, dynamic ones first. Raise SpecError or DataError with the key at fault."""
    variables = _variables(options, reader)
    axes = {field: variable.axes or options.axes or reader.axes for field, variable in variables.items()}
    for field, letters in axes.items():
        if not letters:
            name = variables[field].variable
            shape = reader.find(name, f"data.variables.{field}").shape
            example = ("", "x", "tx", "txy", "stxy", "stxyc", "stxyzc")[min(len(shape), 6)]
            raise SpecError(
                f'the meaning of the axes of {name!r} {shape} is missing: give for example axes = "{example}", one '
                f"letter each: s simulation, t time, c component, x, y, z",
                key="data.axes",
            )
    space = "".join(axis for axis in SPACE if any(axis in letters for letters in axes.values()))
    for field, letters in axes.items():
        if lacking := [axis for axis in space if axis not in letters]:
            raise SpecError(
                f"the field {field!r} has the axes {letters!r} and lacks {lacking[0]}, which another field has; all "
                f"fields must share one grid",
                key=f"data.variables.{field}",
            )
    arrays = [_array(field, variable, axes[field], space, options, reader) for field, variable in variables.items()]
    if all(array.static for array in arrays):
        raise SpecError(
            f"no dynamic field has the time axis t (axes = {options.axes!r}); at least one must", key="data.axes"
        )
    return tuple(sorted(arrays, key=lambda array: array.static))


def common_length(arrays: Sequence[FieldArray], axis: str) -> int | None:
    """Return the common length along s or t, for t that of the dynamic fields; None where no field has the axis."""
    lengths = {a.info.name: a.size(axis) for a in arrays if axis in a.axes and not (a.static and axis == "t")}
    _check_equal(lengths, {"s": "simulations", "t": "frames"}[axis])
    for array in arrays:
        if lengths and axis not in array.axes and not array.static:
            raise DataError(
                f"the field {array.info.name!r} has no axis {axis}, which other fields have",
                key=f"data.variables.{array.info.name}",
            )
    return next(iter(lengths.values()), None)


def common_cells(arrays: Sequence[FieldArray], axis: str) -> int:
    """Return the number of samples that centred fields have along a spatial axis."""
    lengths = {a.info.name: a.size(axis) - _extra_faces(a.info, axis) for a in arrays}
    _check_equal(lengths, f"samples along {axis}")
    return next(iter(lengths.values()))


def _check_equal(lengths: Mapping[str, int], what: str) -> None:
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{field} has {length}" for field, length in lengths.items())
        raise DataError(f"the fields have different numbers of {what}: {listed}", key="data.variables")


def _extra_faces(info: FieldInfo, axis: str) -> int:
    """Return how many more samples than cells the array of a staggered field has along an axis."""
    if info.sampling == "centered":
        return 0
    axes, n = info.components, 4
    grid = Grid(axes=axes, resolution=(n,) * len(axes), lower=(0.0,) * len(axes), upper=(1.0,) * len(axes))
    i = axes.index(axis)
    return max(0, info.samples(grid, i)[i] - n)


def _variables(options: ArraysOptions, reader: ArrayReader) -> dict[str, Variable]:
    """Return the fields by name, each with the name of its array filled in."""
    if options.variables:
        given = {
            field: Variable(variable=value) if isinstance(value, str) else value
            for field, value in options.variables.items()
        }
        return {
            field: attrs.evolve(cast("Any", value), variable=value.variable or field) for field, value in given.items()
        }
    places = {options.time, *options.coordinates.values()}
    full = [name for name, stored in reader.arrays.items() if len(stored.shape) == len(reader.axes)]
    if reader.axes and (columns := [name for name in full if name not in places]):
        return {name: Variable(variable=name) for name in columns}
    if len(reader.arrays) == 1:
        return {"u": Variable(variable=next(iter(reader.arrays)))}
    example = next(iter(reader.arrays), "usol")
    raise SpecError(
        f'the names of the arrays of the fields are missing: give for example variables = {{u = "{example}"}} '
        f"({reader.path} has {reader.listing()})",
        key="data.variables",
    )


def _array(
    field: str, variable: Variable, axes: str, space: str, options: ArraysOptions, reader: ArrayReader
) -> FieldArray:
    key = f"data.variables.{field}"
    stored = reader.find(variable.variable, key).shape
    shape = squeeze(stored, len(axes)) if reader.squeezes else stored
    if len(shape) != len(axes):
        raise DataError(
            f"{reader.path}: {variable.variable!r} {stored} has {len(stored)} axes, and axes = {axes!r} names "
            f"{len(axes)}",
            key="data.axes",
        )
    if 0 in shape:
        raise DataError(f"{reader.path}: {variable.variable!r} {stored} is empty", key=key)
    return FieldArray(
        info=_info(
            field,
            variable,
            shape[axes.index("c")] if "c" in axes else 0,
            space,
            options,
            reader.unit(variable.variable),
        ),
        name=variable.variable,
        axes=axes,
        shape=shape,
        static=variable.static or ("t" not in axes and not options.steady),
        part=variable.part,
    )


def squeeze(shape: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """Return the shape with `wanted` axes: drop axes of length 1, from the last, or append such axes."""
    lengths = list(shape)
    for i in reversed(range(len(lengths))):
        if len(lengths) > wanted and lengths[i] == 1:
            del lengths[i]
    return (*lengths, *[1] * (wanted - len(lengths)))


def _info(field: str, variable: Variable, count: int, space: str, options: ArraysOptions, unit: str) -> FieldInfo:
    key = f"data.variables.{field}"
    components = variable.components
    if components and len(components) != count:
        has = f"has {count}" if count else "has no axis c for them"
        raise SpecError(f"the spec names {len(components)} components, and the array {has}", key=f"{key}.components")
    if count and not components:
        components = tuple(space) if space and count == len(space) else tuple(f"c{i}" for i in range(count))
    if variable.sampling == "staggered" and components != tuple(space):
        raise SpecError(
            f"a staggered field must have one component for each axis, in the order {', '.join(space)}, along its "
            f"axis c",
            key=f"{key}.sampling",
        )
    return FieldInfo(
        name=field,
        components=components,
        sampling=variable.sampling,
        boundary=_boundary(field, variable, count, space, options),
        unit=unit if unit and variable.unit == "1" else variable.unit,
    )


def _boundary(field: str, variable: Variable, count: int, space: str, options: ArraysOptions) -> Boundary:
    setting = variable.boundary or options.boundary
    key = f"data.variables.{field}.boundary" if variable.boundary else "data.boundary"
    if not space:
        if setting is not None:
            raise SpecError("the fields have no axes of space, and no boundary: leave it out", key=key)
        return Boundary(sides={})
    if setting is None:
        raise SpecError(
            f"the boundary of the field {field!r} is missing: give a number where its value is fixed, "
            f'"periodic", "zero-gradient", "symmetric", ..., or a table by axis and side',
            key=key,
        )
    boundary = setting.on(tuple(space), key)
    for rule in (rule for sides in boundary.sides.values() for rule in sides):
        if isinstance(rule.value, tuple) and len(rule.value) != max(1, count):
            raise SpecError(
                f"the boundary of {field!r} has {len(rule.value)} numbers, and the field {max(1, count)} component(s)",
                key=key,
            )
    return boundary
