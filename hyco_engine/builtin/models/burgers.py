"""The viscous Burgers equation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch
from phi.field import Field
from phi.physics import advect
from phiml.math import channel, pad, stack
from torch import Tensor

from hyco_engine.builtin.models.options_physical import BurgersOptions
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.differences import continued, diffusion, first_derivative, second_derivative
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.model import FlowModel, FlowPhysics
from hyco_engine.physics.parameters import ParameterDeclaration

INF = math.inf


class Burgers(FlowPhysics):
    """u_t + (u . grad) u = div(nu grad u)."""

    parameters = (
        ParameterDeclaration(
            name="nu",
            init=0.05,
            unit="length^2/time",
            bounds=(0.0, INF),
            may_be_field=True,
            field_bounds=(-INF, INF),
            help="kinematic viscosity",
        ),
    )

    def __init__(self, options: BurgersOptions) -> None:
        self.options = options

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        components = axes if len(axes) > 1 else ()
        u = FieldInfo(name="u", components=components, boundary=Boundary.parse("periodic", axes), unit="length/time")
        return [u], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        u, nu = fields["u"], parameters["nu"]
        if self.options.scheme == "semi-lagrangian":
            return {"u": semi_lagrangian(u, nu, dt)}
        return {"u": finite_difference(u, nu, dt)}

    def internal_steps(
        self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor], dt: float
    ) -> int:
        if self.options.scheme == "semi-lagrangian":
            return max(1, math.ceil(numbers(layout, 0.0, parameters["nu"], dt)[1] / 0.5))
        # room for a viscosity that rises while it is learned
        courant, diffusive = numbers(layout, size.get("u", 4.0), 1.5 * parameters["nu"], dt)
        return max(1, math.ceil(math.hypot(courant / MAX_COURANT, diffusive / MAX_DIFFUSIVE)))

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid = layout.grid
        scale = self.options.length_scale * min(b - a for a, b in zip(grid.lower, grid.upper, strict=True))
        (u,) = layout.dynamic
        return noise_field(u, grid, layout.spatial, count, generator, scale=scale, amplitude=self.options.amplitude)


def build(options: BurgersOptions, context: BuildContext) -> FlowModel:
    """The registered factory."""
    return FlowModel(Burgers(options), context)


MAX_COURANT = 2.06
"""Limit of the sum over axes of |u| dt/dx: RK4's 2.83 over the 1.372 of the fourth-order difference."""
MAX_DIFFUSIVE = 0.52
"""Limit of the sum over axes of nu dt/dx^2: RK4's 2.785 over the 16/3 of the fourth-order difference."""


def finite_difference(u: Field, nu: Any, dt: float) -> Field:
    """One classical Runge-Kutta step."""
    v = u.values
    k1 = rate(u, v, nu)
    k2 = rate(u, v + dt / 2 * k1, nu)
    k3 = rate(u, v + dt / 2 * k2, nu)
    k4 = rate(u, v + dt * k3, nu)
    return u.with_values(v + dt / 6 * (k1 + 2 * (k2 + k3) + k4))


def rate(u: Field, v: Any, nu: Any) -> Any:
    """u_t for the values `v`, on the grid and with the boundary of `u`."""
    terms = []
    for axis in u.resolution.names:
        dx = float(u.dx.vector[axis])
        extended = continued(v, u.boundary, axis)
        if isinstance(nu, Field):
            spread = diffusion(extended, continued(nu.values, nu.boundary, axis), axis, dx)
        else:
            spread = nu * second_derivative(extended, axis, dx)
        terms.append(spread - advection(v, extended, axis, dx))
    return reduce(add, terms)


def advection(v: Any, extended: Any, axis: str, dx: float) -> Any:
    """u_j d_j u_i for one axis j; for i = j as a third of u du + d(u u), which conserves energy in every cell size."""
    gradient = first_derivative(extended, axis, dx)
    if "vector" not in v.shape:
        return (v * gradient + first_derivative(extended * extended, axis, dx)) * (1 / 3)
    along = v.vector[axis]
    flux = first_derivative(extended.vector[axis] ** 2, axis, dx)
    parts = []
    for component in v.vector.item_names:
        transport = along * gradient.vector[component]
        parts.append((transport + flux) * (1 / 3) if component == axis else transport)
    return stack(parts, channel(vector=",".join(v.vector.item_names)))


def semi_lagrangian(u: Field, nu: Any, dt: float) -> Field:
    """Advection along characteristics with linear interpolation, then one explicit step of nu lap(u) + grad(nu) . grad(u)."""
    a = advect.semi_lagrangian(u, u, dt)
    change = 0.0
    for axis in u.resolution.names:
        dx = float(u.dx.vector[axis])
        lower, upper = shifted(a, axis)
        change += (nu.values if isinstance(nu, Field) else nu) * (lower + upper - 2 * a.values) / dx**2
        if isinstance(nu, Field):
            below, above = shifted(nu, axis)
            change += (above - below) * (upper - lower) / (4 * dx**2)
    return u.with_values(a.values + dt * change)


def shifted(field: Field, axis: str) -> tuple[Any, Any]:
    """The neighbours below and above along an axis."""
    padded = pad(field.values, {axis: (1, 1)}, field.boundary)
    size = field.resolution.get_size(axis)
    return padded[{axis: slice(0, size)}], padded[{axis: slice(2, size + 2)}]


def numbers(layout: StateLayout, speed: float, nu: Tensor, dt: float) -> tuple[float, float]:
    """(Courant number, diffusion number), summed over the axes."""
    largest = float(nu.max())
    return sum(speed * dt / dx for dx in layout.grid.spacing), sum(largest * dt / dx**2 for dx in layout.grid.spacing)
