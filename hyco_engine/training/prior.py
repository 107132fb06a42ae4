"""Smoothness priors, which fields and functions of time among a physics' parameters add to the loss.

    s mean_x |grad theta|^2    for each field theta with `smoothness` s > 0

is the squared H1 seminorm per volume, on values in their own unit. Gradients are differences of neighbouring cells, at
the faces between them; periodic axes close, and walls have no face, as the field has no gradient there. The prior is a
sum of squares, so that Gauss-Newton has exact curvature. It is added to the normalized loss, since a normalizer would
undo its weight.
Source: A. N. Tikhonov, V. Y. Arsenin, "Solutions of ill-posed problems" (1977), with a first-order stabilizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.interfaces import PhysicalModel
from hyco_engine.physics.within import physics_within


@attrs.frozen(kw_only=True)
class _Part:
    """A field with a prior: the `name` of the parameter, and its `key` among all that the model learns."""

    name: str
    key: str
    physics: PhysicalModel
    smoothness: float

    def slopes(self, value: Tensor) -> Tensor:
        """Return the derivatives of the parameter in space, or in time, `[N]`."""
        times = self.physics.learnables.times(self.name)
        return slopes(value, self.physics.layout) if times is None else value.diff() / times.diff().to(value)


class Prior:
    """The priors of a model's parameter fields, also of a physics within a model; false if there are none."""

    def __init__(self, model: nn.Module) -> None:
        self._parts = [
            _Part(
                name=name,
                key=".".join(filter(None, (prefix, "learnables.raw", name))),
                physics=physics,
                smoothness=physics.learnables.smoothness(name),
            )
            for prefix, physics in physics_within(model).items()
            if hasattr(physics, "learnables")
            for name in physics.learnables.learned
            if physics.learnables.smoothness(name)
        ]

    def __bool__(self) -> bool:
        return bool(self._parts)

    def residuals(self, point: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return `[N]` with the prior as sum of squares, at raw parameters by name; None stands for the model's own."""
        return torch.cat([part for _, part in self._residuals(point)])

    def value(self, point: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the prior's part of the loss, 0-d."""
        return self.residuals(point).square().sum()

    def metrics(self) -> dict[str, float]:
        """Return the present part of each field as `prior/<name>`."""
        with torch.no_grad():
            return {f"prior/{name}": float(part.square().sum()) for name, part in self._residuals(None)}

    def _residuals(self, point: Mapping[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
        for part in self._parts:
            raw = part.physics.learnables.raw[part.name] if point is None else point[part.key]
            value = part.physics.learnables.transform(part.name).to_value(raw)
            yield part.name, math.sqrt(part.smoothness / value.numel()) * part.slopes(value)


def slopes(value: Tensor, layout: StateLayout) -> Tensor:
    """Return the derivatives of `value [*resolution]` at all inner faces, axis by axis: `[n_faces]`."""
    grid, boundary = layout.grid, layout.dynamic[0].boundary
    found = []
    for axis, (name, dx) in enumerate(zip(grid.axes, grid.spacing, strict=True)):
        change = value.diff(dim=axis)
        if boundary.is_periodic(name):
            change = torch.cat([change, value.narrow(axis, 0, 1) - value.narrow(axis, -1, 1)], dim=axis)
        found.append(change.flatten() / dx)
    return torch.cat(found)
