"""A small disturbance, and a test of the internal step by it for a physics that states no limits.

A step that is too long amplifies disturbances of the shortest waves, which a shorter one damps. A disturbance that
grows alike whatever the step belongs to the equation. So the test halves the step and compares.
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
    disturbance = Disturbance(states, derive_generator(0, "disturbance"))
    both, growth = disturbance.both, 1.0
    for _ in range(frames):
        both = advance(both, parts)
        growth = disturbance.growth(both)
        if growth == torch.inf:
            break
    return growth


class Disturbance:
    """States `[B, C_dyn, *S]` and the same ones disturbed by noise, behind one another in `both [2 B, C_dyn, *S]`.

    The noise of each field is `SIZE` times its largest value, and counts in that unit.
    """

    def __init__(self, states: Tensor, generator: torch.Generator) -> None:
        noise = torch.randn(states.shape, generator=generator, dtype=torch.float64)
        size = states.abs().transpose(0, 1).flatten(1).amax(1).view(1, -1, *[1] * (states.dim() - 2))
        self._size = SIZE * torch.where(size > 0, size, 1.0)
        self.both = torch.cat([states, states + self._size * noise.to(states)])
        self._first = self._apart(self.both)

    def growth(self, both: Tensor) -> float:
        """Return how many times larger it is in what follows from `both`; infinite if a state is not finite."""
        return self._apart(both) / self._first if bool(both.isfinite().all()) else torch.inf

    def _apart(self, both: Tensor) -> float:
        one, other = both.chunk(2)
        return float(((other - one) / self._size).norm())
