"""Reading and writing of metrics.jsonl and summary.json: strict JSON, in metrics.jsonl one object a line.

JSON has no NaN and no infinity. In metrics.jsonl such a value is null, and the line's `nonfinite` holds the value:
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
    """Return one line of metrics.jsonl.

    `record` maps names to numbers, text or None. Raise TypeError on other types.
    """
    values = plain(record, "metrics")
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise TypeError(f"metrics.{name}: a line of metrics holds single values; use one name for each")
        if name in ("time", "nonfinite"):
            raise TypeError(f"metrics.{name}: the run folder uses this name itself; use another one")
    line: dict[str, Any] = {"time": round(time, 3)}
    line |= {name: values[name] for name in _FIRST if name in values}
    line |= {name: value for name, value in values.items() if name not in _FIRST}
    if strange := {n: str(v) for n, v in values.items() if isinstance(v, float) and not math.isfinite(v)}:
        line["nonfinite"] = strange
    return dump_json(line, indent=None)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, without a last line that a crash cut short.

    Raise DataError if the file is missing or damaged.
    """
    path = folder / METRICS
    # the text after the last newline is empty or was cut short
    lines = _read(path).split(b"\n")[:-1]
    return [_with_nonfinite(path, number, _parse(path, text, number)) for number, text in enumerate(lines, start=1)]


def of_kept_arms(records: Iterable[dict[str, Any]], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of the candidates that the run chose, those of the models that it ended with.

    Where it chose none, as in a run that was interrupted, each model's first candidate counts.
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
        raise DataError(f"{path}:{number} is damaged: its nonfinite is {strange!r}, which names no numbers") from error


def read_summary(folder: Path) -> dict[str, Any]:
    """Return a run's summary.json. Raise DataError if it is damaged, or missing because the run did not end."""
    path = folder / SUMMARY
    return _parse(path, _read(path))


def _read(path: Path) -> bytes:
    verify(path.parent, path)
    try:
        # the parsed content takes about ten times as much memory
        if (size := path.stat().st_size) * 10 > free_memory():
            raise DataError(f"cannot read {path}: its {size} bytes need more memory than is free")
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
        raise DataError(f"{place} is damaged: it must be a JSON object")
    return value
