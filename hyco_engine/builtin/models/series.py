"""Measured series that equations take as inputs."""

from __future__ import annotations

import attrs
import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.models.options_physical import Series
from hyco_engine.data.array_files import DATES, open_arrays
from hyco_engine.data.points import TIME_NAMES
from hyco_engine.errors import DataError


def read_series(series: Series, name: str) -> tuple[Tensor, Tensor]:
    """Return the times and the values of the constant `name`, in float64 and in the order of time.

    Raises DataError for a file that holds no such series.
    """
    key = f"physical.constants.{name}"
    if series.file.is_dir():
        raise DataError(f"{series.file} is a folder, and a series is one file", key=f"{key}.file")
    try:
        reader = open_arrays(series.file)
    except DataError as error:
        raise DataError(attrs.evolve(problem, key=f"{key}.file") for problem in error.problems) from None
    known = list(reader.arrays)
    time = series.time or next((own for own in known if own.lower() in ("t", *TIME_NAMES)), "")
    others = [own for own in known if own != time]
    value = series.value or (name if name in known else others[0] if len(others) == 1 else "")
    listed = ", ".join(known)
    if not time:
        raise DataError(f"{series.file} does not say which of {listed} are the times: name them", key=f"{key}.time")
    if not value:
        raise DataError(f"{series.file} does not say which of {listed} is {name}: name it", key=f"{key}.value")
    parts = []
    for own, where in ((time, "time"), (value, "value")):
        reader.find(own, f"{key}.{where}")
        found = reader.read(own).reshape(-1)
        if own in reader.dated or found.dtype.kind in DATES:
            raise DataError(
                f"{series.file}: {own!r} holds date-times, and those of the data may count from another moment: write "
                "the times as numbers, in the time of the data",
                key=f"{key}.{where}",
            )
        parts.append(torch.as_tensor(np.asarray(found, dtype=np.float64)))
    times, values = parts
    if len(times) != len(values):
        raise DataError(
            f"{series.file} has {len(times)} times {time!r} and {len(values)} values {value!r}", key=f"{key}.value"
        )
    kept = times.isfinite() & values.isfinite()
    times, order = times[kept].sort()
    values = values[kept][order]
    if not len(times):
        raise DataError(f"{series.file} has no finite value of {value!r}", key=f"{key}.value")
    if bool((same := times.diff() == 0).any()):
        again = float(times[1:][same][0])
        raise DataError(f"{series.file} has two values at the time {again:g}", key=f"{key}.time")
    return times, values
