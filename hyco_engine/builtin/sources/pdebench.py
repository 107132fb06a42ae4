"""PDEBench's HDF5 files, in the four layouts that its data sets have.

* one field: `tensor` (N, T, X[, Y]) with `x-coordinate`, `t-coordinate`, ...: `u`
* compressible flow: `density`, `pressure`, `Vx`, `Vy`, `Vz`, each (N, T, X[, Y[, Z]]): the last three are `velocity`
* one group a simulation, such as `0000`: `data` (T, X[, Y], C) and `grid/x`, `grid/t`, ...: `u`, or `u`, `v`, `w`, ...
* incompressible flow: `velocity` (N, T, X, Y, 2), `particles` (N, T, X, Y, 1), `force` (N, X, Y, 2), `t` (N, T)

Source: Takamoto et al., PDEBench, NeurIPS 2022, and the layout of its published files.
"""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import h5py
import numpy as np

from hyco_engine.builtin.sources.array_axes import UNEVEN, downwards, even_spacing, is_uneven
from hyco_engine.builtin.sources.array_resample import Evened
from hyco_engine.builtin.sources.hdf5 import (
    KEY,
    Found,
    Hdf5Source,
    Opened,
    attribute,
    axes_named,
    axis_of_centres,
    datasets,
    grid_of,
    known_number,
)
from hyco_engine.builtin.sources.options import PdebenchOptions
from hyco_engine.data.array_files import Array
from hyco_engine.data.fields import Boundary
from hyco_engine.data.joined import file_of
from hyco_engine.errors import DataError

_FLOW = ("density", "pressure", "Vx", "Vy", "Vz")
_NAMES = ("u", "v", "w")
_SETTING = re.compile(
    r"^\s*([A-Za-z_]\w*)\s*:\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*$", re.MULTILINE | re.ASCII
)


