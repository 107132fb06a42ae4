"""Tables in parquet files, read by pyarrow, which the extra `parquet` installs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from hyco_engine.errors import DataError

SUFFIXES = (".parquet", ".pq")


@attrs.frozen(kw_only=True)
class ParquetTable:
    """The columns of a parquet file, in the form of a `CsvTable`."""

    path: Path
    names: tuple[str, ...]
    columns: tuple[Any, ...]
    notes: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()
    """A parquet file has no lines."""

    @property
    def width(self) -> int:
        return len(self.names)

    @property
    def count(self) -> int:
        return len(self.columns[0])

    @property
    def units(self) -> tuple[str, ...]:
        return ("",) * self.width

    def text(self, column: int) -> list[str]:
        """Return the entries of a column as text."""
        return ["" if entry is None else str(entry) for entry in self.columns[column].to_pylist()]

    def is_text(self, column: int) -> bool:
        """Return true if the column holds neither numbers nor times."""
        return not self.are_moments(column) and self._numpy(column).dtype.kind not in "fiubm"

    def are_moments(self, column: int) -> bool:
        """Return true if the column holds date-times."""
        return self._numpy(column).dtype.kind == "M"

    def numbers(self, column: int) -> npt.NDArray[np.float64]:
        """Return a column as numbers, with NaN where an entry is missing; spans of time are in seconds."""
        values = self._numpy(column)
        return values / np.timedelta64(1, "s") if values.dtype.kind == "m" else values.astype(np.float64)

    def seconds(self, column: int) -> tuple[npt.NDArray[np.float64], str]:
        """Return (the date-times of a column in seconds since the first of them, that one as text)."""
        moments = self._numpy(column)
        first = np.nanmin(moments)
        return (moments - first) / np.timedelta64(1, "s"), str(first)

    def _numpy(self, column: int) -> npt.NDArray[Any]:
        """Return a column: decimal numbers as numbers, and text that is date-times as date-times."""
        import pyarrow

        values, kind = self.columns[column], self.columns[column].type
        if pyarrow.types.is_decimal(kind):
            values = values.cast(pyarrow.float64())
        elif pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
            with suppress(pyarrow.ArrowInvalid):
                values = values.cast(pyarrow.timestamp("ns"))
        return values.to_numpy()  # type: ignore[no-any-return]


def read_parquet(path: Path) -> ParquetTable:
    """Read a parquet file. Raises DataError without pyarrow, and for a file that is none."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: parquet files need pyarrow: pip install 'hyco-engine[parquet]'", key="data.path"
        ) from None
    try:
        table = pyarrow.parquet.read_table(path)
    except Exception as error:  # pyarrow raises many types on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read {path}: {reason}", key="data.path") from error
    if not table.num_rows:
        raise DataError(f"{path} holds no rows", key="data.path")
    return ParquetTable(path=path, names=tuple(table.column_names), columns=tuple(table.columns))
