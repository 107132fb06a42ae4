"""The posterior of a run's parameters, beside the run's other files: `RUN/posterior.json`, made on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyco_engine.runs.beside import read_beside, write_beside
from hyco_engine.runs.structure import NUMBER, Each, Rows

POSTERIOR = "posterior.json"
_NUMBERS = Rows(NUMBER)
_SHAPE = {
    "parameters": Each(
        {
            **dict.fromkeys(("mean", "standard_deviation", "median"), NUMBER),
            "interval": _NUMBERS,
            "draws": _NUMBERS,
        }
    ),
    "bands": Rows(
        {"value": str, "noise": NUMBER, **dict.fromkeys(("time", "observed", "low", "median", "high"), _NUMBERS)}
    ),
    "effective_samples": int,
}


def keep_posterior(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write what a sampler found into a run folder, where reports look for it."""
    return write_beside(folder, POSTERIOR, found)


def read_posterior(folder: Path) -> dict[str, Any] | None:
    """Return the posterior of a run, None where nobody sampled it. Raise DataError where the file is damaged."""
    return read_beside(folder, POSTERIOR, _SHAPE, _check_complete)


def _check_complete(found: Mapping[str, Any]) -> None:
    """Raise ValueError where something lacks that is drawn, or lists that belong together differ in length."""
    lengths = {len(entry.get("draws") or ()) for entry in found["parameters"].values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError("its parameters have different numbers of draws, or none")
    for name, entry in found["parameters"].items():
        if len(entry.get("interval") or ()) != 2 or None in (*entry["interval"], *entry["draws"], entry.get("median")):
            raise ValueError(f"the posterior of {name} is not complete")
    for band in found["bands"]:
        if len({len(band.get(name) or ()) for name in ("time", "observed", "low", "median", "high")}) != 1:
            raise ValueError("the curves of a band have different lengths")
