"""The converter from state tensors `[B, C, *S]` to PhiFlow Fields and back: exact to the last bit, differentiable.

It copies or views values and never computes with them; `StateLayout` carries the metadata. The bounds of a Field are
float64, whatever the precision of its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import torch
from phi.field import Field
from phi.geom import Box, UniformGrid
from phiml.math import batch, channel, dual, precision, spatial, stack, wrap
from torch import Tensor
from torch.nn import functional

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError
from hyco_engine.physics.boundaries import boundary_to_extrapolation

SAMPLES = "samples"
"""The name of the batch dimension of all Fields made here."""


class Converter:
    """Converts states of one layout and keeps what does not change from state to state."""

    def __init__(self, layout: StateLayout) -> None:
        self.layout = layout
        grid = layout.grid
        # one geometry per precision, because it caches results in the precision of its first use
        self._cells = {dtype: _geometry(grid) for dtype in (torch.float32, torch.float64)}
        self._infos = {field.name: field for field in layout.fields}
        self._extrapolations = {
            field.name: boundary_to_extrapolation(field.boundary, grid.axes, field.components, name=field.name)
            for field in layout.fields
        }

    def names(self, channels: int) -> tuple[str, ...]:
        """Return the fields of a state with this many channels: all fields, or the dynamic ones. Raises DataError."""
        layout = self.layout
        if channels == layout.n_all:
            return tuple(field.name for field in layout.fields)
        if channels == layout.n_dynamic:
            return tuple(field.name for field in layout.dynamic)
        raise DataError(
            f"a state with {channels} channels fits neither all fields ({layout.n_all} channels) nor the dynamic "
            f"ones ({layout.n_dynamic})"
        )

    def fields(self, state: Tensor, names: Sequence[str] | None = None) -> dict[str, Field]:
        """Convert `state [B, C, *S]` into Fields by name, with the batch dimension `samples`.

        The channels are those of `names`, in that order; by default, their number decides between all fields and the
        dynamic ones. Raises DataError if the state does not fit the layout.
        """
        layout = self.layout
        if state.dim() != 2 + len(layout.grid.axes) or tuple(state.shape[2:]) != layout.spatial:
            wanted = ", ".join(map(str, ("B", "C", *layout.spatial)))
            raise DataError(f"a state of shape {tuple(state.shape)} does not fit the layout's [{wanted}]")
        if state.dtype not in self._cells:
            raise DataError(f"PhiFlow computes in float32 or float64, not in {state.dtype}")
        chosen = self.names(state.shape[1]) if names is None else tuple(names)
        infos = [self._info(name) for name in chosen]
        if sum(info.channels for info in infos) != state.shape[1]:
            raise DataError(f"{state.shape[1]} channels do not fit the fields {', '.join(chosen)}")
        parts: tuple[Tensor, ...] = (state,)
        if len(infos) > 1:
            parts = torch.split(state, [info.channels for info in infos], dim=1)
        with _precision_of(state.dtype):
            return {info.name: self._field(info, part) for info, part in zip(infos, parts, strict=True)}

    def parameter(self, value: Tensor, *, one_each: bool = False) -> Any:
        """Convert a parameter: a number into a 0-d phi tensor, `[*resolution]` into a centred Field.

        With `one_each`, `[B]` holds a number of each sample.

        Beyond the grid, such a Field is periodic where the first dynamic field is, else continued with zero gradient.
        """
        if value.dim() == 0:
            return wrap(value)
        if one_each:
            return wrap(value, batch(**{SAMPLES: len(value)}))
        grid = self.layout.grid
        boundary = self.layout.dynamic[0].boundary
        rules = {axis: "periodic" if boundary.is_periodic(axis) else "zero-gradient" for axis in grid.axes}
        sizes = [spatial(**{axis: n}) for axis, n in zip(grid.axes, grid.resolution, strict=True)]
        extrapolation = boundary_to_extrapolation(Boundary.parse(rules, grid.axes), grid.axes)
        return Field(self._cells[value.dtype], wrap(value, *sizes), extrapolation)

    def tensor(
        self, fields: Mapping[str, Field], names: Sequence[str] | None = None, *, count: int | None = None
    ) -> Tensor:
        """Convert Fields by name into a state `[B, C, *S]`; padding is zero.

        The channels are those of `names`, in that order; by default, they are the layout's fields among those given,
        which must be all fields or the dynamic ones. A Field without batch dimension is repeated for every sample;
        `count` is B if no Field may have one. Raises DataError if the Fields do not fit the layout.
        """
        if names is None:
            names = [name for name in self._infos if name in fields]
            self.names(sum(self._infos[name].channels for name in names))
            if extra := [name for name in fields if name not in self._infos]:
                raise DataError(f"the layout has no field {extra[0]!r}; it has {', '.join(self._infos)}")
        count = count or max((_batch_size(name, fields[name]) for name in names if name in fields), default=1)
        parts = []
        for name in names:
            if name not in fields:
                raise DataError(f"the field {name!r} is missing; the given fields are {', '.join(fields)}")
            with precision(64 if fields[name].values.dtype.bits == 64 else 32):
                parts.append(self._channels(self._info(name), fields[name], count))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def rollout_fields(self, rollout: Tensor, names: Sequence[str] | None = None) -> list[dict[str, Field]]:
        """Convert `rollout [B, T, C, *S]` into one mapping of Fields per time step."""
        return [self.fields(state, names) for state in rollout.unbind(1)]

    def rollout_tensor(self, steps: Sequence[Mapping[str, Field]], names: Sequence[str] | None = None) -> Tensor:
        """Convert one mapping of Fields per time step into `[B, T, C, *S]`."""
        return torch.stack([self.tensor(fields, names) for fields in steps], dim=1)

    def _info(self, name: str) -> FieldInfo:
        if name not in self._infos:
            raise DataError(f"the layout has no field {name!r}; it has {', '.join(self._infos)}")
        return self._infos[name]

    def _field(self, info: FieldInfo, values: Tensor) -> Field:
        """Convert `values [B, channels, *S]` into the Field of `info`."""
        grid = self.layout.grid
        samples = batch(**{SAMPLES: values.shape[0]})
        components = []
        for index in range(info.channels):
            own = info.samples(grid, index)
            part = values[:, index][(slice(None), *(slice(n) for n in own))]
            sizes = [spatial(**{axis: n}) for axis, n in zip(grid.axes, own, strict=True)]
            components.append((part, sizes))
        if info.sampling == "staggered":
            data = stack(
                [wrap(part, samples, *sizes) for part, sizes in components],
                dual(vector=",".join(info.components)),
                expand_values=True,
            )
        elif info.components:
            sizes = components[0][1]
            block = values[(slice(None), slice(None), *(slice(n) for n in grid.resolution))]
            data = wrap(block, samples, channel(vector=",".join(info.components)), *sizes)
        else:
            part, sizes = components[0]
            data = wrap(part, samples, *sizes)
        return Field(self._cells[values.dtype], data, self._extrapolations[info.name])

    def _channels(self, info: FieldInfo, field: Field, count: int) -> Tensor:
        """Convert a Field into `[count, channels, *S]`."""
        grid = self.layout.grid
        if not field.is_grid or field.is_staggered != (info.sampling == "staggered"):
            raise DataError(f"the field {info.name!r} is declared {info.sampling}, but this one is not: {field}")
        parts = []
        for index in range(info.channels):
            values = field.values
            if info.components:
                values = _component(info, field, index)
            own = info.samples(grid, index)
            sizes = tuple(values.shape.get_size(axis) if axis in values.shape else 1 for axis in grid.axes)
            if sizes != own or len(values.shape.spatial) != len(grid.axes):
                raise DataError(
                    f"component {index} of {info.name!r} has {sizes} samples, but the layout requires {own}"
                )
            parts.append(self._native(info, values, count, own))
        return torch.stack(parts, dim=1) if len(parts) > 1 else parts[0].unsqueeze(1)

    def _native(self, info: FieldInfo, values: Any, count: int, own: tuple[int, ...]) -> Tensor:
        """Convert one component into `[count, *S]`."""
        shape = values.shape
        if rest := shape.without(self.layout.grid.axes).non_batch:
            raise DataError(f"the field {info.name!r} has the dimension {rest}, which its declaration lacks")
        native = values.native([*shape.batch.names, *self.layout.grid.axes])
        tensor = native if isinstance(native, Tensor) else torch.as_tensor(native)
        tensor = tensor.reshape(-1, *own).expand(count, *own)
        padding = [pad for n, s in zip(reversed(own), reversed(self.layout.spatial), strict=True) for pad in (0, s - n)]
        return functional.pad(tensor, padding) if any(padding) else tensor


def _geometry(grid: Grid) -> UniformGrid:
    with precision(64):
        lower, upper = (
            wrap(np.asarray(corner, np.float64), channel(vector=",".join(grid.axes)))
            for corner in (grid.lower, grid.upper)
        )
        cells = UniformGrid(spatial(**dict(zip(grid.axes, grid.resolution, strict=True))), Box(lower, upper))
        cells.dx  # noqa: B018 - computed here, so that it is kept in float64
    return cells


def _precision_of(dtype: torch.dtype) -> AbstractContextManager[None]:
    # PhiML's precision is global and decides the type of every result, even that of a stack of equal types
    return cast(AbstractContextManager[None], precision(torch.finfo(dtype).bits))


def _component(info: FieldInfo, field: Field, index: int) -> Any:
    name = info.components[index]
    if info.sampling == "staggered":
        return field.values[{"~vector": name}]
    if "vector" not in field.values.shape:
        raise DataError(
            f"the field {info.name!r} has none of its declared components {', '.join(info.components)}: {field}"
        )
    labels = field.values.shape.get_item_names("vector")
    return field.values[{"vector": name if labels else index}]


def _batch_size(name: str, field: Field) -> int:
    dims = field.values.shape.batch
    if len(dims) > 1:
        raise DataError(f"the field {name!r} has more than one batch dimension: {dims}")
    return int(dims.volume)


def to_fields(state: Tensor, layout: StateLayout, names: Sequence[str] | None = None) -> dict[str, Field]:
    """Return `Converter(layout).fields(state, names)`."""
    return Converter(layout).fields(state, names)


def to_tensor(fields: Mapping[str, Field], layout: StateLayout, names: Sequence[str] | None = None) -> Tensor:
    """Return `Converter(layout).tensor(fields, names)`."""
    return Converter(layout).tensor(fields, names)
