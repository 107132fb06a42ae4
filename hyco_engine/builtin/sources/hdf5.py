"""Simulations in HDF5 files, read one at a time; links out of the file are not followed, and nothing is executed."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import h5py
import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.sources.array_axes import UNEVEN, even_spacing
from hyco_engine.builtin.sources.array_resample import Evened
from hyco_engine.builtin.sources.options import SPACE
from hyco_engine.builtin.sources.truth import true_values
from hyco_engine.data.array_files import Array, content_hash, is_elsewhere, reading
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError
from hyco_engine.interfaces import Trajectory, TrajectorySource
from hyco_engine.physics.settings import ArrayFile, Profile

log = logging.getLogger("hyco_engine")

KEY = "data.path"
GLIMPSED = 2**25


@attrs.frozen(kw_only=True)
class Found:
    """One field of a file: `read(file, index)` returns simulation `index`, `[T, C, *S]`, with T = 1 if it is static."""

    name: str
    components: tuple[str, ...] = ()
    static: bool = False
    read: Callable[[h5py.File, int], Array]


@attrs.frozen(kw_only=True)
class Opened:
    """The content that one file declares."""

    path: Path
    fields: tuple[Found, ...]
    grid: Grid
    dt: float
    frames: int
    simulations: int
    names: tuple[str, ...] = ()
    """The place of each simulation in the file; empty where simulations have numbers alone."""
    scalars: Mapping[str, Array] = attrs.Factory(dict)
    """The known numbers by name, one for each simulation, or one for all."""
    downwards: tuple[str, ...] = ()
    """The axes along which positions decrease in the file. `Hdf5Source` turns the fields over along these."""
    evened: Evened
    """The axes along which samples are uneven in the file. `Hdf5Source` interpolates the fields along these."""


class Hdf5Source(TrajectorySource):
    """The simulations of one or several files with the same fields and grid, in order."""

    def __init__(
        self,
        files: Sequence[Path],
        *,
        boundary: Callable[[Opened, Found], Boundary],
        truth: Mapping[str, float | Profile | ArrayFile],
    ) -> None:
        self.files = []
        for path in files:
            with reading(path), h5py.File(path, "r") as file:
                self.files.append(self.describe(path, file))
        first = self.files[0]
        for other in self.files[1:]:
            for what in ("grid", "dt"):
                if getattr(other, what) != getattr(first, what):
                    raise DataError(
                        f"{other.path} has another {what} than {first.path}: {getattr(other, what)}, not "
                        f"{getattr(first, what)}",
                        key=KEY,
                    )
            if [(f.name, f.components) for f in other.fields] != [(f.name, f.components) for f in first.fields]:
                raise DataError(f"{other.path} has other fields than {first.path}", key=KEY)
        infos = [FieldInfo(name=f.name, components=f.components, boundary=boundary(first, f)) for f in first.fields]
        dynamic, static = (
            tuple(info for info, found in zip(infos, first.fields, strict=True) if found.static is fixed)
            for fixed in (False, True)
        )
        if not dynamic:
            raise DataError(f"{first.path} holds no field that changes in time", key=KEY)
        self.layout = StateLayout(grid=first.grid, dynamic=dynamic, static=static)
        self.dt = first.dt
        self.num_simulations = sum(file.simulations for file in self.files)
        self._truth = true_values(truth, first.grid)
        self._scalars = [name for name in first.scalars if all(name in file.scalars for file in self.files)]
        log.info(
            "%s: %d simulation(s) of %d frames, dt %.6g, fields %s on %s cells",
            first.path if len(files) == 1 else f"{len(files)} files such as {first.path}",
            self.num_simulations,
            first.frames,
            self.dt,
            ", ".join(f.name for f in first.fields),
            "x".join(map(str, first.grid.resolution)),
        )
        for opened in self.files:
            for axis in opened.downwards:
                log.info("%s: the samples along %s run downwards in the file, and are flipped", opened.path, axis)

    @abstractmethod
    def describe(self, path: Path, file: h5py.File) -> Opened:
        """Return what the file holds, from headers and coordinates. Raise DataError for another layout."""

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self._truth

    def frames(self, index: int) -> int:
        return self._place(index)[0].frames

    def origin(self, field: str, index: int) -> str:
        opened, own = self._place(index)
        return f"{opened.path}, {opened.names[own] if opened.names else f'simulation {own}'}"

    def file(self, index: int) -> Path:
        """Return the file that holds simulation `index`."""
        return self._place(index)[0].path

    def scalars(self, index: int) -> dict[str, float]:
        opened, own = self._place(index)
        return {
            name: float(values[own] if values.ndim else values)
            for name, values in opened.scalars.items()
            if name in self._scalars
        }

    def fingerprint(self) -> str:
        turned = sorted({axis for opened in self.files for axis in opened.downwards})
        evened = self.files[0].evened
        described = json.dumps(
            [
                self.layout.to_data(),
                self.dt,
                *([turned] if turned else []),
                *([evened.method, sorted(evened.by_axis)] if evened.by_axis else []),
            ]
        )
        return hashlib.sha256((described + content_hash(f.path for f in self.files)).encode()).hexdigest()

    def load(self, index: int) -> Trajectory:
        opened, own = self._place(index)
        parts: dict[bool, list[Array]] = {False: [], True: []}
        with h5py.File(opened.path, "r") as file:
            for found in opened.fields:
                with reading(opened.path, found.name):
                    values = found.read(file, own)
                    frames = 1 if found.static else opened.frames
                    wanted = (frames, max(1, len(found.components)), *opened.grid.resolution)
                    values = self._even(opened, found, own, values)
                    if values.shape != wanted:
                        raise ValueError(
                            f"simulation {own} has the shape {values.shape}, and the file declares {wanted}"
                        )
                    parts[found.static].append(values if values.dtype == np.float32 else values.astype(np.float64))
        static = np.concatenate(parts[True], axis=1)[0] if parts[True] else np.zeros((0, *opened.grid.resolution))
        return Trajectory(
            dynamic=torch.from_numpy(np.concatenate(parts[False], axis=1)), static=torch.from_numpy(static)
        )

    def _even(self, opened: Opened, found: Found, own: int, values: Array) -> Array:
        """Return values that run upwards along all axes, at even places where the spec asks for them."""
        places = {axis: 2 + k for k, axis in enumerate(opened.grid.axes)} | ({} if found.static else {"t": 0})
        return opened.evened(
            np.flip(values, tuple(places[axis] for axis in opened.downwards)),
            places,
            name=found.name,
            origin=f"{opened.path}, {found.name}",
            tell=lambda told: log.info("%s: %s", opened.path, told) if opened is self.files[0] and not own else None,
        )

    def glimpse(self) -> Trajectory | None:
        size = self.files[0].frames * self.layout.n_all * int(np.prod(self.layout.grid.resolution))
        return self.load(0) if size <= GLIMPSED else None

    def _place(self, index: int) -> tuple[Opened, int]:
        for opened in self.files:
            if index < opened.simulations:
                return opened, index
            index -= opened.simulations
        raise IndexError(index)


def datasets(file: h5py.File | h5py.Group) -> dict[str, h5py.Dataset]:
    """Return the numeric data sets of a file by their full name, without those that lie in another file."""
    found = {}

    # visititems follows hard links alone, so no name leads out of the file
    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiub" and not is_elsewhere(item):
            found[name] = item

    file.visititems(visit)
    return found


def known_number(value: Any) -> Array | None:
    """Return a finite number that a file holds, or a line of them, in float64; None for anything else."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.ndim > 1 or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)


