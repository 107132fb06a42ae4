"""Central differences of fourth order on the five neighbours at offsets -2 to 2, which are phi or torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH = 2
"""The number of cells that the stencils reach to each side."""


def first_derivative(neighbours: Sequence[Any], dx: float) -> Any:
    """Return d/dx in fourth order."""
    mm, m, _, p, pp = neighbours
    return (2 / 3 / dx) * (p - m) - (1 / 12 / dx) * (pp - mm)


def second_derivative(neighbours: Sequence[Any], dx: float) -> Any:
    """Return d²/dx² in fourth order."""
    mm, m, c, p, pp = neighbours
    return (4 / 3 / dx**2) * (p + m) - (1 / 12 / dx**2) * (pp + mm) - (2.5 / dx**2) * c


def diffusion(neighbours: Sequence[Any], coefficients: Sequence[Any], dx: float) -> Any:
    """Return d/dx(a du/dx) for a varying coefficient: fourth order, conservative, five points.

    It is symmetric and dissipative for a >= 0, and equals `a * second_derivative` for constant a. Source: K. Mattsson,
    "Summation by parts operators for finite difference approximations of second-derivatives with variable
    coefficients", J. Sci. Comput. 51 (2012), interior stencil of the fourth-order operator.
    """
    umm, um, u, up, upp = neighbours
    amm, am, a, ap, app = coefficients
    # as differences from the centre, because the five weights sum to zero and rounding then keeps constants constant
    far_lower = (am / 6 - (amm + a) / 8) * (umm - u)
    near_lower = ((amm + ap) / 6 + (am + a) / 2) * (um - u)
    near_upper = ((am + app) / 6 + (a + ap) / 2) * (up - u)
    far_upper = (ap / 6 - (a + app) / 8) * (upp - u)
    return (far_lower + near_lower + near_upper + far_upper) * (1 / dx**2)
