"""Simulations without space as a text table, in the form that the source `arrays` reads."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import DataError


class SeriesWriter:
    """Writes a row for each frame: the simulation, its time, and each component of the fields."""

    def __init__(self, folder: Path, layout: StateLayout, dt: float) -> None:
        if layout.n_axes:
            raise DataError("a table holds simulations without space, and these are fields on a grid", key="--format")
        self._path = folder / "series.csv"
        self._dt = dt
        names = [f"{f.name}.{part}" if part else f.name for f in layout.fields for part in (f.components or ("",))]
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["s", "t", *names])

    def write(self, index: int, trajectory: Trajectory) -> Path:
        """Write simulation `index` and return the file."""
        for frame, dynamic in enumerate(trajectory.dynamic):
            row = torch.cat([dynamic, trajectory.static]).tolist()
            self._rows.writerow([index, f"{frame * self._dt:.12g}", *(f"{value:.9g}" for value in row)])
        return self._path

    def close(self) -> None:
        self._file.close()
