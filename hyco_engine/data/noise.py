"""The noise of observed fields, estimated from what no smooth field has: high differences in space and time.

A difference of order m annihilates polynomials below that order, and gives independent noise of standard deviation
sigma one of sigma sqrt(binomial(2m, m)). What is left of the field itself can only add to it, so the smallest of the
estimates of several operators counts: along time, along each axis of space, and along both; without space, along time
alone. Each takes the median of the magnitudes instead of their square mean, so that shocks and fronts, which fill few
cells, do not count.
Source: T. Gasser, L. Sroka, C. Jennen-Steinmetz, Biometrika 73 (1986), for differences; the median absolute deviation
is that of D. L. Donoho, I. M. Johnstone, Biometrika 81 (1994).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import StateLayout

ORDERS = (0, 2, 4, 6)
"""Orders of the differences along time, and along an axis of space; at least one of them is not 0."""
LEAST_VALUES = 100
"""An estimate needs so many differences: its own relative error is then about an eighth."""
MOST_VALUES = 2**18
"""Frames beyond so many values of a field are left out: more of them would not change the estimate."""
NOISY = 0.002
"""Noise below this many standard deviations of a field does not matter: its bias, of second order, is below 1e-5."""
_MEDIAN = 0.674489750196  # the median magnitude of a standard normal number
_SPREAD = 1.17  # the standard error of the estimate, relative to it and times the root of the number of values


def estimate_noise(trajectories: Iterable[Trajectory], layout: StateLayout) -> dict[str, float]:
    """Return the standard deviation of the noise of each dynamic field, in its own unit.

    It is 0 for a field without noise, up to what the field's own high differences leave, and for one with too few
    values to tell. NaN means "not observed" and is left out.
    """
    known, parts = list(trajectories), {field.name: layout.channels(field.name) for field in layout.dynamic}
    return {name: _of_field([trajectory.dynamic[:, own] for trajectory in known]) for name, own in parts.items()}


def is_noisy(noise: Mapping[str, float]) -> bool:
    """Return True if the noise of any field, in standard deviations of the field, matters."""
    return max(noise.values(), default=0.0) > NOISY


def _of_field(simulations: list[Tensor]) -> float:
    """Return the noise of one field in `[T, C, *S]` each."""
    found: dict[tuple[int, int, int], list[Tensor]] = {}
    left = MOST_VALUES
    for values in simulations:
        frames = values[: max(1, left // max(1, values[0].numel()))].double()
        left -= frames.numel()
        space = range(2, frames.dim())
        for operator in itertools.product(ORDERS, ORDERS, space) if space else ((order, 0, 0) for order in ORDERS):
            if any(operator[:2]):
                found.setdefault(operator, []).append(_magnitudes(frames, *operator))
        if left <= 0:
            break
    joined = [torch.cat(parts) for parts in found.values()]
    enough = [magnitudes for magnitudes in joined if len(magnitudes) >= LEAST_VALUES]
    return min(map(_estimate, enough), default=(0.0, 0.0))[1]


def _magnitudes(frames: Tensor, in_time: int, in_space: int, axis: int) -> Tensor:
    """Return the magnitudes of the differences, scaled so that noise keeps its size; without those of hidden values."""
    if frames.shape[0] <= in_time or frames.shape[axis] <= in_space:
        return frames.new_empty(0)
    differences = frames.diff(n=in_time, dim=0).diff(n=in_space, dim=axis)
    size = math.sqrt(math.comb(2 * in_time, in_time) * math.comb(2 * in_space, in_space))
    found = differences.flatten().abs() / size
    return found[~found.isnan()]


def _estimate(magnitudes: Tensor) -> tuple[float, float]:
    """Return (about the largest noise that agrees with the magnitudes, the noise that agrees best).

    The smallest of many estimates would be one of the least certain ones; the smallest bound is not.
    """
    noise = float(magnitudes.median()) / _MEDIAN
    return noise * (1 + 3 * _SPREAD / math.sqrt(len(magnitudes))), noise
