"""What rollouts of a run's models cost, beside the run's other files: `RUN/costs.json`, made on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyco_engine.runs.files import dump_json, write_atomic
from hyco_engine.runs.reading import RunFiles
from hyco_engine.runs.seal import seal_also
from hyco_engine.runs.structure import NUMBER, Rows, check

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
    write_atomic(folder / COSTS, dump_json(dict(found)) + "\n")
    seal_also(folder, COSTS)
    return folder / COSTS


def read_costs(folder: Path) -> dict[str, Any] | None:
    """Return the costs of a run, None where they were not measured. Raise DataError where the file is damaged."""
    files = RunFiles(folder)
    found: dict[str, Any] | None = files.json(COSTS)
    if found is None:
        return None
    try:
        check(found, _SHAPE)
        if lacking := [name for name in _SHAPE if found.get(name) is None]:
            raise ValueError(f"it lacks {lacking[0]}")
    except ValueError as error:
        raise files.damaged(COSTS, error) from error
    return found