def axis_of_centres(name: str, positions: Array, path: Path, evened: Evened) -> tuple[tuple[float, float], int]:
    """Return ((lower, upper), number) of the cells with these centres, which become even if the spec asks for it.

    Raise DataError where they are not evenly spaced.
    """
    if positions.size == 1:  # an axis of one cell, which the engine leaves out
        centre = float(positions.reshape(-1)[0])
        return (centre - 0.5, centre + 0.5), 1
    what = f"{path}: the positions {name!r}"
    even = evened.places(np.asarray(positions).reshape(-1), name, what, KEY)
    first, step = even_spacing(even, KEY, what, UNEVEN)
    return (first - step / 2, first + step * (len(even) - 0.5)), len(even)


def grid_of(axes: str, resolution: Sequence[int], ends: Sequence[tuple[float, float]]) -> Grid:
    """Return the grid with (lower, upper) for each axis."""
    return Grid(
        axes=tuple(axes),
        resolution=tuple(resolution),
        lower=tuple(lower for lower, _ in ends),
        upper=tuple(upper for _, upper in ends),
    )


def axes_named(n_axes: int) -> str:
    """Return the names of the axes, the first of x, y and z."""
    return SPACE[:n_axes]


def attribute(item: Any, name: str, default: Any = None) -> Any:
    """Return an attribute as a plain Python value, with text decoded."""
    value = item.attrs.get(name, default)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [entry.decode("utf-8", "replace") if isinstance(entry, bytes) else entry for entry in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
