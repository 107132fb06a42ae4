"""What rollouts of a run's models cost, beside the run's other files: `RUN/costs.json`, made on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyco_engine.runs.beside import read_beside, write_beside
from hyco_engine.runs.structure import NUMBER, Rows

COSTS = "costs.json"
_MEASURED = dict.fromkeys(("error", "seconds", "seconds_in_batch"), NUMBER)
_SHAPE = {
    "measure": str,
    "surrogate": _MEASURED,
    "physics": Rows({**_MEASURED, "resolution": Rows(int), "internal_steps": int}),
    "persistence": NUMBER,
    "pays_after": {"single": int, "batch": int},
    "sentences": Rows(str),
}


def write_costs(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write what `paying.costs` returned into a run folder, where reports and comparisons look for it."""
    return write_beside(folder, COSTS, found)


def read_costs(folder: Path) -> dict[str, Any] | None:
    """Return the costs of a run, None where they were not measured. Raise DataError where the file is damaged."""
    return read_beside(folder, COSTS, _SHAPE)
