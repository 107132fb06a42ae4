"""Exponential Runge-Kutta: linear terms are exact, however stiff they are. S. M. Cox, P. C. Matthews (2002)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

TERMS = 18
"""Number of terms in the series of the phi functions within |z| < 1: the last is below the rounding of float64."""


def etdrk4(linear: Tensor, slope: Callable[[Tensor, float], Tensor], u: Tensor, dt: float) -> Tensor:
    """Return u after one step of `u_t = linear * u + slope(u, s)`, where s is the time since the beginning of the step.

    It is of fourth order: J. Comput. Phys. 176, eqs. 26-29.
    """
    z = dt * linear
    p1, p2, p3 = phi_functions(z)
    weight = dt / 2 * phi_functions(z / 2)[0]
    full, half = torch.exp(z), torch.exp(z / 2)
    k1 = slope(u, 0.0)
    a = half * u + weight * k1
    k2 = slope(a, dt / 2)
    k3 = slope(half * u + weight * k2, dt / 2)
    k4 = slope(half * a + weight * (2 * k3 - k1), dt)
    first, middle, last = p1 - 3 * p2 + 4 * p3, 2 * p2 - 4 * p3, 4 * p3 - p2
    return full * u + dt * (first * k1 + middle * (k2 + k3) + last * k4)


def phi_functions(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `phi_j(z) = (phi_{j-1}(z) - 1/(j-1)!) / z` with phi_0 = exp, for j = 1, 2, 3 and real or complex z.

    Within |z| < 1, where the formula cancels, a series replaces it.
    """
    near = z.abs() < 1
    # each branch is given only arguments within its range, so that no gradient is NaN
    small, large = torch.where(near, z, 0.0), torch.where(near, 1.0, z)
    formula = torch.exp(large)
    results = []
    for j in (1, 2, 3):
        total = torch.full_like(small, 1 / math.factorial(TERMS + j))
        for n in reversed(range(TERMS)):
            total = total * small + 1 / math.factorial(n + j)
        formula = (formula - 1 / math.factorial(j - 1)) / large
        results.append(torch.where(near, total, formula))
    return results[0], results[1], results[2]
