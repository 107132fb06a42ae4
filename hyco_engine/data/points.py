"""The data of sensors: observations at points, of fields that a model rolls out on a grid.

A sensor observes a field between the samples of the grid and between two frames. Its reading of a rollout is linear in
time between frames and linear along each axis between samples; beyond the outermost samples, the boundary condition
gives the next sample, as it does for the physics.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from hyco_engine.data.clock import later
from hyco_engine.data.contracts import Points, Samples, Trajectory
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import corner
from hyco_engine.data.padding import Sides, component_sides, extend
from hyco_engine.randomness import derive_generator

log = logging.getLogger("hyco_engine")

GRID = "grid"
"""The name of the rollouts `[B, T, C_dyn, *S]` of generated samples among the targets of sensors."""
START = "start"
"""The name of a learned state `[B, 1, C_dyn, *S]` among the targets of sensors."""
TIME_NAMES = ("time", "timestamp", "datetime", "date", "datum", "zeit")
"""Headers that name the column t of a table, in any case of letters, where no column is called t."""
SENSOR_NAMES = ("sensor", "id")
"""Columns of a table that name the sensor of each row."""
# The rounding of a time that falls on a frame must not ask for the frame after it.
_SLACK = 1e-6


def cut_points(points: Points, start: float, stop: float, *, after: float | None = None) -> Points:
    """Return the observations from frame `start` (or `after`) to `stop`; their frames then count from `start`."""
    least = start if after is None else after
    keep = (points.frame >= least - _SLACK) & (points.frame <= stop + _SLACK)
    return attrs.evolve(select_points(points, keep), frame=(points.frame[keep] - start).clamp(min=0))


def points_of(
    points: Points | None, split: str, by: str, start: float, stop: float, *, after: float | None = None
) -> Points | None:
    """Return the observations of a split from frame `start` to `stop`; by sensor, the split has its own sensors."""
    if points is None:
        return None
    if by == "sensor":
        points = select_points(points, points.heldout if split == "val" else ~points.heldout)
    return cut_points(points, start, stop, after=after)


def select_points(points: Points, keep: Tensor) -> Points:
    """Return the observations for which `keep [N]` is True."""
    return Points(**{field.name: getattr(points, field.name)[keep] for field in attrs.fields(Points)})


def moment(text: str) -> np.datetime64:
    """Return a date-time of UTC, as a table tells the one from which its times count."""
    return np.datetime64(text.removesuffix("+00:00"))


def on_one_clock(moments: Sequence[np.datetime64]) -> list[float]:
    """Return the seconds from the earliest of these moments to each of them."""
    return [float((one - min(moments)) / np.timedelta64(1, "s")) for one in moments]


def begins_far(first: float, span: float, step: float | None) -> bool:
    """Return true if times that begin at `first` and last for `span` are counted from something else than the start.

    That is so if between 0 and the first of them lie ten times `span`, and 10 000 frames, `step` apart: nobody rolls
    out that far to a first observation.
    """
    return first > 10 * max(span, (step or 0.0) * 1000) and span > 0


def places_of(position: Tensor, rounding: float = 0.0) -> Tensor:
    """Return the number `[N]` of each place in `position [N, n_axes]`, in the order in which they first appear.

    Places are one if they are closer along each axis than 1e-9 of the extent, or than `rounding`.
    """
    numbers = torch.zeros(len(position), 1, dtype=torch.int64)
    for values in position.T:
        order = values.argsort()
        steps = values[order].diff(prepend=values[order[:1]])
        apart = 1e-9 * float(values.max() - values.min()) + rounding
        number = torch.empty(len(values), dtype=torch.int64)
        number[order] = (steps > apart).cumsum(0)
        numbers = torch.cat([numbers, number[:, None]], dim=1)
    _, place = torch.unique(numbers, dim=0, return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(place)).scatter_reduce(0, place, torch.arange(len(place)), "amin")
    return first.argsort().argsort()[place]


def warn_of_shared_places(parts: Sequence[Points]) -> None:
    """Warn if sensors that validate are at the places of sensors that train, so that they say little that is new."""
    place = places_of(torch.cat([points.position for points in parts]))
    held = torch.cat([points.heldout for points in parts])
    trains, validates = (set(place[own].tolist()) for own in (~held, held))
    if shared := len(trains & validates):
        log.warning(
            "at %d of the %d places of sensors that validate, there are sensors that train as well: errors there say "
            "nothing about other places",
            shared,
            len(validates),
        )


@attrs.frozen
class Component:
    """The places of the samples of one channel: sample i along an axis is at `first + i * spacing`."""

    samples: tuple[int, ...]
    first: tuple[float, ...]
    sides: tuple[Sides, ...]


class Sensors:
    """Reads rollouts at points. The map is linear but for boundary values, and its gradient is the exact adjoint."""

    def __init__(self, layout: StateLayout) -> None:
        self._spacing = layout.grid.spacing
        self._components = [component_at(layout, channel) for channel in range(layout.n_dynamic)]

    def __call__(self, path: Tensor, frame: Tensor, position: Tensor) -> Tensor:
        """Return the readings `[B, N, C]` of `path [B, T, C, *S]` at `frame [B, N]` and `position [B, N, n_axes]`.

        The frames of `path` count from 0 to T-1.
        """
        frames = frame.clamp(0, path.shape[1] - 1)
        early = frames.floor().clamp(max=max(path.shape[1] - 2, 0)).long()
        late = (early + 1).clamp(max=path.shape[1] - 1)
        part = (frames - early).to(path.dtype)
        columns = []
        for channel, component in enumerate(self._components):
            values, places, weights = self._around(path[:, :, channel], component, position)
            values = values.reshape(*values.shape[:2], -1)
            rows = torch.arange(len(path), device=path.device)[:, None, None]
            first, second = (values[rows, time[..., None], places] for time in (early, late))
            weights = weights.to(path.dtype)
            columns.append((1 - part) * (first * weights).sum(-1) + part * (second * weights).sum(-1))
        return torch.stack(columns, dim=-1)

    def _around(self, values: Tensor, component: Component, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return extended values, the flat indices `[B, N, 2^n]` of the neighbouring samples, and their weights."""
        values = values[corner(component.samples)]
        places = torch.zeros(*position.shape[:2], 1, dtype=torch.int64, device=position.device)
        weights = torch.ones_like(places, dtype=position.dtype)
        for axis, (first, sides) in enumerate(zip(component.first, component.sides, strict=True)):
            values = extend(values, axis + 2, 1, 1, sides)
            n = values.shape[axis + 2]
            # in samples, counted from the sample that `extend` added before the first one
            where = ((position[..., axis] - first) / self._spacing[axis] + 1).clamp(0, n - 1)
            low = where.floor().clamp(max=n - 2)
            upper = where - low
            both = torch.stack([low.long(), low.long() + 1], dim=-1)
            places = (places[..., :, None] * n + both[..., None, :]).flatten(-2)
            weights = (weights[..., :, None] * torch.stack([1 - upper, upper], dim=-1)[..., None, :]).flatten(-2)
        return values, places, weights


