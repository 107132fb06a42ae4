"""The heat equation.

Equation        u_t = div(kappa grad u)   (form = "conservative", default), or
                u_t = kappa lap(u)        (form = "non-conservative"),  in 1, 2 or 3 dimensions
As text         `rates.u = "div(kappa*grad(u))"`
Field           `u`, a scalar, centred
Parameters      conductivity = "free" (default): `kappa`, a number > 0 or a field; unit length^2/time
                conductivity = "bumps": kappa = min(cap, base + sum_i A_i exp(-|x - c_i|^2 / w^2)) with the parameters
                `A1`, `A2`, ... > 0 (length^2/time) and `x1`, `y1`, `x2`, ... (length), the centres, which start spread
                over the domain; base, cap and the width w are options. Where kappa is at the cap no bump gets a
                gradient.
Boundary        any; 0 where the data names none. A value on the boundary holds in the first ghost sample, so data on
                nodes that include the ends fit exactly
Solutions       bumps spread and decay; a wave of number q decays as exp(-kappa q^2 t)

Scheme          Space: central differences, order = 4 (default) or 2, conservative where the form is. Fourth order holds
                on periodic and mirroring sides, and on sides with the value 0 for a constant kappa or the
                non-conservative form; else, and for a kappa with a slope at a mirroring wall, it is 2 there: beyond
                walls a field kappa is mirrored. Time: classical Runge-Kutta, order 4.
                Stable for sum kappa dt/dx^2 < 0.52 (order 4) or 0.69 (order 2); internal steps are chosen for it.
                Numerical diffusion: a wave of q dx = 1 decays too slowly by 1 % (order 4) or 8 % (order 2), shorter
                ones more; use the order and the grid of the data where they were made by such differences.
Identifiable    the level of a kappa field only where u curves; with bumps, the order of the bumps is arbitrary.

References      J. Crank, The Mathematics of Diffusion (1975); the bumps: HYCO, arXiv 2509.14123
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch
from phi.field import Field
from phiml.math import exp, minimum
from phiml.math.extrapolation import PERIODIC, ZERO_GRADIENT, Extrapolation, combine_sides
from torch import Tensor

from hyco_engine.builtin.models.options_physical import HeatOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics import differences, second_order
from hyco_engine.physics.boundaries import side_of
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, diffusive, rk4, spacing, values_of
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.model import FlowModel, FlowPhysics
from hyco_engine.physics.parameters import ParameterDeclaration

MAX_DIFFUSIVE = {2: 0.69, 4: 0.52}
"""Limits of sum kappa dt/dx^2 by order: Runge-Kutta's 2.785 over 4 and over 16/3."""


class Heat(ExplicitPhysics, FlowPhysics):
    """See the module's card."""

    kind = "heat"

    def __init__(self, options: HeatOptions, grid: Grid) -> None:
        self.options = options
        self.parameters = [_KAPPA] if options.conductivity == "free" else list(_bumps(options, grid))

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        return [FieldInfo(name="u", boundary=Boundary.parse(0.0, axes))], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        u = fields["u"]
        kappa = parameters["kappa"] if self.options.conductivity == "free" else self._sum_of_bumps(u, parameters)
        new = rk4(lambda state: {"u": self._rate(u, state["u"], kappa)}, {"u": u.values}, dt)
        return {"u": u.with_values(new["u"])}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        if self.options.conductivity == "free":
            largest = float(parameters["kappa"].max())
        else:
            heights = sum(float(value) for name, value in parameters.items() if name.startswith("A"))
            largest = min(self.options.cap, self.options.base + heights)
        return [diffusive(layout, largest, "kappa", MAX_DIFFUSIVE[self.options.order])]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid, (u,) = layout.grid, layout.dynamic
        scale = self.options.length_scale * grid.shortest
        amplitude = self.options.amplitude
        return noise_field(u, grid, layout.spatial, count, generator, scale=scale, amplitude=amplitude)

    def _rate(self, u: Field, values: Any, kappa: Any) -> Any:
        conservative = self.options.form == "conservative" and isinstance(kappa, Field)
        if self.options.order == 2:
            if conservative:
                return second_order.diffusion(u, values, kappa)
            return values_of(kappa) * second_order.laplacian(u, values)
        parts = []
        for axis, dx in spacing(u).items():
            extended = differences.continued(values, u.boundary, axis)
            if conservative:
                varying = differences.continued(kappa.values, kappa.boundary, axis)
                parts.append(differences.diffusion(extended, varying, axis, dx))
            else:
                parts.append(differences.second_derivative(extended, axis, dx))
        total = reduce(add, parts)
        return total if conservative else values_of(kappa) * total

    def _sum_of_bumps(self, u: Field, parameters: Mapping[str, Any]) -> Field:
        kappa: Any = self.options.base
        for i in range(1, self.options.bumps + 1):
            square: Any = 0.0
            for axis in u.resolution.names:
                square += (u.points.vector[axis] - parameters[f"{axis}{i}"]) ** 2
            kappa = kappa + parameters[f"A{i}"] * exp(square * (-1 / self.options.bump_width**2))
        if math.isfinite(self.options.cap):
            kappa = minimum(kappa, self.options.cap)
        return Field(u.geometry, kappa, _mirroring(u))


_KAPPA = ParameterDeclaration(
    name="kappa",
    init=0.1,
    unit="length^2/time",
    bounds=(0.0, math.inf),
    may_be_field=True,
    help="thermal diffusivity",
)


def _bumps(options: HeatOptions, grid: Grid) -> list[ParameterDeclaration]:
    declarations = []
    for i in range(1, options.bumps + 1):
        declarations.append(
            ParameterDeclaration(
                name=f"A{i}", init=1.0, unit="length^2/time", bounds=(0.0, math.inf), help=f"height of bump {i}"
            )
        )
        for j, (axis, lower, upper) in enumerate(zip(grid.axes, grid.lower, grid.upper, strict=True)):
            # distinct start positions in the inner half of the domain: bumps that start at one place never separate
            fraction = 0.25 + 0.5 * ((0.5 + i * _SPREAD[len(grid.axes)][j]) % 1.0)
            declarations.append(
                ParameterDeclaration(
                    name=f"{axis}{i}",
                    init=lower + fraction * (upper - lower),
                    unit="length",
                    help=f"position of bump {i} along {axis}",
                )
            )
    return declarations


_SPREAD = {1: (0.6180339887,), 2: (0.7548776662, 0.5698402910), 3: (0.8191725134, 0.6710436067, 0.5497004779)}
"""Steps of the evenly spread sequence R_d: 1/g, 1/g^2, ... with g^(d+1) = g + 1."""


def _mirroring(u: Field) -> Extrapolation:
    """Return the boundary of a learned field: periodic where `u` is, zero-gradient elsewhere."""
    return combine_sides(
        {
            axis: PERIODIC if side_of(u.boundary, f"{axis}-") == PERIODIC else ZERO_GRADIENT
            for axis in u.resolution.names
        }
    )


def build(options: HeatOptions, context: PhysicsContext) -> FlowModel:
    """Build the model; the registry calls this factory."""
    grid = context.layout.grid if context.layout is not None else context.grid
    if grid is None:
        raise DataError("the heat equation needs data on a grid, and this data has none", key="physical.kind")
    return FlowModel(Heat(options, grid), context)
