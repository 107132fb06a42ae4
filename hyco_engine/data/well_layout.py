"""A writer for simulations in the HDF5 layout of The Well: `<folder>/data/{train,valid,test}/<name>.hdf5`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import FieldInfo, Rule, StateLayout
from hyco_engine.data.splits import SplitName
from hyco_engine.errors import DataError

LAYOUT = "hyco_engine_layout"
"""A root attribute besides those of The Well: the layout as JSON, with the boundary values and units that it lacks."""
FOLDERS = {"train": "train", "val": "valid", "test": "test"}


class WellWriter:
    """Writes one file for each split with all its simulations, one simulation after another."""

    def __init__(
        self,
        folder: Path,
        layout: StateLayout,
        dt: float,
        *,
        name: str,
        splits: Mapping[SplitName, Sequence[int]],
        parameters: Mapping[str, float],
    ) -> None:
        """`splits` lists the simulations of each split. Raises DataError for fields that The Well cannot store."""
        self._layout = layout
        self._dt = dt
        self._name = name
        self._parameters = parameters
        self._folder = folder
        self._splits = {split: list(members) for split, members in splits.items() if members}
        self._files: dict[SplitName, h5py.File] = {}
        self._orders = {field.name: _order(field, layout) for field in layout.fields}

    def write(self, index: int, trajectory: Trajectory) -> Path:
        """Write simulation `index` and return the file that holds it."""
        split = next(split for split, members in self._splits.items() if index in members)
        row = self._splits[split].index(index)
        if split not in self._files:
            self._files[split] = self._open(split, trajectory)
        file = self._files[split]
        for name, value in trajectory.scalars.items():
            if name not in self._parameters:
                file[f"scalars/{name}"][row] = value
        for field in self._layout.fields:
            own = self._layout.channels(field.name)
            if field in self._layout.dynamic:
                values = trajectory.dynamic[:, own]
            else:
                values = trajectory.static[own.start - self._layout.n_dynamic : own.stop - self._layout.n_dynamic]
            order = self._orders[field.name]
            array = values.movedim(-1 - self._layout.n_axes, -1).numpy()
            target = file[f"t{order}_fields/{field.name}"]
            wanted = target.shape[1:]
            if array.size != np.prod(wanted):
                raise DataError(
                    f"simulation {index} has {len(trajectory.dynamic)} frames, but one file holds simulations of equal "
                    f"length; set num_frames",
                    key="data.num_frames",
                )
            target[row] = array.reshape(wanted)
        return Path(file.filename)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _open(self, split: SplitName, first: Trajectory) -> h5py.File:
        """Make the file of a split, with room for all simulations like its `first`."""
        layout, grid, frames = self._layout, self._layout.grid, len(first.dynamic)
        path = self._folder / "data" / FOLDERS[split] / f"{self._name}.hdf5"
        path.parent.mkdir(parents=True)
        file = h5py.File(path, "w")
        count = len(self._splits[split])
        file.attrs["dataset_name"] = self._name
        file.attrs["grid_type"] = "cartesian"
        file.attrs["n_spatial_dims"] = layout.n_axes
        file.attrs["n_trajectories"] = count
        file.attrs["simulation_parameters"] = list(self._parameters)
        for name, value in self._parameters.items():
            file.attrs[name] = value
        file.attrs[LAYOUT] = json.dumps(layout.to_data())
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = list(grid.axes)
        dimensions["time"] = self._dt * np.arange(frames)
        for axis in grid.axes:
            dimensions[axis] = np.array(grid.centers(axis))
        _write_boundaries(file, layout)
        scalars = file.create_group("scalars")
        own = [name for name in first.scalars if name not in self._parameters]
        scalars.attrs["field_names"] = [*self._parameters, *own]
        for name, value in self._parameters.items():
            scalars[name] = value
        for name in own:
            scalars[name] = np.zeros(count)
        for name in scalars:
            scalars[name].attrs.update({"sample_varying": name in own, "time_varying": False})
        for order in range(3):
            group = file.create_group(f"t{order}_fields")
            members = [field for field in layout.fields if self._orders[field.name] == order]
            group.attrs["field_names"] = [field.name for field in members]
            for field in members:
                moving = field in layout.dynamic
                shape = (count, *((frames,) if moving else ()), *grid.resolution, *(layout.n_axes,) * order)
                values = group.create_dataset(field.name, shape, np.float32)
                values.attrs["sample_varying"] = True
                values.attrs["time_varying"] = moving
                values.attrs["dim_varying"] = [True] * layout.n_axes
        return file


def _order(field: FieldInfo, layout: StateLayout) -> int:
    axes = layout.grid.axes
    if field.sampling == "staggered":
        raise DataError(
            f"{field.name!r} is staggered, but The Well stores only centred fields; write Scenes", key="--format"
        )
    pairs = tuple(a + b for a in axes for b in axes)
    for order, components in enumerate(((), axes, pairs)):
        if field.components == components:
            return order
    raise DataError(
        f"The Well stores tensors with a component for each axis, but {field.name!r} has "
        f"{', '.join(field.components)}; write Scenes",
        key="--format",
    )


def _write_boundaries(file: h5py.File, layout: StateLayout) -> None:
    """Write the boundary conditions of the first field; The Well has one condition for all fields."""
    conditions = file.create_group("boundary_conditions")
    for axis in layout.grid.axes:
        sides = layout.dynamic[0].boundary.sides[axis]
        for side, rule in zip(("lower", "upper"), sides, strict=True):
            kind = _kind(rule)
            group = conditions.require_group(f"{axis}_{kind.lower()}")
            group.attrs["associated_dims"] = [axis]
            group.attrs["associated_fields"] = []
            group.attrs["bc_type"] = kind
            if "mask" not in group:
                group["mask"] = np.zeros(layout.grid.resolution[layout.grid.axes.index(axis)], bool)
            group["mask"][0 if side == "lower" else -1] = True


def _kind(rule: Rule) -> str:
    if rule.normal is not None:
        return _kind(rule.normal)
    return {"periodic": "PERIODIC", "zero-gradient": "OPEN"}.get(rule.kind, "WALL")
