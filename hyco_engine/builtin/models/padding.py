"""Padding of grids by their boundary conditions: physical states exactly, hidden features by analogy."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import Rule, StateLayout
from hyco_engine.data.padding import Sides, as_pair, component_sides, extend

ZERO = Rule(kind="constant", value=0.0)


class FeaturePadding:
    """Padding of hidden features beyond the grid, by one pair of rules for each axis.

    The rules are those of the first dynamic field: periodic, zero-gradient, symmetric and reflect stay as they are;
    all others become zeros, since features have no boundary values and no parity. A normal-tangential rule acts by its
    normal part.
    """

    def __init__(self, layout: StateLayout) -> None:
        field = layout.dynamic[0]
        self.sides = [as_pair(map(_for_features, field.boundary.sides[axis])) for axis in layout.grid.axes]

    def __call__(self, x: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
        """Return `x [B, C, *S]` with (lower, upper) more samples along each spatial axis, in its memory layout."""
        image = as_image(x)
        first = image.dim() - len(widths)
        for axis, (lower, upper) in enumerate(widths):
            image = extend(image, first + axis, lower, upper, self.sides[axis])
        return of_image(image, x)


def _for_features(rule: Rule) -> Rule:
    if rule.normal is not None:
        return _for_features(rule.normal)
    return rule if rule.kind in ("periodic", "zero-gradient", "symmetric", "reflect") else ZERO


def as_image(x: Tensor) -> Tensor:
    """Return `[B, C, N]` as `[B, C, 1, N]`, an image of one row, and any other `x` as it is.

    Torch has the memory format channels-last only for images.
    """
    return x.unsqueeze(2) if x.dim() == 3 else x


def of_image(image: Tensor, x: Tensor) -> Tensor:
    """Return a result computed from `as_image(x)` with as many axes as `x`."""
    return image.squeeze(2) if x.dim() == 3 else image


def for_convolutions(x: Tensor) -> Tensor:
    """Return `as_image(x)`, with the channels of a cell side by side in memory where that is the fastest for torch.

    It is on the CPU, but for a batch of one, for which torch uses other kernels; and on GPUs in one dimension, where
    cuDNN otherwise takes gradients by Fourier transforms.
    """
    image = as_image(x)
    if x.shape[0] == 1 or (x.device.type != "cpu" and x.dim() != 3):
        return image
    # an explicit copy, since torch does not tell the two layouts of one channel apart; by `movedim`, since vmap
    # supports no memory formats
    return image.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


@attrs.frozen
class _Group:
    """Neighbouring channels with the same boundary along one axis; their last `missing` samples are padding."""

    channels: int
    missing: int
    sides: Sides


class StatePadding(nn.Module):
    """Pads a state `[B, C_all, *S]` by `width` on every side, each component by its own boundary condition.

    The padding that staggered layouts hold is not read: values beyond the component's boundary replace it.
    """

    def __init__(self, layout: StateLayout, width: int) -> None:
        super().__init__()
        self.width = width
        self.groups = [_groups(layout, axis) for axis in range(len(layout.grid.axes))]

    def forward(self, state: Tensor) -> Tensor:
        for axis, groups in enumerate(self.groups):
            chunks = torch.split(state, [group.channels for group in groups], dim=1)
            parts = [self._extend(x, axis + 2, group) for x, group in zip(chunks, groups, strict=True)]
            state = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return state

    def _extend(self, x: Tensor, dim: int, group: _Group) -> Tensor:
        own = x.narrow(dim, 0, x.shape[dim] - group.missing) if group.missing else x
        return extend(own, dim, self.width, self.width + group.missing, group.sides)


def _groups(layout: StateLayout, axis: int) -> list[_Group]:
    groups: list[_Group] = []
    for field in layout.fields:
        for component in range(field.channels):
            missing = layout.spatial[axis] - field.samples(layout.grid, component)[axis]
            new = _Group(1, missing, component_sides(field, component, layout.grid.axes[axis]))
            if groups and (groups[-1].missing, groups[-1].sides) == (new.missing, new.sides):
                new = attrs.evolve(new, channels=groups.pop().channels + 1)
            groups.append(new)
    return groups
