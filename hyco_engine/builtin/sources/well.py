"""The Well's HDF5 files: `<dataset>/data/{train,valid,test}/*.hdf5`, or one of these folders, or one file.

Source: Ohana et al., The Well, NeurIPS 2024, and its data format page.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from hyco_engine.builtin.sources.array_axes import UNEVEN, downwards, even_spacing
from hyco_engine.builtin.sources.array_resample import Evened
from hyco_engine.builtin.sources.hdf5 import (
    KEY,
    Found,
    Hdf5Source,
    Opened,
    attribute,
    axis_of_centres,
    datasets,
    grid_of,
    known_number,
    log,
)
from hyco_engine.builtin.sources.options import SPACE, WellOptions
from hyco_engine.data.array_files import HDF5, Array
from hyco_engine.data.fields import Boundary, Rule, StateLayout
from hyco_engine.data.joined import file_of
from hyco_engine.data.well_layout import LAYOUT
from hyco_engine.errors import DataError

FOLDERS = {"train": "train", "valid": "val", "test": "test"}
"""The split of each folder."""


class WellSource(Hdf5Source):
    """Tensors of order 0, 1 and 2 by name; order 1 has a component for each axis, order 2 has `xx`, `xy`, ...

    Where the spec gives no split, the data set's own folders `train`, `valid` and `test` split the simulations.
    """

    def __init__(self, options: WellOptions) -> None:
        self.options = options
        self._by_folder = _files(file_of(options))
        self._kinds: dict[str, tuple[str, str]] = {}
        self._own: dict[str, Boundary] = {}
        files = [path for paths in self._by_folder.values() for path in paths]
        super().__init__(files, boundary=self._boundary, truth=options.truth)

    def labels(self, index: int) -> dict[str, str]:
        path = self.file(index)
        folder = next(name for name, paths in self._by_folder.items() if path in paths)
        return {"split": FOLDERS[folder]} if folder else {}

    def describe(self, path: Path, file: h5py.File) -> Opened:
        grid_type = str(attribute(file, "grid_type", "cartesian"))
        if grid_type != "cartesian":
            raise DataError(f"{path} has a {grid_type} grid, and the source reads only cartesian ones", key=KEY)
        sets = datasets(file)
        if "dimensions" not in file:
            raise DataError(f"{path} is no file of The Well: it has no group 'dimensions'", key=KEY)
        axes = [str(axis) for axis in attribute(file["dimensions"], "spatial_dims", [])]
        if not axes or any(f"dimensions/{axis}" not in sets for axis in (*axes, "time")):
            raise DataError(
                f"{path} names the dimensions {', '.join(axes) or 'none'}, and 'dimensions' holds "
                f"{', '.join(name.removeprefix('dimensions/') for name in sets if name.startswith('dimensions/'))}",
                key=KEY,
            )
        if not set(axes) <= set(SPACE):
            raise DataError(f"{path}: the axes must be among x, y and z, and are {', '.join(axes)}", key=KEY)
        positions = [_line(sets[f"dimensions/{axis}"], path) for axis in axes]
        times = _line(sets["dimensions/time"], path)
        simulations = attribute(file, "n_trajectories")
        if not isinstance(simulations, int) or simulations < 1:
            raise DataError(f"{path} does not give its number of trajectories (the attribute n_trajectories)", key=KEY)
        fields = []
        for order in range(3):
            group = file.get(f"t{order}_fields")
            for name in [] if group is None else attribute(group, "field_names", []):
                fields.append(_field(path, sets, str(name), order, axes, simulations, len(times), positions))
        self._kinds |= _sides(file, axes, path)
        self._own |= _own_boundaries(file, path)
        turned = tuple(axis for axis, line in zip(axes, positions, strict=True) if downwards(line))
        positions = [line[::-1] if axis in turned else line for axis, line in zip(axes, positions, strict=True)]
        evened = Evened(method=self.options.resample)
        times = evened.places(times, "t", f"{path}: the times", KEY)
        ends = [axis_of_centres(axis, line, path, evened) for axis, line in zip(axes, positions, strict=True)]
        return Opened(
            path=path,
            fields=tuple(sorted(fields, key=lambda found: found.static)),
            grid=grid_of("".join(axes), [count for _, count in ends], [sides for sides, _ in ends]),
            dt=even_spacing(times, KEY, f"{path}: the times", UNEVEN)[1],
            frames=len(times),
            simulations=simulations,
            evened=evened,
            scalars=_scalars(file, sets, simulations),
            downwards=turned,
        )

    def _boundary(self, opened: Opened, found: Found) -> Boundary:
        axes = opened.grid.axes
        if self.options.boundary is not None:
            return self.options.boundary.on(axes)
        if found.name in self._own:
            return self._own[found.name]
        sides = {}
        for axis in axes:
            kinds = self._kinds.get(axis)
            if kinds is None:
                raise DataError(
                    f"{opened.path} does not give the boundary at the ends of {axis}; give boundary",
                    key="data.boundary",
                )
            sides[axis] = tuple(_rule(kind, found) for kind in kinds)
        if found is opened.fields[0] and any("wall" in kinds for kinds in self._kinds.values()):
            log.warning(
                "%s has walls and does not give the fields' boundary there: the source takes vectors to be 0 and all "
                "other fields to be zero-gradient; give boundary to change that",
                opened.path,
            )
        return Boundary(sides=sides)  # type: ignore[arg-type]


def _rule(kind: str, found: Found) -> Rule:
    match kind:
        case "periodic":
            return Rule(kind="periodic")
        case "wall" if found.components:
            return Rule(kind="constant", value=0.0)
        case _:
            return Rule(kind="zero-gradient")


def _sides(file: h5py.File, axes: list[str], path: Path) -> dict[str, tuple[str, str]]:
    """Return the (lower, upper) kind of boundary by axis. A group's mask marks the sides that it describes."""
    found: dict[str, list[str]] = {}
    conditions = file.get("boundary_conditions")
    for name in [] if conditions is None else conditions:
        group = conditions[name]
        kind = str(attribute(group, "bc_type", "")).lower()
        if kind not in ("periodic", "wall", "open"):
            raise DataError(f"{path}: the boundary {name!r} is of the unknown type {kind!r}", key=KEY)
        mask = np.asarray(group["mask"][()]) if "mask" in group else None
        for axis in attribute(group, "associated_dims", []):
            own = found.setdefault(str(axis), ["", ""])
            for side, end in ((0, 0), (1, -1)):
                if mask is None or mask.ndim != 1 or len(mask) < 2 or mask[end]:
                    own[side] = kind
    return {axis: (kinds[0], kinds[1]) for axis, kinds in found.items() if axis in axes and all(kinds)}


