"""Three-point differences of PhiFlow tensors on uniform grids: second order, as most published data were made with.

`boundary` is PhiFlow's extrapolation; it holds in the first ghost cell.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from phi.field import Field
from phiml import math
from phiml.math.extrapolation import Extrapolation

from hyco_engine.physics.explicit import spacing


def neighbours(values: Any, boundary: Extrapolation, axis: str) -> tuple[Any, Any]:
    """Return the values one cell below and one cell above along an axis."""
    padded = math.pad(values, {axis: (1, 1)}, boundary)
    size = values.shape.get_size(axis)
    return padded[{axis: slice(0, size)}], padded[{axis: slice(2, size + 2)}]


def laplacian(field: Field, values: Any) -> Any:
    """Return the Laplacian of `values` on the grid and with the boundary of `field`."""
    parts = []
    for axis, dx in spacing(field).items():
        below, above = neighbours(values, field.boundary, axis)
        parts.append((below + above - 2 * values) * (1 / dx**2))
    return reduce(add, parts)


def diffusion(field: Field, values: Any, coefficient: Any) -> Any:
    """Return `div(a grad u)`, conservative, for a number or Field `a`; on a face, `a` is the mean of its neighbours."""
    if not isinstance(coefficient, Field):
        return coefficient * laplacian(field, values)
    a = coefficient.values
    parts = []
    for axis, dx in spacing(field).items():
        below, above = neighbours(values, field.boundary, axis)
        a_below, a_above = neighbours(a, coefficient.boundary, axis)
        flux = (a + a_above) * (above - values) - (a + a_below) * (values - below)
        parts.append(flux * (0.5 / dx**2))
    return reduce(add, parts)
