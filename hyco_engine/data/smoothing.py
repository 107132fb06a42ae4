"""Noisy frames, smoothed by penalised least squares as strongly as their noise allows.

Values y become the z of least |y - z|^2 + lambda |D z|^2, where D takes differences of third order: along each axis of
space, or along time where there is no space. In the `waves` of D^T D that divides each coefficient by 1 + lambda mu,
where mu is the roughness of the wave. What is removed has the size of the noise, but for the part of the noise that is
as smooth as the field (the discrepancy principle).
Sources: E. T. Whittaker, Proc. Edinb. Math. Soc. 41 (1923); V. A. Morozov, Sov. Math. Dokl. 7 (1966).
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from hyco_engine.data.contracts import Samples, Trajectory
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import corner
from hyco_engine.data.noise import MOST_VALUES, estimate_noise
from hyco_engine.data.recut import frames_of
from hyco_engine.data.waves import Waves, waves_of

REMOVED = 0.8
"""The share of the noise's variance that is removed; the rest is as smooth as the field."""
STRENGTHS = (-12.0, 12.0)
"""Between these common logarithms of lambda, so many halvings find the one that is wanted."""
HALVINGS = 60


def smoothed(whole: Samples, layout: StateLayout) -> Samples | None:
    """Return the windows `whole` with smoothed frames; None if they have no noise, hidden values or no such frames.

    `whole` holds states `[B, C_all, *S]` and rollouts `[B, T, C_dyn, *S]`.
    """
    found = frames_with_noise(whole, layout)
    if found is None:
        return None
    frames, noise = found
    in_time = None if layout.spatial else Waves.along(frames.shape[1:2], [False])
    filters = []
    for channel, (waves, size) in enumerate(zip(waves_of(layout), noise, strict=True)):
        along = waves if in_time is None else in_time
        filters.append(_Filter.of(along, frames[:, :, channel], size) if size and along.vectors else None)
    return _Smoothed(whole, filters) if any(own is not None for own in filters) else None


def frames_with_noise(whole: Samples, layout: StateLayout) -> tuple[Tensor, list[float]] | None:
    """Return (frames `[B, T, C_dyn, *S]` of some windows, the noise of each channel) from windows such as `whole`.

    None if values are hidden, or the windows have no frames.
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
    return frames, [noise[field.name] for field in layout.dynamic for _ in range(field.channels)]


class _Smoothed(Samples):
    """Windows whose channels are smoothed, each by its own filter; None leaves a channel as it is."""

    def __init__(self, whole: Samples, filters: list[_Filter | None]) -> None:
        self._whole = whole
        self._filters = filters

    def __len__(self) -> int:
        return len(self._whole)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self._whole.batch(indices)
        assert isinstance(states, Tensor)
        frames = frames_of(self._whole, indices)
        for channel, own in enumerate(self._filters):
            if own is not None:
                frames[:, :, channel] = own(frames[:, :, channel])
        static = states[:, frames.shape[2] :]
        return torch.cat([frames[:, 0], static], dim=1), frames[:, 1:]


@attrs.frozen(eq=False)
class _Filter:
    """Keeps the part `kept` of the coefficient of each wave."""

    waves: Waves
    kept: Tensor

    @classmethod
    def of(cls, waves: Waves, values: Tensor, noise: float) -> _Filter:
        """Return the filter that removes `noise` from values `[B, T, *S]`."""
        power = waves.power(waves.coefficients(values.double()))
        return cls(waves, _kept(power, waves.rough, REMOVED * noise**2))

    def __call__(self, values: Tensor) -> Tensor:
        """Return values `[B, T, *S]` smoothed."""
        found = values.clone()
        kept = self.kept * self.waves.coefficients(values.double())
        found[corner(self.waves.lengths)] = self.waves.values(kept).to(values)
        return found


def _kept(power: Tensor, rough: Tensor, removed: float) -> Tensor:
    """Return which part of each coefficient, of mean square `power`, stays where the mean square `removed` does not."""
    low, high = STRENGTHS
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        gone = 1 - 1 / (1 + 10**middle * rough)
        low, high = (middle, high) if float((gone.square() * power).mean()) < removed else (low, middle)
    return 1 / (1 + 10**low * rough)
