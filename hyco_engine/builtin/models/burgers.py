"""The viscous Burgers equation.

Equation        u_t + c (u . grad) u = div(nu grad u), in 1, 2 or 3 dimensions
As text         `rates.u = "-advection*advect(u, u) + nu*lap(u)"`; for a field nu, in 1-D, div(nu*grad(u))
Field           `u`, a scalar in 1-D, one component per axis else; centred; unit length/time
Parameters      `nu`, the viscosity: a number > 0, or a field; unit length^2/time
                `advection`, the factor c, a number; optional, c = 1 without it
Boundary        any; periodic where the data names none
Solutions       waves that steepen into shocks of thickness 4 nu / jump, which then merge and decay
Good values     u about 1, nu from 0.003 (shocks) to 0.1 (smooth) of the domain's length

scheme = "finite-difference" (default)
    Space: fourth-order central differences on five points. Along its own axis u u_x is split as (u u_x + (u u)_x) / 3,
    which keeps the sums of u and of u^2 on every grid, so that under-resolved shocks neither blow up nor are damped;
    across, u_j d_j u_i. Diffusion is conservative for a varying nu too. Time: classical Runge-Kutta. Order 4 with dt
    proportional to dx or dx^2, on periodic sides and at constant 0; about 2 at other sides.
    Stable for sum |c u| dt/dx < 2.06 and sum nu dt/dx^2 < 0.52. Internal steps follow from both, unless `physical.dt`
    is set.
    Numerical diffusion: none from the differences; Runge-Kutta damps a wave of frequency w = u k by w (w dt)^5 / 144.
    What is left where a shock is about one cell wide: nu is found within 1 % from the 256 nodes of `burgers_shock.mat`
    (plain u u_x: +20 %, plain (u u)_x / 2: -4 %, both of fourth order; second order: +39 %, -10 %).

scheme = "semi-lagrangian"
    c u u_x by PhiFlow's backward lookup with linear interpolation, then one explicit step of
    nu lap(u) + grad(nu) . grad(u).
    Order 1. Stable at any velocity, and for sum nu dt/dx^2 < 0.5.
    Numerical diffusion dx^2 f (1 - f) / (2 dt) with f = frac(u dt / dx), at most dx^2 / (8 dt): a nu that is to be
    identified must be far above it (on `burgers_shock.mat` it is 24 % of nu, and nu is then found 61 % too low).

References      J. M. Burgers, Adv. Appl. Mech. 1 (1948); the split form: A. Jameson, J. Sci. Comput. 34 (2008)
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
from phiml.math import channel, stack
from torch import Tensor

from hyco_engine.builtin.models.options_physical import BurgersOptions
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.differences import continued, diffusion, first_derivative, second_derivative
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, State, advective, diffusive, rk4, spacing, values_of
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.model import FlowModel, FlowPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.second_order import neighbours

USUAL_SPEED = 4.0
"""Speed that is assumed where nothing is known of the data: four times the default amplitude of initial states."""
EULER_DIFFUSIVE = 0.5
"""Limit of sum nu dt/dx^2 for one Euler step with three-point differences."""


class Burgers(ExplicitPhysics, FlowPhysics):
    """See the module's card."""

    kind = "burgers"
    parameters = (
        ParameterDeclaration(
            name="nu",
            init=0.05,
            unit="length^2/time",
            bounds=(0.0, math.inf),
            may_be_field=True,
            # bounds open to both sides, since a log scale could not reach a true field that touches 0
            field_bounds=(-math.inf, math.inf),
            help="kinematic viscosity",
        ),
        ParameterDeclaration(name="advection", init=1.0, help="factor of (u . grad) u", optional=True),
    )

    def __init__(self, options: BurgersOptions) -> None:
        self.options = options

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        components = axes if len(axes) > 1 else ()
        boundary = Boundary.parse("periodic", axes)
        return [FieldInfo(name="u", components=components, boundary=boundary, unit="length/time")], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        u, nu, factor = fields["u"], parameters["nu"], parameters.get("advection")
        if self.options.scheme == "semi-lagrangian":
            return {"u": semi_lagrangian(u, nu, factor, dt)}

        def rate(state: State) -> State:
            return {"u": finite_difference(u, state["u"], nu, factor)}

        return {"u": u.with_values(rk4(rate, {"u": u.values}, dt)["u"])}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        nu = float(parameters["nu"].max())
        if self.options.scheme == "semi-lagrangian":
            return [diffusive(layout, nu, "nu", EULER_DIFFUSIVE)]
        return [advective(layout, size.get("u", USUAL_SPEED), parameters), diffusive(layout, nu, "nu")]

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float
    ) -> str | None:
        lowest = float(parameters["nu"].min())
        if lowest >= 0:
            return super().stability(layout, state, parameters, dt)
        return (
            f"burgers: nu is negative in places (down to {lowest:.3g}), where it amplifies disturbances: shorten the "
            "horizon, or keep it positive with physical.parameters.nu.bounds = [0, inf]"
        )

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid, (u,) = layout.grid, layout.dynamic
        scale = self.options.length_scale * grid.shortest
        amplitude = self.options.amplitude
        return noise_field(u, grid, layout.spatial, count, generator, scale=scale, amplitude=amplitude)


def build(options: BurgersOptions, context: PhysicsContext) -> FlowModel:
    """Build the model; the registry calls this factory."""
    return FlowModel(Burgers(options), context)


def finite_difference(u: Field, v: Any, nu: Any, factor: Any) -> Any:
    """Return u_t for the values `v`, on the grid and with the boundary of `u`; a `factor` multiplies the advection."""
    terms = []
    for axis, dx in spacing(u).items():
        extended = continued(v, u.boundary, axis)
        if isinstance(nu, Field):
            spread = diffusion(extended, continued(nu.values, nu.boundary, axis), axis, dx)
        else:
            spread = nu * second_derivative(extended, axis, dx)
        carried = advection(v, extended, axis, dx)
        terms.append(spread - (carried if factor is None else factor * carried))
    return reduce(add, terms)


def advection(v: Any, extended: Any, axis: str, dx: float) -> Any:
    """Return u_j d_j u_i for one axis j and all components i, in the split form for i = j."""
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
    """Return v dv/dx in the split form (v v_x + (v v)_x) / 3."""
    gradient = first_derivative(extended, axis, dx)
    return (v * gradient + first_derivative(extended * extended, axis, dx)) * (1 / 3)


def semi_lagrangian(u: Field, nu: Any, factor: Any, dt: float) -> Field:
    """Advect along characteristics, then take one explicit step of nu lap(u) + grad(nu) . grad(u)."""
    a = advect.semi_lagrangian(u, u if factor is None else u * factor, dt).values
    terms = []
    for axis, dx in spacing(u).items():
        lower, upper = neighbours(a, u.boundary, axis)
        terms.append(values_of(nu) * (lower + upper - 2 * a) / dx**2)
        if isinstance(nu, Field):
            below, above = neighbours(nu.values, nu.boundary, axis)
            terms.append((above - below) * (upper - lower) / (4 * dx**2))
    return u.with_values(a + dt * reduce(add, terms))
