"""Padding of grids by their boundary conditions: physical states exactly, hidden features by analogy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import FieldInfo, Rule, RuleKind, StateLayout

Sides = tuple[Rule, Rule]
ZERO = Rule(kind="constant", value=0.0)
_SIGN: dict[RuleKind, float] = {"antisymmetric": -1.0, "antireflect": -1.0}


def extend(x: Tensor, axis: int, lower: int, upper: int, sides: Sides) -> Tensor:
    """`x` with `lower` and `upper` more samples along `axis`, as PhiFlow would pad it.

    Extensions wider than the axis repeat the rule. The value of a `constant` rule is one number.
    """
    while lower > 0 or upper > 0:
        n = x.shape[axis]
        step = min(lower, _reach(sides[0], n)), min(upper, _reach(sides[1], n))
        parts = [x]
        if step[0]:
            parts.insert(0, _beyond(x, axis, step[0], sides[0], at_upper=False))
        if step[1]:
            parts.append(_beyond(x, axis, step[1], sides[1], at_upper=True))
        x = torch.cat(parts, dim=axis)
        lower, upper = lower - step[0], upper - step[1]
    return x


def _reach(rule: Rule, n: int) -> int:
    """How many samples beyond a side the rule gives at once."""
    return max(1, n - 1) if rule.kind in ("reflect", "antireflect") else n


def _beyond(x: Tensor, axis: int, width: int, rule: Rule, *, at_upper: bool) -> Tensor:
    n = x.shape[axis]
    match rule.kind:
        case "constant":
            shape = list(x.shape)
            shape[axis] = width
            return x.new_full(shape, float(rule.value))  # type: ignore[arg-type]
        case "periodic":
            return x.narrow(axis, 0 if at_upper else n - width, width)
        case "zero-gradient":
            shape = list(x.shape)
            shape[axis] = width
            return x.narrow(axis, n - 1 if at_upper else 0, 1).expand(shape)
        case _:
            skip = 1 if rule.kind in ("reflect", "antireflect") and n > 1 else 0
            mirrored = x.narrow(axis, n - skip - width if at_upper else skip, width).flip(axis)
            return mirrored * _SIGN.get(rule.kind, 1.0)


class FeaturePadding:
    """How hidden features continue beyond the grid: one pair of rules for each axis.

    They follow the first dynamic field: periodic, zero-gradient, symmetric and reflect as they are; all
    others become zeros, since features have no boundary values and no parity. Of normal-tangential the normal
    rule counts.
    """

    def __init__(self, layout: StateLayout) -> None:
        field = layout.dynamic[0]
        self.sides = [_pair(map(_for_features, field.boundary.sides[axis])) for axis in layout.grid.axes]

    def __call__(self, x: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
        """`x [B, C, *S]` with (lower, upper) more samples along each spatial axis."""
        for axis, (lower, upper) in enumerate(widths):
            x = extend(x, axis + 2, lower, upper, self.sides[axis])
        return x


def _for_features(rule: Rule) -> Rule:
    if rule.normal is not None:
        return _for_features(rule.normal)
    return rule if rule.kind in ("periodic", "zero-gradient", "symmetric", "reflect") else ZERO


@attrs.frozen
class _Group:
    """Neighbouring channels that continue alike along one axis; their last `missing` samples are filler."""

    channels: int
    missing: int
    sides: Sides


class StatePadding(nn.Module):
    """Pads a state `[B, C_all, *S]` by `width` on every side, each component by its own boundary condition.

    The filler of staggered layouts is not read: what lies beyond the component's boundary takes its place.
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
            new = _Group(1, missing, _component_sides(field, component, layout.grid.axes[axis]))
            if groups and (groups[-1].missing, groups[-1].sides) == (new.missing, new.sides):
                new = attrs.evolve(new, channels=groups.pop().channels + 1)
            groups.append(new)
    return groups


def _component_sides(field: FieldInfo, component: int, axis: str) -> Sides:
    return _pair(_for_component(rule, field, component, axis) for rule in field.boundary.sides[axis])


def _for_component(rule: Rule, field: FieldInfo, component: int, axis: str) -> Rule:
    if rule.normal is not None and rule.tangential is not None:
        across = bool(field.components) and field.components[component] == axis
        return _for_component(rule.normal if across else rule.tangential, field, component, axis)
    if isinstance(rule.value, tuple):
        return attrs.evolve(rule, value=rule.value[component if len(rule.value) > 1 else 0])
    return rule


def _pair(rules: Iterable[Rule]) -> Sides:
    lower, upper = rules
    return lower, upper
