"""Recipes for tests of caches and augmented data sets."""

from __future__ import annotations

import torch
from torch import Tensor

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.interfaces import Batch, GeneratedSamples, Recipe


def layout(n: int = 8) -> StateLayout:
    """One dynamic and one static field on `n` periodic cells."""
    grid = Grid(axes=("x",), resolution=(n,), lower=(0.0,), upper=(1.0,))
    boundary = Boundary.parse("periodic", grid.axes)
    return StateLayout(
        grid=grid, dynamic=(FieldInfo(name="u", boundary=boundary),), static=(FieldInfo(name="k", boundary=boundary),)
    )


class Numbered(Recipe):
    """Sample i is made of numbers that only i decides; `odd` sizes fill no machine word, `named` ones are dicts."""

    def __init__(self, count: int, *, size: int = 5, batch_size: int = 4, named: bool = False, offset: int = 0) -> None:
        self.count, self.size, self.named, self.offset = count, size, named, offset
        self._batch_size = batch_size
        self.calls: list[list[int]] = []

    def __len__(self) -> int:
        return self.count

    @property
    def sample_bytes(self) -> int:
        return self.size * (4 + 8) + (1 + 8 if self.named else 0)

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def generate(self, indices: Tensor) -> Batch:
        self.calls.append(indices.tolist())
        base = (indices + self.offset).to(torch.float64)[:, None]
        inputs = torch.sin(base * 1.7 + torch.arange(self.size)).to(torch.float32)
        targets = torch.cos(base + torch.arange(self.size))
        if not self.named:
            return inputs, targets.unflatten(1, (1, self.size))
        return (
            {"x": inputs, "label": indices.to(torch.int8)},
            {"y": targets, "scalar": base[:, 0]},
        )


def equal(ours: object, theirs: object) -> bool:
    """Whether two batches, or parts of batches, are the same bit by bit."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return same and torch.equal(_bytes(ours), _bytes(theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(equal(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return False


def everything(samples: GeneratedSamples) -> Batch:
    return samples.batch(torch.arange(len(samples)))


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(-1).view(torch.uint8)
