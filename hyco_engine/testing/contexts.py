"""Small grids and layouts, and the contexts that factories receive for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext


def tiny_grid(*resolution: int, upper: Sequence[float] | None = None) -> Grid:
    """Return a grid with 1 to 3 axes from 0 to 1, or to `upper`."""
    n = len(resolution)
    return Grid(axes=("x", "y", "z")[:n], resolution=resolution, lower=(0.0,) * n, upper=tuple(upper or (1.0,) * n))


def tiny_layout(
    *resolution: int, boundary: Any = "periodic", vector: bool = False, static: bool = False, **more: Any
) -> StateLayout:
    """Return a layout of a scalar or `vector` field `u` and, if `static`, a scalar `k`; `more` goes to `FieldInfo`."""
    grid = tiny_grid(*resolution)
    rule = Boundary.parse(boundary, grid.axes)
    u = FieldInfo(name="u", components=grid.axes if vector else (), boundary=rule, **more)
    k = FieldInfo(name="k", boundary=Boundary.parse("zero-gradient", grid.axes))
    return StateLayout(grid=grid, dynamic=(u,), static=(k,) if static else ())


LAYOUTS: tuple[StateLayout, ...] = (
    tiny_layout(16),
    tiny_layout(17, boundary="zero-gradient", static=True),
    tiny_layout(12, 10, vector=True),
    tiny_layout(10, 12, boundary={"x": "periodic", "y": 0.5}, static=True),
    tiny_layout(9, 8, 10, boundary="zero-gradient"),
)
"""Layouts of all kinds: 1 to 3 dimensions, odd and even, with and without walls, scalars, vectors, static fields."""


def tiny_statistics(layout: StateLayout) -> Statistics:
    """Return statistics of data in which all channels differ."""
    return Statistics(
        mean=torch.linspace(-1, 2, layout.n_all, dtype=torch.float64),
        std=torch.linspace(0.5, 3, layout.n_all, dtype=torch.float64),
        change_std=torch.linspace(0.1, 0.4, layout.n_dynamic, dtype=torch.float64),
    )


def tiny_context(layout: StateLayout | None = None, *, seed: int = 0, **more: Any) -> BuildContext:
    """Return the context of a factory for data with this layout; `more` replaces or adds fields of `BuildContext`."""
    given: dict[str, Any] = {"seed": seed, "registry": Registry()}
    if layout is not None:
        given |= {"layout": layout, "dt": 0.02, "statistics": tiny_statistics(layout)}
    return BuildContext(**(given | more))
