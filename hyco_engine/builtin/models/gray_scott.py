"""The Gray-Scott equations: two substances that react and diffuse.

Equation        u_t = div(Du grad u) - u v^2 + f (1 - u)
                v_t = div(Dv grad v) + u v^2 - (f + k) v,  in 1, 2 or 3 dimensions
As text         `rates.u = "div(Du*grad(u)) - u*v**2 + f*(1 - u)"`
                `rates.v = "div(Dv*grad(v)) + u*v**2 - (f + k)*v"`
Fields          `u`, `v`, the concentrations; scalars, centred; dimensionless
Parameters      `Du`, `Dv`, the diffusivities: numbers > 0 or fields; unit length^2/time
                `f`, the feed rate, and `k`, the kill rate: numbers > 0 or fields; unit 1/time
Boundary        any; periodic where the data names none
Solutions       u = 1, v = 0 is at rest; spots of v above a threshold grow, divide, or spread as rings, and fill the
                domain with spots, stripes or waves
Good values     Du = 0.16 to 0.2, Dv = Du / 2, f = 0.018 to 0.06, k = 0.05 to 0.065, cells of 1 to 2, frames
                10 to 50 apart

Scheme          Space: the 2n + 1 point Laplacian, conservative for diffusivities that vary; order 2. Time: scheme =
                "euler" (default), order 1, or "rk4", order 4. With "euler" and `physical.dt` equal to the internal step
                of data that were made the same way, the step is that of the data to rounding.
                Internal steps are at most 0.4 long (0.4 of Euler is 1 % off in u and 4 % in v on the published data
                after t = 2000), and shorter where stability asks for it: sum max(Du, Dv) dt/dx^2 < 0.5 (Euler), 0.69
                (rk4).
                Numerical diffusion: none from the differences; Euler's error acts as -c^2 dt/2 on fronts of speed c,
                1e-3 of Dv = 0.08 at dt = 0.4 and c = 0.02.

References      P. Gray, S. K. Scott, Chem. Eng. Sci. 39 (1984); J. E. Pearson, Science 261 (1993)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from phi.field import Field
from torch import Tensor

from hyco_engine.builtin.models.options_physical import GrayScottOptions
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, State, diffusive, euler, rk4, values_of
from hyco_engine.physics.model import FlowModel, FlowPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.second_order import diffusion

STEP = 0.4
MAX_DIFFUSIVE = {"euler": 0.5, "rk4": 0.69}
"""Limits of sum D dt/dx^2: 2 and 2.785 over the 4 of the three-point second difference."""


def _rate(name: str, init: float, help: str, unit: str = "1/time") -> ParameterDeclaration:
    return ParameterDeclaration(name=name, init=init, unit=unit, bounds=(0.0, math.inf), may_be_field=True, help=help)


class GrayScott(ExplicitPhysics, FlowPhysics):
    """See the module's card."""

    kind = "gray-scott"
    max_step = STEP
    parameters = (
        _rate("Du", 0.2, "diffusivity of u", "length^2/time"),
        _rate("Dv", 0.1, "diffusivity of v", "length^2/time"),
        _rate("f", 0.03, "feed rate"),
        _rate("k", 0.055, "kill rate"),
    )

    def __init__(self, options: GrayScottOptions) -> None:
        self.options = options

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        boundary = Boundary.parse("periodic", axes)
        return [FieldInfo(name=name, boundary=boundary) for name in ("u", "v")], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        f, k = values_of(parameters["f"]), values_of(parameters["k"])

        def rate(state: State) -> State:
            u, v = state["u"], state["v"]
            reaction = u * v * v
            return {
                "u": diffusion(fields["u"], u, parameters["Du"]) - reaction + f * (1 - u),
                "v": diffusion(fields["v"], v, parameters["Dv"]) + reaction - (f + k) * v,
            }

        advance = euler if self.options.scheme == "euler" else rk4
        new = advance(rate, {name: fields[name].values for name in ("u", "v")}, dt)
        return {name: fields[name].with_values(values) for name, values in new.items()}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        name = max(("Du", "Dv"), key=lambda name: float(parameters[name].max()))
        return [diffusive(layout, float(parameters[name].max()), name, MAX_DIFFUSIVE[self.options.scheme])]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        """Draw states with u = 1 and v = 0, and u = v = 0.5 in spots of random place and size, which may overlap."""
        inside = torch.zeros(count, *layout.spatial, dtype=torch.bool)
        grid = layout.grid
        lengths = torch.tensor([b - a for a, b in zip(grid.lower, grid.upper, strict=True)], dtype=torch.float64)
        for _ in range(self.options.spots):
            place = torch.rand(count, len(lengths), generator=generator, dtype=torch.float64)
            radius = (
                0.7 + 0.6 * torch.rand(count, generator=generator, dtype=torch.float64)
            ) * self.options.spot_radius
            square = torch.zeros(count, *(1 for _ in lengths), dtype=torch.float64)
            for i, axis in enumerate(grid.axes):
                x = (torch.tensor(grid.centers(axis), dtype=torch.float64) - grid.lower[i]) / lengths[i]
                distance = (x - place[:, i, None]).abs()
                distance = torch.minimum(distance, 1 - distance) * lengths[i]
                shape = [count, *(len(x) if j == i else 1 for j in range(len(lengths)))]
                square = square + distance.square().reshape(shape)
            reach = (radius * lengths.min()).square().reshape([count, *(1 for _ in lengths)])
            inside |= square <= reach
        v = 0.5 * inside.double()
        return torch.stack([1 - v, v], dim=1)


def build(options: GrayScottOptions, context: PhysicsContext) -> FlowModel:
    """Build the model; the registry calls this factory."""
    return FlowModel(GrayScott(options), context)
