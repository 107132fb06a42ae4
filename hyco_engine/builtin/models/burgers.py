"""The viscous Burgers equation.

Equation        u_t + (u . grad) u = div(nu grad u), in 1, 2 or 3 dimensions
Field           `u`, a scalar in 1-D, one component per axis else; centred; unit length/time
Parameter       `nu`, the viscosity: a number > 0, or a field; unit length^2/time
Boundary        any; periodic where the data says nothing
Solutions       waves that steepen into shocks of thickness 4 nu / jump, which then merge and decay

scheme = "finite-difference" (default)
    Space: fourth-order central differences on five points. Along its own axis u u_x is split as (u u_x + (u u)_x) / 3, which
    conserves the sum of u^2 on every grid, so that under-resolved shocks neither blow up nor are damped; across, u_j d_j u_i.
    Diffusion is conservative also for a varying nu. Time: classical Runge-Kutta. Order 4, on all sides but constant ones
    other than 0, where it is 2 at the wall.
    Stable for sum |u| dt/dx < 2.06 and sum nu dt/dx^2 < 0.52; internal steps are chosen for it, unless `physical.dt` is set.
    Numerical diffusion: none from the differences, (u dt)^6/(144 dx^5)-small from Runge-Kutta. Where a shock is about one
    cell wide nu is still found within 1 % (0.7 % on the 256 nodes of `burgers_shock.mat`, where conservative differences
    of second and fourth order give -10 % and -4 %, and u u_x of second order +39 %).

scheme = "semi-lagrangian"
    u u_x by PhiFlow's backward lookup with linear interpolation, then one explicit step of nu lap(u) + grad(nu) . grad(u).
    Order 1. Stable at any velocity, and for sum nu dt/dx^2 < 0.5.
    Numerical diffusion dx^2 f (1 - f) / (2 dt) with f = frac(u dt / dx), at most dx^2 / (8 dt): nu must be far above it to
    mean anything (24 % of nu on the grid of `burgers_shock.mat`, where nu is then found 61 % too low).

References      J. M. Burgers, Adv. Appl. Mech. 1 (1948); the split: A. Jameson, J. Sci. Comput. 34 (2008), eq. 2.8
"""

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

MAX_COURANT = 2.06
"""Limit of sum |u| dt/dx: Runge-Kutta's 2.83 over the 1.372 of the fourth-order difference."""
MAX_DIFFUSIVE = 0.52
"""Limit of sum nu dt/dx^2: Runge-Kutta's 2.785 over the 16/3 of the fourth-order difference."""
MAX_DIFFUSIVE_EULER = 0.5
LEARNING_ROOM = 1.5
"""Internal steps stay stable while a learned viscosity grows to this multiple of its start."""
USUAL_SPEED = 4.0
"""Taken where nothing is known of the data: four times the default amplitude of initial states."""


