"""Conversion of sample positions to the cells of a grid. PhiFlow's grids hold cell centres; files often hold nodes.

The rule: samples become centres of cells. Where samples lie on the ends of the domain (nodes),
* a side with a fixed value loses its end sample, which must equal that value: the sample's place is then that of the
  first ghost cell, whose value the boundary gives;
* a periodic axis loses its last sample, which must repeat the first; the domain is thereby shifted by half a cell;
* any other side keeps its end sample, and the domain reaches half a cell beyond it. There `reflect` mirrors at the end
  sample itself, and `symmetric` at the outer face of its cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt

from hyco_engine.data.fields import FieldInfo, Rule
from hyco_engine.errors import DataError

SPACING_TOLERANCE = 1e-3
"""Largest distance of positions from evenly spaced ones, in spacings."""
END_TOLERANCE = 0.02
"""Largest distance of samples from the ends of the domain, or from half a cell inside, in spacings."""

UNEVEN = (
    'data.resample = "linear" or "cubic" interpolates, "missing" takes frames that are missing among even ones as not '
    'observed, and kind = "points" takes samples as sensors at any place and time'
)

Side = Literal["fixed", "periodic", "open", "mixed"]
Points = Literal["auto", "cells", "nodes"]


@attrs.frozen(kw_only=True)
class EndLook:
    """The values of end samples: the value that the boundary fixes, another one (see `detail`), or varying ones."""

    kind: Literal["fixed value", "another value", "varies"]
    detail: str = ""


@attrs.frozen(kw_only=True)
class Evidence:
    """Looks at the samples at the ends of an axis; used only where positions do not decide."""

    look: Callable[[int], EndLook]
    """Describe the end samples on side 0 (lower) or 1 (upper)."""
    repeats: Callable[[], bool | None]
    """Return True if the last samples repeat the first, False if not, and None if they are equal but so are their
    neighbours, as in a field that is symmetric or flat at its ends."""


@attrs.frozen(kw_only=True)
class AxisPlan:
    """The cells that the samples along one axis become."""

    axis: str
    drops: tuple[bool, bool] = (False, False)
    """For each side, True if its end sample becomes a ghost cell."""
    repeats: bool = False
    """True if the last sample repeats the first and is left out."""
    resolution: int
    lower: float
    upper: float
    text: str

    @property
    def keep(self) -> slice:
        """Return the slice of the samples that become cells."""
        start = int(self.drops[0])
        return slice(start, start + self.resolution)


@attrs.frozen(kw_only=True)
class _Samples:
    """`n` samples from `first`, `step` apart; the domain extends `gaps` steps beyond the end samples.

    A gap is 0 for a node on the boundary, 1/2 for a cell's centre, 1 for the node next to a boundary node that the file
    leaves out.
    """

    n: int
    first: float
    step: float
    gaps: tuple[float, float]


def side_kinds(fields: Sequence[FieldInfo], axis: str) -> tuple[Side, Side]:
    """Return the sort of boundary on the two sides of an axis, "mixed" where the fields differ."""
    lower, upper = ({_kind(field.boundary.sides[axis][side]) for field in fields} for side in (0, 1))
    return _only(lower), _only(upper)


def _only(kinds: set[Side]) -> Side:
    return next(iter(kinds)) if len(kinds) == 1 else "mixed"


def _kind(rule: Rule) -> Side:
    if rule.normal is not None and rule.tangential is not None:
        return _only({_kind(rule.normal), _kind(rule.tangential)})
    return {"constant": "fixed", "formula": "fixed", "periodic": "periodic"}.get(rule.kind, "open")  # type: ignore[return-value]


def downwards(values: npt.NDArray[Any]) -> bool:
    """Return whether numbers decrease from each to the next."""
    return len(values) > 1 and bool((values[1:] < values[:-1]).all())


def is_uneven(values: npt.NDArray[Any]) -> bool:
    """Return whether finite, increasing numbers are not evenly spaced."""
    known = len(values) > 1 and bool(np.isfinite(values).all()) and bool((np.diff(values) > 0).all())
    try:
        even_spacing(values, "", "")
    except DataError:
        return known
    return False


def even_spacing(
    values: npt.NDArray[Any],
    key: str,
    what: str,
    remedy: str = "interpolate the data onto an evenly spaced grid first",
) -> tuple[float, float]:
    """Return (first, step) of increasing numbers.

    Raise DataError if one is a thousandth of a step from even spacing.
    """
    values = np.asarray(values)
    rounding = 8 * np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0
    values = values.astype(np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise DataError(f"{what} must hold at least two finite numbers", key=key)
    first, step = float(values[0]), float((values[-1] - values[0]) / (len(values) - 1))
    if step <= 0:
        raise DataError(f"{what} must increase; it runs from {values[0]:g} to {values[-1]:g}", key=key)
    if (np.diff(values) <= 0).any():  # as where single precision rounds seconds since 1970
        stuck = int((np.diff(values) <= 0).argmax())
        raise DataError(
            f"{what} must increase; entry {stuck} is {values[stuck]:.9g} and the next one {values[stuck + 1]:.9g}",
            key=key,
        )
    off = np.abs(values - (first + step * np.arange(len(values))))
    worst = int(off.argmax())
    if off[worst] > SPACING_TOLERANCE * step + rounding * np.abs(values).max():
        raise DataError(
            f"{what} must be evenly spaced; entry {worst} is {values[worst]:g} where a spacing of {step:g} gives "
            f"{first + step * worst:g}; {remedy}",
            key=key,
        )
    return first, step


def plan_axis(
    axis: str,
    n: int,
    *,
    positions: npt.NDArray[Any] | None,
    bounds: tuple[float, float] | None,
    sides: tuple[Side, Side],
    points: Points,
    evidence: Evidence,
) -> AxisPlan:
    """Decide where the `n` samples along an axis lie. Raise DataError where positions, bounds and boundary disagree.

    Positions and bounds together decide alone. With positions but no bounds and `points = "auto"`, the samples are
    nodes if their values show it: on a periodic axis the last repeats the first, on fixed sides the end samples keep
    the boundary's value. With bounds but no positions, they are cells unless `points = "nodes"`.
    """
    if positions is None and bounds is None:
        raise DataError(
            f"the positions of the samples along {axis} are missing: give bounds.{axis} = [lower, upper], or name "
            f"the array of their positions in coordinates.{axis}",
            key=f"data.bounds.{axis}",
        )
    if n < 2:
        raise DataError(f"the data has {n} sample along {axis}, and at least 2 are needed", key="data.axes")
    if positions is None:
        assert bounds is not None  # the first test above
        samples = _by_bounds(n, bounds, points)
    else:
        first, step = even_spacing(positions, f"data.coordinates.{axis}", f"the positions along {axis}", UNEVEN)
        if bounds is None:
            samples = _by_positions(axis, n, first, step, sides, points, evidence)
        else:
            samples = _by_both(axis, n, first, step, bounds, sides, points)
    return _plan(axis, samples, bounds, sides)


def thin_axis(axis: str, positions: npt.NDArray[Any] | None, bounds: tuple[float, float] | None) -> AxisPlan:
    """Return the plan for an axis of one sample, which the engine leaves out of the grid."""
    centre = 0.5 if positions is None else float(positions[0])
    lower, upper = bounds or (centre - 0.5, centre + 0.5)
    return AxisPlan(axis=axis, resolution=1, lower=lower, upper=upper, text=f"{axis}: one sample")


def _by_bounds(n: int, bounds: tuple[float, float], points: Points) -> _Samples:
    lower, upper = bounds
    if points == "nodes":
        return _Samples(n=n, first=lower, step=(upper - lower) / (n - 1), gaps=(0.0, 0.0))
    step = (upper - lower) / n
    return _Samples(n=n, first=lower + step / 2, step=step, gaps=(0.5, 0.5))


def _by_positions(
    axis: str, n: int, first: float, step: float, sides: tuple[Side, Side], points: Points, evidence: Evidence
) -> _Samples:
    gaps = (0.5, 0.5)
    if points == "nodes":
        gaps = (0.0, 0.0)
    elif points == "auto" and sides == ("periodic", "periodic"):
        repeats = evidence.repeats()
        if repeats is None:
            repeats = _repeats_by_positions(n, first, step)
        if repeats is None:
            raise DataError(
                f"along {axis} the last samples equal the first, but neither the values nor the positions show whether "
                f"both are the same point of the period; give bounds.{axis} = [lower, upper], or set points: "
                f'"nodes" if the last sample repeats the first, else "cells"',
                key="data.points",
            )
        gaps = (0.0, 0.0) if repeats else gaps
    elif points == "auto" and "fixed" in sides:
        looks = {side: evidence.look(side) for side in (0, 1) if sides[side] == "fixed"}
        for side, look in looks.items():
            if look.kind == "another value":
                raise DataError(
                    f"at the {('lower', 'upper')[side]} end of {axis}, {look.detail}: the grid does not match the "
                    f'boundary; correct boundary, or set points = "cells" if the end samples are no boundary values',
                    key="data.boundary",
                )
        if {look.kind for look in looks.values()} == {"fixed value"}:
            gaps = (0.0 if 0 in looks else 0.5, 0.0 if 1 in looks else 0.5)
    return _Samples(n=n, first=first, step=step, gaps=gaps)


def _repeats_by_positions(n: int, first: float, step: float) -> bool | None:
    """Return whether positions show that the last sample of a period repeats the first; None where they do not.

    Samples half a step from 0 are centres of cells. Else people choose a round end of the period: of -8, -7.9375, ...,
    7.9375 it is 8, one step after the last sample, and of 0, 0.01, ..., 1 it is the last sample.
    """
    if abs(first / step % 1 - 0.5) <= END_TOLERANCE:
        return False
    repeated, left_out = (_digits(first + (n + more) * step, n * step) for more in (-1, 0))
    return None if repeated == left_out else repeated < left_out


def _digits(value: float, length: float) -> int:
    """Return how many significant digits a number has, to a millionth of the length; a multiple of pi has one more.

    Numbers of more than three digits are no rounder than one another.
    """

    def digits(number: float, tolerance: float) -> int:
        if abs(number) <= tolerance:
            return 0
        return next((d for d in (1, 2, 3) if abs(number - float(f"{number:.{d - 1}e}")) <= tolerance), 4)

    return min(digits(value, 1e-6 * length), digits(value / math.pi, 1e-6 * length / math.pi) + 1, 4)


def _by_both(
    axis: str,
    n: int,
    first: float,
    step: float,
    bounds: tuple[float, float],
    sides: tuple[Side, Side],
    points: Points,
) -> _Samples:
    last = first + step * (n - 1)
    found = ((first - bounds[0]) / step, (bounds[1] - last) / step)
    allowed = {"auto": (0.0, 0.5, 1.0), "cells": (0.5,), "nodes": (0.0, 1.0)}[points]
    if sides == ("periodic", "periodic") and abs(sum(found) - 1.0) <= END_TOLERANCE and points != "nodes":
        # the samples cover exactly one period, wherever they begin
        return _Samples(n=n, first=first, step=step, gaps=found)
    gaps = []
    for side, gap in enumerate(found):
        near = [value for value in allowed if abs(gap - value) <= END_TOLERANCE]
        if not near or (near[0] == 1.0 and sides[side] != "fixed"):
            raise DataError(
                f"the positions along {axis} run from {first:g} to {last:g}, {step:g} apart, and match neither the "
                f"cells nor the nodes of the bounds {bounds[0]:g} to {bounds[1]:g}"
                + ("" if points == "auto" else f' with points = "{points}"')
                + "; correct the bounds, or leave them out",
                key=f"data.bounds.{axis}",
            )
        gaps.append(near[0])
    return _Samples(n=n, first=first, step=step, gaps=(gaps[0], gaps[1]))


def _plan(axis: str, samples: _Samples, bounds: tuple[float, float] | None, sides: tuple[Side, Side]) -> AxisPlan:
    n, first, step = samples.n, samples.first, samples.step
    on_end = [gap == 0.0 for gap in samples.gaps]
    for side in (0, 1):
        if on_end[side] and sides[side] == "mixed":
            raise DataError(
                f"the samples along {axis} are nodes, and at the {('lower', 'upper')[side]} end the boundary fixes "
                f"some fields and not others, so the end samples can be neither kept nor left out; give the fields "
                f"boundaries of one sort there, or interpolate the data onto cells",
                key="data.boundary",
            )
    periodic = sides == ("periodic", "periodic")
    repeats = periodic and all(on_end)
    drops = (on_end[0] and sides[0] == "fixed", on_end[1] and sides[1] == "fixed")
    resolution = n - sum(drops) - int(repeats)
    if resolution < 2:
        raise DataError(
            f"{n} nodes along {axis} leave {resolution} cell(s) without the boundary's own, and at least 2 are needed",
            key="data.axes",
        )
    start = first + step * drops[0]
    lower, upper = start - step / 2, start + step * (resolution - 0.5)
    if bounds is not None:  # the given bounds are exact where no end was moved
        lower = bounds[0] if samples.gaps[0] == 0.5 else lower
        upper = bounds[1] if samples.gaps[1] == 0.5 else upper
    last = first + step * (n - 1)
    what = "nodes" if any(on_end) else "cell centres"
    text = f"{axis}: {n} samples from {first:.6g} to {last:.6g} are {what}"
    if repeats:
        text += "; the last repeats the first and is left out, and the domain is shifted by half a cell"
    elif any(drops):
        which = "both end samples hold" if all(drops) else f"the {'lower' if drops[0] else 'upper'} end sample holds"
        text += f"; {which} the boundary's fixed value and become ghost cells"
    if any(on_end) and not repeats and not all(drops):
        text += "; cells around end samples reach half a cell beyond them"
    text += f" -> {resolution} cells on [{lower:.6g}, {upper:.6g}]"
    return AxisPlan(axis=axis, drops=drops, repeats=repeats, resolution=resolution, lower=lower, upper=upper, text=text)
