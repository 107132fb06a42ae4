"""Metrics as one CSV table: a row for each line of metrics.jsonl, a column for each name, empty where it is missing."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Tracker
from hyco_engine.runs.files import write_atomic


class CsvTracker(Tracker):
    """Rewrites the file at each phase end, since later phases add columns.

    A run without a folder writes nothing and says so in the log.
    """

    def __init__(self, file: str) -> None:
        self._name = file
        self._path: Path | None = None
        self._rows: list[dict[str, Any]] = []

    def started(self, info: Mapping[str, Any]) -> None:
        self._rows = [dict(record) for record in info.get("records") or ()]
        folder = info.get("folder")
        self._path = None if folder is None else Path(folder) / self._name
        if self._path is None:
            logging.getLogger("hyco_engine").warning("tracker csv: the run has no folder, so nothing is written")
        elif self._path.exists() and info.get("records") is None:
            raise SpecError(
                f"the file {self._path} exists already, and the tracker does not overwrite it; give another name",
                key="trackers.csv.file",
            )

    def metrics(self, record: Mapping[str, Any]) -> None:
        self._rows.append(dict(record))

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        self._write()

    def finished(self, summary: Mapping[str, Any]) -> None:
        self._write()

    def _write(self) -> None:
        if self._path is None or not self._rows:
            return
        columns = dict.fromkeys(name for row in self._rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomic(self._path, text.getvalue())
