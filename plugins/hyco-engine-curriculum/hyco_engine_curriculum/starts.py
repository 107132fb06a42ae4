"""Start states near those of real windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask

if TYPE_CHECKING:
    from hyco_engine.builtin.strategies.starts import States


def perturbed(states: States, layout: StateLayout, noise: float, generator: Callable[..., torch.Generator]) -> States:
    """Return `states` with independent normal noise at each sample of the dynamic fields.

    Its standard deviation is `noise` times that of the field in that state, over space and components; a constant field
    stays as it is. The noise of a sample follows from `generator("noise", index)` alone.
    """
    own = sample_mask(layout)[: layout.n_dynamic]
    channels = [layout.channels(field.name) for field in layout.dynamic]

    def made(indices: Tensor) -> Tensor:
        given = states(indices)
        dynamic = given[:, : layout.n_dynamic]
        draws = [torch.randn(dynamic.shape[1:], generator=generator("noise", i)) for i in indices.tolist()]
        drawn = torch.stack(draws).to(dynamic.dtype) * own
        for part in channels:
            values = dynamic[:, part][:, own[part]]
            spread = values.std(1, correction=0).reshape(-1, *[1] * (dynamic.ndim - 1))
            drawn[:, part] *= noise * spread
        return torch.cat([dynamic + drawn, given[:, layout.n_dynamic :]], dim=1)

    return made
