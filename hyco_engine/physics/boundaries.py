"""Boundary conditions as PhiFlow extrapolations and back, and the layout of given Fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from phi.field import Field
from phiml.math import channel, extrapolation, wrap
from phiml.math.extrapolation import ConstantExtrapolation, Extrapolation

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, Rule, StateLayout
from hyco_engine.errors import DataError

_NAMED: dict[str, Extrapolation] = {
    "periodic": extrapolation.PERIODIC,
    "zero-gradient": extrapolation.ZERO_GRADIENT,
    "symmetric": extrapolation.SYMMETRIC,
    "antisymmetric": extrapolation.ANTISYMMETRIC,
    "reflect": extrapolation.REFLECT,
    "antireflect": extrapolation.ANTIREFLECT,
}


def boundary_to_extrapolation(
    boundary: Boundary, axes: Sequence[str], components: Sequence[str] = (), *, name: str = "field"
) -> Extrapolation:
    """Return the extrapolation of a field with these components. Raises DataError if PhiFlow has no counterpart."""
    sides: dict[str, Any] = {}
    for axis in axes:
        lower, upper = (_to_extrapolation(rule, axes, components, name) for rule in boundary.sides[axis])
        sides[axis] = lower if lower == upper else (lower, upper)
    return extrapolation.combine_sides(sides)


def _to_extrapolation(rule: Rule, axes: Sequence[str], components: Sequence[str], name: str) -> Extrapolation:
    if rule.kind == "formula":
        raise DataError(
            f"PhiFlow and its Scenes need numbers at the sides, and the boundary of {name!r} is the formula "
            f"{rule.text!r}: give its value instead, such as data.boundary = 1.0",
            key="data.boundary",
        )
    if rule.kind == "constant":
        if not isinstance(rule.value, tuple):
            return ConstantExtrapolation(float(rule.value))
        if len(rule.value) != len(components):
            raise DataError(
                f"the boundary of {name!r} gives {len(rule.value)} values for {len(components) or 1} component(s)",
                key="data.boundary",
            )
        return ConstantExtrapolation(wrap(np.asarray(rule.value, np.float64), channel(vector=",".join(components))))
    if rule.normal is not None and rule.tangential is not None:
        if tuple(components) != tuple(axes):
            raise DataError(
                f"a normal/tangential boundary needs one component per axis ({', '.join(axes)}), but {name!r} has "
                f"{', '.join(components) or 'none'}",
                key="data.boundary",
            )
        for part in (rule.normal, rule.tangential):
            if part.kind in ("periodic", "normal-tangential") or isinstance(part.value, tuple):
                raise DataError(
                    f"the boundary of {name!r}: {part.to_data()!r} cannot hold for the normal or tangential part alone",
                    key="data.boundary",
                )
        return extrapolation.combine_by_direction(
            _to_extrapolation(rule.normal, axes, components, name),
            _to_extrapolation(rule.tangential, axes, components, name),
        )
    return _NAMED[rule.kind]


def boundary_from_extrapolation(ext: Extrapolation, axes: Sequence[str]) -> Boundary:
    """Invert `boundary_to_extrapolation`. Raises DataError that names an extrapolation without counterpart."""
    sides = {}
    for axis in axes:
        rules = [_from_extrapolation(side_of(ext, axis + sign)) for sign in "-+"]
        sides[axis] = (rules[0], rules[1])
    return Boundary(sides=sides)


def side_of(ext: Extrapolation, side: str) -> Extrapolation:
    """Return the extrapolation on one side, such as `x-` or `y+`."""
    if not isinstance(ext, extrapolation._MixedExtrapolation):
        return ext
    known: Mapping[str, Extrapolation] = ext.ext
    for key in (side, side[:-1]):
        if key in known:
            return known[key]
    raise DataError(f"the boundary {ext} has no entry for the side {side}")


def _from_extrapolation(ext: Extrapolation) -> Rule:
    for kind, known in _NAMED.items():
        if ext == known:
            return Rule(kind=kind)  # type: ignore[arg-type]
    if isinstance(ext, ConstantExtrapolation):
        value = ext.value
        if not value.shape:
            return Rule(kind="constant", value=float(value))
        if value.shape.names == ("vector",):
            return Rule(kind="constant", value=tuple(float(x) for x in value.numpy("vector")))
        raise DataError(
            f"a boundary value that varies over {value.shape} is not supported; use one number per component"
        )
    if isinstance(ext, extrapolation._NormalTangentialExtrapolation):
        return Rule(
            kind="normal-tangential",
            normal=_from_extrapolation(ext.normal),
            tangential=_from_extrapolation(ext.tangential),
        )
    supported = ", ".join(["a constant", *_NAMED, "normal/tangential", "and one of these per side"])
    raise DataError(f"the boundary {ext!r} ({type(ext).__name__}) is not supported: use {supported}")


def layout_from_fields(
    fields: Mapping[str, Field], dynamic: Sequence[str] | None = None, static: Sequence[str] = ()
) -> StateLayout:
    """Return the layout of Fields on one uniform grid; without `dynamic`, all but the static ones are dynamic.

    Raises DataError if a name is unknown, or if a Field lies on another grid or has an unsupported boundary.
    """
    named = [name for name in fields if name not in static] if dynamic is None else list(dynamic)
    infos: dict[str, FieldInfo] = {}
    grid: Grid | None = None
    for name in (*named, *static):
        if name not in fields:
            raise DataError(f"there is no field {name!r}; the given fields are {', '.join(fields)}")
        own, infos[name] = field_info(name, fields[name])
        if grid is not None and own != grid:
            raise DataError(f"the field {name!r} lies on another grid than the fields before it: {own} is not {grid}")
        grid = own
    if grid is None:
        raise DataError("a layout needs at least one field")
    return StateLayout(
        grid=grid, dynamic=tuple(infos[name] for name in named), static=tuple(infos[name] for name in static)
    )


def field_info(name: str, field: Field) -> tuple[Grid, FieldInfo]:
    """Return the grid and the description of one Field. Raises DataError unless it lies on a uniform grid."""
    if not field.is_grid:
        raise DataError(f"the field {name!r} does not lie on a uniform grid but on {type(field.geometry).__name__}")
    axes = tuple(field.resolution.names)
    lower, upper = field.bounds.lower, field.bounds.upper
    grid = Grid(
        axes=axes,
        resolution=tuple(int(n) for n in field.resolution.sizes),
        lower=tuple(float(lower.vector[axis]) for axis in axes),
        upper=tuple(float(upper.vector[axis]) for axis in axes),
    )
    if field.is_staggered:
        components = axes
    elif "vector" in field.values.shape:
        labels = field.values.shape.get_item_names("vector")
        components = tuple(labels) if labels else tuple(map(str, range(field.values.shape.get_size("vector"))))
    else:
        components = ()
    boundary = boundary_from_extrapolation(field.boundary, axes)
    return grid, FieldInfo(
        name=name,
        components=components,
        sampling="staggered" if field.is_staggered else "centered",
        boundary=boundary,
    )
