"""The correlation of residuals in time and space: a fit leaves noise, or a smooth model error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
from torch import Tensor

_LEAST = 0.05
"""An autocorrelation below this value counts as none."""


@attrs.frozen(kw_only=True)
class Correlation:
    """`volume` neighbouring values err as one (at least 1), and `times` frames err independently."""

    volume: float
    times: float


def correlation(residuals: Tensor, places: Sequence[tuple[int, int]]) -> Correlation:
    """Return the correlation of `residuals [n, C, *S]` of windows that start at `places`, (simulation, frame).

    The volume is the product of the integrated autocorrelations along time and the axes of space. Along an axis the
    sum is 1 + 2 sum_l rho(l), up to the first lag without correlation. It is about 1 for noise; for a discretisation
    error it is the size of a structure.
    Source: the effective size of a correlated sample, e.g. C. Geyer, Stat. Sci. 7 (1992).
    """
    residuals = residuals.double()
    time = _along_time(residuals, places)
    space = [_integrated([residuals.movedim(axis, 0)]) for axis in range(2, residuals.dim())]
    return Correlation(volume=math.prod([time, *space]), times=len(places) / time)


def volume_of_windows(residuals: Tensor) -> float:
    """Return the volume of the correlation of `residuals [n, T, C, *S]` of all frames of windows that share none."""
    residuals = residuals.double()
    time = _integrated(list(residuals.unbind(0)))
    space = [_integrated([residuals.movedim(axis, 0)]) for axis in range(3, residuals.dim())]
    return math.prod([time, *space])


def _along_time(residuals: Tensor, places: Sequence[tuple[int, int]]) -> float:
    rows: dict[int, list[tuple[int, int]]] = {}
    for row, (simulation, frame) in enumerate(places):
        rows.setdefault(simulation, []).append((frame, row))
    return _integrated([residuals[[row for _, row in sorted(own)]] for own in rows.values()])


def _integrated(series: Sequence[Tensor]) -> float:
    """Return the integrated autocorrelation of several series `[n, ...]` along their first axis."""
    power = sum(float(x.square().sum()) for x in series) / max(1, sum(x.numel() for x in series))
    if power == 0 or not math.isfinite(power):
        return 1.0
    total = 1.0
    for lag in range(1, max(len(x) for x in series)):
        long = [x for x in series if len(x) > lag]
        pairs = sum(x[lag:].numel() for x in long)
        # the division is by the number of all values, not of the pairs, so that far lags weigh little
        numbers = sum(x.numel() for x in series)
        rho = sum(float((x[lag:] * x[:-lag]).sum()) for x in long) / numbers / power
        if rho <= max(_LEAST, 2 / math.sqrt(pairs)):
            break
        total += 2 * rho
    return total
