"""Terms of the true physics that the model lacks, for simulated data that the model cannot explain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyco_engine.builtin.sources.options import ExtraTerms
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.points import component_at
from hyco_engine.errors import SpecError


class Extra:
    """Solves u_t = -r u + f(x) exactly over half a frame.

    It is applied before and after each frame of the physics (Strang 1968), of second order in the time between frames.
    """

    def __init__(self, terms: ExtraTerms, layout: StateLayout, dt: float) -> None:
        grid = layout.grid
        if terms.axis not in grid.axes:
            raise SpecError(f"the grid has no axis {terms.axis}, only {', '.join(grid.axes)}", key="data.extra.axis")
        place = grid.axes.index(terms.axis)
        lower, upper = grid.lower[place], grid.upper[place]
        first = component_at(layout, 0).first[place]
        positions = first + grid.spacing[place] * torch.arange(layout.spatial[place], dtype=torch.float64)
        wave = torch.sin(2 * math.pi * terms.waves * (positions - lower) / (upper - lower))
        half = dt / 2
        self._decay = math.exp(-terms.drag * half)
        # (1 - exp(-r h)) / r, in a form that holds for r = 0 too
        grown = -math.expm1(-terms.drag * half) / terms.drag if terms.drag else half
        source = torch.zeros(layout.n_dynamic, *layout.spatial, dtype=torch.float64)
        source[0] = (terms.force * grown * wave).reshape([-1 if i == place else 1 for i in range(len(grid.axes))])
        self._source = torch.where(sample_mask(layout)[: layout.n_dynamic], source, 0.0)

    def __call__(self, dynamic: Tensor) -> Tensor:
        """Return `[B, C_dyn, *S]` half a frame later."""
        return self._decay * dynamic + self._source.to(dynamic.device, dynamic.dtype)