class Burgers(FlowPhysics):
    """See the module's card."""

    parameters = (
        ParameterDeclaration(
            name="nu",
            init=0.05,
            unit="length^2/time",
            bounds=(0.0, math.inf),
            may_be_field=True,
            # open to both sides: a truth that touches 0 is out of reach on a log scale
            field_bounds=(-math.inf, math.inf),
            help="kinematic viscosity",
        ),
    )

    def __init__(self, options: BurgersOptions) -> None:
        self.options = options

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        components = axes if len(axes) > 1 else ()
        boundary = Boundary.parse("periodic", axes)
        return [FieldInfo(name="u", components=components, boundary=boundary, unit="length/time")], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        u, nu = fields["u"], parameters["nu"]
        if self.options.scheme == "semi-lagrangian":
            return {"u": semi_lagrangian(u, nu, dt)}
        return {"u": finite_difference(u, nu, dt)}

    def internal_steps(
        self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor], dt: float
    ) -> int:
        room = LEARNING_ROOM * float(parameters["nu"].max())
        return max(1, math.ceil(self._excess(layout, size.get("u", USUAL_SPEED), room, dt)))

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float
    ) -> str | None:
        speed, nu = float(state["u"].abs().max()), float(parameters["nu"].max())
        lowest = float(parameters["nu"].min())
        excess = self._excess(layout, speed, nu, dt)
        if excess > 1:
            courant, diffusive = numbers(layout, speed, nu, dt)
            limits = (
                f"the limit is {MAX_DIFFUSIVE_EULER:g} for the latter"
                if self.options.scheme == "semi-lagrangian"
                else f"the limits are {MAX_COURANT:g} and {MAX_DIFFUSIVE:g}"
            )
            return (
                f"burgers: steps of dt = {dt:g} are too long: |u| dt/dx = {courant:.3g} and nu dt/dx^2 = {diffusive:.3g}, "
                f"summed over the axes, with |u| up to {speed:.3g} and nu up to {nu:.3g}; {limits}. Set physical.dt to at "
                f"most {dt / excess:.3g}, or use a coarser grid"
            )
        if lowest < 0:
            return (
                f"burgers: nu is negative in places (down to {lowest:.3g}), where it amplifies disturbances: shorten the "
                "horizon, or keep it positive with physical.parameters.nu.bounds = [0, inf]"
            )
        return None

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid, (u,) = layout.grid, layout.dynamic
        scale = self.options.length_scale * min(b - a for a, b in zip(grid.lower, grid.upper, strict=True))
        amplitude = self.options.amplitude
        return noise_field(u, grid, layout.spatial, count, generator, scale=scale, amplitude=amplitude)

    def _excess(self, layout: StateLayout, speed: float, nu: float, dt: float) -> float:
        """How many times too long a step is; 1 is the limit."""
        courant, diffusive = numbers(layout, speed, nu, dt)
        if self.options.scheme == "semi-lagrangian":
            return diffusive / MAX_DIFFUSIVE_EULER
        return math.hypot(courant / MAX_COURANT, diffusive / MAX_DIFFUSIVE)


def build(options: BurgersOptions, context: BuildContext) -> FlowModel:
    """The registered factory."""
    return FlowModel(Burgers(options), context)


def numbers(layout: StateLayout, speed: float, nu: float, dt: float) -> tuple[float, float]:
    """(Courant number, diffusion number), summed over the axes."""
    spacing = layout.grid.spacing
    return sum(speed * dt / dx for dx in spacing), sum(nu * dt / dx**2 for dx in spacing)


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
    """u_j d_j u_i for one axis j and all components i; split for i = j."""
    if "vector" not in v.shape:
        return split(v, extended, axis, dx)
    along = v.vector[axis]
    parts = [
        split(along, extended.vector[i], axis, dx)
        if i == axis
        else along * first_derivative(extended.vector[i], axis, dx)
        for i in v.vector.item_names
    ]
    return stack(parts, channel(vector=",".join(v.vector.item_names)))


def split(v: Any, extended: Any, axis: str, dx: float) -> Any:
    """v dv/dx."""
    gradient = first_derivative(extended, axis, dx)
    return (v * gradient + first_derivative(extended * extended, axis, dx)) * (1 / 3)


def semi_lagrangian(u: Field, nu: Any, dt: float) -> Field:
    """Advection along characteristics, then one explicit step of nu lap(u) + grad(nu) . grad(u)."""
    a = advect.semi_lagrangian(u, u, dt)
    terms = []
    for axis in u.resolution.names:
        dx = float(u.dx.vector[axis])
        lower, upper = neighbours(a, axis)
        factor = nu.values if isinstance(nu, Field) else nu
        terms.append(factor * (lower + upper - 2 * a.values) / dx**2)
        if isinstance(nu, Field):
            below, above = neighbours(nu, axis)
            terms.append((above - below) * (upper - lower) / (4 * dx**2))
    return u.with_values(a.values + dt * reduce(add, terms))


def neighbours(field: Field, axis: str) -> tuple[Any, Any]:
    """The values in the cells below and above along an axis."""
    padded = pad(field.values, {axis: (1, 1)}, field.boundary)
    size = field.resolution.get_size(axis)
    return padded[{axis: slice(0, size)}], padded[{axis: slice(2, size + 2)}]
