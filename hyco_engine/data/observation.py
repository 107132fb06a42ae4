"""The observation of a simulation: noise is added, and hidden values become NaN.

Only dynamic fields change. The noise and the mask of a simulation depend only on the seed and its index, so that
neither the order of reading nor the number of simulations matters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, cast

import attrs
import numpy as np
import torch
from torch import Tensor

from hyco_engine.data.contracts import Points, Trajectory
from hyco_engine.data.fields import Grid, StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.npy import read_arrays
from hyco_engine.data.settings import Mask, Noise, Observe
from hyco_engine.data.splits import Segment
from hyco_engine.errors import DataError
from hyco_engine.randomness import derive_generator

KEY = "data.observe.mask"


@attrs.frozen(kw_only=True, eq=False)
class Observer:
    """Applies `[data.observe]` to one simulation after another. Raises DataError if a mask does not fit the data."""

    observe: Observe
    layout: StateLayout
    seed: int
    guessed: int = 0
    """The number of first frames that are no observations, and stay as they are."""

    @property
    def acts(self) -> bool:
        """Whether the observation changes anything."""
        return self.observe.noise is not None or self.observe.mask is not None

    def fingerprint(self, heldout: Sequence[Segment]) -> str:
        """Return a text of all that changes a simulation besides its values: spec, seed, mask file, held-out frames."""
        mask = self.observe.mask
        given = None if mask is None or mask.file is None else _read(mask).tobytes().hex()
        described = [attrs.asdict(cast("Any", self.observe)), self.seed, given, [[s.start, s.stop] for s in heldout]]
        return json.dumps(described, default=str)

    def __call__(self, trajectory: Trajectory, index: int, heldout: Sequence[Segment] = ()) -> Trajectory:
        """Return simulation `index` as it is observed; the frames in `heldout` validate and test."""
        dynamic, noise, mask = trajectory.dynamic, self.observe.noise, self.observe.mask
        frames = torch.zeros(len(dynamic), dtype=torch.bool)
        for segment in heldout:
            frames[segment.start : segment.stop] = True
        missing = None if mask is None or mask.value is None else _equal(dynamic, mask.value)
        if noise is not None:
            known = dynamic if missing is None else torch.where(missing, torch.nan, dynamic)
            dynamic = self._noisy(known, noise, index, frames)
        if mask is not None:
            seen = observed(mask, self.layout, len(dynamic), self.seed, index)
            if not mask.heldout:
                seen[frames] = True
            seen[: self.guessed] = True
            hidden = ~seen[:, None] & sample_mask(self.layout)[: self.layout.n_dynamic]
            dynamic = torch.where(hidden if missing is None else hidden | missing, torch.nan, dynamic)
        return Trajectory(dynamic=dynamic, static=trajectory.static)

    def visible(self, frames: int, index: int) -> Trajectory:
        """Return a simulation of zeros with the mask applied, so that windows can be counted before there are data."""
        zeros = torch.zeros(1, self.layout.n_dynamic, *self.layout.spatial).expand(
            frames, *[-1] * (1 + self.layout.n_axes)
        )
        trajectory = Trajectory(dynamic=zeros, static=zeros[0, :0])
        return attrs.evolve(self, observe=Observe(mask=self.observe.mask))(trajectory, index)

    def points(self, points: Points, index: int, heldout: Tensor) -> Points:
        """Return the sensors' observations of simulation `index` with noise and mask; `heldout [N]` validates or tests.

        Raises DataError for masks that only grids can have.
        """
        mask, noise = self.observe.mask, self.observe.noise
        values = points.value
        if mask is not None:
            if attrs.evolve(cast("Any", mask), value=None) != Mask():
                raise DataError(
                    "sensors observe what is in their table, so leave rows out of the table instead; only `value` of "
                    "a mask applies to sensors",
                    key=KEY,
                )
            if mask.value is not None:
                values = torch.where(_equal(values, mask.value), torch.nan, values)
        if noise is not None:
            scale = torch.full((values.shape[1],), noise.level, dtype=torch.float64)
            if noise.relative:
                for field in self.layout.dynamic:
                    own = self.layout.channels(field.name)
                    scale[own] *= _spread(values[:, own, None], torch.ones(field.channels, 1, dtype=torch.bool))
            generator = derive_generator(self.seed, "noise", index)
            drawn = scale * torch.randn(values.shape, generator=generator, dtype=torch.float64)
            if not noise.heldout:
                drawn[heldout] = 0.0
            values = (values.double() + drawn).to(values.dtype)
        return attrs.evolve(points, value=values)

    def _noisy(self, dynamic: Tensor, noise: Noise, index: int, heldout: Tensor) -> Tensor:
        generator = derive_generator(self.seed, "noise", index)
        own = sample_mask(self.layout)[: self.layout.n_dynamic]
        scale = torch.full((self.layout.n_dynamic,), noise.level, dtype=torch.float64)
        if noise.relative:
            for field in self.layout.dynamic:
                channels = self.layout.channels(field.name)
                scale[channels] *= _spread(dynamic[self.guessed :, channels], own[channels])
        spread = torch.where(own, scale.reshape(-1, *(1 for _ in self.layout.spatial)), 0.0)
        frames = []
        for frame, values in enumerate(dynamic):
            # drawn even if it is not added, so that no frame's noise depends on the split
            drawn = torch.randn(values.shape, generator=generator, dtype=torch.float64)
            clean = frame < self.guessed or (bool(heldout[frame]) and not noise.heldout)
            frames.append(values if clean else (values.double() + spread * drawn).to(values.dtype))
        return torch.stack(frames)


def observed(mask: Mask, layout: StateLayout, frames: int, seed: int, index: int) -> Tensor:
    """Return bool `[T, *S]`: where the mask shows simulation `index`. Its `value` and `heldout` are not applied here.

    A staggered value belongs to the cell above its face; the values on the uppermost faces belong to the last cell.
    """
    grid = layout.grid
    seen = torch.ones(frames, *grid.resolution, dtype=torch.bool)
    if mask.every is not None:
        seen[torch.arange(frames) % mask.every != 0] = False
    if mask.frames:
        chosen = [frame + frames if frame < 0 else frame for frame in mask.frames]
        if wrong := [given for given, frame in zip(mask.frames, chosen, strict=True) if not 0 <= frame < frames]:
            raise DataError(f"simulation {index} has {frames} frames, but no frame {wrong[0]}", key=f"{KEY}.frames")
        seen[sorted(set(range(frames)) - set(chosen))] = False
    seen &= _region(mask, grid)
    if mask.points is not None:
        seen &= _draw(mask.points, grid.resolution, derive_generator(seed, "mask"), f"{KEY}.points")
    if mask.scattered is not None:
        first = 1 if mask.first_frame else 0
        shape = (frames - first, *grid.resolution)
        drawn = _draw(mask.scattered, shape, derive_generator(seed, "mask", index), f"{KEY}.scattered")
        seen[first:] &= drawn
    if mask.file is not None:
        seen &= _from_file(mask, frames, grid, index)
    if mask.first_frame:
        seen[0] = True
    return _to_samples(seen, layout.spatial)


def complete_frames(dynamic: Tensor) -> Tensor:
    """Return bool `[T]`: the frames without NaN, from which a rollout can start. Reads one frame at a time."""
    return torch.tensor([not bool(frame.isnan().any()) for frame in dynamic], dtype=torch.bool)


def to_start_from(mask: Mask | None, dynamic: Tensor, simulation: int, otherwise: str) -> str:
    """Say what the user can do about a simulation `[T, C_dyn, *S]` without a frame to start from.

    That is `otherwise`, unless `value` hides what no other key of the mask can show.
    """
    if mask is None or mask.value is None:
        return otherwise
    if not mask.first_frame and attrs.evolve(cast("Any", mask), value=None, heldout=True) != Mask():
        return otherwise  # that may be enough
    hidden = torch.ones_like(dynamic[0], dtype=torch.bool)
    for frame in dynamic:
        hidden &= frame.isnan()
    cells = hidden.any(dim=0)
    never = int(cells.sum())
    found = f"observe.mask.value hides values of simulation {simulation}"
    if never:
        found = (
            f"{never} of {cells.numel()} cells of simulation {simulation} are observed in no frame, so none is complete"
        )
    return (
        f"{found}, and observe.mask.first_frame = true does not change that; in the data, fill the first frame of each "
        f"simulation, such as with the mean of the observed cells, leave the later frames as they are, and set "
        f"num_predict_steps to the number of frames that a rollout is to reach; or give the observed cells as sensors "
        f'(kind = "points"), and a complete first frame in data.initial'
    )


def observed_share(values: Tensor, layout: StateLayout) -> tuple[int, int]:
    """Return how many values of `[T, C_dyn, *S]` were observed, and how many there are; padding does not count."""
    own = sample_mask(layout)[: layout.n_dynamic]
    count = sum(int((own & ~frame.isnan()).sum()) for frame in values)
    return count, len(values) * int(own.sum())


def _equal(values: Tensor, value: Any) -> Tensor:
    return values.isnan() if value == "nan" else values == value


def _spread(values: Tensor, own: Tensor) -> float:
    """Return the standard deviation of `[T, C, *S]` around each component's mean, without NaN and padding."""
    total = 0.0
    count = 0
    for component in range(values.shape[1]):
        known = values[:, component, own[component]].double()
        known = known[~known.isnan()]
        total += float((known - known.mean()).square().sum()) if len(known) else 0.0
        count += len(known)
    return math.sqrt(total / max(count, 1))


