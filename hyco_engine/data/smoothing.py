"""Noisy frames, smoothed by penalised least squares as strongly as their noise allows.

Values y become the z of least |y - z|^2 + lambda |D z|^2, where D takes differences of third order: along each axis of
space, or along time where there is no space. They do not reach over the ends of an axis that is not periodic, so
nothing is assumed of what is beyond. In the eigenvectors of D^T D, which are waves on a periodic axis, that divides
each coefficient by 1 + lambda mu, where mu is its eigenvalue. What is removed has the size of the noise, but for the
part of the noise that is as smooth as the field (the discrepancy principle).
Sources: E. T. Whittaker, Proc. Edinb. Math. Soc. 41 (1923); V. A. Morozov, Sov. Math. Dokl. 7 (1966).
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from hyco_engine.data.contracts import Samples, Trajectory
from hyco_engine.data.fields import FieldInfo, Grid, StateLayout
from hyco_engine.data.masks import corner
from hyco_engine.data.noise import MOST_VALUES, estimate_noise
from hyco_engine.data.recut import frames_of

ORDER = 3
"""The order of the differences that are made small: they leave parabolas as they are."""
REMOVED = 0.8
"""The share of the noise's variance that is removed; the rest is as smooth as the field."""
MOST_CELLS = 2048
"""The eigenvectors of longer axes would cost more than what they are for."""
STRENGTHS = (-12.0, 12.0)
"""Between these common logarithms of lambda, so many halvings find the one that is wanted."""
HALVINGS = 60


def smoothed(whole: Samples, layout: StateLayout) -> Samples | None:
    """Return the windows `whole` with smoothed frames; None if they have no noise, hidden values or no such frames.

    `whole` holds states `[B, C_all, *S]` and rollouts `[B, T, C_dyn, *S]`.
    """
    if not len(whole) or whole.observed_share < 1:
        return None
    states, targets = whole.batch(torch.tensor([0]))
    if not isinstance(states, Tensor) or not isinstance(targets, Tensor):
        return None
    values = states[0, 0].numel() * layout.n_dynamic * (targets.shape[1] + 1)
    looked_at = torch.linspace(0, len(whole) - 1, min(len(whole), max(1, MOST_VALUES // values))).long()
    frames = frames_of(whole, looked_at)
    noise = estimate_noise([Trajectory(dynamic=own, static=own[0, :0]) for own in frames], layout)
    lines = [
        _Lines.of(frames[:, :, channel], field, component, layout.grid, noise[field.name])
        for field in layout.dynamic
        for component, channel in enumerate(range(layout.n_all)[layout.channels(field.name)])
    ]
    return _Smoothed(whole, lines) if any(own is not None for own in lines) else None


class _Smoothed(Samples):
    """Windows whose channels are smoothed, each by its own of `lines`; None leaves a channel as it is."""

    def __init__(self, whole: Samples, lines: list[_Lines | None]) -> None:
        self._whole = whole
        self._lines = lines

    def __len__(self) -> int:
        return len(self._whole)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self._whole.batch(indices)
        assert isinstance(states, Tensor)
        frames = frames_of(self._whole, indices)
        for channel, lines in enumerate(self._lines):
            if lines is not None:
                frames[:, :, channel] = lines.smooth(frames[:, :, channel])
        static = states[:, frames.shape[2] :]
        return torch.cat([frames[:, 0], static], dim=1), frames[:, 1:]


@attrs.frozen(kw_only=True, eq=False)
class _Lines:
    """The lines of values of one component along the axes of its frames, in which its `samples` come first.

    `vectors` are the eigenvectors `[n, n]` of D^T D by the axis of `[B, T, *S]` along which they are. `kept` is the
    part of each coefficient that stays, with one entry along all other axes.
    """

    samples: tuple[int, ...]
    vectors: Mapping[int, Tensor]
    kept: Tensor

    @classmethod
    def of(cls, values: Tensor, field: FieldInfo, component: int, grid: Grid, noise: float) -> _Lines | None:
        """Return what removes `noise` from values `[B, T, *S]`; None if there is none, or nothing to smooth along."""
        samples = field.samples(grid, component)
        own = values[corner(samples)].double()
        periodic = {2 + place: field.boundary.is_periodic(axis) for place, axis in enumerate(grid.axes)} or {1: False}
        vectors, rough = {}, own.new_zeros([1] * own.dim())
        for axis, closed in periodic.items():
            length = own.shape[axis]
            if ORDER < length <= MOST_CELLS:
                found, vectors[axis] = torch.linalg.eigh(_penalty(length, closed).to(own))
                rough = rough + found.clamp(min=0).view([length if k == axis else 1 for k in range(own.dim())])
        if not noise or not vectors:
            return None
        others = [axis for axis in range(own.dim()) if axis not in vectors]
        power = _rotated(own, vectors).square().mean(others, keepdim=True)
        return cls(samples=samples, vectors=vectors, kept=_kept(power, rough, REMOVED * noise**2))

    def smooth(self, values: Tensor) -> Tensor:
        """Return values `[B, T, *S]` smoothed."""
        found, own = values.clone(), corner(self.samples)
        kept = self.kept * _rotated(values[own].double(), self.vectors)
        found[own] = _rotated(kept, {axis: vectors.mT for axis, vectors in self.vectors.items()}).to(values)
        return found


def _penalty(length: int, closed: bool) -> Tensor:
    """Return D^T D `[length, length]`, on a ring if `closed`."""
    rows = torch.eye(length, dtype=torch.float64)
    for _ in range(ORDER):
        rows = rows.roll(-1, 0) - rows if closed else rows.diff(dim=0)
    return rows.mT @ rows


def _rotated(values: Tensor, vectors: Mapping[int, Tensor]) -> Tensor:
    """Return the coefficients of values by the columns of `vectors`, along the axis of each."""
    for axis, own in vectors.items():
        values = (values.movedim(axis, -1) @ own).movedim(-1, axis)
    return values


def _kept(power: Tensor, rough: Tensor, removed: float) -> Tensor:
    """Return which part of each coefficient, of mean square `power`, stays where the mean square `removed` does not."""
    low, high = STRENGTHS
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        gone = 1 - 1 / (1 + 10**middle * rough)
        low, high = (middle, high) if float((gone.square() * power).mean()) < removed else (low, middle)
    return 1 / (1 + 10**low * rough)
