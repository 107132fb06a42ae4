"""Which cells may be disturbed together: those of one colour, no two of which stand in the same residual.

The colour of a cell is a sum of multiples of its indices, modulo the number of colours. For the cross of two cells to
both sides of three axes, 13 colours suffice, as many as a residual has cells; a periodic axis has to close.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Box = tuple[int, ...]
"""How many cells a box reaches from its centre along each axis, to both sides."""


def apart(boxes: Collection[Box], resolution: Sequence[int], periodic: Sequence[bool]) -> Ints:
    """Return the offsets `[K, axes]` from a cell to the cells in boxes about it, each cell once."""
    places = {place for box in boxes for place in itertools.product(*(range(-n, n + 1) for n in box))}
    found = np.array(list(places), np.int64)
    for axis, (n, closed) in enumerate(zip(resolution, periodic, strict=True)):
        if closed:
            found[:, axis] = (found[:, axis] + (n - 1) // 2) % n - (n - 1) // 2
        else:
            found = found[np.abs(found[:, axis]) < n]
    return np.unique(found, axis=0)


def colours(boxes: Collection[Box], resolution: Sequence[int], periodic: Sequence[bool]) -> Ints:
    """Return the colours `[*resolution]`, from 0 on, of cells where residuals depend on the cells in boxes about them.

    As few as the cells in a residual are tried first; counting along each axis for itself is always possible.
    """
    # two cells are in one residual if they are as far apart as the sum of two boxes
    both = {tuple(map(sum, zip(*pair, strict=True))) for pair in itertools.product(boxes, repeat=2)}
    between = apart(both, resolution, periodic)
    between = between[between.any(axis=1)]
    sides = tuple(zip(resolution, periodic, strict=True))
    reaches = map(max, zip(*boxes, strict=True))
    periods = [_period(*side, reach) for side, reach in zip(sides, reaches, strict=True)]
    least = max(math.prod(min(n, 2 * reach + 1) for n, reach in zip(resolution, box, strict=True)) for box in boxes)
    indices = np.indices(resolution)
    count = math.prod(periods)
    factors = tuple(math.prod(periods[:axis]) for axis in range(len(periods)))
    for fewer in range(least, count):
        if (found := next(_factors(between, fewer, sides), None)) is not None:
            factors, count = found, fewer
            break
    else:
        indices %= np.reshape(periods, (-1, *[1] * len(resolution)))
    every = np.tensordot(factors, indices, 1) % count
    coloured: Ints = np.unique(every, return_inverse=True)[1].reshape(resolution)
    return coloured


def _period(n: int, closed: bool, reach: int) -> int:
    """Return after how many cells along an axis a cell may be disturbed together with the first one."""
    least = min(n, 2 * reach + 1)
    # around a periodic axis, the last one must be as far from the first one
    return next(p for p in range(least, n + 1) if not closed or n % p == 0 or n % p >= least)


def _factors(
    between: Ints, count: int, sides: Sequence[tuple[int, bool]], known: tuple[int, ...] = ()
) -> Iterator[tuple[int, ...]]:
    """Yield the factors of indices, after the `known` ones, by which no cells at offsets `between` have one colour."""
    axis = len(known)
    if axis == len(sides):
        yield known
        return
    n, closed = sides[axis]
    # a factor and its negative differ by a reflection of the axis
    tried = np.arange(0, count // 2 + 1, count // math.gcd(n, count) if closed else 1)
    if not axis:
        # all others are these times a number that has an inverse
        tried = tried[[own == 0 or count % own == 0 for own in tried]]
    # only differences that end with this axis, each up to its sign
    ends = between[(between[:, axis] > 0) & ~between[:, axis + 1 :].any(axis=1)]
    cells = np.arange(ends[:, axis].max(initial=0) + 1)
    equal = np.zeros((len(cells), count), bool)
    equal[ends[:, axis], -(ends[:, :axis] @ np.array(known, np.int64)) % count] = True
    differ = ~equal[cells, tried[:, None] * cells % count].any(axis=1)
    for own in tried[differ].tolist():
        yield from _factors(between, count, sides, (*known, own))
