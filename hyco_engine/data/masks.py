"""The mask that tells samples of a state from padding."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType

import torch
from torch import Tensor

from hyco_engine.data.fields import StateLayout


def corner(shape: Sequence[int]) -> tuple[EllipsisType | slice, ...]:
    """Return the index of the first `shape` entries along the last axes of a tensor."""
    return (..., *(slice(n) for n in shape))


def sample_mask(layout: StateLayout) -> Tensor:
    """Return a bool mask `[C_all, *S]`: True where a component has a sample, False on padding."""
    mask = torch.zeros(layout.n_all, *layout.spatial, dtype=torch.bool)
    channel = 0
    for field in layout.fields:
        for component in range(field.channels):
            mask[channel][corner(field.samples(layout.grid, component))] = True
            channel += 1
    return mask
