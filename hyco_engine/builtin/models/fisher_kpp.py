"""The Fisher-KPP equation: a population that grows to saturation and spreads.

Equation        u_t = div(D grad u) + r u (1 - u / K),  in 1, 2 or 3 dimensions
As text         `rates.u = "div(D*grad(u)) + r*u*(1 - u/capacity)"`
Field           `u`, the population, a scalar, centred; dimensionless: over its capacity where K = 1
Parameters      `D`, the diffusivity: a number > 0 or a field; unit length^2/time
                `r`, the growth rate: a number > 0 or a field; unit 1/time
                `capacity`, K, in the units of u: a number > 0 or a field; optional, K = 1 without it
Boundary        any; mirroring ("symmetric": nothing passes) where the data names none
Solutions       u = 0 is unstable, u = K stable: patches grow and spread as fronts of speed 2 sqrt(r D) and thickness
                8 sqrt(D / r), until u = K everywhere
Good values     at least one cell across sqrt(D / r)

Scheme          Space: fourth-order central differences, conservative for a varying D, order 4 on periodic and mirroring
                sides (2 at other walls, and for a D that has a slope at a wall). Time: classical Runge-Kutta, order 4.
                Stable for sum D dt/dx^2 < 0.52 and r dt < 2.78; internal steps are chosen for it.
                Numerical diffusion: none; waves of q dx = 1 spread 1 % too slowly.
Identifiable    r where u is neither 0 nor K, D where u curves: frames of moving fronts determine both; the speed of the
                fronts alone determines only the product. K where growth has slowed down: far below it, growth is
                exponential, and only r shows.

References      R. A. Fisher, Ann. Eugenics 7 (1937); exact front: M. J. Ablowitz, A. Zeppetella, Bull. Math. Biol. 41
                (1979)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch
from phi.field import Field
from torch import Tensor

from hyco_engine.builtin.models.options_physical import FisherKppOptions
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.differences import continued, diffusion, second_derivative
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, State, diffusive, rk4, spacing, values_of
from hyco_engine.physics.initial import smooth_noise
from hyco_engine.physics.model import FlowModel, FlowPhysics
from hyco_engine.physics.parameters import ParameterDeclaration

MAX_REACTION = 2.78
"""Limit of r dt, Runge-Kutta's on the real axis."""


class FisherKpp(ExplicitPhysics, FlowPhysics):
    """See the module's card."""

    kind = "fisher-kpp"
    parameters = (
        ParameterDeclaration(
            name="D",
            init=0.01,
            unit="length^2/time",
            bounds=(0.0, math.inf),
            may_be_field=True,
            help="diffusivity",
        ),
        ParameterDeclaration(
            name="r", init=1.0, unit="1/time", bounds=(0.0, math.inf), may_be_field=True, help="growth rate"
        ),
        ParameterDeclaration(
            name="capacity",
            init=1.0,
            bounds=(0.0, math.inf),
            may_be_field=True,
            help="population K at which growth ends",
            optional=True,
        ),
    )

    def __init__(self, options: FisherKppOptions) -> None:
        self.options = options

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        return [FieldInfo(name="u", boundary=Boundary.parse("symmetric", axes))], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        u, d, r = fields["u"], parameters["D"], values_of(parameters["r"])
        capacity = values_of(parameters.get("capacity"))

        def rate(state: State) -> State:
            values = state["u"]
            share = values if capacity is None else values / capacity
            return {"u": _spread(u, values, d) + r * values * (1 - share)}

        return {"u": u.with_values(rk4(rate, {"u": u.values}, dt)["u"])}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        r = float(parameters["r"].max())
        reaction = Limit(number="r dt", values=f"r up to {r:.3g}", rate=r, limit=MAX_REACTION)
        return [diffusive(layout, float(parameters["D"].max()), "D"), reaction]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        """Draw random patches between 0 and a random height for each state."""
        grid = layout.grid
        scale = self.options.length_scale * grid.shortest
        noise = smooth_noise(grid, layout.dynamic[0].boundary, count, generator, scale=scale)
        top = noise.flatten(1).amax(1).reshape(-1, *(1 for _ in grid.axes))
        height = 0.5 + 0.5 * torch.rand(top.shape, generator=generator, dtype=torch.float64)
        return (self.options.amplitude * height * torch.exp(2 * (noise - top)))[:, None]


def _spread(u: Field, values: Any, d: Any) -> Any:
    parts = []
    for axis, dx in spacing(u).items():
        extended = continued(values, u.boundary, axis)
        if isinstance(d, Field):
            parts.append(diffusion(extended, continued(d.values, d.boundary, axis), axis, dx))
        else:
            parts.append(d * second_derivative(extended, axis, dx))
    return reduce(add, parts)


def build(options: FisherKppOptions, context: PhysicsContext) -> FlowModel:
    """Build the model; the registry calls this factory."""
    return FlowModel(FisherKpp(options), context)
