"""Files that are made on demand beside a run's other files, such as what rollouts cost: JSON of a known shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyco_engine.runs.files import dump_json, write_atomic
from hyco_engine.runs.reading import RunFiles
from hyco_engine.runs.seal import seal_also
from hyco_engine.runs.structure import check


def write_beside(folder: Path, name: str, found: Mapping[str, Any]) -> Path:
    """Write the file into a run folder, where reports look for it, and seal it."""
    write_atomic(folder / name, dump_json(dict(found)) + "\n")
    seal_also(folder, name)
    return folder / name


def read_beside(
    folder: Path, name: str, shape: Mapping[str, Any], also: Callable[[Mapping[str, Any]], None] = lambda found: None
) -> dict[str, Any] | None:
    """Return the content of the file, None where nobody made it.

    Raise DataError where it has not the shape, lacks an entry, or `also` raises ValueError.
    """
    files = RunFiles(folder)
    found: dict[str, Any] | None = files.json(name)
    if found is None:
        return None
    try:
        check(found, shape)
        if lacking := [entry for entry in shape if found.get(entry) is None]:
            raise ValueError(f"it lacks {lacking[0]}")
        also(found)
    except ValueError as error:
        raise files.damaged(name, error) from error
    return found
