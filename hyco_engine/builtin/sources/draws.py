"""True values that are drawn for each simulation: `data.truth.<name> = { uniform = [0.01, 0.1] }`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from hyco_engine.builtin.sources.options import Draw


def drawn(
    draws: Mapping[str, Draw], count: int, generator: Callable[..., torch.Generator]
) -> tuple[dict[str, float], ...]:
    """Return the values of each of `count` simulations by name; `generator(*purpose)` gives streams of their own.

    Grids of several parameters are combined with each other, the last one changing fastest, and begin again when all
    combinations are used. What `each` lists goes in parallel. Only a Latin hypercube depends on the number of
    simulations.
    """
    found: list[dict[str, float]] = [{} for _ in range(count)]
    period = math.prod(len(draw.grid) for draw in draws.values() if draw.grid)
    for name, draw in draws.items():
        if draw.grid:
            period //= len(draw.grid)
        order = torch.randperm(count, generator=generator("truth", name)).tolist()
        for index, values in enumerate(found):
            part = torch.rand((), dtype=torch.float64, generator=generator("truth", name, index)).item()
            place = index if draw.each else index // period
            values[name] = _value(draw, part, place, (order[index] + part) / count)
    return tuple(found)


def _value(draw: Draw, part: float, place: int, even: float) -> float:
    """Return the value of a draw: one of a list at its `place`, or for a share in [0, 1).

    The share `part` is independent of other simulations, `even` is in a layer of its own.
    """
    if listed := draw.grid or draw.each:
        return listed[place % len(listed)]
    if draw.log_uniform is not None:
        lower, upper = map(math.log, draw.log_uniform)
        return math.exp(lower + part * (upper - lower))
    if draw.uniform is not None:
        return draw.uniform[0] + part * (draw.uniform[1] - draw.uniform[0])
    assert draw.latin_hypercube is not None  # one of them is given
    return draw.latin_hypercube[0] + even * (draw.latin_hypercube[1] - draw.latin_hypercube[0])
