"""Shorter windows out of longer ones, and fewer samples out of many."""

from __future__ import annotations

import torch
from torch import Tensor

from hyco_engine.data.contracts import Batch, Samples


def frames_of(windows: Samples, indices: Tensor) -> Tensor:
    """Return the frames `[B, T + 1, C_dyn, *S]` of the windows at `indices`, with those at which they begin."""
    states, targets = windows.batch(indices)
    assert isinstance(states, Tensor)
    assert isinstance(targets, Tensor)
    return torch.cat([states[:, None, : targets.shape[2]], targets], dim=1)


class Recut(Samples):
    """Windows of `horizon` steps that begin at complete frames of longer windows, `stride` frames apart.

    `whole` holds states `[B, C_all, *S]` and rollouts `[B, T, C_dyn, *S]`.
    """

    def __init__(self, whole: Samples, horizon: int, *, stride: int) -> None:
        self.horizon: int = horizon
        self._whole = whole
        places = []
        for index in range(len(whole)):
            frames = frames_of(whole, torch.tensor([index]))[0]
            for offset in range(0, len(frames) - horizon, stride):
                if not bool(frames[offset].isnan().any()):
                    places.append((index, offset))
        self._places = torch.tensor(places, dtype=torch.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        index, offset = self._places[indices].unbind(1)
        states, _ = self._whole.batch(index)
        assert isinstance(states, Tensor)
        frames = frames_of(self._whole, index)
        dynamic = frames.shape[2]
        rows = torch.arange(len(index))
        start = torch.cat([frames[rows, offset], states[:, dynamic:]], dim=1)
        steps = offset[:, None] + torch.arange(1, self.horizon + 1)
        return start, frames[rows[:, None], steps]


class Every(Samples):
    """Every `step`-th sample of `data`."""

    def __init__(self, data: Samples, step: int) -> None:
        self.data = data
        self.step = step

    def __len__(self) -> int:
        return -(-len(self.data) // self.step)

    def batch(self, indices: Tensor) -> Batch:
        return self.data.batch(indices * self.step)