def _region(mask: Mask, grid: Grid) -> Tensor:
    seen = torch.ones(grid.resolution, dtype=torch.bool)
    for axis, (lower, upper) in mask.region.items():
        if axis not in grid.axes:
            raise DataError(f"the data has no axis {axis}, only {', '.join(grid.axes)}", key=f"{KEY}.region.{axis}")
        centres = torch.tensor(grid.centers(axis), dtype=torch.float64)
        inside = (centres >= lower) & (centres <= upper)
        if not bool(inside.any()):
            raise DataError(
                f"no cell lies between {lower:g} and {upper:g}: the centres reach from {float(centres[0]):g} to "
                f"{float(centres[-1]):g}",
                key=f"{KEY}.region.{axis}",
            )
        place = grid.axes.index(axis)
        seen &= inside.reshape([-1 if i == place else 1 for i in range(len(grid.axes))])
    return seen


def _draw(count: int, shape: Sequence[int], generator: torch.Generator, key: str) -> Tensor:
    """Draw `count` entries without replacement; return bool `[*shape]`, True at the drawn entries."""
    total = int(np.prod(shape))
    if count > total:
        raise DataError(f"the mask asks for {count} places, but there are only {total}", key=key)
    drawn = torch.zeros(total, dtype=torch.bool)
    drawn[torch.randperm(total, generator=generator)[:count]] = True
    return drawn.reshape(*shape)


