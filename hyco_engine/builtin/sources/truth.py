"""Known true values of a physics' parameters, from a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hyco_engine.data.array_files import open_arrays
from hyco_engine.data.fields import Grid
from hyco_engine.errors import DataError
from hyco_engine.physics.parameters import profile
from hyco_engine.physics.settings import ArrayFile, Profile


def true_values(truth: Mapping[str, float | Profile | ArrayFile], grid: Grid) -> dict[str, Tensor]:
    """Return the true values, 0-d or `[*resolution]`. Raise DataError for a file of another shape."""
    return {name: _value(value, grid, f"data.truth.{name}") for name, value in truth.items()}


def _value(value: float | Profile | ArrayFile, grid: Grid, key: str) -> Tensor:
    if isinstance(value, Profile):
        return profile(value, grid)
    if isinstance(value, ArrayFile):
        return field_from_file(value, grid, key)
    return torch.tensor(value, dtype=torch.float64)


def field_from_file(file: ArrayFile, grid: Grid, key: str, components: Sequence[str] = ()) -> Tensor:
    """Return `[*resolution]`, or `[C, *resolution]` of a vector, float64.

    Raise DataError for a file of another shape.
    """
    reader = open_arrays(file.file)
    name, stored = next(iter(reader.arrays.items()))
    wanted = (*((len(components),) if components else ()), *grid.resolution)
    if stored.shape != wanted:
        of = f" for each of the components {', '.join(components)}" if components else ""
        raise DataError(
            f"{file.file} has the shape {stored.shape}, and the grid has {grid.resolution} cells{of}", key=key
        )
    return torch.from_numpy(reader.read(name).astype(np.float64))
