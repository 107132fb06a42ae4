"""States on another grid over the same domain, by cubic interpolation along each axis."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import FieldInfo, StateLayout
from hyco_engine.data.padding import Sides, component_sides, extend

LEAST_CELLS = 8
"""A grid with fewer cells along an axis shows nothing of the fields."""
_WIDTH = 2
_ALIKE = ("uniform", "index")


def coarser(layout: StateLayout, factor: int) -> StateLayout | None:
    """Return the layout with `factor` times fewer cells along each axis; None where they would be no whole number.

    Also None where they would be too few, or where a field lies on the faces of the cells, or there is no space.
    """
    resolution = layout.grid.resolution
    if not resolution or any(n % factor or n // factor < LEAST_CELLS for n in resolution):
        return None
    if any(field.sampling == "staggered" for field in layout.fields):
        return None
    return attrs.evolve(layout, grid=attrs.evolve(layout.grid, resolution=tuple(n // factor for n in resolution)))


def regridded(values: Tensor, fields: Sequence[FieldInfo], before: StateLayout, after: StateLayout) -> Tensor:
    """Return `values [B, C, *S]` of centred `fields` of the layout `before` at the cells' centres of `after`."""
    parts, start = [], 0
    for field in fields:
        for component in range(field.channels):
            own = values[:, start]
            for place, axis in enumerate(before.grid.axes):
                sides = component_sides(field, component, axis)
                n, m = before.grid.resolution[place], after.grid.resolution[place]
                if field.sampling in _ALIKE:
                    own = own.narrow(1 + place, 0, 1).expand(*_with(own.shape, 1 + place, m))
                elif n != m:
                    own = _along(own, 1 + place, m, sides)
            parts.append(own)
            start += 1
    return torch.stack(parts, dim=1)


def _with(shape: Sequence[int], axis: int, size: int) -> list[int]:
    return [size if k == axis else n for k, n in enumerate(shape)]


def _along(values: Tensor, axis: int, count: int, sides: Sides) -> Tensor:
    """Interpolate along one axis at the centres of `count` cells, by the polynomial through four neighbours."""
    n = values.shape[axis]
    # in samples, counted from the centre of the first cell
    places = (torch.arange(count, dtype=torch.float64) + 0.5) * (n / count) - 0.5
    low = places.floor()
    t = places - low
    weights = torch.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ]
    ).to(values)
    beyond = extend(values, axis, _WIDTH, _WIDTH, sides)
    first = low.long().to(values.device) + _WIDTH - 1
    shape = [-1 if k == axis else 1 for k in range(values.dim())]
    parts = [weights[k].view(shape) * beyond.index_select(axis, first + k) for k in range(4)]
    return torch.stack(parts).sum(0)