def _own_boundaries(file: h5py.File, path: Path) -> dict[str, Boundary]:
    """Return the boundaries by field if `hyco-engine simulate` wrote the file, else nothing."""
    text = attribute(file, LAYOUT)
    if text is None:
        return {}
    try:
        return {field.name: field.boundary for field in StateLayout.from_data(json.loads(text)).fields}
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: the attribute {LAYOUT} is damaged: {error}", key=KEY) from None


def _scalars(file: h5py.File, sets: dict[str, h5py.Dataset], simulations: int) -> dict[str, Array]:
    """Return the numbers that a file gives for whole simulations: `simulation_parameters`, and those of `scalars`.

    One that varies in time belongs to no whole simulation and is left out.
    """
    given = {str(name): file.attrs.get(str(name)) for name in attribute(file, "simulation_parameters", [])}
    for full, values in sets.items():
        name = full.removeprefix("scalars/")
        if name != full and not attribute(values, "time_varying", False):
            given[name] = values[()]
    found = {name: known_number(value) for name, value in given.items() if value is not None}
    return {
        name: values.squeeze() if values.size == 1 else values
        for name, values in found.items()
        if values is not None and values.size in (1, simulations)
    }


def _line(values: h5py.Dataset, path: Path) -> Array:
    """Return one line of coordinates, which a file may repeat for each simulation and frame."""
    array: Array = np.asarray(values[()])
    flat = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    if not (flat == flat[0]).all():
        raise DataError(
            f"{path}: {values.name} differs between simulations or frames, and all must share one grid", key=KEY
        )
    line: Array = flat[0]
    return line


def _field(
    path: Path,
    sets: dict[str, h5py.Dataset],
    name: str,
    order: int,
    axes: list[str],
    simulations: int,
    frames: int,
    positions: list[Array],
) -> Found:
    """Return a field of `t<order>_fields`, whose data set leaves out axes along which it does not vary."""
    full = f"t{order}_fields/{name}"
    if full not in sets:
        raise DataError(f"{path} names the field {name!r}, but holds no {full}", key=KEY)
    values = sets[full]
    by_sample, by_time = (bool(attribute(values, f"{what}_varying", True)) for what in ("sample", "time"))
    by_axis = [bool(entry) for entry in attribute(values, "dim_varying", [True] * len(axes))]
    cells = [len(line) for line in positions]
    wanted = (
        *((simulations,) if by_sample else ()),
        *((frames,) if by_time else ()),
        *(n for n, varies in zip(cells, by_axis, strict=True) if varies),
        *(len(axes),) * order,
    )
    if values.shape != wanted:
        raise DataError(f"{path}: {full} has the shape {values.shape}, and its attributes declare {wanted}", key=KEY)

    def read(file: h5py.File, index: int) -> Array:
        array = np.asarray(file[full][index] if by_sample else file[full][()])
        array = array if by_time else array[None]
        place = 1
        for n, varies in zip(cells, by_axis, strict=True):
            if not varies:
                array = np.repeat(np.expand_dims(array, place), n, axis=place)
            place += 1
        flat = array.reshape(*array.shape[: 1 + len(axes)], -1)
        return np.moveaxis(flat, -1, 1)

    components = tuple("".join(pair) for pair in product(axes, repeat=order)) if order else ()
    return Found(name=name, components=components, static=not by_time, read=read)


def _files(path: Path) -> dict[str, list[Path]]:
    """Return the files by folder, those outside of the three folders under ""."""
    if path.is_file():
        return {"": [path]}
    if not path.is_dir():
        raise DataError(f"there is no file or folder {path}", key=KEY)
    base = path / "data" if (path / "data").is_dir() else path
    found = {name: _in(base / name) for name in FOLDERS if _in(base / name)} or {"": _in(base)}
    if not any(found.values()):
        raise DataError(f"{path} holds neither a {' or '.join(HDF5)} file nor data/train", key=KEY)
    return found


def _in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix in HDF5 and p.is_file()) if folder.is_dir() else []
