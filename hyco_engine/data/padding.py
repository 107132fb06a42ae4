"""The continuation of a component beyond the grid by its boundary condition, as PhiFlow pads it."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import FieldInfo, Rule, RuleKind

Sides = tuple[Rule, Rule]
_SIGN: dict[RuleKind, float] = {"antisymmetric": -1.0, "antireflect": -1.0}


def extend(x: Tensor, axis: int, lower: int, upper: int, sides: Sides) -> Tensor:
    """Extend `x` by `lower` and `upper` samples along `axis`.

    Extensions wider than the axis repeat the rule. The value of a `constant` rule is one number.
    """
    while lower > 0 or upper > 0:
        n = x.shape[axis]
        if sides[0].kind == sides[1].kind == "periodic" and lower + upper <= n:
            # a split has one gradient as large as the axis, whereas each slice would have its own
            first, between, last = torch.split(x, [upper, n - lower - upper, lower], axis)
            # concatenation with an empty tensor would lose the channels-last memory format
            return torch.cat([x for x in (last, first, between, last, first) if x.shape[axis]], dim=axis)
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
    """Return how many samples beyond a side one application of the rule gives."""
    return max(1, n - 1) if rule.kind in ("reflect", "antireflect") else n


def _beyond(x: Tensor, axis: int, width: int, rule: Rule, *, at_upper: bool) -> Tensor:
    n = x.shape[axis]
    match rule.kind:
        case "constant":
            # with the memory format of x, so that the concatenation keeps it
            return torch.full_like(x.narrow(axis, 0, width), float(rule.value))  # type: ignore[arg-type]
        case "periodic":
            return x.narrow(axis, 0 if at_upper else n - width, width)
        case "formula" if n > 1:
            # nobody knows the value here, and the slope goes on
            inner = 1 if not at_upper else n - 2
            edge = x.narrow(axis, n - 1 if at_upper else 0, 1)
            slope = edge - x.narrow(axis, inner, 1)
            far = [number + 1 for number in range(width)]
            return torch.cat([edge + number * slope for number in (far if at_upper else far[::-1])], dim=axis)
        case "zero-gradient" | "formula":
            return torch.cat([x.narrow(axis, n - 1 if at_upper else 0, 1)] * width, dim=axis)
        case _:
            skip = 1 if rule.kind in ("reflect", "antireflect") and n > 1 else 0
            mirrored = x.narrow(axis, n - skip - width if at_upper else skip, width).flip(axis)
            return mirrored * _SIGN.get(rule.kind, 1.0)


def component_sides(field: FieldInfo, component: int, axis: str) -> Sides:
    """Return the rules of one component on both sides of an axis."""
    return as_pair(_for_component(rule, field, component, axis) for rule in field.boundary.sides[axis])


def _for_component(rule: Rule, field: FieldInfo, component: int, axis: str) -> Rule:
    if rule.normal is not None and rule.tangential is not None:
        across = bool(field.components) and field.components[component] == axis
        return _for_component(rule.normal if across else rule.tangential, field, component, axis)
    if isinstance(rule.value, tuple):
        return attrs.evolve(rule, value=rule.value[component if len(rule.value) > 1 else 0])
    return rule


def as_pair(rules: Iterable[Rule]) -> Sides:
    """Return the lower and the upper rule as a pair."""
    lower, upper = rules
    return lower, upper
