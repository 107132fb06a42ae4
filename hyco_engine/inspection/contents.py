"""The arrays in files of unknown origin: names, shapes and, if they fit into memory, values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import numpy as np

from hyco_engine.data.array_files import ArrayReader, open_arrays
from hyco_engine.data.csv_form import CsvForm
from hyco_engine.data.npy import Array
from hyco_engine.errors import DataError

MAX_VALUES = 2**27
"""The number of values above which an array is described by its header alone."""


@attrs.frozen(kw_only=True, eq=False)
class Stored:
    """An array of numbers; `read` returns its values, or None if there are too many."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    read: Callable[[], Array | None]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {list(self.shape)}"


def arrays_in(path: Path, form: CsvForm | None = None) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return (the arrays of a file or folder, what cannot be used with the reason). Raises DataError if it is damaged.

    The values of complex arrays are their real parts, as the source `arrays` gives them unless it is told otherwise.
    """
    try:
        reader = open_arrays(path, form)
        found = {}
        for name, stored in reader.arrays.items():
            read = partial(_read, reader, name, stored.shape)
            dtype = stored.dtype
            if path.suffix.lower() == ".mat" and (values := read()) is not None:
                dtype = values.dtype  # the list of such a file does not tell complex arrays
            found[name] = Stored(name=name, shape=stored.shape, dtype=dtype, read=read)
    except DataError as error:
        raise DataError(error.problems[0].message) from None
    return found, dict(reader.refused)


def _read(reader: ArrayReader, name: str, shape: tuple[int, ...]) -> Array | None:
    if math.prod(shape) > MAX_VALUES:
        return None
    values = reader.read(name)
    reader.release()
    return values
