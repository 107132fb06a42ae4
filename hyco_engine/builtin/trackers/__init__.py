"""The built-in trackers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record
from hyco_engine.spec.options import option, options


@options
class CsvOptions:
    """`[trackers.csv]`."""

    file: str = option("metrics.csv", help="name of the file in the run folder")

    def __attrs_post_init__(self) -> None:
        # both separators are refused on every system, so that a spec is portable; the ending .csv keeps the tracker
        # from replacing a file of the engine
        if not self.file.endswith(".csv") or any(c in "/\\" or not c.isprintable() for c in self.file):
            raise ValueError(f"file {self.file!r} must be the plain name of a .csv file in the run folder")


def _csv(options: CsvOptions, context: Any) -> Any:
    from hyco_engine.builtin.trackers.csv import CsvTracker

    return CsvTracker(options.file)


@hookimpl
def hyco_trackers() -> Iterable[Record]:
    return [
        Record(
            kind="csv",
            summary="writes all metrics to one table in the run folder, for spreadsheets",
            options=CsvOptions,
            factory=_csv,
        ),
    ]
