"""`[data.table]`: what a table says of the simulations, one in each row: file, split, known numbers and groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

import attrs
import numpy as np
import numpy.typing as npt

from hyco_engine.data.csv_table import CsvTable, read_csv
from hyco_engine.data.settings import SourceChoice
from hyco_engine.errors import DataError, SpecError

KEY = "data.table"
FILES = ("file", "path")
_SPLITS = {"": "", "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLITS |= {"test": "test", "testing": "test"}


@attrs.frozen(kw_only=True)
class Row:
    """What a row says of one simulation, or of all simulations of its file."""

    line: int
    file: int
    """The place of its file among the files of the table; 0 if it names none."""
    scalars: Mapping[str, float]
    labels: Mapping[str, str]


@attrs.frozen(kw_only=True)
class SimulationTable:
    """The rows of a table, and the files that they name, in order of their first row."""

    path: Path
    files: tuple[Path, ...]
    rows: tuple[Row, ...]


def with_files(choice: SourceChoice) -> SourceChoice:
    """Return `[data]` with the files that its table names as `path`. Raises SpecError if both name files."""
    files = () if choice.table is None else read_table(choice.table).files
    if not files:
        return choice
    if getattr(choice.options, "path", ...) is not None:
        raise SpecError(
            "the table names the files, and so does data.path: keep one of them"
            if hasattr(choice.options, "path")
            else f"the table names files, and the kind {choice.kind!r} reads none: leave the column `file` out",
            key=KEY,
        )
    return cast("SourceChoice", attrs.evolve(cast("Any", choice), options=attrs.evolve(choice.options, path=files)))


def read_table(path: Path) -> SimulationTable:
    """Read the table. Raises DataError with line and column of a mistake.

    The column `file` (or `path`) names a file or folder below that of the table, and `split` says whether its
    simulations train, validate or test. Any other column of numbers is a scalar, and one of texts a label.
    """
    try:
        table = read_csv(path)
    except DataError as error:
        raise DataError(attrs.evolve(problem, key=KEY) for problem in error.problems) from None
    if not table.names:
        raise DataError(f"{path} does not name its columns in a first line, such as file,split,nu", key=KEY)
    place = next((k for k, name in enumerate(table.names) if name.lower() in FILES), None)
    named = [_inside(table, row, entry) for row, entry in enumerate(table.text(place))] if place is not None else []
    files = tuple(dict.fromkeys(named))
    scalars: dict[str, npt.NDArray[np.float64]] = {}
    labels: dict[str, list[str]] = {}
    for column, name in enumerate(table.names):
        if not name or column == place:
            continue
        if name.lower() == "split":
            labels["split"] = [_split(table, row, entry) for row, entry in enumerate(table.text(column))]
        elif table.is_text(column):
            labels[name] = table.text(column)
        else:
            scalars[name] = _numbers(table, column, name)
    return SimulationTable(
        path=path,
        files=files,
        rows=tuple(
            Row(
                line=line,
                file=files.index(named[row]) if named else 0,
                scalars={name: float(values[row]) for name, values in scalars.items()},
                labels={name: values[row] for name, values in labels.items()},
            )
            for row, line in enumerate(table.lines)
        ),
    )


def _numbers(table: CsvTable, column: int, name: str) -> npt.NDArray[np.float64]:
    values = table.numbers(column)
    missing = np.isnan(values)
    if missing.any():
        line = table.lines[int(missing.argmax())]
        raise DataError(f"{table.path}: line {line} gives no number for {name!r}, which other lines give", key=KEY)
    return values


def _split(table: CsvTable, row: int, entry: str) -> str:
    word = _SPLITS.get(entry.strip().lower())
    if word is None:
        raise DataError(
            f"{table.path}: the split in line {table.lines[row]} is {entry!r}; it must be train, val or test, or empty "
            f"for a simulation that is not used",
            key=KEY,
        )
    return word


def _inside(table: CsvTable, row: int, entry: str) -> Path:
    """Return the file that a row names. A table is data, whose names stay inside of its folder."""
    name = PurePosixPath(entry.strip().replace("\\", "/"))
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise DataError(
            f"{table.path}: line {table.lines[row]} names {entry!r}, which is no file in the folder of the table or "
            f"below it; name it from there, or list the files in data.path",
            key=KEY,
        )
    return table.path.parent / name
