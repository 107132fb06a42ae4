"""Central differences of PhiFlow tensors on uniform grids: fourth order, and conservative for diffusion.

All functions work on values that `continued` has extended beyond the boundary by two cells along the axis in question.
"""

from __future__ import annotations

from typing import Any

from phiml import math
from phiml.math.extrapolation import SYMMETRIC, ZERO_GRADIENT, ConstantExtrapolation, Extrapolation
from phiml.math.extrapolation import map as each_side

from hyco_engine.physics import stencils
from hyco_engine.physics.boundaries import side_of
from hyco_engine.physics.stencils import WIDTH


def continued(values: Any, boundary: Extrapolation, axis: str) -> Any:
    """Extend `values` by two cells on both sides of an axis.

    PhiFlow repeats a constant boundary value in all cells beyond the first ghost cell, which makes a kink and costs the
    order. Here the second ghost cell continues the field as an odd function about the first, `2 u(wall) - u(mirrored)`.
    With zero gradient, PhiFlow repeats the last cell; here two cells mirror the last two, so that the slope at the wall
    is zero in any order.
    """
    boundary = each_side(lambda side: SYMMETRIC if side == ZERO_GRADIENT else side, boundary)
    fixed = [isinstance(side_of(boundary, axis + sign), ConstantExtrapolation) for sign in "-+"]
    values = math.pad(values, {axis: (1 if fixed[0] else WIDTH, 1 if fixed[1] else WIDTH)}, boundary)
    parts = [values]
    if fixed[0]:
        parts.insert(0, 2 * values[{axis: slice(0, 1)}] - values[{axis: slice(1, 2)}])
    if fixed[1]:
        size = values.shape.get_size(axis)
        parts.append(2 * values[{axis: slice(size - 1, size)}] - values[{axis: slice(size - 2, size - 1)}])
    return math.concat(parts, axis) if len(parts) > 1 else values


def neighbours(extended: Any, axis: str) -> list[Any]:
    """Return the five shifted views of extended values, for offsets -2 to 2."""
    size = extended.shape.get_size(axis) - 2 * WIDTH
    return [extended[{axis: slice(i, i + size)}] for i in range(2 * WIDTH + 1)]


def first_derivative(extended: Any, axis: str, dx: float) -> Any:
    """Return d/dx in fourth order."""
    return stencils.first_derivative(neighbours(extended, axis), dx)


def second_derivative(extended: Any, axis: str, dx: float) -> Any:
    """Return d²/dx² in fourth order."""
    return stencils.second_derivative(neighbours(extended, axis), dx)


def diffusion(extended: Any, coefficient: Any, axis: str, dx: float) -> Any:
    """Return d/dx(a du/dx) for a varying, extended coefficient, as `stencils.diffusion` does."""
    return stencils.diffusion(neighbours(extended, axis), neighbours(coefficient, axis), dx)
