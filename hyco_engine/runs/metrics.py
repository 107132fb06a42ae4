"""metrics.jsonl and summary.json: strict JSON, one object a line in the former.

JSON has no NaN and no infinity. In metrics.jsonl such a value is null, and the line's `nonfinite` says which it was:
`{"train/loss": null, "nonfinite": {"train/loss": "nan"}}`; `read_metrics` puts it back. In summary.json it is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hyco_engine.errors import DataError
from hyco_engine.resources import free_memory
from hyco_engine.runs.files import dump_json, plain
from hyco_engine.runs.seal import verify

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"

_FIRST = ("cycle", "phase", "epoch", "step")


def metrics_line(record: Mapping[str, Any], time: float) -> str:
    """One line of metrics.jsonl. `record` is flat: name -> number, text or None. Raises TypeError on anything else."""
    values = plain(record, "metrics")
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise TypeError(f"metrics.{name}: a line of metrics holds single values; use one name for each")
        if name in ("time", "nonfinite"):
            raise TypeError(f"metrics.{name}: this name is the run folder's own")
    line: dict[str, Any] = {"time": round(time, 3)}
    line |= {name: values[name] for name in _FIRST if name in values}
    line |= {name: value for name, value in values.items() if name not in _FIRST}
    if strange := {n: str(v) for n, v in values.items() if isinstance(v, float) and not math.isfinite(v)}:
        line["nonfinite"] = strange
    return dump_json(line, indent=None)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that a crash cut short is left out.

    Raises DataError if the file is missing or damaged.
    """
    path = folder / METRICS
    # what follows the last newline is empty, or was cut short
    lines = _read(path).split(b"\n")[:-1]
    return [_with_nonfinite(path, number, _parse(path, text, number)) for number, text in enumerate(lines, start=1)]


def of_kept_arms(records: Iterable[dict[str, Any]], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Without the records of arms that were given up: what became of the models that the run ended with.

    Where none was chosen, as in a run that was interrupted, that is each model's first arm.
    """
    kept = {player: told["kept"] for player, told in (summary.get("arms") or {}).items()}

    def is_kept(record: Mapping[str, Any]) -> bool:
        player = str(record.get("phase", "")).removeprefix("train_")
        return "arm" not in record or record["arm"] == kept.setdefault(player, record["arm"])

    return [record for record in records if is_kept(record)]


def _with_nonfinite(path: Path, number: int, record: dict[str, Any]) -> dict[str, Any]:
    strange = record.pop("nonfinite", {})
    try:
        return record | {name: float(text) for name, text in strange.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}:{number} is damaged: {strange!r} names no numbers") from error


def read_summary(folder: Path) -> dict[str, Any]:
    """A run's summary.json. Raises DataError if it is missing (the run did not end) or damaged."""
    path = folder / SUMMARY
    return _parse(path, _read(path))


def _read(path: Path) -> bytes:
    verify(path.parent, path)
    try:
        # what is parsed takes about ten times as much
        if (size := path.stat().st_size) * 10 > free_memory():
            raise DataError(f"cannot read {path}: its {size} bytes are more than there is memory for")
        return path.read_bytes()
    except FileNotFoundError:
        what = "is no run folder" if path.parent.is_dir() else "does not exist"
        raise DataError(f"{path.parent} {what}: there is no {path.name} in it") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _parse(path: Path, text: bytes, number: int | None = None) -> dict[str, Any]:
    place = str(path) if number is None else f"{path}:{number}"
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{place} is damaged: an object is wanted")
    return value
