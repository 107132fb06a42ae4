"""Where generated rollouts start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyco_engine.interfaces import Samples


def random_starts(real: Samples, count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """`states(indices)`: starts of `count` real windows, picked by a permutation; beyond one round, by another."""
    rounds = -(-count // len(real))
    chosen = torch.cat([torch.randperm(len(real), generator=generator) for _ in range(rounds)])[:count]

    def states(indices: Tensor) -> Tensor:
        inputs = real.inputs(chosen[indices])
        if not isinstance(inputs, Tensor):
            raise TypeError("rollouts start from states; this data has inputs by name")
        return inputs

    return states
