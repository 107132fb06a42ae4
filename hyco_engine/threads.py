"""The processor threads that torch computes with.

The number is part of a run, because it changes the last digits of sums. A run sets it for its own time only, and gives
a program that embeds the engine its number back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

CELLS_PER_THREAD = 2**15
"""A further thread pays from so many cells in a batch; torch, too, divides its simplest operations from there on."""
LARGEST_BATCH = 16
"""The number of samples in a step, at most, for the choice of threads; it is the largest batch that is chosen."""
SPINNING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The variables by which OpenMP is told how threads wait for work."""


def let_waiting_threads_sleep() -> None:
    """Have threads without work sleep, unless the user said how they wait; torch reads this when it is loaded.

    By default they spin, which takes the processor from every other program, and from the thread that they wait for.
    """
    if not any(name in os.environ for name in SPINNING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def threads_for(cells: int, samples: int) -> int:
    """Return how many threads pay for `samples` samples with so many `cells` each; torch's present number at most."""
    import torch

    return max(1, min(torch.get_num_threads(), cells * min(samples, LARGEST_BATCH) // CELLS_PER_THREAD))


def compute_with(threads: int) -> None:
    """Have torch compute with so many threads."""
    import torch

    torch.set_num_threads(threads)


@contextmanager
def own_threads(threads: int | Literal["auto"] = "auto") -> Iterator[None]:
    """Compute with so many threads, "auto" for as many as before, and give the caller its number back at the end."""
    import torch

    before = torch.get_num_threads()
    try:
        if threads != "auto":
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
