"""Axes of one cell, as files have them that keep three axes for a plane: they are dropped, for every source."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from hyco_engine.data.contracts import Points, Trajectory, TrajectorySource
from hyco_engine.data.derived import DerivedSource
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.settings import SourceChoice
from hyco_engine.errors import DataError

log = logging.getLogger("hyco_engine")


def without_thin_axes(source: TrajectorySource, choice: SourceChoice) -> TrajectorySource:
    """Return the source without axes of one cell; the source itself if it has none. It tells which it drops.

    Raises DataError where all axes have one cell.
    """
    if min(source.layout.grid.resolution, default=2) > 1:
        return source
    grid = source.layout.grid
    thin = [axis for axis, cells in zip(grid.axes, grid.resolution, strict=True) if cells == 1]
    if len(thin) == len(grid.axes):
        raise DataError(
            f"the grid has one cell along {' and '.join(thin)}, and fields need at least 2 along an axis", key="data"
        )
    used = set(choice.fields.dynamic) | set(choice.fields.static)
    log.info("the grid has one cell along %s, which is left out: nothing varies along it", " and ".join(thin))
    return _ThinSource(source, thin, used or {field.name for field in source.layout.fields})


class _ThinSource(DerivedSource):
    """Fields on the axes that have several cells. A component across another axis must be 0."""

    def __init__(self, source: TrajectorySource, thin: list[str], used: set[str]) -> None:
        super().__init__(source)
        self._thin = thin
        self._used = used
        old = source.layout
        self._places = [old.grid.axes.index(axis) for axis in thin]
        kept = [place for place in range(old.n_axes) if place not in self._places]
        self._kept = torch.tensor(kept)
        grid = Grid(
            **{
                name: tuple(getattr(old.grid, name)[k] for k in kept)
                for name in ("axes", "resolution", "lower", "upper")
            }
        )
        self.layout = StateLayout(
            grid=grid,
            dynamic=tuple(map(self._field, old.dynamic)),
            static=tuple(map(self._field, old.static)),
        )
        own = [self._keeps(field, k) for field in old.fields for k in range(field.channels)]
        self._channels = torch.tensor(own)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"without {self._thin} {self.source.fingerprint()}".encode()).hexdigest()

    @property
    def truth(self) -> Mapping[str, Tensor]:
        full = self.source.layout.n_axes
        return {name: self._cut(v) if v.ndim == full else v for name, v in self.source.truth.items()}

    def changed_points(self, points: Points) -> Points:
        own = self._channels[: self.source.layout.n_dynamic]
        return attrs.evolve(points, position=points.position[:, self._kept], value=points.value[:, own])

    def _field(self, field: FieldInfo) -> FieldInfo:
        components = tuple(name for k, name in enumerate(field.components) if self._keeps(field, k))
        sides = {axis: pair for axis, pair in field.boundary.sides.items() if axis not in self._thin}
        return attrs.evolve(field, components=components, boundary=Boundary(sides=sides))

    def _keeps(self, field: FieldInfo, component: int) -> bool:
        """Return whether a component stays: all but those of vectors and tensors across an axis that is left out."""
        axes = self.source.layout.grid.axes
        if not field.components or any(set(name) - set(axes) for name in field.components):
            return True
        return not set(field.components[component]) & set(self._thin)

    def changed(self, trajectory: Trajectory, index: int) -> Trajectory:
        n = self.source.layout.n_dynamic
        self._check(trajectory, index)
        return attrs.evolve(
            trajectory,
            dynamic=self._cut(trajectory.dynamic[:, self._channels[:n]]),
            static=self._cut(trajectory.static[self._channels[n:]]),
        )

    def _cut(self, values: Tensor) -> Tensor:
        for place in reversed(self._places):
            values = values.select(place - self.source.layout.n_axes, 0)
        # a staggered field has more samples than cells along some axes
        for place, n in enumerate(self.layout.spatial):
            values = values.narrow(place - self.layout.n_axes, 0, n) if values.ndim >= self.layout.n_axes else values
        return values

    def _check(self, trajectory: Trajectory, index: int) -> None:
        old = self.source.layout
        for field in (field for field in old.fields if field.name in self._used):
            for k, channel in enumerate(range(*old.channels(field.name).indices(old.n_all))):
                if self._channels[channel]:
                    continue
                n = old.n_dynamic
                values = trajectory.dynamic[:, channel] if channel < n else trajectory.static[channel - n]
                if bool((values.nan_to_num() != 0).any()):
                    raise DataError(
                        f"{self.source.origin(field.name, index)}: the grid has one cell along "
                        f"{' and '.join(self._thin)}, and the component {field.components[k]} of {field.name!r} is not "
                        f"0 there, so the axis cannot be left out; leave the field out by data.fields, or give the "
                        f"component as a field of its own",
                        key="data.fields",
                    )
