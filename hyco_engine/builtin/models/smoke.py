"""Smoke that rises in a closed box.

Equation        s_t + div(u s) = D lap(s)
                u_t + div(u u) = -grad p + nu lap(u) + buoyancy s e,  div u = 0,  in 2-D or 3-D; e points along the last
                axis
As text         `rates.smoke = "-div(smoke*velocity) + D*lap(smoke)"`
                `rates.velocity = "-advect(velocity, velocity) + nu*lap(velocity) + buoyancy*smoke*grad(y) -
                grad(p)"`, in 2-D, if p were known: no text says that it follows from div u = 0
Fields          `smoke`, s, the concentration, a scalar, centred; dimensionless
                `velocity`, u, on the faces of cells (staggered), one component per axis; unit length/time. p is not
                kept
Parameters      `buoyancy`, the acceleration of pure smoke, a number of either sign; unit length/time^2
                `nu`, the viscosity, and `D`, the diffusivity of smoke: numbers > 0; unit length^2/time
Boundary        closed: nothing passes the walls. velocity 0 (stored without the faces on the walls), smoke
                zero-gradient or symmetric. walls = "no-slip" (default) or "free-slip" sets how viscosity acts along
                them
Solutions       clouds rise as mushrooms with a pair of vortices, spread along the ceiling and come down along the walls
Good values     cells of at most about 5 D / speed: with fewer, the smoke's edges ripple; speeds come to about
                sqrt(buoyancy * height / 2)

Scheme          Space: the marker-and-cell scheme, second-order central differences; conserves smoke, momentum and, for
                nu = 0, the energy of u. Order 2. Time: classical Runge-Kutta with a projection in each stage, order 4.
                The pressure is solved directly by cosine transforms, so that the velocity is free of divergence to
                rounding and the step captures.
                Stable for sum |u| dt/dx < 2.83 and sum max(nu, D) dt/dx^2 < 0.69; internal steps are chosen for it.
                Numerical diffusion: none; waves of q dx = 1 are carried 16 % too slowly.
Identifiable    buoyancy from the first frames; nu and D only where velocity and smoke have gradients, so from later
                frames

References      F. H. Harlow, J. E. Welch, Phys. Fluids 8 (1965); Y. Morinishi et al., J. Comput. Phys. 143 (1998)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from hyco_engine.builtin.models.options_physical import SmokeOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, courant, diffusive
from hyco_engine.physics.model import TorchModel, TorchPhysics, grid_of
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.poisson import FastPoisson

MAX_COURANT = 2.83
MAX_DIFFUSIVE = 0.69
"""Limits of advection and diffusion: Runge-Kutta's 2.83 and 2.785 over the 1 and 4 of the three-point differences."""

Flow = list[Tensor]
"""The velocity's components `[B, *S]`, each on the inner faces across its own axis."""