def component_at(layout: StateLayout, channel: int) -> Component:
    """Return the places of the samples of one dynamic channel."""
    owners = [(field, index) for field in layout.dynamic for index in range(field.channels)]
    field, index = owners[channel]
    first = []
    for place, axis in enumerate(layout.grid.axes):
        offset = 0.5
        if field.sampling == "staggered" and field.components[index] == axis:
            # a face on a side with a fixed value is not a sample
            offset = 1.0 if field.boundary.sides[axis][0].fixes else 0.0
        first.append(layout.grid.lower[place] + offset * layout.grid.spacing[place])
    sides = tuple(component_sides(field, index, axis) for axis in layout.grid.axes)
    return Component(field.samples(layout.grid, index), tuple(first), sides)


class PointWindows(Samples):
    """Samples of a state `[C_all, *S]` and what sensors observed over the next `horizon` frames.

    The targets are `frame [N]` since the state, `time [N]` since the start of the simulation, `position [N, n_axes]`
    and `value [N, C_dyn]`. N is that of the fullest window; other windows are padded with observations whose `value` is
    NaN. A window starts from a complete frame and has at least one observation after it; `skipped` counts all others.
    """

    horizon: int

    def __init__(
        self, trajectories: Sequence[Trajectory], *, horizon: int, stride: int = 1, advances: Sequence[float] = ()
    ) -> None:
        self.horizon = horizon
        self.skipped = 0
        states, tables = [], []
        reached = seen = 0
        for trajectory in trajectories:
            points = trajectory.points
            frames = len(trajectory.dynamic)
            known = torch.zeros(0) if points is None else (~points.value.isnan()).any(1) & (points.frame > _SLACK)
            used = torch.zeros_like(known, dtype=torch.bool)
            for start in range(0, max(1, frames - horizon), stride):
                static = later(trajectory.static, advances, start, trajectory.static.dim() - 1)
                state = torch.cat([trajectory.dynamic[start], static])
                chosen = known
                if points is not None:
                    chosen = known & (points.frame > start + _SLACK) & (points.frame <= start + horizon + _SLACK)
                if points is None or not bool(chosen.any()) or bool(state.isnan().any()):
                    self.skipped += 1
                    continue
                used |= chosen
                states.append(state)
                tables.append(cut_points(select_points(points, chosen), start, start + horizon))
            reached, seen = reached + int(used.sum()), seen + int(known.sum())
        self.unreached = seen - reached
        """The number of observations after the start that are in no window."""
        self._states = torch.stack(states) if states else torch.empty(0)
        longest = max((len(table.frame) for table in tables), default=0)
        dtype = self._states.dtype
        self._columns = {
            name: torch.stack([_padded(getattr(table, name), longest, padding, dtype) for table in tables])
            for name, padding in (("frame", 0.0), ("time", 0.0), ("position", 0.0), ("value", math.nan))
            if tables
        }
        if tables:
            self.observed_share = float((~self._columns["value"].isnan()).double().mean())

    def __len__(self) -> int:
        return len(self._states)

    @property
    def sample_bytes(self) -> int:
        """The bytes of one sample, state and targets."""
        return sum(part[0].nbytes for part in (self._states, *self._columns.values())) if len(self) else 0

    def inputs(self, indices: Tensor) -> Tensor:
        return self._states[indices]

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._states[indices], {name: column[indices] for name, column in self._columns.items()}


