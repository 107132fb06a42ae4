"""A test whether the installed PhiFlow, PhiML, numpy and torch work together, by computations with known results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from phi.field import CenteredGrid
from phi.geom import Box
from phi.physics import advect
from phiml.math import extrapolation, spatial, wrap
from torch import Tensor

from hyco_engine.physics.phi_context import phi_context

_CELLS = 16


def probe() -> Iterator[tuple[str, str]]:
    """Yield (computation, what is wrong with it or "") for each computation that some pair of versions got wrong."""
    for scheme in (advect.semi_lagrangian, advect.mac_cormack):
        yield f"1-D {scheme.__name__}", _fault(partial(_advected, scheme))
    yield "double precision", _fault(_precision)


def _fault(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error) or 'no text').splitlines()[0]:.120}"


def _advected(scheme: Callable[..., CenteredGrid]) -> str:
    """Check that advection by one cell moves values by one cell, whatever the boundary."""
    start = torch.sin(2 * math.pi * torch.arange(_CELLS, dtype=torch.float64) / _CELLS)
    with phi_context(start):
        for rule in (extrapolation.PERIODIC, extrapolation.ZERO_GRADIENT):
            velocity = CenteredGrid(_cells(torch.ones_like(start)), rule, Box(x=1.0))
            field = CenteredGrid(_cells(start), rule, Box(x=1.0))
            moved = scheme(field, velocity, dt=1 / _CELLS).values.native("x")
            error = float((moved - start.roll(1))[2:-2].abs().max())  # the boundary decides the ends
            if not error < 1e-6:
                return f"off by {error:.2g}"
    return ""


def _precision() -> str:
    start = torch.full((_CELLS,), 1 + 1e-12, dtype=torch.float64)
    with phi_context(start):
        doubled = (_cells(start) * 2).native("x")
    return "" if doubled.dtype == torch.float64 and torch.equal(doubled, start * 2) else f"got {doubled.dtype}"


def _cells(values: Tensor) -> Any:
    return wrap(values, spatial("x"))
