"""Reading and writing of metrics.jsonl and summary.json: strict JSON, in metrics.jsonl one object a line.

JSON has no NaN and no infinity. In metrics.jsonl such a value is null, and the line's `nonfinite` holds the value:
`{"train/loss": null, "nonfinite": {"train/loss": "nan"}}`; `read_metrics` puts it back. In summary.json it is null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hyco_engine.errors import DataError
from hyco_engine.runs.files import dump_json, plain
from hyco_engine.runs.reading import RunFiles
from hyco_engine.runs.structure import LINE_SHAPE, SCALAR, SUMMARY_SHAPE, Shape, check
from hyco_engine.untrusted import PARSED, parse_json

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"

T = TypeVar("T")

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


def find_metrics(folder: Path) -> list[dict[str, Any]] | None:
    """Return what `read_metrics` returns, None if the run left no metrics."""
    content = RunFiles(folder).read(METRICS, memory=PARSED)
    if content is None:
        return None
    # the text after the last newline is empty or was cut short
    return [_record(folder / METRICS, k, line) for k, line in enumerate(content.split(b"\n")[:-1], start=1)]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, without a last line that a crash cut short.

    Raise DataError if the file is missing or damaged.
    """
    return _there(find_metrics(folder), folder, METRICS)


def of_kept_arms(records: Iterable[dict[str, Any]], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of the candidates that the run chose, those of the models that it ended with.

    Where it chose none, as in a run that was interrupted, each model's first candidate counts.
    """
    kept = {player: told["kept"] for player, told in (summary.get("arms") or {}).items() if told.get("kept")}

    def is_kept(record: Mapping[str, Any]) -> bool:
        player = str(record.get("phase", "")).removeprefix("train_")
        return "arm" not in record or record["arm"] == kept.setdefault(player, record["arm"])

    return [record for record in records if is_kept(record)]


def find_summary(folder: Path) -> dict[str, Any] | None:
    """Return a run's summary.json, None if the run did not end. Raise DataError if it is damaged."""
    files = RunFiles(folder)
    content = files.read(SUMMARY, memory=PARSED)
    try:
        return None if content is None else _object(content, SUMMARY_SHAPE)
    except ValueError as error:
        raise files.damaged(SUMMARY, error) from error


def read_summary(folder: Path) -> dict[str, Any]:
    """Return a run's summary.json. Raise DataError if it is damaged, or missing because the run did not end."""
    return _there(find_summary(folder), folder, SUMMARY)


def _there(found: T | None, folder: Path, name: str) -> T:
    if found is None:
        what = "is no run folder" if folder.is_dir() else "does not exist"
        raise DataError(f"{folder} {what}: there is no {name} in it")
    return found


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = _object(line, LINE_SHAPE)
        strange = found.pop("nonfinite", None) or {}
        for name, value in found.items():
            check(value, SCALAR, name)
        return found | {name: float(text) for name, text in strange.items()}
    except ValueError as error:
        raise DataError(f"{path}:{number} is damaged: {error}") from error


def _object(content: bytes, shape: Shape) -> dict[str, Any]:
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError("it must be a JSON object")
    check(value, shape)
    return value