def _read(mask: Mask) -> Any:
    assert mask.file is not None
    try:
        values = read_arrays(mask.file)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {mask.file}: {error}", key=f"{KEY}.file") from None
    if isinstance(values, dict):
        raise DataError(f"{mask.file} holds several arrays; a mask is one array in a .npy file", key=f"{KEY}.file")
    return values


def _from_file(mask: Mask, frames: int, grid: Grid, index: int) -> Tensor:
    values = _read(mask)
    fitting = [grid.resolution, (frames, *grid.resolution)]
    if values.shape not in fitting or values.dtype.kind not in "biuf":
        raise DataError(
            f"{mask.file} holds {values.dtype} {values.shape}; a mask of simulation {index} has the shape "
            f"{fitting[0]}, or {fitting[1]} with an entry for each frame",
            key=f"{KEY}.file",
        )
    return torch.from_numpy(np.ascontiguousarray(values != 0))


def _to_samples(seen: Tensor, spatial: Sequence[int]) -> Tensor:
    """Map `[T, *resolution]` to `[T, *S]`: samples beyond the last cell take its value."""
    for axis, size in enumerate(spatial, start=1):
        if seen.shape[axis] != size:
            seen = seen.index_select(axis, torch.arange(size).clamp(max=seen.shape[axis] - 1))
    return seen
