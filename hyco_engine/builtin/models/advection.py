"""Advection of a quantity by a velocity that is partly known.

Equation        rho_t + (v + m) . grad rho = 0,  in 1, 2 or 3 dimensions
As text         `rates.rho = "-(v.x + mx)*dx(rho) - (v.y + my)*dy(rho)"`, in 2-D
Fields          `rho`, a scalar, dynamic; `v`, the known velocity, static: a scalar in 1-D, one component per axis else;
                both centred; v in length/time
Parameters      `mx`, `my`, `mz` for the axes there are: the modulation m that is added to v, numbers or fields;
                unit length/time
Boundary        any; periodic where the data names none. Where the flow enters, only the boundary's own value is
                prescribed
Solutions       rho is carried along unchanged; sheared into ever finer filaments where v turns
Good values     length scales of rho of eight cells and more; m well below v

Scheme          Space: fourth-order central differences, not conservative, order 4 (2 at walls where rho does not
                vanish). Time: classical Runge-Kutta, order 4.
                Stable for sum |v + m| dt/dx < 2.06; internal steps are chosen for it, with room for m to become as
                large as v.
                Numerical diffusion: none from the differences; Runge-Kutta's is dx^2 C^6 / (144 dt) for waves of
                q dx = 1 and C = |v| dt/dx. What the grid does not resolve is dispersed: such waves lag by 3 %.
Identifiable    only the component of m along grad rho, and only where rho varies: a constant rho carries no information
                on m. Several simulations from different initial states, whose gradients cover all directions
                everywhere, determine m.

References      B. Gustafsson, H.-O. Kreiss, J. Oliger, Time Dependent Problems and Difference Methods (1995), section 3
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch
from phi.field import Field
from torch import Tensor

from hyco_engine.builtin.models.options_physical import AdvectionOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.differences import continued, first_derivative
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, State, courant, rk4, spacing, values_of
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.model import FlowModel, FlowPhysics, grid_of
from hyco_engine.physics.parameters import ParameterDeclaration


class Advection(ExplicitPhysics, FlowPhysics):
    """See the module's card."""

    kind = "advection"

    def __init__(self, options: AdvectionOptions, grid: Grid) -> None:
        if options.velocity == "ring-vortex" and len(grid.axes) != 2:
            raise SpecError(
                f'a ring vortex needs two axes, and the data has {len(grid.axes)}: use velocity = "uniform"',
                key="physical.velocity",
            )
        self.options = options
        self.parameters = [
            ParameterDeclaration(
                name=f"m{axis}",
                init=0.0,
                unit="length/time",
                may_be_field=True,
                help=f"velocity along {axis} that is added to v",
            )
            for axis in grid.axes
        ]

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        boundary = Boundary.parse("periodic", axes)
        components = axes if len(axes) > 1 else ()
        v = FieldInfo(name="v", components=components, boundary=boundary, unit="length/time")
        return [FieldInfo(name="rho", boundary=boundary)], [v]

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        rho, v = fields["rho"], fields["v"]
        axes = spacing(rho)
        known = {axis: v.values.vector[axis] if "vector" in v.values.shape else v.values for axis in axes}
        velocity = {axis: known[axis] + values_of(parameters[f"m{axis}"]) for axis in axes}

        def rate(state: State) -> State:
            parts = []
            for axis, dx in axes.items():
                extended = continued(state["rho"], rho.boundary, axis)
                parts.append(-velocity[axis] * first_derivative(extended, axis, dx))
            return {"rho": reduce(add, parts)}

        return {"rho": rho.with_values(rk4(rate, {"rho": rho.values}, dt)["rho"])}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        known = size.get("v", abs(self.options.speed))
        added = max(float(value.abs().max()) for value in parameters.values())
        return [courant(layout, known + added, "|v + m|")]

    def internal_steps(
        self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor], dt: float
    ) -> int:
        # m usually starts at 0, so the room for it cannot be a multiple of its start value
        known = size.get("v", abs(self.options.speed))
        room = {name: value.abs() + known / 3 for name, value in parameters.items()}
        return super().internal_steps(layout, size, room, dt)

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid, (rho,) = layout.grid, layout.dynamic
        scale = self.options.length_scale * grid.shortest
        amplitude = self.options.amplitude
        drawn = noise_field(rho, grid, layout.spatial, count, generator, scale=scale, amplitude=amplitude)
        v = ring_vortex(grid, self.options) if self.options.velocity == "ring-vortex" else None
        if v is None:
            v = torch.full((len(grid.axes), *grid.resolution), self.options.speed, dtype=torch.float64)
        return torch.cat([drawn, v.expand(count, *v.shape)], dim=1)


def ring_vortex(grid: Grid, options: AdvectionOptions) -> Tensor:
    """Return the velocity of a vortex around the domain's centre, `[2, *resolution]`.

    Its speed `s (r/R) exp((1 - (r/R)^2) / 2)` is largest at r = R.
    """
    lengths = [b - a for a, b in zip(grid.lower, grid.upper, strict=True)]
    radius = options.ring_radius * min(lengths)
    offsets = [
        (torch.tensor(grid.centers(axis), dtype=torch.float64) - (lower + length / 2)) / radius
        for axis, lower, length in zip(grid.axes, grid.lower, lengths, strict=True)
    ]
    x, y = torch.meshgrid(*offsets, indexing="ij")
    profile = options.speed * torch.exp((1 - x**2 - y**2) / 2)
    return torch.stack([-y * profile, x * profile])


def build(options: AdvectionOptions, context: PhysicsContext) -> FlowModel:
    """Build the model; the registry calls this factory."""
    return FlowModel(Advection(options, grid_of(context)), context)
