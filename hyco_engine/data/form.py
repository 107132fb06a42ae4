"""The form of the data that a model works on, which its weights file keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import attrs

from hyco_engine.data.fields import TIME, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.untrusted import parse_json, refuse_large


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
        return f"the fields {fields} {self.layout.grid.text}"

    @property
    def times(self) -> tuple[float, float] | None:
        """The first and the last time of the train split, if states hold their time and it is known."""
        if self.layout is None or self.statistics is None or not self.layout.has_time:
            return None
        own = self.layout.channels(TIME).start
        return float(self.statistics.lowest[own]), float(self.statistics.highest[own])

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
        """The form that `to_metadata` wrote; other names in `metadata` are not looked at.

        Raises ValueError or KeyError on anything else, and for states that do not fit into memory.
        """
        if "layout" not in metadata:
            return cls()
        layout = StateLayout.from_data(parse_json(metadata["layout"]))
        refuse_large(_COPIES * 4 * layout.n_all * math.prod(layout.spatial))
        dt = float(metadata["dt"])
        if not 0 < dt < math.inf:
            raise ValueError(f"the time between two frames is {dt:g}; it must be a finite number above 0")
        statistics = Statistics.from_data(parse_json(metadata["statistics"]))
        statistics.check_fit(layout)
        return cls(layout=layout, dt=dt, statistics=statistics)


_COPIES = 8
"""The states that a model holds at least at a time: its input, its output, and what is between them."""
