"""The form of the data that a model works on, which its weights file keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.statistics import Statistics


@attrs.frozen(kw_only=True, eq=False)
class DataForm:
    """The layout of the states, the time between two frames, and the statistics that scale them.

    All three are None for data that is no field.
    """

    layout: StateLayout | None = None
    dt: float | None = None
    statistics: Statistics | None = None

    @property
    def text(self) -> str:
        """The fields and the grid, as messages name them."""
        if self.layout is None:
            return "no fields"
        fields = ", ".join(f"{f.name} ({f.channels}, {f.sampling})" for f in self.layout.fields)
        grid = self.layout.grid
        sides = zip(grid.axes, grid.resolution, grid.lower, grid.upper, strict=True)
        cells = ", ".join(f"{n} cells along {a} in [{lo:.6g}, {up:.6g}]" for a, n, lo, up in sides)
        return f"the fields {fields} on {cells}"

    def to_metadata(self) -> dict[str, str]:
        """Texts by name, as a weights file keeps them; `from_metadata` reads them back exactly."""
        if self.layout is None or self.statistics is None:
            return {}
        return {
            "layout": json.dumps(self.layout.to_data()),
            "dt": repr(self.dt),
            "statistics": json.dumps(self.statistics.to_data()),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> DataForm:
        """The form that `to_metadata` wrote; other names in `metadata` are not looked at."""
        if "layout" not in metadata:
            return cls()
        return cls(
            layout=StateLayout.from_data(json.loads(metadata["layout"])),
            dt=float(metadata["dt"]),
            statistics=Statistics.from_data(json.loads(metadata["statistics"])),
        )
