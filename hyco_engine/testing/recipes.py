"""A recipe whose samples tell their index."""

from __future__ import annotations

import torch
from torch import Tensor

from hyco_engine.interfaces import Batch, Recipe


class Numbered(Recipe):
    """A recipe whose sample i depends on i alone; an odd `size` fills no machine word, `named` samples are dicts.

    `calls` lists the indices of each call of `generate`.
    """

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
            return inputs, targets[:, None]
        return (
            {"x": inputs, "label": indices.to(torch.int8)},
            {"y": targets, "scalar": base[:, 0]},
        )
