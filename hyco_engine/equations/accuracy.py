"""How many steps a frame needs to be accurate, where states are so few numbers that it can be tried."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""The error of a frame that counts as none, relative to the spread of each component."""
ROUGH = 1e-3
"""The error of a step that is worth a warning."""
MOST = 1024
"""The number of steps beyond which nothing is tried."""
FRAMES, STEPS = 32, 16
"""How far states are followed, and by how many steps a frame."""
ORDER = 4

Advance = Callable[[Tensor, int], Tensor]
"""`advance(states [N, C], n)` returns the states a frame later, by n steps."""


def accurate_steps(advance: Advance, states: Tensor, spread: Tensor, tolerance: float = TOLERANCE) -> float:
    """Return the smallest number of steps whose error is `tolerance` of `spread [C]`, not rounded.

    The error is the difference from twice as many steps. The number is infinite where none is accurate.
    """
    spread = torch.where(spread > 0, spread, 1.0)
    count, coarse = 1, advance(states, 1)
    while 2 * count <= MOST:
        fine = advance(states, 2 * count)
        error = float(((coarse - fine).abs() / spread).max())
        # what overflows needs shorter steps
        if math.isfinite(error) and error <= tolerance:
            least = count * math.pow(max(error / tolerance, 16.0**-ORDER), 1 / ORDER)
            # half as many were not enough: where the order says they were, it does not hold yet
            return least if count == 1 or least > count / 2 else count
        count, coarse = 2 * count, fine
    return math.inf


def reached(advance: Advance, states: Tensor) -> Tensor:
    """Return the states `[M, C]` that some states reach within `FRAMES`, but those after which nothing is finite."""
    found = []
    for _ in range(FRAMES):
        after = advance(states, STEPS)
        finite = after.isfinite().all(1)
        found.append(states[finite])
        states = torch.where(finite[:, None], after, torch.nan)
    return torch.cat(found)