class PdebenchSource(Hdf5Source):
    """A file of PDEBench, whose layout follows from the names in it."""

    def __init__(self, options: PdebenchOptions) -> None:
        self.options = options
        super().__init__([file_of(options)], boundary=self._boundary, truth=options.truth)

    def _boundary(self, opened: Opened, found: Found) -> Boundary:
        return self.options.boundary.on(opened.grid.axes)

    def describe(self, path: Path, file: h5py.File) -> Opened:
        opened = self._described(path, file)
        return attrs.evolve(opened, scalars=_scalars(file, opened))

    def _described(self, path: Path, file: h5py.File) -> Opened:
        sets = datasets(file)
        if "tensor" in sets:
            return self._arrays(path, sets, {"u": ("tensor",)})
        if flow := [name for name in _FLOW if name in sets]:
            scalars = {name: (name,) for name in flow if name[0] != "V"}
            vector = tuple(name for name in flow if name[0] == "V")
            return self._arrays(path, sets, {**scalars, **({"velocity": vector} if vector else {})})
        if "velocity" in sets:
            return self._incompressible(path, sets)
        if groups := sorted({name.partition("/")[0] for name in sets if name.endswith("/data")}):
            return self._groups(path, sets, groups)
        raise DataError(
            f"{path} has none of PDEBench's layouts: it holds no tensor, density, velocity or 0000/data (it holds "
            f"{', '.join(sorted(sets)[:12]) or 'no numeric data set'})",
            key=KEY,
        )

    def _arrays(self, path: Path, sets: dict[str, h5py.Dataset], fields: dict[str, tuple[str, ...]]) -> Opened:
        """Describe data sets (N, T, X[, Y[, Z]]), each a field or a component of one."""
        names = [name for parts in fields.values() for name in parts]
        shape = sets[names[0]].shape
        for name in names:
            if sets[name].shape != shape:
                raise DataError(
                    f"{path}: {name!r} has the shape {sets[name].shape}, and {names[0]!r} {shape}: all fields of a "
                    f"file must have the same numbers of simulations, frames and cells",
                    key=KEY,
                )
        if not 3 <= len(shape) <= 5:
            raise DataError(f"{path}: {names[0]!r} {shape} is not (N, T, X[, Y[, Z]])", key=KEY)

        def reader(parts: tuple[str, ...]) -> Found:
            own = next(name for name, given in fields.items() if given == parts)
            return Found(
                name=own,
                components=tuple(name[1] for name in parts) if own == "velocity" else (),
                read=lambda file, index: np.stack([file[name][index] for name in parts], axis=1),
            )

        times = sets.get("t-coordinate")
        return self._opened(
            path,
            tuple(reader(parts) for parts in fields.values()),
            shape[2:],
            {axis: sets.get(f"{axis}-coordinate") for axis in "xyz"},
            None if times is None else times[()],
            frames=shape[1],
            simulations=shape[0],
        )

    def _groups(self, path: Path, sets: dict[str, h5py.Dataset], groups: list[str]) -> Opened:
        shape = sets[f"{groups[0]}/data"].shape
        for group in groups:
            if sets[f"{group}/data"].shape != shape:
                raise DataError(
                    f"{path}: the simulation {group!r} has the shape {sets[f'{group}/data'].shape}, and "
                    f"{groups[0]!r} {shape}",
                    key=KEY,
                )
        if not 3 <= len(shape) <= 5:
            raise DataError(f"{path}: {groups[0]}/data {shape} is not (T, X[, Y[, Z]], C)", key=KEY)
        names = _NAMES if shape[-1] <= len(_NAMES) else tuple(f"u{i}" for i in range(shape[-1]))

        def reader(channel: int) -> Found:
            return Found(
                name=names[channel], read=lambda file, index: file[f"{groups[index]}/data"][..., channel][:, None]
            )

        times = sets.get(f"{groups[0]}/grid/t")
        return self._opened(
            path,
            tuple(reader(channel) for channel in range(shape[-1])),
            shape[1:-1],
            {axis: sets.get(f"{groups[0]}/grid/{axis}") for axis in "xyz"},
            None if times is None else times[()],
            frames=shape[0],
            simulations=len(groups),
            names=tuple(f"{group}/data" for group in groups),
        )

    def _incompressible(self, path: Path, sets: dict[str, h5py.Dataset]) -> Opened:
        shape = sets["velocity"].shape
        n_axes = len(shape) - 3
        if n_axes not in (1, 2, 3) or shape[-1] != n_axes:
            raise DataError(f"{path}: velocity {shape} is not (N, T, X, Y, 2)", key=KEY)
        for name, wanted in (("particles", (*shape[:-1], 1)), ("force", (shape[0], *shape[2:]))):
            if name in sets and sets[name].shape != wanted:
                raise DataError(
                    f"{path}: {name} has the shape {sets[name].shape}; beside velocity {shape} it must be {wanted}",
                    key=KEY,
                )
        vector = tuple(axes_named(n_axes))
        fields = [
            Found(name="velocity", components=vector, read=lambda f, i: np.moveaxis(f["velocity"][i], -1, 1)),
        ]
        if "particles" in sets:
            fields.append(Found(name="particles", read=lambda f, i: np.moveaxis(f["particles"][i], -1, 1)))
        if "force" in sets:
            force = Found(
                name="force", components=vector, static=True, read=lambda f, i: np.moveaxis(f["force"][i], -1, 0)[None]
            )
            fields.append(force)
        times = sets["t"][()] if "t" in sets else None
        if times is not None and times.ndim == 2:
            times = times[0]
        return self._opened(path, tuple(fields), shape[2:-1], {}, times, frames=shape[1], simulations=shape[0])

    def _opened(
        self,
        path: Path,
        fields: tuple[Found, ...],
        cells: tuple[int, ...],
        coordinates: dict[str, h5py.Dataset | None],
        times: Array | None,
        *,
        frames: int,
        simulations: int,
        names: tuple[str, ...] = (),
    ) -> Opened:
        axes = axes_named(len(cells))
        ends, turned = [], []
        evened, resolution = Evened(method=self.options.resample), list(cells)
        for axis, count in zip(axes, cells, strict=True):
            given = coordinates.get(axis)
            positions = None if given is None else np.asarray(given[()])
            if positions is not None and positions.ndim == 1 and downwards(positions):
                turned.append(axis)
                positions = positions[::-1]
            if positions is not None and positions.shape == (count + 1,) and is_uneven(positions):
                positions = (positions[1:] + positions[:-1]) / 2  # the centres between uneven edges
            if axis in self.options.bounds:
                ends.append(self.options.bounds[axis])
            elif positions is None:
                ends.append((0.0, 1.0))
            elif positions.shape not in ((count,), (count + 1,)):
                raise DataError(
                    f"{path} holds positions of the shape {positions.shape} along {axis} for {count} cells", key=KEY
                )
            elif positions.shape == (count + 1,):  # the edges of the cells
                first, step = even_spacing(positions, KEY, f"{path}: the positions {axis!r}")
                ends.append((first, first + step * count))
            else:
                own, resolution[len(ends)] = axis_of_centres(axis, positions, path, evened)
                ends.append(own)
        dt, frames = self._time_step(path, times, frames, evened)
        return Opened(
            path=path,
            fields=fields,
            grid=grid_of(axes, resolution, ends),
            dt=dt,
            frames=frames,
            evened=evened,
            simulations=simulations,
            names=names,
            downwards=tuple(turned),
        )

    def _time_step(self, path: Path, times: Array | None, frames: int, evened: Evened) -> tuple[float, int]:
        """Return (the time between two frames, the number of frames), which become even if the spec asks for it."""
        if self.options.dt is not None:
            return self.options.dt, frames
        if times is None:
            raise DataError(f"{path} holds no times of its frames; give dt", key="data.dt")
        if len(times) not in (frames, frames + 1):  # some files hold the end of the last step as well
            raise DataError(f"{path} holds {len(times)} times for {frames} frames", key=KEY)
        if frames < 2:
            raise DataError(f"{path} has {frames} frame, and at least 2 are needed", key=KEY)
        times = evened.places(times[:frames], "t", f"{path}: the times", "data.dt")
        return even_spacing(times, "data.dt", f"{path}: the times", UNEVEN)[1], len(times)


def _scalars(file: h5py.File, opened: Opened) -> dict[str, Array]:
    """Return the numbers that the file gives for whole simulations, by the names of their attributes.

    The attributes of the file itself, such as `Nu`, hold for all simulations. A group of one simulation has its own,
    and the text `config`, in which each line `name: number` is one.
    """
    own = [_numbers(file[name].parent) for name in opened.names]
    found = _numbers(file)
    for name in own[0] if own else ():
        if all(name in numbers for numbers in own):
            found[name] = np.array([numbers[name] for numbers in own])
    return found


def _numbers(item: h5py.File | h5py.Group) -> dict[str, Array]:
    found = _configured(str(attribute(item, "config", "")))
    for name, value in item.attrs.items():
        if (number := known_number(value)) is not None and number.size == 1:
            found[str(name)] = number.reshape(())
    return found


def _configured(text: str) -> dict[str, Array]:
    """Return the numbers of a text in YAML by their names; one that several sections have is left out."""
    found: dict[str, list[float]] = {}
    for name, number in _SETTING.findall(text):
        found.setdefault(name, []).append(float(number))
    return {name: np.array(numbers[0]) for name, numbers in found.items() if len(numbers) == 1}