class Smoke(ExplicitPhysics, TorchPhysics):
    """See the module's card."""

    kind = "smoke"
    parameters = (
        ParameterDeclaration(name="buoyancy", init=1.0, unit="length/time^2", help="acceleration of pure smoke"),
        ParameterDeclaration(
            name="nu", init=0.01, unit="length^2/time", bounds=(0.0, math.inf), help="kinematic viscosity"
        ),
        ParameterDeclaration(
            name="D", init=0.01, unit="length^2/time", bounds=(0.0, math.inf), help="diffusivity of smoke"
        ),
    )

    def __init__(self, options: SmokeOptions, grid: Grid) -> None:
        if len(grid.axes) < 2:
            raise SpecError("smoke moves in two or three dimensions, and the data has 1", key="physical.kind")
        self.options = options
        self.grid = grid
        self.poisson = FastPoisson(grid, ["closed"] * len(grid.axes))

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        smoke = FieldInfo(name="smoke", boundary=Boundary.parse("zero-gradient", axes))
        velocity = FieldInfo(
            name="velocity",
            components=axes,
            sampling="staggered",
            boundary=Boundary.parse(0.0, axes),
            unit="length/time",
        )
        return [smoke, velocity], []

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> dict[str, Tensor]:
        s, u = fields["smoke"][:, 0], self._inner_faces(fields["velocity"])

        def moved(step: float, rates: tuple[Tensor, Flow]) -> tuple[Tensor, Flow]:
            return s + step * rates[0], self.project([a + step * b for a, b in zip(u, rates[1], strict=True)])

        def rate(state: tuple[Tensor, Flow]) -> tuple[Tensor, Flow]:
            return self._smoke_rate(*state, parameters["D"]), self._flow_rate(*state, parameters)

        k1 = rate((s, u))
        k2 = rate(moved(dt / 2, k1))
        k3 = rate(moved(dt / 2, k2))
        k4 = rate(moved(dt, k3))
        smoke = k1[0] + 2 * (k2[0] + k3[0]) + k4[0]
        flow = [a + 2 * (b + c) + d for a, b, c, d in zip(k1[1], k2[1], k3[1], k4[1], strict=True)]
        s_new, u_new = moved(dt / 6, (smoke, flow))
        padded = [functional.pad(part, _padding(part, axis, 0, 1)) for axis, part in self._components(u_new)]
        return {"smoke": s_new[:, None], "velocity": torch.stack(padded, dim=1)}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        height = layout.grid.upper[-1] - layout.grid.lower[-1]
        rising = math.sqrt(abs(float(parameters["buoyancy"])) * size.get("smoke", 1.0) * height)
        name = max(("nu", "D"), key=lambda name: float(parameters[name]))
        return [
            courant(layout, size.get("velocity", rising), "|u|", MAX_COURANT),
            diffusive(layout, float(parameters[name]), name, MAX_DIFFUSIVE),
        ]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        """Draw round clouds of random place, size and density in the lower half of a box at rest."""
        grid = layout.grid
        smoke = torch.zeros(count, *grid.resolution, dtype=torch.float64)
        for _ in range(self.options.plumes):
            draw = torch.rand(count, len(grid.axes) + 2, generator=generator, dtype=torch.float64)
            radius = (0.7 + 0.6 * draw[:, 0]) * self.options.plume_radius * grid.shortest
            square = torch.zeros(count, *(1 for _ in grid.axes), dtype=torch.float64)
            for i, axis in enumerate(grid.axes):
                share = 0.2 + (0.3 if i == len(grid.axes) - 1 else 0.6) * draw[:, 2 + i]
                center = grid.lower[i] + share * (grid.upper[i] - grid.lower[i])
                offset = (torch.tensor(grid.centers(axis), dtype=torch.float64) - center[:, None]) / radius[:, None]
                square = square + offset.square().reshape(
                    [count, *(-1 if j == i else 1 for j in range(len(grid.axes)))]
                )
            density = (0.5 + 0.5 * draw[:, 1]).reshape([count, *(1 for _ in grid.axes)])
            smoke = torch.maximum(smoke, density * torch.exp(-(square**2)))
        states = torch.zeros(count, layout.n_all, *layout.spatial, dtype=torch.float64)
        states[:, layout.channels("smoke").start] = smoke
        return states

    def project(self, flow: Flow) -> Flow:
        """Return the flow less the gradient of the pressure, free of divergence."""
        parts = [_difference(_with_walls(part, axis), axis) / self._dx(axis) for axis, part in self._components(flow)]
        pressure = self.poisson.solve(torch.stack(parts).sum(0))
        return [part - _difference(pressure, axis) / self._dx(axis) for axis, part in self._components(flow)]

    def _inner_faces(self, velocity: Tensor) -> Flow:
        """Return the inner faces of `[B, components, *S]`, without the padding along each component's own axis."""
        return [part.narrow(axis, 0, part.shape[axis] - 1) for axis, part in self._components(velocity.unbind(1))]

    def _components(self, flow: Flow | tuple[Tensor, ...]) -> list[tuple[int, Tensor]]:
        return [(i - len(flow), part) for i, part in enumerate(flow)]

    def _dx(self, axis: int) -> float:
        return self.grid.spacing[axis]

    def _smoke_rate(self, s: Tensor, u: Flow, d: Tensor) -> Tensor:
        total = torch.zeros_like(s)
        for axis, part in self._components(u):
            flux = d / self._dx(axis) * _difference(s, axis) - part * _mean(s, axis)
            total = total + _difference(_with_walls(flux, axis), axis) / self._dx(axis)
        return total

    def _flow_rate(self, s: Tensor, u: Flow, parameters: Mapping[str, Tensor]) -> Flow:
        """Return u_t without the pressure: advection in the form that keeps energy, viscosity and buoyancy."""
        nu, rates = parameters["nu"], []
        for i, part in self._components(u):
            closed = _with_walls(part, i)
            total = -_difference(_mean(closed, i).square(), i) / self._dx(i)
            total = total + nu / self._dx(i) ** 2 * _difference(_difference(closed, i), i)
            for j, other in self._components(u):
                if j != i:
                    flux = _with_walls(_mean(other, i) * _mean(part, j), j)
                    total = total - _difference(flux, j) / self._dx(j)
                    total = total + nu / self._dx(j) ** 2 * _difference(_difference(self._beyond(part, j), j), j)
            if i == -1:
                total = total + parameters["buoyancy"] * _mean(s, i)
            rates.append(total)
        return rates

    def _beyond(self, part: Tensor, axis: int) -> Tensor:
        """Return `part` with one ghost value behind both walls that the component runs along."""
        n = part.shape[axis]
        sign = -1.0 if self.options.walls == "no-slip" else 1.0
        return torch.cat([sign * part.narrow(axis, 0, 1), part, sign * part.narrow(axis, n - 1, 1)], dim=axis)


def _difference(values: Tensor, axis: int) -> Tensor:
    n = values.shape[axis]
    return values.narrow(axis, 1, n - 1) - values.narrow(axis, 0, n - 1)


def _mean(values: Tensor, axis: int) -> Tensor:
    n = values.shape[axis]
    return 0.5 * (values.narrow(axis, 1, n - 1) + values.narrow(axis, 0, n - 1))


def _with_walls(flux: Tensor, axis: int) -> Tensor:
    """Return the flux with zeros added on both walls."""
    return functional.pad(flux, _padding(flux, axis, 1, 1))


def _padding(values: Tensor, axis: int, before: int, after: int) -> list[int]:
    """Return the list by which `torch.nn.functional.pad` pads along one axis, counted from the last, which is -1."""
    return [0] * (2 * (-1 - axis)) + [before, after]


def build(options: SmokeOptions, context: PhysicsContext) -> TorchModel:
    """Build the model; the registry calls this factory."""
    model = TorchModel(Smoke(options, grid_of(context)), context)
    _require_closed(model.layout)
    return model


def _require_closed(layout: StateLayout) -> None:
    allowed = {"smoke": ("zero-gradient", "symmetric"), "velocity": ("constant",)}
    wanted = {"smoke": "zero-gradient", "velocity": "0"}
    for field in layout.dynamic:
        for axis in layout.grid.axes:
            for rule in field.boundary.sides[axis]:
                values = rule.value if isinstance(rule.value, tuple) else (rule.value,)
                if rule.kind not in allowed[field.name] or any(values):
                    raise DataError(
                        f"smoke is solved in a closed box, and the boundary of {field.name!r} along {axis} is "
                        f"{rule.to_data()!r}: it must be {wanted[field.name]}",
                        key="data.boundary",
                    )
