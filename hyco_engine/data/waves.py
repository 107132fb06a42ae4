"""Orthonormal waves along the axes of a component's values, which go from smooth to rough.

They are the eigenvectors of D^T D, where D takes differences of third order along an axis. On a periodic axis these are
sines and cosines. Elsewhere the differences do not reach over the ends, so nothing is assumed of what is beyond. The
eigenvalue is the roughness of a wave; parabolas have none. Waves along several axes are products, whose roughness is
the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import corner

ORDER = 3
"""The order of the differences: they leave parabolas as they are."""
MOST_CELLS = 2048
"""The eigenvectors of longer axes would cost more than what they are for."""


@attrs.frozen(kw_only=True, eq=False)
class Waves:
    """Waves along the last axes of values, of which the first `lengths` entries count along each.

    `vectors` are the waves `[n, n]` by axis, -1 for the last one: an axis that is too short or too long has none.
    `rough` is the roughness of each wave, with one entry along an axis without waves.
    """

    lengths: tuple[int, ...]
    vectors: Mapping[int, Tensor]
    rough: Tensor

    @classmethod
    def along(cls, lengths: Sequence[int], periodic: Sequence[bool]) -> Waves:
        """Return the waves along axes of so many values, float64."""
        axes = range(-len(lengths), 0)
        vectors, rough = {}, torch.zeros([1] * len(lengths), dtype=torch.float64)
        for axis, length, closed in zip(axes, lengths, periodic, strict=True):
            if ORDER < length <= MOST_CELLS:
                own, vectors[axis] = _along_an_axis(length, closed)
                rough = rough + own.view([length if k == axis else 1 for k in axes])
        return cls(lengths=tuple(lengths), vectors=vectors, rough=rough)

    def coefficients(self, values: Tensor) -> Tensor:
        """Return the coefficients of values `[..., *S]` by the waves."""
        return _rotated(values[corner(self.lengths)], self.vectors)

    def values(self, coefficients: Tensor) -> Tensor:
        """Return the values that have these coefficients."""
        return _rotated(coefficients, {axis: own.mT for axis, own in self.vectors.items()})

    def power(self, coefficients: Tensor) -> Tensor:
        """Return the mean square of each wave's coefficient, in the shape of `rough`."""
        leading = range(coefficients.dim() - len(self.lengths))
        return self.mean(coefficients.square().mean([*leading]) if leading else coefficients.square())

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values `[*S]` of each wave over the axes without waves, in the shape of `rough`."""
        without = [axis for axis in range(-len(self.lengths), 0) if axis not in self.vectors]
        return values.mean(without, keepdim=True) if without else values


def waves_of(layout: StateLayout) -> list[Waves]:
    """Return the waves of each dynamic channel along the axes of space."""
    grid = layout.grid
    return [
        Waves.along(field.samples(grid, component), [field.boundary.is_periodic(axis) for axis in grid.axes])
        for field in layout.dynamic
        for component in range(field.channels)
    ]


@lru_cache(maxsize=4)
def _along_an_axis(length: int, closed: bool) -> tuple[Tensor, Tensor]:
    """Return the roughness of the waves along an axis, and the waves. Most fields share their axes."""
    # what is kept has to serve training, whatever mode the host is in now
    with torch.inference_mode(False):
        found, vectors = torch.linalg.eigh(_penalty(length, closed))
    return found.clamp(min=0), vectors


def _penalty(length: int, closed: bool) -> Tensor:
    """Return D^T D `[length, length]`, on a ring if `closed`."""
    rows = torch.eye(length, dtype=torch.float64)
    for _ in range(ORDER):
        rows = rows.roll(-1, 0) - rows if closed else rows.diff(dim=0)
    return rows.mT @ rows


def _rotated(values: Tensor, vectors: Mapping[int, Tensor]) -> Tensor:
    """Return the coefficients of values by the columns of `vectors`, along the axis of each."""
    for axis, own in vectors.items():
        values = (values.movedim(axis, -1) @ own.to(values)).movedim(-1, axis)
    return values
