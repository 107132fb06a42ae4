"""Recipes for tests of caches and augmented data sets."""

from __future__ import annotations

import torch

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.interfaces import Batch, GeneratedSamples
from hyco_engine.testing.measuring import equal
from hyco_engine.testing.recipes import Numbered

__all__ = ["Numbered", "equal", "everything", "layout"]


def layout(n: int = 8) -> StateLayout:
    """One dynamic and one static field on `n` periodic cells."""
    grid = Grid(axes=("x",), resolution=(n,), lower=(0.0,), upper=(1.0,))
    boundary = Boundary.parse("periodic", grid.axes)
    return StateLayout(
        grid=grid, dynamic=(FieldInfo(name="u", boundary=boundary),), static=(FieldInfo(name="k", boundary=boundary),)
    )


def everything(samples: GeneratedSamples) -> Batch:
    return samples.batch(torch.arange(len(samples)))
