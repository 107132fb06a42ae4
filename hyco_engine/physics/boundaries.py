"""Boundary conditions as PhiFlow extrapolations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from phiml.math import channel, extrapolation, wrap
from phiml.math.extrapolation import ConstantExtrapolation, Extrapolation

from hyco_engine.data.fields import Boundary, Rule
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


def side_of(ext: Extrapolation, side: str) -> Extrapolation:
    """Return the extrapolation on one side, such as `x-` or `y+`."""
    if not isinstance(ext, extrapolation._MixedExtrapolation):
        return ext
    known: Mapping[str, Extrapolation] = ext.ext
    for key in (side, side[:-1]):
        if key in known:
            return known[key]
    raise DataError(f"the boundary {ext} has no entry for the side {side}")
