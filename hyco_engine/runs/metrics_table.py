"""The result of `evaluate` as a table in long form for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyco_engine.runs.files import write_atomic

COLUMNS = ("model", "split", "metric", "field", "step", "time", "value")


def write_table(result: Mapping[str, Any], path: Path) -> None:
    """Write a line for each number; an empty `field` means all fields, an empty `step` all lead times.

    `time` is the lead time, `step * dt`. An unknown value is empty; the error of a model that diverged is `inf`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows(result))
    write_atomic(path, text.getvalue())


def rows(result: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the lines of the table."""
    split, dt = result["split"], result.get("dt")
    for model, found in result["metrics"].items():
        values = found[split]
        own = (model, split)
        for metric, value in values.items():
            if not isinstance(value, Mapping | list):
                yield (*own, metric, "", "", "", _cell(value))
        for field, table in _by_field(values).items():
            for metric, value in table.items():
                yield (*own, metric, field, "", "", _cell(value))
        for field, by_metric in (values.get("by_step") or {}).items():
            for metric, series in by_metric.items():
                for step, value in enumerate(series, start=1):
                    yield (*own, metric, field, step, "" if dt is None else f"{step * dt:.12g}", _cell(value))


def _by_field(values: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    if "by_field" in values:
        found: Mapping[str, Mapping[str, Any]] = values["by_field"]
        return found
    tables: dict[str, dict[str, Any]] = {}
    for metric in ("nrmse", "loss"):
        for field, value in (values.get(f"{metric}_by_field") or {}).items():
            tables.setdefault(field, {})[metric] = value
    return tables


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)
