"""The rows of a text table as the points of a grid: one row for each simulation, time and place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LEAST = 0.5
"""The least part of the points of a grid that have a row."""


@attrs.frozen(kw_only=True, eq=False)
class TableGrid:
    """The points of a grid on which the rows of a table lie."""

    shape: tuple[int, ...]
    lines: Mapping[str, Array]
    """The different numbers of each column that says where a row lies, which increase."""
    rows: Array
    """The point of each row, counted over the whole grid."""

    @classmethod
    def of(cls, simulation: Array, columns: Mapping[str, Array]) -> TableGrid:
        """Lay out the rows by the number of their simulation `[rows]`, then by `columns`, `[rows]` each.

        Raises ValueError where two rows lie on one point, or points have no row.
        """
        lines, places, shape = {}, [simulation], [int(simulation.max()) + 1]
        for name, values in columns.items():
            if not np.isfinite(values).all():
                raise ValueError(f"row {int((~np.isfinite(values)).argmax()) + 1} has no number in the column {name!r}")
            lines[name], place = np.unique(values, return_inverse=True)
            places.append(place.reshape(-1))
            shape.append(len(lines[name]))
        points = math.prod(shape)
        told = ", ".join(f"{n} of {name!r}" for name, n in zip(columns, shape[1:], strict=True))
        if points > len(simulation) / _LEAST:
            raise ValueError(
                f"its {len(simulation)} rows do not lie on a grid ({told}: {points} points); "
                'kind = "points" takes rows at any place and time'
            )
        rows = np.ravel_multi_index(tuple(places), shape)
        if len(np.unique(rows)) < len(rows):
            raise ValueError(
                f"several rows have the same {' and '.join(map(repr, columns))}; data.csv.simulation names the columns "
                "whose entries tell simulations apart"
            )
        return cls(shape=tuple(shape[shape[0] == 1 :]), lines=lines, rows=rows)

    def __call__(self, values: Array) -> Array:
        """Return a column `[rows]` on the grid, with NaN at points without a row."""
        out = np.full(math.prod(self.shape), np.nan)
        out[self.rows] = values
        return out.reshape(self.shape)


def by_simulation(entries: Sequence[tuple[str, ...]]) -> Array:
    """Return the number of the simulation of each row, in the order in which they first appear."""
    known = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    return np.array([known[entry] for entry in entries])
