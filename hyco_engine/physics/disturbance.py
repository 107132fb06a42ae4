"""A test of the internal step for a physics that states no limits: halve the step and compare.

A step that is too long amplifies disturbances of the shortest waves, which a shorter one damps. A disturbance that
grows alike whatever the step belongs to the equation.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from hyco_engine.randomness import derive_generator

STEPS = 16
"""The disturbance is followed over at least so many internal steps."""
GROWTH = 2.0
"""A step is good if a disturbance grows less than this, ..."""
ALIKE = 2.0
"""... or as much as with half the step, up to this factor."""
MOST_PARTS = 64
SIZE = 1e-3
"""The size of the disturbance, relative to the largest value."""

Advance = Callable[[Tensor, int], Tensor]
"""`advance(states [B, C_dyn, *S], k)` returns the states a frame later, by k times as many internal steps as usual."""


@attrs.frozen(kw_only=True)
class TooLong:
    """A step that amplifies disturbances: over `frames` by `growth`, and by `shorter` if it is divided by `parts`."""

    parts: int
    frames: int
    growth: float
    shorter: float


def too_long(advance: Advance, states: Tensor, steps: int) -> TooLong | None:
    """Return how much the internal step is too long; None if it is not, or if no shorter one is better.

    `states [B, C_dyn, *S]` are undisturbed, and `steps` is the usual number of internal steps in a frame.
    """
    frames = -(-STEPS // steps)
    first = growth = _growth(advance, states, frames, 1)
    parts = 1
    while growth > GROWTH:
        half = _growth(advance, states, frames, 2 * parts)
        if half < torch.inf and 1 / ALIKE <= growth / half <= ALIKE:
            break
        parts, growth = 2 * parts, half
        if parts > MOST_PARTS:
            return None
    return None if parts == 1 else TooLong(parts=parts, frames=frames, growth=first, shorter=growth)


def _growth(advance: Advance, states: Tensor, frames: int, parts: int) -> float:
    """Return how many times larger a disturbance is after `frames`; infinite if a state is not finite."""
    noise = torch.randn(states.shape, generator=derive_generator(0, "disturbance"), dtype=torch.float64)
    # each field in its own unit
    size = states.abs().transpose(0, 1).flatten(1).amax(1).view(1, -1, *[1] * (states.dim() - 2))
    size = SIZE * torch.where(size > 0, size, 1.0)
    disturbed = states + size * noise.to(states)
    both = torch.cat([states, disturbed])
    before = float(((disturbed - states) / size).norm())
    for _ in range(frames):
        both = advance(both, parts)
        if not bool(both.isfinite().all()):
            return torch.inf
    one, other = both.chunk(2)
    return float(((other - one) / size).norm()) / before