class PointParts(Samples):
    """Random parts of `size` points of each window of sensors, as samples of their own.

    A model that is a function of position and time can train on them, because it needs no rollout to a point. The last
    part of a window is padded with points that were not observed. States and names are those of the windows.
    """

    def __init__(self, windows: Samples, size: int, seed: int) -> None:
        self._windows = windows
        self.horizon = windows.horizon
        _, targets = windows.batch(torch.tensor([0]))
        assert not isinstance(targets, Tensor)
        self._count = targets["frame"].shape[1]
        self._parts = -(-self._count // size)
        order = torch.randperm(self._count, generator=derive_generator(seed, "points"))
        padding = order.new_full((self._parts * size - self._count,), self._count)
        self._chosen = torch.cat([order, padding]).view(self._parts, size)
        self.observed_share = windows.observed_share * self._count / (self._parts * size)

    def __len__(self) -> int:
        return len(self._windows) * self._parts

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        states, targets = self._windows.batch(indices // self._parts)
        assert isinstance(states, Tensor)
        assert not isinstance(targets, Tensor)
        chosen = self._chosen[indices % self._parts]
        missing = chosen == self._count
        chosen = torch.where(missing, 0, chosen)
        rows = torch.arange(len(indices))[:, None]
        parts = {name: column[rows, chosen] for name, column in targets.items()}
        parts["value"] = torch.where(missing[..., None], math.nan, parts["value"])
        return states, parts


def _padded(values: Tensor, length: int, padding: float, dtype: torch.dtype) -> Tensor:
    out = torch.full((length, *values.shape[1:]), padding, dtype=dtype)
    out[: len(values)] = values.to(dtype)
    return out
